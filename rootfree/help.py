"""What --help prints: the choices, and every setting of a command line with its value and what it means."""

import ast
import inspect
import json
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from rootfree.settings import BLOCKS, CONFIGS, PRESETS, choices_of

USAGE = """\
Train one run: rootfree train (or python -m rootfree.train) dataset=... model=... optimizer=... seed=... key=value ...
Many runs:     the same with -m and lists, optimizer=sgd,adamw seed=range(3); hydra/launcher=local for several at a time
A study:       +experiments/cnn=laptop
A search:      rootfree search hydra.sweeper.budget=16 optimizer=..., the same as train -m hydra/sweeper=halton
Choices of your own: --config-dir=<folder with optimizer/<name>.yaml, model/..., dataset/...>
What would run: plan=true. A run's result is outputs/<run id>/summary.json. --hydra-help explains Hydra's own flags.
"""
GROUPS = ("dataset", "model", "optimizer", "schedule", "loss", "recipe", "hydra/launcher", "hydra/sweeper")


def text(words: list[str]) -> str:
    """Return the help for a command line: its settings are those that it would run with.

    Args:
        words: the command line, flags among them.
    """
    folders = [word.partition("=")[2] for word in words if word.startswith("--config-dir=")]
    own = [f"hydra.searchpath=[file://{Path(folder).resolve()}]" for folder in folders]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        settings = compose("train", [*own, *(word for word in words if not word.startswith("-"))])
    kinds = groupby(sorted(PRESETS), key=lambda file: file.parent.name)
    presets = [f"  +experiments/{kind}=".ljust(27) + ", ".join(file.stem for file in files) for kind, files in kinds]
    choices = [f"  {group}=".ljust(18) + ", ".join(choices_of(group)) for group in GROUPS]
    choices.append("  tuned=".ljust(18) + "none, or a file of configs/tuned/; follows the other choices by itself")
    parts = [USAGE, "Choices:", *choices, "", "Presets:", *presets, "", "Settings, as this command line has them:"]
    return "\n".join([*parts, *_settings(settings)])


def _settings(settings: DictConfig) -> Iterator[str]:
    comments = dict(re.findall(r"^(\w+):[^#\n]*# (.+)$", (CONFIGS / "train.yaml").read_text(), re.MULTILINE))
    for key in map(str, settings):
        if key not in BLOCKS:
            yield _line(key, settings[key], comments.get(key, ""))
    for key in BLOCKS:
        block = settings[key]
        explained = _explained(str(block._target_))
        yield f"  {key}: {block._target_}"
        for name in map(str, block):
            if not name.startswith("_"):
                value = "???" if OmegaConf.is_missing(block, name) else block[name]
                yield _line(f"{key}.{name}", value, explained.get(name, ""))


def _line(key: str, value: Any, meaning: str) -> str:
    shown = value if isinstance(value, str) or OmegaConf.is_config(value) else json.dumps(value)
    return f"  {key}={shown}".ljust(44) + (f"  {meaning}" if meaning else "")


def _explained(target: str) -> dict[str, str]:
    """Return what a callable of ours says of its arguments, read from its file: to import it would take seconds."""
    package, name = target.rpartition(".")[::2]
    place = Path(__file__).parents[1].joinpath(*package.split("."))
    files = [place.with_suffix(".py")] if place.with_suffix(".py").exists() else sorted(place.glob("*.py"))
    for file in files:
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
                return _arguments(ast.get_docstring(node) or "")
    return {}


def _arguments(docstring: str) -> dict[str, str]:
    """Return name -> explanation from the `Args:` of a docstring in Google's style."""
    section = re.search(r"^Args:\n((?: +.*\n?|\n)*)", docstring, re.MULTILINE)
    found: dict[str, str] = {}
    for line in inspect.cleandoc(section[1]).splitlines() if section else []:
        if not line.startswith(" ") and ": " in line:
            names, _, meaning = line.partition(": ")
            found |= dict.fromkeys(names.split(", "), meaning)
        elif found:
            found[list(found)[-1]] += f" {line.strip()}"
    return found
