"""A run that is asked to stop: Ctrl-C, SIGTERM and SIGUSR2 raise a flag that training and evaluation look at."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

REQUEUE = 75  # exit code of an interrupted run: try again (EX_TEMPFAIL)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)

_asked: str | None = None


class Interrupted(BaseException):
    """The run was asked to stop, and is saved; no error, so that nothing which handles errors takes it for one."""


def asked() -> str | None:
    """Return what asked this process to stop, if anything did."""
    return _asked


def heed() -> None:
    """Raise `Interrupted` if a stop was asked for."""
    if _asked is not None:
        raise Interrupted(_asked)


@contextmanager
def watching(workers: bool = False) -> Iterator[None]:
    """Turn the first signal into the flag, for good; a second Ctrl-C stops at once.

    Args:
        workers: pass SIGTERM and SIGUSR2 on to the processes that this one started, which train in its place. (A
            terminal sends Ctrl-C to all of them itself.)
    """
    if threading.current_thread() is not threading.main_thread():  # signals reach the main thread only
        yield
        return

    def ask(number: int, frame: FrameType | None) -> None:
        global _asked
        if _asked is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if _asked is None:
            print("stopping: saving first (Ctrl-C again stops at once)", file=sys.stderr, flush=True)
        _asked = signal.Signals(number).name
        if workers and number != signal.SIGINT:
            for file in Path("/proc/self/task").glob("*/children"):
                for child in file.read_text().split():
                    with suppress(ProcessLookupError):
                        os.kill(int(child), number)

    before = {number: signal.signal(number, ask) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def pass_on() -> None:
    """Give SIGUSR2 to who heeded it before: submitit, which queues the job again; a SIGTERM may mean cancelled."""
    if _asked == "SIGUSR2" and callable(signal.getsignal(signal.SIGUSR2)):
        signal.raise_signal(signal.SIGUSR2)
