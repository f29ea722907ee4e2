"""The entry: compose, check, seed, build, fit, close the record. The only importer of Hydra."""

import inspect
import json
import os
import re
import shlex
import sys
import traceback
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import hydra
import torch
from annotated_types import Ge, Gt
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, InstantiationException
from hydra.types import RunMode
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, TypeAdapter, ValidationError

from rootfree import distributed, stop
from rootfree.folder import ENDED, STATUSES, failure_of, status_of
from rootfree.progress import SweepProgress
from rootfree.record import Record
from rootfree.trainer import describe_device, pick_device

ROOT = Path(__file__).resolve().parent.parent
PRESETS = [file for file in ROOT.glob("experiments/*/*.yaml") if file.parent.name != "search"]
SETTINGS: dict[str, Any] = {  # the leaves of train.yaml that are nobody's keyword argument
    "seed": Annotated[int, Ge(0)],
    "outputs": str,
    "device": str,
    "threads": Annotated[int, Gt(0)],
    "preset": str | None,
    "scale": Literal["smoke", "laptop", "gpu", "paper"] | None,
    "cost": Annotated[float, Gt(0)] | None,
    "plan": bool,
}
FILLED = {  # arguments that this file supplies
    "model": {"num_classes", "image_size"},
    "loss": {"input", "target"},
    "optimizer": {"params"},
    "schedule": {"progress"},
    "trainer": {"model", "loss", "optimizer", "schedule", "data", "record", "seed", "device"},
    "wandb": {"folder", "config"},
    "record": {"outputs", "config", "fingerprint", "mirror", "leads", "quiet"},
}
BLOCKS = ("dataset", "model", "loss", "optimizer", "schedule", "trainer", "record", "wandb")  # arguments of a callable


class SettingsError(Exception):
    """A setting that cannot work; the message names the key, the value and what is allowed."""


@dataclass
class Cell:
    """One run of a command: its config, the choices it was composed of, and the overrides that made it."""

    config: DictConfig
    choices: Mapping[str, str]
    overrides: Sequence[str]
    in_sweep: bool


def run(cell: Cell) -> None:
    """Train one run, unless it has ended already; with `torchrun`, together with the other processes."""
    config = cell.config
    distributed.join(config.device)
    try:
        device = pick_device(config.device)
        data, record, new_model = prepare(cell)
        if reason := distributed.agree(record.settled()):
            print(f"{record.title}: {reason}", flush=True)
            return
        torch.set_num_threads(config.threads)
        model = new_model().to(device, memory_format=torch.channels_last)
        if not distributed.agree(record.open()):
            print(f"{record.title}: another process is at it", flush=True)
            return
    except (ValueError, OSError) as error:
        raise SettingsError(str(error)) from error
    with stop.watching():  # to the very end: what stops a run must not keep its record from telling how it ended
        try:
            torch.manual_seed(config.seed + distributed.rank())
            summary = build(config.trainer)(
                model=model,
                loss=build(config.loss),
                optimizer=build(config.optimizer),
                schedule=build(config.schedule),
                data=data,
                record=record,
                seed=config.seed,
                device=device,
            )
            record.close(summary, describe_device(device))
        except BaseException as error:
            record.fail(error)
            raise
        finally:
            record.release()


def prepare(cell: Cell) -> tuple[Any, Record, Callable[[], Any]]:
    """Return a run's data, its record, and what makes its model."""
    config = cell.config
    with distributed.rank_0_first():  # it leaves a cache for the others
        data = build_once(config.dataset)

    def new_model() -> Any:
        torch.manual_seed(config.seed)
        return build(config.model)(num_classes=len(data.classes), image_size=data.image_size)

    count = distributed.processes()
    if count > 1 and (rest := len(data.train) % data.batch_size) and rest < count:
        raise ValueError(f"dataset.batch_size = {data.batch_size} leaves a last batch of {rest} for {count} processes")
    divided = count > 1 and (distributed.depends_on_processes(new_model()) or data.mixes)
    record = build_once(config.record)(
        outputs=Path(config.outputs).expanduser(),
        config=complete(cell, data.name) | {"processes": count if divided else None},
        fingerprint=data.fingerprint,
        mirror=build_once(config.wandb),
        leads=distributed.rank() == 0,
        quiet=cell.in_sweep,
    )
    return data, record, new_model


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


def complete(cell: Cell, dataset_name: str) -> dict[str, Any]:
    """Resolve a config to plain values, with the names of its choices and the command that runs it again."""
    names = {group: cell.choices[group] for group in ("model", "loss", "optimizer", "schedule")}
    stripped = sorted(override.lstrip("+") for override in cell.overrides)
    # tuned numbers that follow the choice, as those of the default do, are no setting of an arm's own
    own = [word for word in stripped if word.startswith("optimizer.") or re.fullmatch(r"tuned=[^$]+", word)]
    # where runs and data lie is private
    kept = [word for word in cell.overrides if not word.startswith(("outputs=", "dataset.cache="))]
    kept = ["dataset.root=<folder>" if word.startswith("dataset.root=") else word for word in kept]
    resolved: Any = OmegaConf.to_container(cell.config, resolve=True)
    return {
        **resolved,
        "names": {"dataset": dataset_name, **names, "arm": " ".join([names["optimizer"], *own])},
        "command": shlex.join(["python", "-m", "rootfree.train", *kept]),
    }


def check(config: DictConfig) -> None:
    """Refuse, before any data is read, a setting that nothing takes, of a wrong type, or out of its range.

    Raises:
        SettingsError: naming the key, the value and what is allowed.
    """
    check_settings(config)
    try_out(config)


def check_settings(config: DictConfig) -> None:
    """Check names, types and ranges, from the signatures alone."""
    for key in map(str, config):
        if key not in SETTINGS and key not in BLOCKS:
            if key.startswith("experiments"):
                kinds = groupby(sorted(PRESETS), key=lambda file: file.parent.name)
                presets = "; ".join(f"+experiments/{kind}={', '.join(p.stem for p in files)}" for kind, files in kinds)
                raise SettingsError(f"+{key}={config[key]} is no preset: there are {presets}")
            raise SettingsError(
                f"{key} is no setting: there are {', '.join([*SETTINGS, *BLOCKS])}, and +experiments/..."
            )
    for key, kind in SETTINGS.items():
        check_value(key, config[key], kind)
    for key in BLOCKS:
        check_block(key, config[key])
    check_value("optimizer.lr", config.optimizer.get("lr"), Annotated[float, Ge(0)])  # the schedule scales it


def try_out(config: DictConfig) -> None:
    """Call what is quickly called: torch's optimizers and ours check ranges in the constructor."""
    given = {key: value for key, value in config.optimizer.items() if not key.startswith("_")}
    try:
        build(config.optimizer)([torch.nn.Parameter(torch.zeros(2, 2))])
        build(config.loss)(torch.zeros(2, 2), torch.tensor([0, 1]))
        build(config.schedule)(0.0)
    except (ValueError, RuntimeError) as error:
        raise SettingsError(
            f"{error} (optimizer: {given}, loss: {config.loss}, schedule: {config.schedule})"
        ) from error


def check_block(key: str, block: DictConfig) -> None:
    """Check that each leaf of a block is a keyword argument of its `_target_`, of the annotated type and range."""
    if "_target_" not in block:
        raise SettingsError(f"{key} = {block} is not a choice: configs/{key} has {_choices(key)}")
    try:
        target = get_object(block["_target_"])
    except Exception as error:  # an import may fail in any way
        raise SettingsError(f"{key}._target_ = {block['_target_']} cannot be imported: {error}") from error
    function = target.__init__ if inspect.isclass(target) else target
    parameters = inspect.signature(target).parameters
    settable = [name for name in parameters if name not in FILLED.get(key, ())]
    kinds = typing.get_type_hints(function, include_extras=True)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name in map(str, block):
        if name.startswith("_"):
            continue
        if OmegaConf.is_missing(block, name):
            raise SettingsError(f"{key}.{name} is missing: give it, {key}.{name}=...")
        if name not in settable and not (open_ended and name not in parameters):
            raise SettingsError(f"{key}.{name} = {block[name]!r} is no argument of {block['_target_']}, "
                                f"which takes {', '.join(settable)}")  # fmt: skip
        check_value(f"{key}.{name}", block[name], kinds.get(name, Any))


def check_value(key: str, value: Any, kind: Any) -> None:
    """Check a value against a type annotation, ranges included (`Annotated[int, Gt(0)]`), as strictly as JSON is."""
    adapter = TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True, strict=True, allow_inf_nan=False))
    plain = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    try:
        adapter.validate_json(json.dumps(plain))
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"[{place}]" for place in first["loc"] if isinstance(place, int))
        raise SettingsError(f"{key}{where} = {value!r} is not allowed: {first['msg'].lower()}") from None


def _choices(group: str) -> str:
    return ", ".join(sorted(file.stem for file in (ROOT / "configs" / group).glob("*.yaml")))


@hydra.main(version_base="1.3", config_path=str(ROOT / "configs"), config_name="train")
def job(config: DictConfig) -> None:
    """What Hydra calls for a single run, and in a worker for each run of a sweep."""
    hydra_config = HydraConfig.get()
    os.chdir(hydra_config.runtime.cwd)  # relative paths are the command's; a worker of Ray starts elsewhere
    check(config)
    in_sweep = hydra_config.mode == RunMode.MULTIRUN
    cell = Cell(config, hydra_config.runtime.choices, hydra_config.overrides.task, in_sweep)
    if in_sweep:
        attempt(cell)
    elif config.plan:
        print_plan([planned(cell)])
    else:
        run(cell)


def attempt(cell: Cell) -> None:
    """Train a run of a sweep, which stops no other by failing."""
    if stop.asked():
        return
    try:
        run(cell)
    except stop.Interrupted:
        stop.pass_on()  # its record knows; on Slurm the job queues again
    except (Exception, SystemExit) as error:
        if not isinstance(error, SettingsError):
            traceback.print_exc()
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)


def main() -> None:
    """Run the command line; a wrong setting ends it with a line or two and exit code 2."""
    if int(os.environ.get("RANK", "0")):
        sys.stdout = None  # one of the processes speaks
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors through to us instead of printing a part of the traceback
    words = sys.argv[1:]
    try:
        if any(word in ("-m", "--multirun") or word.startswith(("+experiments/", "hydra.mode=")) for word in words):
            sweep(words)
        else:
            with_added_keys(call, words)
    except (SettingsError, HydraException, OmegaConfBaseException, OSError) as error:
        message = str(error).partition("Config search path")[0]
        if lacks := re.search("'hydra/launcher/(submitit|ray)", message):
            message += f" It needs pip install 'rootfree[{lacks[1].replace('submitit', 'slurm')}]'"
        print(f"error: {' '.join(message.split())}", file=sys.stderr)
        sys.exit(2)
    except (stop.Interrupted, KeyboardInterrupt) as error:
        print("interrupted: the same command goes on from where it is saved", file=sys.stderr)
        sys.exit(stop.REQUEUE if isinstance(error, stop.Interrupted) else 130)
    finally:
        distributed.leave()


def call(words: list[str]) -> None:
    """Let Hydra compose and run the job, or jobs, of a command line."""
    sys.argv[1:] = words
    job()


T = TypeVar("T")


def with_added_keys(function: Callable[[list[str]], T], words: list[str]) -> T:
    """Call a function of overrides; keys that Hydra does not know are added, so that they meet our own check.

    Hydra's error would say neither the value nor what is allowed.
    """
    try:
        return function(words)
    except ConfigCompositionException as error:
        unknown = re.match("Could not override '(.+?)'", str(error))
        added = [f"+{word}" if unknown and word.startswith(f"{unknown[1]}=") else word for word in words]
        if added == words:
            raise
        return with_added_keys(function, added)


def sweep(words: list[str]) -> None:
    """List all runs of a sweep, which checks their settings; train those that have not ended; say what is missing."""
    words = [later(word) for word in words]
    cells, plan = grid(words), []
    tried: set[int] = set()
    for cell in cells():
        plan.append(planned(cell))
        if id(cell.config) not in tried and status_of(plan[-1][0]) not in ENDED:
            try_out(cell.config)  # what it imports takes seconds, which a sweep that has ended does without
            tried.add(id(cell.config))
    if any(word == "plan=true" for word in words):
        print_plan(plan)
        return
    folders, titles = [folder for folder, _, _ in plan], [title for _, title, _ in plan]
    if any(status_of(folder) not in ENDED for folder in folders):
        with stop.watching(workers=True), SweepProgress(titles, folders):
            if any(word.startswith("hydra/launcher=") for word in words):
                try:
                    call(words)
                except HydraException:
                    raise
                except Exception as error:  # a launcher may give up when one of its workers is killed
                    print(f"the launcher failed: {type(error).__name__}: {error}", file=sys.stderr)
            else:
                for cell in cells():
                    attempt(cell)
    stand = [status_of(folder) for folder in folders]
    print(f"{len(stand)} runs: " + ", ".join(f"{stand.count(s)} {s}" for s in STATUSES if s in stand), flush=True)
    for title, folder, status in zip(titles, folders, stand, strict=True):
        if status == "failed":
            print(f"{title} failed: {failure_of(folder)['message']}", file=sys.stderr)
    stop.heed()
    if not set(stand) <= set(ENDED):
        print("the same command runs what is missing", file=sys.stderr)
        sys.exit(1)


def later(word: str) -> str:
    """Make an optimizer's setting a sweep of one value: it meets the optimizer of each run, not the default one.

    That may lack it, and Hydra composes with it before it sweeps. A sweep cannot hold null or an interpolation.
    """
    key, _, value = word.partition("=")
    if not key.startswith("optimizer.") or "${" in value:
        return word
    override = OverridesParser.create().parse_override(word)
    return word if override.is_sweep_override() or override.value() is None else f"{key}=choice({value})"


def grid(words: list[str]) -> Callable[[], Iterator[Cell]]:
    """Compose and check all cells of a sweep; return what yields them, one at a time.

    What Hydra does for each of them anew, twice, is done once for all seeds.

    Args:
        words: the command line.
    """
    flags = [word for word in words if word.startswith("-") and word not in ("-m", "--multirun")]
    folder = [word.partition("=")[2] for word in flags if word.startswith("--config-dir=")]
    if len(folder) < len(flags):
        raise SettingsError(f"a sweep takes no {' '.join(flags)} but --config-dir=<folder>")
    own = ("hydra/launcher=", "hydra.launcher.")
    plain = [word for word in words if not word.startswith(("-", *own))]
    plain += [f"hydra.searchpath=[file://{Path(folder[0]).resolve()}]"] if folder else []
    parser = OverridesParser.create()
    parsed = list(zip(plain, parser.parse_overrides(plain), strict=True))
    fixed = [word for word, override in parsed if not override.is_sweep_override()]
    swept = {override.get_key_element(): word for word, override in parsed if override.is_sweep_override()}
    bases: dict[tuple[str, ...], Cell] = {}

    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):

        def composed(overrides: list[str]) -> Cell:
            config = compose("train", overrides, return_hydra_config=True)
            HydraConfig.instance().set_config(config)
            choices = dict(config.hydra.runtime.choices)
            with flag_override(config, ["struct"], False):
                del config["hydra"]
            return Cell(config, choices, overrides, in_sweep=True)

        preset = with_added_keys(lambda o: compose("train", o, return_hydra_config=True), fixed).hydra.sweeper.params
        given = {o.get_key_element() for o in parser.parse_overrides(fixed)}
        swept = {key: f"{key}={value}" for key, value in (preset or {}).items() if key not in given} | swept
        rows = BasicSweeper.split_arguments(parser.parse_overrides(list(swept.values())), None)[0]
        for row in rows:
            base = tuple(word for word in row if not word.startswith("seed="))
            if base not in bases:
                bases[base] = with_added_keys(composed, [*fixed, *base])
                check_settings(bases[base].config)

    def cells() -> Iterator[Cell]:
        for row in rows:
            cell = bases[tuple(word for word in row if not word.startswith("seed="))]
            for word in row:
                if word.startswith("seed="):
                    cell.config.seed = parser.parse_override(word).value()
                    check_value("seed", cell.config.seed, SETTINGS["seed"])
            yield replace(cell, overrides=[*fixed, *row])

    return cells


def planned(cell: Cell) -> tuple[Path, str, float | None]:
    """Return a run's folder, its title, and what it costs, in seconds."""
    try:
        _, record, _ = prepare(cell)
    except (ValueError, OSError) as error:
        raise SettingsError(str(error)) from error
    return record.folder, record.title, cell.config.cost


def print_plan(plan: list[tuple[Path, str, float | None]]) -> None:
    """Say what would run, what is done, and how long the rest takes."""
    done = [status_of(folder) in ENDED for folder, _, _ in plan]
    for (_, title, _), ended in zip(plan, done, strict=True):
        print(f"{'done ' if ended else 'to do'} {title}")
    left = sum(cost or 0 for (_, _, cost), ended in zip(plan, done, strict=True) if not ended) / 60
    print(f"{len(done)} runs: {sum(done)} done, {len(done) - sum(done)} to do"
          + (f", about {left:.0f} minutes one by one, at the size and on the hardware that the preset names"
             if left else ""))  # fmt: skip


if __name__ == "__main__":
    # as a module of its own name, not as __main__, so that workers can import what they are sent
    from rootfree import train

    train.main()
