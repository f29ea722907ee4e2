"""Names, types and ranges of settings, checked from signatures before anything is read; and building what they name."""

import inspect
import json
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from functools import lru_cache
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlparse

from annotated_types import Ge, Gt
from hydra.core.config_store import ConfigStore
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf, flag_override
from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

CONFIGS = Path(__file__).with_name("configs").resolve()  # in a checkout a link; an installed package has the files
PRESETS = [file for file in CONFIGS.glob("experiments/*/*.yaml") if file.parent.name != "search"]
SETTINGS: dict[str, Any] = {  # the leaves of train.yaml that are nobody's keyword argument
    "seed": Annotated[int, Ge(0)],
    "outputs": str,
    "device": str,
    "threads": Annotated[int, Gt(0)],
    "numerics": Literal["native", "portable"],
    "preset": str | None,
    "scale": Literal["smoke", "laptop", "gpu", "paper"] | None,
    "cost": Annotated[float, Gt(0)] | None,
    "plan": bool,
}
FILLED = {  # arguments that are supplied when a block is called
    "model": {"num_classes", "image_size", "vocab_size", "context", "node_features"},  # see the data's `for_model`
    "loss": {"input", "target"},
    "optimizer": {"params", "named_parameters"},
    "schedule": {"progress"},
    "trainer": {"model", "loss", "optimizer", "schedule", "data", "record", "seed", "device"},
    "wandb": {"folder", "config"},
    "record": {"outputs", "config", "fingerprint", "wandb_logger", "is_main_process", "quiet"},
}
BLOCKS = ("dataset", "model", "loss", "optimizer", "schedule", "trainer", "record", "wandb")  # arguments of a callable

# Hydra refuses a key that a yaml lacks. These blocks may hold more: what nothing takes is refused by the check below,
# which names what is allowed, and a sweep may set what only some of its optimizers have.
ConfigStore.instance().store(
    "open_blocks", OmegaConf.create({key: DictConfig({}, flags={"struct": False}) for key in BLOCKS})
)


class SettingsError(Exception):
    """A setting that cannot work; the message names the key, the value and what is allowed."""


@contextmanager
def settings_errors() -> Iterator[None]:
    """Turn what a setting leads to, such as a folder that is not there, into a `SettingsError`; also a decorator."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise SettingsError(str(error)) from error


@dataclass(frozen=True)
class RunConfig:
    """One run of a command, as Hydra composed it.

    Attributes:
        settings: what `configs/train.yaml` and its choices hold, without Hydra's own part.
        choices: group -> the choice that was made in it.
        overrides: the words of the command line that made it.
        folders: where choices were looked for.
        in_sweep: whether it is one of many.
    """

    settings: DictConfig
    choices: Mapping[str, str]
    overrides: Sequence[str]
    folders: Sequence[Path]
    in_sweep: bool

    @classmethod
    def of(cls, settings: DictConfig, hydra: Any, in_sweep: bool) -> "RunConfig":
        """Make one of a composed config and its node `hydra`."""
        words = OmegaConf.to_container(hydra.overrides.task, resolve=False)  # `tuned=photos-${model}` stays as typed
        sources = [source.path for source in hydra.runtime.config_sources if source.schema == "file"]
        folders = [Path(urlparse(path).path) for path in sources]
        with flag_override(settings, ["struct"], False):
            settings.pop("hydra", None)
        return cls(settings, dict(hydra.runtime.choices), typing.cast(list[str], words), folders, in_sweep)

    def file_of(self, group: str) -> Path | None:
        """Return the yaml of the choice made in a group, or None where an optional one does not exist."""
        files = [folder / group / f"{self.choices.get(group)}.yaml" for folder in self.folders]
        return next((file for file in files if file.exists()), None)

    @property
    def tuned(self) -> str | None:
        """The name of the file in configs/tuned/ whose numbers are in force, if there is one."""
        file = self.file_of("tuned")
        return None if file is None or file.stem == "none" else file.stem

    @property
    def tuned_line(self) -> str:
        """What tells at the start of a run which numbers are in force."""
        if self.tuned is None:
            return "tuned numbers: none, the plain defaults of configs/optimizer/"
        own = [word for word in self.overrides if word.startswith("optimizer.")]
        rest = f", but for {' '.join(own)}" if own else ""
        return f"tuned numbers: {self.tuned}.yaml{rest} (tuned=none: plain defaults)"


def build(block: DictConfig) -> Any:
    """Call a block's `_target_` with its other leaves, or bind them where it says `_partial_`."""
    try:
        return instantiate(block, _convert_="all")
    except InstantiationException as error:
        raise error.__cause__ or error from None  # what went wrong, without the wrapping


def build_once(block: DictConfig) -> Any:
    """Build what the runs of a sweep share, and nothing changes: data, and bound arguments."""
    return _built(json.dumps(OmegaConf.to_container(block, resolve=True)))


@lru_cache(maxsize=4)
def _built(block: str) -> Any:
    return build(OmegaConf.create(json.loads(block)))


def check_settings(runs: Collection[RunConfig]) -> None:
    """Refuse, before any data is read, a setting of a command's runs that nothing takes, or that cannot be.

    Raises:
        SettingsError: naming the key, the value and what is allowed.
    """
    for run in runs:
        _check_run(run)
    _check_tuned(runs)


def _check_run(run: RunConfig) -> None:
    settings = run.settings
    for key in map(str, settings):
        if key not in SETTINGS and key not in BLOCKS:
            if key.startswith("experiments"):
                kinds = groupby(sorted(PRESETS), key=lambda file: file.parent.name)
                presets = "; ".join(f"+experiments/{kind}={', '.join(p.stem for p in files)}" for kind, files in kinds)
                raise SettingsError(f"+{key}={settings[key]} is no preset: there are {presets}")
            raise SettingsError(f"{key} is no setting: there are {', '.join([*SETTINGS, *BLOCKS])}; +experiments/...")
    for key, kind in SETTINGS.items():
        check_value(key, settings[key], kind)
    for key in BLOCKS:
        check_block(key, settings[key])
    check_value("optimizer.lr", settings.optimizer.get("lr"), Annotated[float, Ge(0)])  # the schedule scales it
    asked = [word for word in run.overrides if word.startswith("wandb.mode=")]  # by default a run does without
    if asked and asked[-1] != "wandb.mode=disabled" and find_spec("wandb") is None:
        raise SettingsError(f"{asked[-1]} needs W&B, which is not installed: pip install wandb, or wandb.mode=disabled")


def _check_tuned(runs: Collection[RunConfig]) -> None:
    """Refuse tuned numbers that are not there: of `tuned=mine-${optimizer}`, those of one optimizer have to be."""
    lacking: dict[str, str] = {}
    found = set()
    for run in runs:
        if asked := [word for word in run.overrides if word.lstrip("+").startswith("tuned=")]:
            if run.file_of("tuned") is not None:
                found.add(asked[-1])
            elif asked[-1] not in lacking:
                folders = ", ".join(str(folder / "tuned") for folder in run.folders)
                lacking[asked[-1]] = f"{asked[-1]}: there is no {run.choices.get('tuned')}.yaml in {folders}"
    for word, message in lacking.items():
        if word not in found or "${" not in word:
            raise SettingsError(message)


def check_block(key: str, block: DictConfig) -> None:
    """Check that each leaf of a block is a keyword argument of its `_target_`, of the annotated type and range."""
    if "_target_" not in block:
        raise SettingsError(f"{key} = {block} is not a choice: configs/{key} has {', '.join(choices_of(key))}")
    try:
        target = get_object(block["_target_"])
    except Exception as error:  # an import may fail in any way
        raise SettingsError(f"{key}._target_ = {block['_target_']} cannot be imported: {error}") from error
    function = target.__init__ if inspect.isclass(target) else target
    parameters = inspect.signature(target).parameters
    settable = [name for name in parameters if name not in FILLED.get(key, ())]
    try:
        kinds = typing.get_type_hints(function, include_extras=True)
    except NameError:  # imported for a type checker alone; then names are checked, and no types
        kinds = {}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name in map(str, block):
        if name.startswith("_"):
            continue
        if OmegaConf.is_missing(block, name):
            raise SettingsError(f"{key}.{name} is missing: give it, {key}.{name}=...")
        if name not in settable and not (open_ended and name not in parameters):
            raise SettingsError(f"{key}.{name} = {block[name]!r} is no argument of {block['_target_']}, "
                                f"which takes {', '.join(settable)}")  # fmt: skip
        if OmegaConf.is_dict(block[name]) and "_target_" in block[name]:
            check_block(f"{key}.{name}", block[name])
        else:
            check_value(f"{key}.{name}", block[name], kinds.get(name, Any))


def check_value(key: str, value: Any, kind: Any) -> None:
    """Check a value against a type annotation, ranges included (`Annotated[int, Gt(0)]`), as strictly as JSON is."""
    plain = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    rules = ConfigDict(arbitrary_types_allowed=True, strict=True, allow_inf_nan=False)
    try:  # in a tuple, since a dataclass by itself takes no rules
        TypeAdapter(tuple[kind], config=rules).validate_json(json.dumps([plain]))  # type: ignore[valid-type]
    except (ValidationError, PydanticUserError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        of_objects = any(isinstance(k, type) and is_dataclass(k) for k in (kind, *typing.get_args(kind)))
        # an object that yaml has no words for
        if first is None or of_objects or first["type"] == "needs_python_object":
            wanted = getattr(kind, "__name__", str(kind))
            raise SettingsError(f"{key} = {value!r} is not allowed: no setting can be a {wanted}") from None
        places = first["loc"][1:] if isinstance(plain, (dict, list)) else ()
        where = "".join(f"[{place}]" if isinstance(place, int) else f".{place}" for place in places)
        raise SettingsError(f"{key}{where} = {value!r} is not allowed: {first['msg'].lower()}") from None


def choices_of(group: str) -> list[str]:
    """Return the choices of a group of `configs/`."""
    return sorted(file.stem for file in (CONFIGS / group).glob("*.yaml"))
