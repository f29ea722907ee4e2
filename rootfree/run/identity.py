"""What a run is: a hash of everything that decides its result, and of nothing else."""

import hashlib
import inspect
import json
import pydoc
import site
import sysconfig
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

NUMERICS = 1  # raised whenever a change of code changes training results; part of every run id
SCIENCE = ("dataset", "model", "loss", "optimizer", "schedule", "trainer", "seed")
LOCATIONS = ("root", "cache", "download", "url", "md5", "workers")  # where data comes from is not what it is


def scientific_config(config: dict[str, Any], fingerprint: str) -> dict[str, Any]:
    """Return the part of a config that decides the result: no paths, no machine, no W&B, no names of choices.

    Args:
        config: a resolved config, plain values.
        fingerprint: hash of the data set's images and labels.
    """
    content: dict[str, Any] = {"numerics": NUMERICS}
    for key in SCIENCE:
        block = config[key]
        if isinstance(block, dict):  # without how it is called (_partial_), and without where data lies
            ignored = ("_partial_", "_convert_", *(LOCATIONS if key == "dataset" else ()))
            block = {name: value for name, value in block.items() if name not in ignored}
            if source := own_source(str(block["_target_"])):
                block["source"] = source
        content[key] = block
    content["dataset"]["fingerprint"] = fingerprint
    if config.get("processes"):  # only where dividing the batch changes the mathematics
        content["processes"] = config["processes"]
    return content


def run_id_of(content: dict[str, Any]) -> str:
    """Hash what `scientific_config` returned, or a part of it: 12 hexadecimal digits, the same on every machine.

    A leaf of ours that equals its argument's default counts as left out, so a new option leaves the ids of old runs
    alone; 1 and 1.0 are one number.
    """
    kept = {key: _without_defaults(block) if isinstance(block, dict) else block for key, block in content.items()}
    return hashlib.sha256(json.dumps(_same_numbers(kept), sort_keys=True).encode()).hexdigest()[:12]


def study_of(content: dict[str, Any]) -> str:
    """Hash what all runs of a study share: everything but the optimizer and the seed."""
    return run_id_of({key: block for key, block in content.items() if key not in ("optimizer", "seed")})


@cache
def own_source(target: str) -> str | None:
    """Hash the file that defines a callable, unless it belongs to this package or an installed one; 16 digits.

    Such code has no version that a record could name. What it imports in turn is not looked at.
    """
    try:
        file = Path(inspect.getsourcefile(pydoc.locate(target)) or "").resolve()  # type: ignore[arg-type]
    except TypeError:  # built into Python, or not to be found
        return None
    package = Path(__file__).parents[1]
    installed = [package, *map(Path, sysconfig.get_paths().values()), *map(Path, site.getsitepackages())]
    if not file.is_file() or any(file.is_relative_to(folder.resolve()) for folder in installed):
        return None
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def refuse_another(file: Path, mine: dict[str, Any]) -> None:
    """Check that a run's config.yaml holds what its id says.

    Args:
        file: the config.yaml.
        mine: the scientific config of the run that is to go on.

    Raises:
        ValueError: it was changed, or cannot be read.
    """
    try:
        found: Any = OmegaConf.to_container(OmegaConf.load(file))
        there = scientific_config(found, found["fingerprint"])
    except Exception as error:  # whatever may be wrong with a file that someone edited
        raise ValueError(f"{file} is not readable: remove {file.parent} to start again") from error
    if run_id_of(there) != run_id_of(mine):
        key, here, other = _first_difference(mine, there)
        raise ValueError(
            f"{file} was changed under a half-finished run: {key} is {other!r} there and {here!r} here. "
            f"Restore it, or remove {file.parent} to start again"
        )


def _first_difference(mine: Any, other: Any, key: str = "") -> tuple[str, Any, Any]:
    """Return (dotted key, value here, value there) of the first difference between two nested dicts."""
    if isinstance(mine, dict) and isinstance(other, dict):
        for name in sorted(mine.keys() | other.keys()):
            if mine.get(name) != other.get(name):
                return _first_difference(mine.get(name), other.get(name), f"{key}.{name}".lstrip("."))
    return key, mine, other


def _without_defaults(block: dict[str, Any]) -> dict[str, Any]:
    target = str(block.get("_target_"))
    if not target.startswith("rootfree."):  # the defaults of others may change under us
        return block
    defaults = {name: p.default for name, p in inspect.signature(pydoc.locate(target)).parameters.items()}  # type: ignore[arg-type]
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()}
    return {name: value for name, value in block.items() if name not in plain or value != plain[name]}


def _same_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _same_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_same_numbers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
