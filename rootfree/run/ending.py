"""How a run ended, as its folder tells it: the contents of summary.json and of failure.json."""

import traceback
from typing import Any

import torch

from rootfree.run.identity import NUMERICS, study_of
from rootfree.run.lock import now
from rootfree.run.provenance import code


def summary_of(
    config: dict[str, Any], science: dict[str, Any], result: dict[str, Any], device: str, earlier_code: list[Any]
) -> dict[str, Any]:
    """Return what summary.json holds.

    Args:
        config: the whole config of the run.
        science: the part of it that decides the result.
        result: what training returned.
        device: on what it was trained.
        earlier_code: the code with which the run was begun, where it was other than now.
    """
    return {
        "run_id": config["run_id"],
        "purpose": _purpose(config),
        "preset": config["preset"],
        "scale": config["scale"],
        **config["names"],
        "seed": config["seed"],
        "study": study_of(science),
        "batch_size": config["dataset"]["batch_size"],
        **result,
        **code(),
        "earlier_code": earlier_code,
        "device": device,
        "finished_at": now(),
        "command": config["command"],
        "config": {key: value for key, value in science.items() if key != "numerics"},
        "numerics": NUMERICS,
    }


def failure_from(error: BaseException, earlier: int) -> dict[str, Any]:
    """Return what failure.json holds of a run that failed `earlier` times before; no `Exception`: interrupted."""
    failed = isinstance(error, Exception)
    return {
        "status": "failed" if failed else "interrupted",
        "message": ("out of memory: " if _no_memory(error) else "") + f"{type(error).__name__}: {error}",
        "attempts": earlier + failed,
        "at": now(),
        "traceback": traceback.format_exception(error) if failed else None,
        **code(),
    }


def _purpose(config: dict[str, Any]) -> str:
    # a search never sees test, a smoke run is no evidence
    if not config["trainer"]["evaluate_test"]:
        return "search"
    return "smoke" if config["scale"] == "smoke" else "final"


def _no_memory(error: BaseException) -> bool:
    # on a CPU torch raises a plain RuntimeError
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)
