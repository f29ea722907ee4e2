"""Run folders become two tables: `runs.csv` with a row per run, `curves.csv` with a row per run and epoch.

Cells are written as Python prints them (a float's shortest exact form) and never pass through a parser that rounds, so
the same runs give the same bytes and a `git diff` of the tables shows which number moved.
"""

import csv
import heapq
import io
import json
from collections.abc import Iterable, Iterator
from itertools import chain, groupby
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from rootfree.run.files import write_atomically

SCHEMA_VERSION = 1
IDENTITY = ["run_id", "purpose", "preset", "scale", "dataset", "model", "optimizer", "arm", "seed", "status"]
OUTCOME = ["train_acc", "val_acc", "test_acc", "train_loss", "val_loss", "test_loss", "gap_acc", "gap_loss"]
CONTEXT = ["loss", "schedule", "study", "epochs", "steps", "batch_size", "seconds", "images_per_second", "parameters"]
CONTEXT += ["state_bytes", "device", "commit", "dirty", "finished_at", "command", "schema_version"]
CURVE = ["run_id", "epoch", "step", "lr", "loss", "train_acc", "train_loss", "val_acc", "val_loss"]
CURVE += ["images_per_second", "seconds"]
TEXT = {"run_id", "study", "commit", "weights", "fingerprint"}  # hashes, some of which look like numbers
REQUIRED = [*IDENTITY, *OUTCOME, "study", "config"]
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
    check_schema(into / "runs.csv", (row.get("schema_version", "none") for row in kept.values()))
    fresh = sorted(found.keys() - kept.keys())
    lines = [_compare(kept[run_id], found[run_id]) for run_id in sorted(found.keys() & kept.keys())]
    runs = found | kept

    # Curves are many: they are streamed from two sources that are both sorted by run and epoch, first for their columns
    # (so that every file has been read before anything is written), then for the table.
    def curves() -> Iterator[Row]:
        return chain.from_iterable(_curve(outputs / run_id / "metrics.jsonl", run_id) for run_id in fresh)

    columns = _columns(CURVE, chain([next(_rows(into / "curves.csv"), {}) if merge else {}], curves()))
    published = _rows(into / "curves.csv") if merge else iter(())
    into.mkdir(parents=True, exist_ok=True)
    merged = heapq.merge(published, curves(), key=lambda row: (row["run_id"], int(row["epoch"])))
    _write(into / "curves.csv", columns, merged)
    columns = _columns(IDENTITY + OUTCOME + CONTEXT, runs.values())
    _write(into / "runs.csv", columns, (runs[run_id] for run_id in sorted(runs)))
    return Collected(len(found), len(runs), [line for line in lines if line])


def restore(results: Path, outputs: Path) -> int:
    """Rebuild run folders (`summary.json`, `metrics.jsonl`) from the tables: what `collect` did, backwards.

    Args:
        results: Folder of the tables.
        outputs: Folder of run folders, made if missing; a run whose folder is there is passed over.

    Returns:
        How many folders were made.

    Raises:
        ValueError: There is no table, or it was written in another schema.
    """
    rows = list(_rows(results / "runs.csv"))
    if not rows:
        raise ValueError(f"there are no runs in {results / 'runs.csv'}")
    check_schema(results / "runs.csv", (row.get("schema_version", "none") for row in rows))
    missing = {row["run_id"]: row for row in rows if not (outputs / row["run_id"]).exists()}
    for run_id in missing:
        (outputs / run_id).mkdir(parents=True)
    for run_id, epochs in groupby(_rows(results / "curves.csv"), key=lambda row: row["run_id"]):
        if run_id in missing:
            lines = (json.dumps(_nested({k: v for k, v in row.items() if k != "run_id"})) for row in epochs)
            (outputs / run_id / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    for run_id, row in missing.items():  # last, as in a run: whoever sees it sees a whole folder
        summary = _nested({key: value for key, value in row.items() if key != "schema_version"})
        write_atomically(outputs / run_id / "summary.json", json.dumps(summary, indent=1) + "\n")
    return len(missing)


def _nested(row: Row) -> dict[str, Any]:
    """Undo `_flat`. A cell becomes what is written in the same way; an empty one is null, or, as a setting, absent."""
    nested: dict[str, Any] = {}
    for key, text in row.items():
        if text == "" and key.startswith(("config.", "versions.")):
            continue
        *path, last = key.split(".") if key.startswith(("config.", "versions.")) else [key]
        place = nested
        for name in path:
            place = place.setdefault(name, {})
        place[last] = text if last in TEXT or key.startswith("versions.") else _value(text)
    return nested


def _value(text: str) -> Any:
    if text == "":
        return None
    known = {"True": True, "False": False}
    try:
        value = known[text] if text in known else json.loads(text)
    except ValueError:
        return text
    written = json.dumps(value) if isinstance(value, (list, dict)) else str(value)
    return value if written == text else text


def check_schema(path: Path, versions: Iterable[str]) -> None:
    """Raise `ValueError` for tables that were written in another schema."""
    other = set(versions) - {str(SCHEMA_VERSION)}
    if other:
        raise ValueError(f"{path}: schema version {', '.join(sorted(other))} is not {SCHEMA_VERSION}; collect it anew")


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
                row = _flat({"run_id": run_id} | json.loads(line))
                row.pop("gap_acc", None)  # train minus val, which stand beside it
                int(row["epoch"])
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(f"{path}, line {number}, is not an epoch's record ({error})") from error
            yield row


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
    keys.append("device")
    changes = ", ".join(f"{key} {published.get(key) or '-'} -> {found.get(key) or '-'}" for key in keys)
    return f"{published['run_id']} ({published['arm']}, seed {published['seed']}): {changes}"


def _columns(first: list[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """All columns of some rows: the known ones in their order, then the others by name."""
    return first + sorted({key for row in rows for key in row} - set(first))


def _rows(path: Path) -> Iterator[Row]:
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            yield from csv.DictReader(file)


def _write(path: Path, columns: list[str], rows: Iterable[Row]) -> None:
    """Write a table whole or not at all; `rows` may be read from the file that is replaced."""

    def write(stream: BinaryIO) -> None:
        file = io.TextIOWrapper(stream, encoding="utf-8", newline="")
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        file.detach()  # what is buffered is written, and the stream stays open for whoever opened it

    write_atomically(path, write)
