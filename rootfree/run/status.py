"""What a run's folder says about it; read without torch, so that ten thousand are looked at in a second."""

from pathlib import Path
from typing import Any

from rootfree.run.files import read_json
from rootfree.run.lock import is_held

ENDED = ("finished", "diverged")
STATUSES = (*ENDED, "running", "interrupted", "failed", "to do")


def status_of(folder: Path) -> str:
    """Return the status of the run of a folder, one of `STATUSES`; a killed one counts as interrupted."""
    if (summary := read_json(folder / "summary.json")) is not None:
        return str(summary["status"])
    if is_held(folder / "lock"):
        return "running"
    begun = "interrupted" if (folder / "metrics.jsonl").exists() else "to do"
    return str((read_json(folder / "failure.json") or {"status": begun})["status"])


def failure_of(folder: Path) -> dict[str, Any]:
    """Return how the run of a folder failed or was interrupted last: message, and how often it failed."""
    return read_json(folder / "failure.json") or {"message": "", "attempts": 0}


def headline(folder: Path) -> str:
    """Return how a run ended, in a few words."""
    summary = read_json(folder / "summary.json") or {}
    test = "" if summary["test_acc"] is None else f", test {summary['test_acc']:.2%}"
    return f"{summary['status']}: val {summary['val_acc']:.2%}{test}, {summary['seconds']:.0f} s"
