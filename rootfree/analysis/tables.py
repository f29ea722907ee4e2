"""The collected tables, read back and grouped into studies: runs that may be compared."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd

from rootfree.analysis.collect import IDENTITY, check_schema
from rootfree.analysis.searches import Search, behind

# Read as text whatever they look like: an id such as 12e45678 is a number to a parser.
TEXT = [*IDENTITY, "loss", "schedule", "study", "device", "commit", "finished_at", "command"]
TEXT.remove("seed")


def read(directory: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read `runs.csv` and `curves.csv` of a folder; accuracies come in percent, so that differences are points."""
    tables = []
    for name in ("runs.csv", "curves.csv"):
        path = directory / name
        if not path.is_file():
            raise ValueError(f"{path} does not exist: collect runs into {directory} first")
        types = dict.fromkeys(TEXT if name == "runs.csv" else ["run_id"], "str")
        table = pd.read_csv(path, dtype=types, low_memory=False)
        accuracies = [column for column in table if column.endswith("_acc")]
        tables.append(table.assign(**{column: table[column].astype(float) * 100 for column in accuracies}))
    check_schema(directory / "runs.csv", tables[0].get("schema_version", pd.Series(["none"])).astype(str))
    return tables[0], tables[1]


@dataclass(frozen=True)
class Study:
    """Runs that may be compared: alike but for optimizer and seed; one setting per arm, one run per arm and seed."""

    runs: pd.DataFrame
    curves: pd.DataFrame
    budgets: dict[str, int]  # arm -> runs of its search on this data set and model
    left_out: dict[str, int]  # arm -> runs with settings that a later run replaced
    searches: dict[str, Search] = field(default_factory=dict)  # arm -> the search whose winner its settings are

    @cached_property
    def arms(self) -> list[str]:
        """The arms in the order of every table and figure."""
        return sorted(self.runs["arm"].unique())

    @cached_property
    def presets(self) -> list[str]:
        """The presets that asked for these runs; empty for a grid typed by hand."""
        return sorted(self.runs["preset"].dropna().unique())

    @cached_property
    def scale(self) -> str | None:
        """The scale of the preset, None for a grid typed by hand."""
        return next(iter(sorted(self.runs["scale"].dropna().unique())), None)

    @property
    def id(self) -> str:
        """The hash that all runs share."""
        return str(self.runs["study"].iloc[0])

    @property
    def is_smoke(self) -> bool:
        """Whether these runs only show that the machinery works."""
        return self.scale == "smoke" or bool((self.runs["purpose"] == "smoke").all())

    @property
    def setting(self) -> str:
        """Model, data set and length in words."""
        first = self.runs.iloc[0]
        return f"{first['model']} on {first['dataset']}, {first['epochs']} epochs"

    @property
    def title(self) -> str:
        """Where these runs belong, in words; not unique: studies may differ in loss, schedule or data settings."""
        preset = " + ".join(self.presets) or "ad hoc"
        return f"{preset}{f' {self.scale}' if self.scale else ''}: {self.setting}"

    @property
    def slug(self) -> str:
        """A unique name for files and anchors."""
        first = self.runs.iloc[0]
        parts = [*(self.presets or ["adhoc"]), self.scale, first["dataset"], first["model"], self.id[:8]]
        return "-".join(str(part) for part in parts if part)

    @property
    def hardware(self) -> str:
        """Every device that ran a part of it."""
        return "; ".join(sorted(self.runs["device"].dropna().unique())) or "unknown hardware"

    def finished(self, arm: str, metric: str) -> pd.Series:
        """The metric of an arm's finished runs, by seed."""
        chosen = (self.runs["arm"] == arm) & (self.runs["status"] == "finished")
        return self.runs.loc[chosen, ["seed", metric]].set_index("seed")[metric].dropna().sort_index()

    def diverged(self, arm: str) -> int:
        """How many runs of an arm diverged."""
        return int(((self.runs["arm"] == arm) & (self.runs["status"] == "diverged")).sum())

    def size(self, arm: str) -> int:
        """How many runs of an arm ended, one way or the other."""
        return int((self.runs["arm"] == arm).sum())


def studies(
    runs: pd.DataFrame,
    curves: pd.DataFrame,
    searches: pd.DataFrame | None = None,
    tables: Sequence[Search] = (),
) -> list[Study]:
    """Group runs into studies. Searches count as tuning budget only, smoke runs only where there is nothing else.

    Args:
        runs: Rows of `runs.csv`.
        curves: Rows of `curves.csv`.
        searches: Rows of another `runs.csv` whose searches count, too: what a reproduction builds on.
        tables: The tables of searches.
    """
    known = runs if searches is None else pd.concat([runs, searches]).drop_duplicates("run_id")
    searched = known[known["purpose"] == "search"].groupby(["dataset", "model", "optimizer"]).size().to_dict()
    results = runs[runs["purpose"] != "search"]
    smoke = (results["purpose"] == "smoke") | (results["scale"] == "smoke")
    results = results if smoke.all() else results[~smoke]
    made = []
    for _, group in results.groupby("study", sort=True):
        current = _current(group)
        counts = group["arm"].value_counts() - current["arm"].value_counts()
        first = current.iloc[0]
        arms = sorted(current["arm"].unique())
        settings = {str(arm): rows.iloc[0].to_dict() for arm, rows in current.groupby("arm")}
        found = {arm: search for arm in arms if (search := behind(tables, settings[arm]))}
        budgets = {arm: searched.get((first["dataset"], first["model"], arm), 0) for arm in arms}
        budgets |= {
            arm: max(budgets[arm], len(search.runs)) for arm, search in found.items()
        }  # runs may be unpublished
        made.append(
            Study(
                runs=current,
                curves=curves.merge(current[["run_id", "arm", "status"]], on="run_id"),
                budgets=budgets,
                left_out={str(arm): int(count) for arm, count in sorted(counts.items()) if count},
                searches=found,
            )
        )
    return sorted(made, key=lambda study: (not study.presets, study.title, study.slug))


def _current(group: pd.DataFrame) -> pd.DataFrame:
    """Per arm the setting of the run that finished last, and of equal seeds the later run."""
    hyper = [column for column in group if column.startswith("config.optimizer")]
    ordered = group.assign(setting=group[hyper].astype("str").fillna("").agg("|".join, axis=1) if hyper else "")
    ordered["when"] = pd.to_datetime(ordered["finished_at"], utc=True, format="ISO8601")
    ordered = ordered.sort_values(["when", "run_id"], na_position="first")
    latest = ordered.groupby("arm")["setting"].transform("last")
    ordered = ordered[ordered["setting"] == latest].drop_duplicates(["arm", "seed"], keep="last")
    return ordered.drop(columns=["setting", "when"]).sort_values(["arm", "seed"]).reset_index(drop=True)
