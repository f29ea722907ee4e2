"""Who trains a run: a file that names its holder and is renewed while the holder lives.

Any number of processes, on any number of machines that share the folder, may try; one gets it.
"""

import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil

from rootfree.run.files import exclusive, json_bytes, read_json, write_atomically

GUARD_SECONDS = 60.0  # to wait for others, who hold the guard for a moment each
SAME_START = 60.0  # seconds between two readings of one process's start, since a clock may be set in between


class RunLock:
    """The lock of one run.

    Args:
        file: the lock's file; its folder exists.
        guard: a file shared by all locks beneath one folder, locked for the moment in which a run changes hands.
        timeout: seconds after which a holder that gives no sign of life has lost the lock; it renews it ten times as
            often. On its own machine a holder whose process is gone has lost it at once.
    """

    def __init__(self, file: Path, guard: Path, timeout: float) -> None:
        self.file, self.guard, self.timeout = file, guard, timeout
        self._released, self._lost = threading.Event(), threading.Event()
        self._holder: dict[str, Any] = {}

    def acquire(self) -> bool:
        """Take the lock, unless someone who lives has it; return whether it is ours.

        Raises:
            OSError: the file system has no locks; the message says what to do.
        """
        with exclusive(self.guard, GUARD_SECONDS):
            if is_held(self.file):
                return False
            process = psutil.Process()
            self._holder = {"token": uuid.uuid4().hex, "host": socket.gethostname(), "machine": _machine()}
            self._holder |= {"pid": process.pid, "process_started": process.create_time()}
            self._holder |= {"since": now(), "timeout": self.timeout}
            self._write()
        threading.Thread(target=self._renew, daemon=True).start()
        return True

    def is_ours(self) -> bool:
        """Whether the file still names this holder: another process may take over one that gives no sign of life."""
        if not self._lost.is_set():
            try:
                there = read_json(self.file)
            except OSError:  # it cannot be read for now, which says nothing
                return True
            except ValueError:
                there = None
            if (there or {}).get("token") != self._holder["token"]:
                self._lost.set()
        return not self._lost.is_set()

    def release(self) -> None:
        """Give the lock up."""
        self._released.set()
        with exclusive(self.guard, GUARD_SECONDS):
            if self.is_ours():
                self.file.unlink()

    def _renew(self) -> None:
        while not self._released.wait(self.timeout / 10):
            # a full disk, or a server that is away for a moment, does not end the thread: it tries again
            with suppress(OSError), exclusive(self.guard, GUARD_SECONDS):
                if not self.is_ours():
                    return
                if not self._released.is_set():
                    self._write()

    def _write(self) -> None:
        write_atomically(self.file, json_bytes({**self._holder, "heartbeat": now()}))


def holder_of(file: Path) -> dict[str, Any] | None:
    """Return who holds a lock: host, pid, since when, heartbeat; None if nobody does, or it cannot be read."""
    try:
        return read_json(file)
    except (OSError, ValueError):
        return None


def is_held(file: Path) -> bool:
    """Whether a lock has a holder, and that gave a sign of life within its timeout."""
    holder = holder_of(file)
    if holder is None:
        return False
    # a process id says something only where it was given: since this start of the machine, in this container
    if holder.get("machine") == _machine() and _has_ended(holder):
        return False
    try:
        written = file.stat().st_mtime
    except FileNotFoundError:  # given up a moment ago
        return False
    return _file_system_time(file.parent) - written < holder["timeout"]


def _has_ended(holder: dict[str, Any]) -> bool:
    """Whether the holder's process, one of this machine, is gone, or another one has its number by now."""
    try:
        process = psutil.Process(holder["pid"])
        return (
            process.status() == psutil.STATUS_ZOMBIE
            or abs(process.create_time() - holder["process_started"]) > SAME_START
        )
    except psutil.NoSuchProcess:
        return True


def _machine() -> str:
    """Name this start of this machine, and the space in which its process ids are unique."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return f"{socket.gethostname()} {psutil.boot_time():.0f}"


def _file_system_time(folder: Path) -> float:
    """Return the time as the file system tells it, which may be a server's: clocks of two machines may differ."""
    probe = folder / f".{uuid.uuid4().hex}.part"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:  # we may only read here
        return time.time()
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


def now() -> str:
    """Return the time, as every file of a run's folder says it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
