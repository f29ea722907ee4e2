"""Which settings stand for an arm: those that the yaml files give its command today, and no retired ones."""

import json
import shlex
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException


def stands(run: Mapping[str, Any], root: Path) -> bool | None:
    """Whether a run has the optimizer settings that its command would have today; None where that cannot be told.

    They are, as in training, the optimizer's plain defaults, replaced by the tuned file, by the preset, and by what the
    command sets. Interpolated values, and settings that the run does not record, are not compared.

    Args:
        run: A row of `runs.csv`.
        root: Folder of `configs`, which has `experiments` in it.
    """
    try:
        given = dict(word.lstrip("+").split("=", 1) for word in shlex.split(str(run["command"])) if "=" in word)
        configs = root / "configs"
        presets = [_read(configs / key / f"{given[key]}.yaml") for key in given if key.startswith("experiments/")]
        choices = {key.removeprefix("override /"): value for preset in presets for entry in preset.get("defaults", [])
                   for key, value in entry.items()}  # fmt: skip
        names = {"dataset": run["dataset"], "model": run["model"], "optimizer": run["optimizer"]} | choices | given
        chosen = names.get("tuned", "{dataset}-{model}-{optimizer}" + _suffix(run["loss"]))
        file = configs / "tuned" / f"{chosen.replace('${', '{').format(**names)}.yaml"
        if "--config-dir" in str(run["command"]) or ("tuned" in names and not file.is_file()):
            return None  # what a user's own files say is not known here
        settings = dict(_read(configs / "optimizer" / f"{run['optimizer']}.yaml"))
        for layer in [*([_read(file)] if file.is_file() else []), *presets]:
            settings |= layer.get("optimizer", {})
        own = [f"{key}={value}" for key, value in given.items() if key.startswith("optimizer.")]
        settings |= OmegaConf.from_dotlist(own).get("optimizer", {})
    except (OSError, KeyError, IndexError, ValueError, OmegaConfBaseException):  # users choose names of any kind
        return None
    if settings["_target_"] != run.get("config.optimizer._target_"):
        return None
    return all(_same(run.get(f"config.optimizer.{key}"), value) for key, value in settings.items())


def settings(runs: pd.DataFrame) -> pd.Series:
    """All settings of each run's optimizer as one text."""
    hyper = [column for column in runs if column.startswith("config.optimizer.")]
    cells = (column + "=" + runs[column].astype("str").fillna("") for column in hyper)
    return sum(cells, pd.Series("", index=runs.index))


def retired(runs: pd.DataFrame, root: Path | None) -> pd.Series:
    """Which runs, told apart by their `setting`, have optimizer settings that their commands would not have today."""
    if root is None:
        return pd.Series(False, index=runs.index)
    alike = runs.groupby(["study", "preset", "scale", "arm", "setting"], dropna=False, sort=False)
    first = runs.loc[alike.head(1).index].assign(group=alike.ngroup())
    old = {run["group"]: stands(run, root) is False for run in first.to_dict("records")}
    return alike.ngroup().map(old).astype(bool)


def _suffix(loss: str) -> str:
    return "" if loss == "cross_entropy" else f"-{loss}"


@cache
def _read(file: Path) -> dict[str, Any]:
    """A yaml file; a tuned one with the settings of those that its defaults name below its own."""
    content: Any = OmegaConf.to_container(OmegaConf.load(file))
    below = [_read(file.with_name(f"{name}.yaml")) for name in content.get("defaults", []) if isinstance(name, str)]
    optimizer: dict[str, Any] = {}
    for layer in [*below, content]:
        optimizer |= layer.get("optimizer", {})
    return content | ({"optimizer": optimizer} if optimizer else {})


def _same(cell: Any, value: Any) -> bool:
    """Whether a cell of `runs.csv` has a value, as far as both are known."""
    if value is None or cell is None or cell != cell or "${" in str(value):
        return True
    if isinstance(value, list):
        return bool(json.loads(str(cell)) == value)
    return bool(float(cell) == value) if type(value) in (int, float) else str(cell) == str(value)
