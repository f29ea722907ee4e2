"""One run's folder, `<outputs>/<run id>/`: config.yaml, metrics.jsonl, checkpoint.pt, and summary.json once it ended.

Local files are the truth; W&B mirrors them. `summary.json` is written last and atomically: it exists if and only if the
run ended.
"""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Gt
from omegaconf import OmegaConf
from safetensors.torch import save as to_safetensors

from rootfree.run.checkpoint_file import CheckpointFile
from rootfree.run.ending import failure_from, summary_of
from rootfree.run.files import json_bytes, write_atomically
from rootfree.run.identity import refuse_another, run_id_of, scientific_config
from rootfree.run.lock import RunLock
from rootfree.run.provenance import code
from rootfree.run.signals import Interrupted
from rootfree.run.status import ENDED, failure_of, headline, status_of
from rootfree.run.wandb_logger import WandbLogger


class Record:
    """The folder of one run, locked by this process while it trains.

    Args:
        outputs: folder of all runs.
        config: the whole resolved config, plain values.
        fingerprint: of the data set.
        wandb_logger: makes the W&B mirror of (folder, config).
        is_main_process: whether this process writes; of several that train one run, the others only read.
        quiet: whether someone else shows the progress: in a sweep, one line is for all runs.
        lock_timeout: seconds without a sign of life after which another process may take a run over.
        checkpoint_minutes: greatest time between checkpoints; there is one at each epoch's end as well.
        max_attempts: how often a run that fails is tried.
        keep_checkpoint: keep the last checkpoint of a run that ended.
        keep_weights: keep the weights of a run that finished, as weights.safetensors.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(
        self,
        outputs: Path,
        config: dict[str, Any],
        fingerprint: str,
        wandb_logger: Callable[..., WandbLogger],
        is_main_process: bool = True,
        quiet: bool = False,
        lock_timeout: Annotated[float, Gt(0)] = 600,
        checkpoint_minutes: Annotated[float, Gt(0)] = 10,
        max_attempts: Annotated[int, Gt(0)] = 3,
        keep_checkpoint: bool = False,
        keep_weights: bool = False,
    ) -> None:
        self.is_main_process, self.quiet = is_main_process, quiet
        self.checkpoint_minutes, self.max_attempts = checkpoint_minutes, max_attempts
        self.keep_checkpoint, self.keep_weights = keep_checkpoint, keep_weights
        self.science = scientific_config(config, fingerprint)
        self.run_id = run_id_of(self.science)
        self.config = {"run_id": self.run_id, "fingerprint": fingerprint, **config}
        self.folder = outputs / self.run_id
        self.title = f"{self.run_id} {config['names']['model']} {config['names']['arm']} seed {config['seed']}"
        self._make_wandb_logger = wandb_logger
        self._lock = RunLock(self.folder / "lock", outputs / "locks.lock", lock_timeout)
        self._checkpoint = CheckpointFile(self.folder, self.title)
        self._state: dict[str, Any] | None = None
        self._saved_at = time.monotonic()

    def reason_to_skip(self) -> str | None:
        """Return why there is nothing to do here, or None: the run ended, or failed as often as is allowed."""
        status = status_of(self.folder)
        if status in ENDED:
            return f"{status} before"
        failure = failure_of(self.folder)
        if failure["attempts"] < self.max_attempts:
            return None
        return f"failed {failure['attempts']} times ({failure['message']}); remove {self.folder} to try again"

    def open(self) -> bool:
        """Lock the folder, check what is in it, write config.yaml, read the checkpoint, start W&B.

        Returns:
            Whether there is something to do here: not if another process trains the run, or just ended it.

        Raises:
            ValueError: the folder holds another config than its id says, or its checkpoint is damaged.
        """
        code()  # what a summary needs is asked for before the first step
        if self.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self._lock.acquire():
                return False
            if status_of(self.folder) in ENDED:  # by the process that had the lock until now
                self._lock.release()
                return False
        try:
            file = self.folder / "config.yaml"
            if file.exists():
                refuse_another(file, self.science)
            elif self.is_main_process:
                write_atomically(file, OmegaConf.to_yaml(OmegaConf.create(self.config)))
            self._state = self._checkpoint.read()
            if self.is_main_process:
                self._metrics = (self.folder / "metrics.jsonl").open("ab")
                self._metrics.truncate(self._state["metrics_bytes"] if self._state else 0)
                self._wandb = self._make_wandb_logger(self.folder, self.config)
        except BaseException:
            if self.is_main_process:
                self._lock.release()
            raise
        return True

    def load_checkpoint(self) -> dict[str, Any] | None:
        """Return what `save_checkpoint` kept last before the folder was opened, or None."""
        state, self._state = self._state, None  # it is read once, and large
        return state

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Keep a state from which the run goes on bit for bit; the old one stays until the new one is whole.

        Raises:
            ValueError: it could not be read back.
            Interrupted: another process took the run over.
        """
        if self.is_main_process:
            self._raise_if_lost()
            os.fsync(self._metrics.fileno())
            self._checkpoint.write(state, self._metrics.seek(0, os.SEEK_END))
            self._saved_at = time.monotonic()

    def save_if_due(self, state: Callable[[], dict[str, Any]]) -> None:
        """Keep the state if the last checkpoint is too old."""
        if self.is_main_process and time.monotonic() - self._saved_at > 60 * self.checkpoint_minutes:
            self.save_checkpoint(state())

    def log(self, metrics: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl; numbers that are not finite become null.

        Raises:
            Interrupted: another process took the run over.
        """
        if not self.is_main_process:
            return
        self._raise_if_lost()
        self._metrics.write(json_bytes(metrics))
        self._metrics.flush()
        self._wandb.log(metrics)

    def save_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Keep the weights of a run at its end, if that is asked for."""
        if self.is_main_process and self.keep_weights:
            self._raise_if_lost()
            copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in weights.items()}
            write_atomically(self.folder / "weights.safetensors", to_safetensors(copies))

    def close(self, summary: dict[str, Any], device: str) -> None:
        """Write summary.json, drop the checkpoint, and say how the run ended.

        Raises:
            Interrupted: another process took the run over.
        """
        if not self.is_main_process:
            return
        self._raise_if_lost()
        whole = summary_of(self.config, self.science, summary, device, self._checkpoint.earlier_code)
        write_atomically(self.folder / "summary.json", json_bytes(whole, indent=1))
        for file in ("failure.json", *(() if self.keep_checkpoint else ("checkpoint.pt",))):
            (self.folder / file).unlink(missing_ok=True)
        self._wandb.summarise(whole)
        if not self.quiet:
            print(f"{self.title} {headline(self.folder)}", flush=True)

    def fail(self, error: BaseException) -> None:
        """Write failure.json: the run failed or was interrupted, has not ended, and may be tried again."""
        if not self.is_main_process or not self._lock.is_ours():
            return
        content = failure_from(error, earlier=failure_of(self.folder)["attempts"])
        write_atomically(self.folder / "failure.json", json_bytes(content, indent=1))

    def release(self) -> None:
        """Let the opened folder go, for another process or a later try, however the run ended."""
        if self.is_main_process:
            self._metrics.close()
            self._wandb.close()
            self._lock.release()

    def _raise_if_lost(self) -> None:
        if not self._lock.is_ours():  # the folder is another's
            raise Interrupted("another process took this run over, since this one gave no sign of life")
