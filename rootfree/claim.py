"""Who trains a run: a file that names its holder and is renewed while the holder lives.

Any number of processes, on any number of machines that share the folder, may try; one gets it.
"""

import json
import os
import socket
import threading
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock


class Claim:
    """A claim on one run.

    Args:
        file: the claim's file; its folder exists.
        guard: a file shared by all claims beneath one folder, locked for the moment in which a claim changes hands.
        timeout: seconds after which a holder that gives no sign of life has lost its claim; it renews it ten times
            as often. On its own machine a holder whose process is gone has lost it at once.
    """

    def __init__(self, file: Path, guard: Path, timeout: float) -> None:
        self.file, self.timeout = file, timeout
        self._guard = FileLock(guard)
        self._ended, self._lost = threading.Event(), threading.Event()
        self._holder: dict[str, Any] = {}

    def take(self) -> bool:
        """Claim the run, unless someone who lives has it; return whether it is ours."""
        with self._guard:
            if lives(self.file):
                return False
            pid = os.getpid()
            self._holder = {"token": uuid.uuid4().hex, "host": socket.gethostname(), "pid": pid}
            self._holder |= {"process_started": _process_started(pid), "since": now(), "timeout": self.timeout}
            self._write()
        threading.Thread(target=self._renew, daemon=True).start()
        return True

    @property
    def lost(self) -> bool:
        """Whether another process took over, because this one gave no sign of life."""
        return self._lost.is_set()

    def release(self) -> None:
        """Give the claim up."""
        self._ended.set()
        with self._guard:
            if self._is_ours():
                self.file.unlink()

    def _renew(self) -> None:
        while not self._ended.wait(self.timeout / 10):
            with self._guard:
                if not self._is_ours():
                    self._lost.set()
                    return
                if not self._ended.is_set():
                    self._write()

    def _is_ours(self) -> bool:
        return (holder_of(self.file) or {}).get("token") == self._holder["token"]

    def _write(self) -> None:
        part = self.file.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps({**self._holder, "heartbeat": now()}))
        part.replace(self.file)


def holder_of(file: Path) -> dict[str, Any] | None:
    """Return who has a claim: host, pid, since when, heartbeat; None if nobody has, or it cannot be read."""
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None


def lives(file: Path) -> bool:
    """Whether a claim has a holder, and that gave a sign of life within its timeout."""
    holder = holder_of(file)
    if holder is None:
        return False
    if holder["host"] == socket.gethostname():
        started = _process_started(holder["pid"])
        if started is None or started != holder["process_started"]:
            return False
    try:
        # the file's own time, not the holder's clock; a time in the future, from a clock set back, is a sign of life
        return time.time() - file.stat().st_mtime < holder["timeout"]
    except FileNotFoundError:  # given up a moment ago
        return False


def _process_started(pid: int) -> int | None:
    """When a process of this machine began, in clock ticks since the machine did; None if it is gone; 0 if unknown."""
    if not Path("/proc/self/stat").exists():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return 0
    try:
        # the name, in brackets, may hold spaces; a zombie (Z) is gone
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def now() -> str:
    """Return the time, as every file of a run's folder says it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
