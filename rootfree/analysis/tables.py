"""Run folders become two tables, `runs.csv` (one row per run) and `curves.csv` (one row per run and epoch); tables become studies.

Cells are written as Python prints them (a float's shortest exact form) and never pass through a parser that rounds, so the same
runs give the same bytes and a `git diff` of the tables shows which number moved.
"""

import csv
import heapq
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

SCHEMA_VERSION = 1
IDENTITY = ["run_id", "purpose", "preset", "scale", "dataset", "model", "optimizer", "arm", "seed", "status"]
OUTCOME = ["train_acc", "val_acc", "test_acc", "train_loss", "val_loss", "test_loss", "gap_acc", "gap_loss"]
CONTEXT = ["loss", "schedule", "study", "epochs", "steps", "batch_size", "seconds", "images_per_second", "parameters"]
CONTEXT += ["state_bytes", "device", "commit", "dirty", "finished_at", "command", "schema_version"]
CURVE = ["run_id", "epoch", "step", "lr", "loss", "train_acc", "train_loss", "val_acc", "val_loss", "gap_acc"]
CURVE += ["images_per_second", "seconds"]
REQUIRED = [*IDENTITY, *OUTCOME, "study", "config"]
# Read as text whatever they look like: an id such as 12e45678 is a number to a parser.
TEXT = [*IDENTITY, "loss", "schedule", "study", "device", "commit", "finished_at", "command"]
TEXT.remove("seed")

Row = dict[str, str]


class Collected(NamedTuple):
    """What `collect` did: rows read from run folders, rows of the table now, and one line per contradicted row."""

    read: int
    rows: int
    differences: list[str]


def collect(outputs: Path, into: Path, merge: bool = False) -> Collected:
    """Gather the runs that ended beneath `outputs` into `into/runs.csv` and `into/curves.csv`.

    Args:
        outputs: Folder of run folders; a run without `summary.json` has not ended and is passed over.
        into: Folder of the tables, made if missing.
        merge: Keep rows that are in the tables already. A row there wins over a run of the same id, whatever its
            numbers: evidence is not overwritten, a contradiction is reported.

    Raises:
        ValueError: There is no run, a file is broken, or the tables were written in another schema.
    """
    found = {row["run_id"]: row for row in map(_summary, sorted(outputs.glob("*/summary.json")))}
    if not found:
        raise ValueError(f"no run has ended beneath {outputs}: there is no */summary.json")
    kept = {row["run_id"]: row for row in _rows(into / "runs.csv")} if merge else {}
    _check_schema(into / "runs.csv", (row.get("schema_version", "") for row in kept.values()))
    fresh = sorted(found.keys() - kept.keys())
    differences = [
        line for run_id in sorted(found.keys() & kept.keys()) if (line := _compare(kept[run_id], found[run_id]))
    ]

    runs = found | kept
    into.mkdir(parents=True, exist_ok=True)
    _write(
        into / "runs.csv",
        _columns(IDENTITY + OUTCOME + CONTEXT, runs.values()),
        (runs[run_id] for run_id in sorted(runs)),
    )

    # Curves are streamed, twice: once for their columns, once for their rows; both sources are sorted by run and epoch.
    def fresh_curves() -> Iterator[Row]:
        for run_id in fresh:
            yield from _curve(outputs / run_id / "metrics.jsonl", run_id)

    published = _rows(into / "curves.csv") if merge else iter(())
    header = _header(into / "curves.csv") if merge else []
    columns = _columns(
        CURVE, [dict.fromkeys(header, ""), *({key: ""} for key in {key for row in fresh_curves() for key in row})]
    )
    _write(
        into / "curves.csv",
        columns,
        heapq.merge(published, fresh_curves(), key=lambda row: (row["run_id"], int(row["epoch"]))),
    )
    return Collected(len(found), len(runs), differences)


def read(directory: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read `runs.csv` and `curves.csv` of a folder; accuracies come in percent, so that differences are points."""
    tables = []
    for name in ("runs.csv", "curves.csv"):
        path = directory / name
        if not path.is_file():
            raise ValueError(f"{path} does not exist: collect runs into {directory} first")
        types = dict.fromkeys(TEXT if name == "runs.csv" else ["run_id"], "str")
        table = pd.read_csv(path, dtype=types, float_precision="round_trip", low_memory=False)
        accuracies = [column for column in table if column.endswith("_acc")]
        tables.append(table.assign(**{column: table[column].astype(float) * 100 for column in accuracies}))
    _check_schema(directory / "runs.csv", tables[0]["schema_version"].astype(str))
    return tables[0], tables[1]


@dataclass(frozen=True)
class Study:
    """Runs that may be compared: all alike but for optimizer and seed, one setting per arm, one run per arm and seed."""

    runs: pd.DataFrame
    curves: pd.DataFrame
    budgets: dict[str, int]  # arm -> runs of its search on this data set and model
    left_out: dict[str, int]  # arm -> runs with settings that a later run replaced

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
    def title(self) -> str:
        """Where these runs belong, in words; not unique: two studies may differ in loss, schedule or data settings."""
        first = self.runs.iloc[0]
        preset = " + ".join(self.presets) or "ad hoc"
        return f"{preset}{f' {self.scale}' if self.scale else ''}: {first['model']} on {first['dataset']}, {first['epochs']} epochs"

    @property
    def slug(self) -> str:
        """A unique name for files and anchors."""
        first = self.runs.iloc[0]
        parts = [*(self.presets or ["adhoc"]), self.scale, first["dataset"], first["model"], first["study"][:8]]
        return "-".join(str(part) for part in parts if part)

    @property
    def hardware(self) -> str:
        """Every device that ran a part of it."""
        return "; ".join(sorted(self.runs["device"].dropna().unique())) or "unknown hardware"

    def finished(self, arm: str, metric: str) -> pd.Series:
        """The metric of an arm's finished runs, by seed."""
        chosen = self.runs[(self.runs["arm"] == arm) & (self.runs["status"] == "finished")]
        return chosen.set_index("seed")[metric].dropna().sort_index()

    def diverged(self, arm: str) -> int:
        """How many runs of an arm diverged."""
        return int(((self.runs["arm"] == arm) & (self.runs["status"] == "diverged")).sum())

    def size(self, arm: str) -> int:
        """How many runs of an arm ended, one way or the other."""
        return int((self.runs["arm"] == arm).sum())


def studies(runs: pd.DataFrame, curves: pd.DataFrame) -> list[Study]:
    """Group the runs that count into studies. Searches only count as tuning budget; smoke runs only where nothing else is."""
    searched = runs[runs["purpose"] == "search"].groupby(["dataset", "model", "arm"]).size().to_dict()
    results = runs[runs["purpose"] != "search"]
    smoke = (results["purpose"] == "smoke") | (results["scale"] == "smoke")
    results = results if smoke.all() else results[~smoke]
    made = []
    for _, group in results.groupby("study", sort=True):
        current = _current(group)
        counts = group["arm"].value_counts() - current["arm"].value_counts()
        first = current.iloc[0]
        arms = sorted(current["arm"].unique())
        made.append(
            Study(
                runs=current,
                curves=curves[curves["run_id"].isin(current["run_id"])].merge(
                    current[["run_id", "arm", "status"]], on="run_id"
                ),
                budgets={arm: searched.get((first["dataset"], first["model"], arm), 0) for arm in arms},
                left_out={str(arm): int(count) for arm, count in sorted(counts.items()) if count},
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


def _summary(path: Path) -> Row:
    """One run's row, from its summary."""
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        missing = [key for key in REQUIRED if key not in summary]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not a readable summary ({error}): remove that folder and run it again") from error
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}: remove that folder and run it again")
    if summary["run_id"] != path.parent.name:
        raise ValueError(f"{path} belongs to run {summary['run_id']}, not to the folder it lies in")
    return _flat(summary | {"schema_version": SCHEMA_VERSION})


def _curve(path: Path, run_id: str) -> Iterator[Row]:
    """One run's rows of `curves.csv`; none for a run that diverged before its first epoch ended."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield _flat({"run_id": run_id} | json.loads(line))
            except (ValueError, TypeError) as error:
                raise ValueError(f"{path}, line {number}, is not readable ({error})") from error


def _flat(nested: dict[str, Any], prefix: str = "") -> Row:
    """Nested dictionaries as one, keys joined by dots, values as text: `config.optimizer.lr`."""
    row: Row = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            row |= _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            row[f"{prefix}{key}"] = json.dumps(value)
        else:
            row[f"{prefix}{key}"] = "" if value is None else str(value)
    return row


def _compare(published: Row, found: Row) -> str | None:
    """A line that says how a run contradicts the published row of the same id, if it does."""
    keys = [key for key in ["status", *OUTCOME] if published.get(key, "") != found.get(key, "")]
    if not keys:
        return None
    changes = ", ".join(f"{key} {published.get(key) or '-'} -> {found.get(key) or '-'}" for key in keys)
    return f"{published['run_id']} ({published['arm']}, seed {published['seed']}): {changes} [{published.get('device')} -> {found.get('device')}]"


def _check_schema(path: Path, versions: Iterable[str]) -> None:
    other = set(versions) - {str(SCHEMA_VERSION)}
    if other:
        raise ValueError(
            f"{path} has schema version {', '.join(sorted(other)) or 'none'}, this is {SCHEMA_VERSION}: collect it again"
        )


def _columns(first: list[str], rows: Iterable[Row]) -> list[str]:
    """All columns of some rows: the known ones in their order, then the others by name."""
    return first + sorted({key for row in rows for key in row} - set(first))


def _rows(path: Path) -> Iterator[Row]:
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            yield from csv.DictReader(file)


def _header(path: Path) -> list[str]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return next(csv.reader(file), [])


def _write(path: Path, columns: list[str], rows: Iterable[Row]) -> None:
    """Write a table whole or not at all; `rows` may be read from the file that is replaced."""
    draft = path.with_name(f".{path.name}.draft")
    with draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(draft, path)
