"""What a run's folder says about it; read without torch, so that ten thousand are looked at in a second."""

import json
from pathlib import Path
from typing import Any

from rootfree.claim import lives

ENDED = ("finished", "diverged")
STATUSES = (*ENDED, "running", "interrupted", "failed", "to do")


def status_of(folder: Path) -> str:
    """Return how the run of a folder stands: one of `STATUSES`; a killed one counts as interrupted."""
    if (summary := read(folder / "summary.json")) is not None:
        return str(summary["status"])
    if lives(folder / "lock"):
        return "running"
    begun = "interrupted" if (folder / "metrics.jsonl").exists() else "to do"
    return str((read(folder / "failure.json") or {"status": begun})["status"])


def failure_of(folder: Path) -> dict[str, Any]:
    """Return how the run of a folder failed or was interrupted last: message, and how often it failed."""
    return read(folder / "failure.json") or {"message": "", "attempts": 0}


def headline(folder: Path) -> str:
    """Return how a run ended, in a few words."""
    summary = read(folder / "summary.json") or {}
    test = "" if summary["test_acc"] is None else f", test {summary['test_acc']:.2%}"
    return f"{summary['status']}: val {summary['val_acc']:.2%}{test}, {summary['seconds']:.0f} s"


def read(file: Path) -> dict[str, Any] | None:
    """Return what a JSON file holds, or None if there is none."""
    try:
        return json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
