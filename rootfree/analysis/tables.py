"""The collected tables, read back, and a study: runs that may be compared."""

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rootfree.analysis.collect import IDENTITY, check_schema
from rootfree.analysis.searches import EMPTY, Search

# Read as text whatever they look like: an id such as 12e45678 is a number to a parser.
NAMES = [*({*IDENTITY} - {"seed"}), "loss", "schedule", "study", "device", "commit", "finished_at", "command"]


def read(directory: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read `runs.csv` and `curves.csv` of a folder; accuracies come in percent, so that differences are points."""
    tables = []
    for name, text in (("runs.csv", NAMES), ("curves.csv", ["run_id"])):
        path = directory / name
        if not path.is_file():
            raise ValueError(f"{path} does not exist: collect runs into {directory} first")
        table = pd.read_csv(path, dtype=dict.fromkeys(text, "str"), low_memory=False, **EMPTY)
        accuracies = [column for column in table if column.endswith("_acc")]
        tables.append(table.assign(**{column: table[column].astype(float) * 100 for column in accuracies}))
    check_schema(directory / "runs.csv", tables[0].get("schema_version", pd.Series(["none"])).astype(str))
    return tables[0], tables[1]


@dataclass(frozen=True)
class Study:
    """Runs of one preset, alike but for optimizer and seed; one setting per arm, one run per arm and seed."""

    runs: pd.DataFrame
    curves: pd.DataFrame
    budgets: dict[str, str] = field(default_factory=dict)  # arm -> runs of the search behind it, and its differences
    retired: pd.DataFrame = field(default_factory=pd.DataFrame)  # runs with settings that stand for their arms no more
    outdated: bool = False  # whether its own runs are such, for lack of others: it decides no claim
    searches: dict[str, Search] = field(default_factory=dict)  # arm -> the search in this setting that found its own
    detail: str = ""  # what tells it from a study that is otherwise called the same

    @cached_property
    def arms(self) -> list[str]:
        """The arms in the order of every table and figure."""
        return sorted(self.runs["arm"].unique())

    @cached_property
    def preset(self) -> str | None:
        """The preset that asked for these runs, None for a grid typed by hand."""
        return next(iter(self.runs["preset"].dropna()), None)

    @cached_property
    def scale(self) -> str | None:
        """The scale of the preset, None for a grid typed by hand."""
        return next(iter(sorted(self.runs["scale"].dropna().unique())), None)

    @property
    def left_out(self) -> dict[str, int]:
        """How many runs of each arm have retired settings."""
        return {} if self.retired.empty else {str(arm): len(runs) for arm, runs in self.retired.groupby("arm")}

    @property
    def id(self) -> str:
        """The hash that all runs share."""
        return str(self.runs["study"].iloc[0])

    @property
    def is_smoke(self) -> bool:
        """Whether these runs only show that the machinery works."""
        return self.scale == "smoke" or bool((self.runs["purpose"] == "smoke").all())

    @cached_property
    def setting(self) -> str:
        """Model, data set and length in words."""
        first = self.runs.iloc[0]
        epochs = f"{first['epochs']} epoch{'' if first['epochs'] == 1 else 's'}"
        return f"{first['model']} on {first['dataset']}, {epochs}{self.detail}"

    @cached_property
    def title(self) -> str:
        """Where these runs belong, in words; not unique: studies may differ in loss, schedule or data settings."""
        return f"{self.preset or 'ad hoc'}{f' {self.scale}' if self.scale else ''}: {self.setting}"

    @cached_property
    def slug(self) -> str:
        """A unique name for files and anchors."""
        first = self.runs.iloc[0]
        parts = [self.preset or "adhoc", self.scale, first["dataset"], first["model"], self.id[:8]]
        return "-".join(str(part) for part in parts if part)

    @property
    def hardware(self) -> str:
        """Every device that ran a part of it; with portable numerics one processor is as good as another."""
        devices = self.runs["device"].dropna().astype(str)
        alike = devices.str.replace(r"cpu: .*\((.*, portable)\)", r"cpu: any x86-64 (\1)", regex=True)
        return "; ".join(sorted(alike.unique())) or "unknown hardware"

    def arm(self, choice: str) -> str:
        """The arm that a choice of the config names: an optimizer, and settings such as `optimizer.init=0`.

        Where several arms have those settings, such as one per learning rate, it is the one with the best mean
        validation accuracy, a run that diverged counting as 0. Of `a | b` it is the first that was run. A choice that
        no arm fits stays as it is.
        """
        for option in choice.split(" | "):
            if option in self._members:
                return option
            fitting = self._first.loc[fits(self._first, option), "arm"].tolist() if " " in option else []
            if fitting:
                return max(fitting, key=self.validated)
        return choice

    def settings(self, arm: str) -> dict[str, Any]:
        """The row of an arm's first run: its settings are those of all."""
        return {str(column): cell for column, cell in self._members[arm].iloc[0].items()}

    def root_free(self, arm: str) -> bool:
        """Whether an arm divides by no root: by the name of its class or its yaml, and not by an exponent up to 1/2."""
        target, power = (self.column(arm, f"config.optimizer.{key}").iloc[0] for key in ("_target_", "power"))
        named = str(target).rpartition(".")[2].startswith(("RF", "IF")) or arm.startswith(("rf_", "if_"))
        return named and not (pd.notna(power) and float(power) <= 0.5)

    def forgets(self, arm: str) -> float:
        """An arm's 1 - beta2, the weight of the newest gradient in its second moment; NaN where it has none."""
        single, pair = (self.column(arm, f"config.optimizer.{key}").iloc[0] for key in ("beta2", "betas"))
        return 1 - float(json.loads(pair)[1] if isinstance(pair, str) else single)

    def finished(self, arm: str, metric: str) -> pd.Series:
        """The metric of an arm's finished runs, by seed."""
        values = self.column(arm, metric)
        return values[(self.column(arm, "status") == "finished").to_numpy()].dropna().sort_index()

    def column(self, arm: str, name: str) -> pd.Series:
        """A column of an arm's runs, by seed; empty cells where there is no such column."""
        rows = self._members[arm] if arm in self._members else self.runs.iloc[:0]
        cells = rows[name].to_numpy() if name in rows else np.full(len(rows), np.nan)
        return pd.Series(cells, index=pd.Index(rows["seed"], name="seed"), name=name)

    def seeds(self, arm: str) -> list[int]:
        """The seeds of an arm's runs."""
        return [int(seed) for seed in self._members[arm]["seed"]] if arm in self._members else []

    def diverged(self, arm: str) -> int:
        """How many runs of an arm diverged."""
        return int((self.column(arm, "status") == "diverged").sum())

    def size(self, arm: str) -> int:
        """How many runs of an arm ended, one way or the other."""
        return len(self._members[arm]) if arm in self._members else 0

    @cached_property
    def _first(self) -> pd.DataFrame:
        return self.runs.drop_duplicates("arm")

    @cached_property
    def _members(self) -> dict[str, pd.DataFrame]:
        return {
            str(arm): rows for arm, rows in self.runs.copy().groupby("arm")
        }  # in one block per type: slices are cheap

    def validated(self, arm: str) -> float:
        """An arm's mean validation accuracy, a run that diverged counting as 0."""
        return float(self.column(arm, "val_acc").where(self.column(arm, "status") == "finished", 0).mean())


def fits(runs: pd.DataFrame, choice: str) -> pd.Series:
    """Which runs have an optimizer, and settings such as `optimizer.init=0`, as numbers where both are."""
    optimizer, *settings = choice.split()
    mask = runs["optimizer"] == optimizer
    for setting in settings:
        key, _, value = setting.partition("=")
        mask &= _equal(runs.get(f"config.{key}", pd.Series("", index=runs.index)), value)
    return mask


def _equal(cells: pd.Series, value: str) -> pd.Series:
    number = pd.to_numeric(pd.Series([value]), errors="coerce").iloc[0]
    return cells.astype(str).eq(value) | pd.to_numeric(cells, errors="coerce").eq(number)
