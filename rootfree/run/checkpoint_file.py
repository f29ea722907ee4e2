"""The checkpoint in a run's folder: the state of the loop, and what tells whether the rest of the folder fits it."""

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch

from rootfree.run.files import write_atomically
from rootfree.run.provenance import code


class CheckpointFile:
    """`checkpoint.pt` of a run.

    Args:
        folder: of the run.
        title: of the run, for warnings.

    Attributes:
        earlier_code: which other code made the run's first part, and up to which step.
    """

    def __init__(self, folder: Path, title: str) -> None:
        self.file, self.metrics, self.title = folder / "checkpoint.pt", folder / "metrics.jsonl", title
        self.earlier_code: list[dict[str, Any]] = []

    def read(self) -> dict[str, Any] | None:
        """Return what was written last, or None.

        Raises:
            ValueError: it is damaged, or metrics that it had are lost.
        """
        if not self.file.exists():
            return None
        again = f"remove {self.file.parent} to start again"
        state = self._load(f"is damaged: {again}")
        if self.metrics.stat().st_size < state["metrics_bytes"]:
            raise ValueError(f"{self.metrics} lost lines that its checkpoint had: {again}")
        self.earlier_code = state["earlier_code"]
        changed = [key for key in ("commit", "dirty", "versions") if state["code"][key] != code()[key]]
        if changed:
            warnings.warn(f"{self.title} goes on with another {', '.join(changed)} than it began with; its summary "
                          "says so", stacklevel=4)  # fmt: skip
            self.earlier_code = [*self.earlier_code, {"until_step": state["step"], **state["code"]}]
        return state

    def write(self, state: dict[str, Any], metrics_bytes: int) -> None:
        """Replace the file; the old one stays until the new one is whole.

        Args:
            state: plain values and tensors.
            metrics_bytes: length of the metrics that belong to it.

        Raises:
            ValueError: it could not be read back.
        """
        whole = {**state, "metrics_bytes": metrics_bytes, "code": code(), "earlier_code": self.earlier_code}
        first = not self.file.exists()
        write_atomically(self.file, lambda stream: torch.save(whole, stream))
        if first:  # an optimizer may keep what only it can read
            try:
                self._load("cannot be read back, for the optimizer or the model keeps other things than plain tensors")
            except ValueError:
                self.file.unlink()
                raise

    def _load(self, otherwise: str) -> dict[str, Any]:
        try:
            return torch.load(self.file, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise ValueError(
                f"{self.file} {otherwise} ({str(error).partition('. ')[0].partition(chr(10))[0]})"
            ) from error
