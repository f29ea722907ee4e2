"""One run's folder, `<outputs>/<run id>/`: config.yaml, metrics.jsonl, checkpoint.pt, and summary.json once it ended.

Local files are the truth; W&B is a mirror of them. `summary.json` is written last and atomically: it exists if and only
if the run ended.
"""

import hashlib
import inspect
import json
import math
import os
import pickle
import platform
import pydoc
import subprocess
import time
import warnings
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import torch
from annotated_types import Gt
from omegaconf import OmegaConf

from rootfree import stop
from rootfree.claim import Claim, now
from rootfree.folder import ENDED, failure_of, headline, status_of
from rootfree.mirror import Mirror
from rootfree.stop import Interrupted

NUMERICS = 1  # raised whenever a change of code changes training results; part of every run id
SCIENCE = ("dataset", "model", "loss", "optimizer", "schedule", "trainer", "seed")
PLACES = ("root", "cache", "download", "url", "md5", "workers")  # where data comes from says nothing about what it is


def science(config: dict[str, Any], fingerprint: str) -> dict[str, Any]:
    """Return the part of a config that decides the result: no paths, no machine, no W&B, no names of choices."""
    content: dict[str, Any] = {"numerics": NUMERICS}
    for key in SCIENCE:
        block = config[key]
        if isinstance(block, dict):  # without how it is called (_partial_), and without where data lies
            ignored = ("_partial_", "_convert_", *(PLACES if key == "dataset" else ()))
            block = {name: value for name, value in block.items() if name not in ignored}
        content[key] = block
    content["dataset"]["fingerprint"] = fingerprint
    if config.get("processes"):  # only where dividing the batch changes the mathematics
        content["processes"] = config["processes"]
    return content


def identity(content: dict[str, Any]) -> str:
    """Hash what `science` returned, or a part of it: 12 hexadecimal digits, the same on every machine.

    A leaf of ours that equals its argument's default counts as left out, so a new option leaves the ids of old runs
    alone; 1 and 1.0 are one number.
    """
    kept = {key: _without_defaults(block) if isinstance(block, dict) else block for key, block in content.items()}
    return hashlib.sha256(json.dumps(_same_numbers(kept), sort_keys=True).encode()).hexdigest()[:12]


def _without_defaults(block: dict[str, Any]) -> dict[str, Any]:
    target = str(block.get("_target_"))
    if not target.startswith("rootfree."):  # the defaults of others may change under us
        return block
    defaults = {name: p.default for name, p in inspect.signature(pydoc.locate(target)).parameters.items()}  # type: ignore[arg-type]
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()}
    return {name: value for name, value in block.items() if name not in plain or value != plain[name]}


def _same_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _same_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_same_numbers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


class Record:
    """The folder of one run, claimed by this process while it lives.

    Args:
        outputs: folder of all runs.
        config: the whole resolved config, plain values.
        fingerprint: of the data set.
        mirror: makes the W&B mirror of (folder, config).
        leads: whether this process writes; of several that train one run, one does, and the others only read.
        quiet: whether someone else shows how it is doing: in a sweep, one line is for all runs.
        claim_timeout: seconds without a sign of life after which another process may take a run over.
        checkpoint_minutes: greatest time between checkpoints; there is one at each epoch's end as well.
        max_attempts: how often a run that fails is tried.
        keep_checkpoint: keep the last checkpoint of a run that ended.

    Raises:
        OSError: if the folder cannot be written.
    """

    def __init__(
        self,
        outputs: Path,
        config: dict[str, Any],
        fingerprint: str,
        mirror: Callable[..., Mirror],
        leads: bool = True,
        quiet: bool = False,
        claim_timeout: Annotated[float, Gt(0)] = 600,
        checkpoint_minutes: Annotated[float, Gt(0)] = 10,
        max_attempts: Annotated[int, Gt(0)] = 3,
        keep_checkpoint: bool = False,
    ) -> None:
        self.leads, self.checkpoint_minutes, self.max_attempts = leads, checkpoint_minutes, max_attempts
        self.quiet, self.keep_checkpoint = quiet, keep_checkpoint
        self.science = science(config, fingerprint)
        self.run_id = identity(self.science)
        self.config = {"run_id": self.run_id, "fingerprint": fingerprint, **config}
        self.folder = outputs / self.run_id
        self.title = f"{self.run_id} {config['names']['model']} {config['names']['arm']} seed {config['seed']}"
        self._make_mirror = mirror
        self._claim = Claim(self.folder / "lock", outputs / "claims.lock", claim_timeout)
        self._checkpoint: dict[str, Any] | None = None
        self._earlier_code: list[dict[str, Any]] = []
        self._saved_at = time.monotonic()

    def settled(self) -> str | None:
        """Return why there is nothing to do here, or None: the run ended, or failed as often as is allowed."""
        status = status_of(self.folder)
        if status in ENDED:
            return f"{status} before"
        failure = failure_of(self.folder)
        if failure["attempts"] < self.max_attempts:
            return None
        return f"failed {failure['attempts']} times ({failure['message']}); remove {self.folder} to try again"

    def open(self) -> bool:
        """Claim the folder, check what is in it, write config.yaml, read the checkpoint, start the mirror.

        Returns:
            Whether there is something to do here: not if another process is at it, or just ended it.

        Raises:
            ValueError: if the folder holds another config than its id says, or its checkpoint is damaged.
        """
        if self.leads:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self._claim.take():
                return False
            if status_of(self.folder) in ENDED:  # by the process that had the claim until now
                self._claim.release()
                return False
        try:
            self._check_config()
            self._checkpoint = self._read_checkpoint()
            if self.leads:
                self._metrics = (self.folder / "metrics.jsonl").open("ab")
                self._metrics.truncate(self._checkpoint["metrics_bytes"] if self._checkpoint else 0)
                self._mirror = self._make_mirror(self.folder, self.config)
        except BaseException:
            if self.leads:
                self._claim.release()
            raise
        return True

    def _check_config(self) -> None:
        file = self.folder / "config.yaml"
        if file.exists():
            try:
                found: Any = OmegaConf.to_container(OmegaConf.load(file))
                there = science(found, found["fingerprint"])
            except Exception as error:  # whatever may be wrong with a file that someone edited
                raise ValueError(f"{file} is not readable: remove {self.folder} to start again") from error
            if identity(there) != self.run_id:
                key, mine, other = _first_difference(self.science, there)
                raise ValueError(
                    f"{file} was changed under a half-finished run: {key} is {other!r} there and {mine!r} here. "
                    f"Restore it, or remove {self.folder} to start again"
                )
        elif self.leads:
            write_atomically(file, OmegaConf.to_yaml(OmegaConf.create(self.config)).encode())

    def _read_checkpoint(self) -> dict[str, Any] | None:
        file, metrics = self.folder / "checkpoint.pt", self.folder / "metrics.jsonl"
        if not file.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f"{file} is damaged ({reason}): remove {self.folder} to start again") from error
        if metrics.stat().st_size < state["metrics_bytes"]:
            raise ValueError(f"{metrics} lost lines that its checkpoint had: remove {self.folder} to start again")
        self._earlier_code = state["earlier_code"]
        changed = [key for key in ("commit", "dirty", "versions") if state["code"][key] != code()[key]]
        if changed:
            warnings.warn(f"{self.title} goes on with another {', '.join(changed)} than it began with; its summary "
                          "says so", stacklevel=3)  # fmt: skip
            self._earlier_code = [*self._earlier_code, {"until_step": state["step"], **state["code"]}]
        return state

    def load_checkpoint(self) -> dict[str, Any] | None:
        """Return what `save_checkpoint` kept last before the folder was opened, or None."""
        state, self._checkpoint = self._checkpoint, None  # it is read once, and large
        return state

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Keep a state from which the run goes on bit for bit; the old one stays until the new one is whole."""
        if not self.leads:
            return
        os.fsync(self._metrics.fileno())
        self._metrics.seek(0, os.SEEK_END)
        whole = {**state, "metrics_bytes": self._metrics.tell(), "code": code(), "earlier_code": self._earlier_code}
        write_atomically(self.folder / "checkpoint.pt", lambda file: torch.save(whole, file))
        self._saved_at = time.monotonic()

    def heed(self, state: Callable[[], dict[str, Any]]) -> None:
        """Do what may be due after a step: stop if that was asked for, or keep the state.

        Raises:
            Interrupted: if the run was asked to stop, or another process took it over.
        """
        if self.leads and self._claim.lost:
            self.leads = False  # from here on the folder is another's
            raise Interrupted("another process took this run over, since this one gave no sign of life")
        stop.heed()
        if time.monotonic() - self._saved_at > 60 * self.checkpoint_minutes:
            self.save_checkpoint(state())

    def log(self, metrics: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl; numbers that are not finite become null."""
        if not self.leads:
            return
        self._metrics.write(_json_line(metrics))
        self._metrics.flush()
        self._mirror.log(metrics)

    def close(self, summary: dict[str, Any], device: str) -> None:
        """Write summary.json, drop the checkpoint, and say how the run ended."""
        if not self.leads:
            return
        names = self.config["names"]
        whole = {
            "run_id": self.run_id,
            "purpose": purpose(self.config),
            "preset": self.config["preset"],
            "scale": self.config["scale"],
            **names,
            "seed": self.config["seed"],
            "study": identity({key: self.science[key] for key in self.science if key not in ("optimizer", "seed")}),
            "batch_size": self.config["dataset"]["batch_size"],
            **summary,
            **code(),
            "earlier_code": self._earlier_code,
            "device": device,
            "finished_at": now(),
            "command": self.config["command"],
            "config": {key: value for key, value in self.science.items() if key != "numerics"},
            "numerics": NUMERICS,
        }
        write_atomically(self.folder / "summary.json", _json_line(whole, indent=1))
        for file in ("failure.json", *(() if self.keep_checkpoint else ("checkpoint.pt",))):
            (self.folder / file).unlink(missing_ok=True)
        self._mirror.summarise(whole)
        if not self.quiet:
            print(f"{self.title} {headline(self.folder)}", flush=True)

    def fail(self, error: BaseException) -> None:
        """Write failure.json: the run failed or was interrupted, has not ended, and may be tried again."""
        if not self.leads:
            return
        failed = isinstance(error, Exception)
        content = {
            "status": "failed" if failed else "interrupted",
            "message": ("out of memory: " if _no_memory(error) else "") + f"{type(error).__name__}: {error}",
            "attempts": failure_of(self.folder)["attempts"] + failed,
            "at": now(),
            **code(),
        }
        write_atomically(self.folder / "failure.json", _json_line(content, indent=1))

    def release(self) -> None:
        """Let the opened folder go, for another process or a later try, however the run ended."""
        if self.leads:
            self._metrics.close()
            self._mirror.close()
            self._claim.release()


def purpose(config: dict[str, Any]) -> str:
    """Return what a run is for: a search never sees test, a smoke run is no evidence, all else is final."""
    if not config["trainer"]["evaluate_test"]:
        return "search"
    return "smoke" if config["scale"] == "smoke" else "final"


@lru_cache(maxsize=1)
def code() -> dict[str, Any]:
    """Commit, dirty flag and versions: which code made a number (null outside a checkout)."""

    def git(*arguments: str) -> str | None:
        here = Path(__file__).parent
        try:
            done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    status = git("status", "--porcelain", "--", ":/rootfree", ":/configs", ":/experiments")
    packages = ("rootfree", "torch", "torchvision", "timm", "numpy", "hydra-core")
    return {
        "commit": git("rev-parse", "HEAD"),
        "dirty": None if status is None else bool(status),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
    }


def _no_memory(error: BaseException) -> bool:
    # on a CPU torch raises a plain RuntimeError
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def _json_line(content: dict[str, Any], indent: int | None = None) -> bytes:
    """Encode as JSON with a final newline; NaN and infinities, which JSON lacks, become null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list):
            return [plain(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return (json.dumps(plain(content), indent=indent) + "\n").encode()


def write_atomically(file: Path, content: bytes | Callable[[BinaryIO], None]) -> None:
    """Write a file so that, whatever happens, either the old or the new one is there, whole."""
    part = file.with_suffix(".part")
    with part.open("wb") as stream:
        stream.write(content) if isinstance(content, bytes) else content(stream)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the name, too
    finally:
        os.close(folder)


def _first_difference(mine: Any, other: Any, key: str = "") -> tuple[str, Any, Any]:
    """Return (dotted key, value here, value there) of the first difference between two nested dicts."""
    if isinstance(mine, dict) and isinstance(other, dict):
        for name in sorted(mine.keys() | other.keys()):
            if mine.get(name) != other.get(name):
                return _first_difference(mine.get(name), other.get(name), f"{key}.{name}".lstrip("."))
    return key, mine, other
