"""A run that is asked to stop: Ctrl-C, SIGTERM and SIGUSR2 set a flag that training and evaluation look at."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import psutil

REQUEUE = 75  # exit code of an interrupted run: try again (EX_TEMPFAIL)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)

_requested: str | None = None


class Interrupted(BaseException):
    """The run was asked to stop, and is saved; no error, so that nothing which handles errors takes it for one."""


def stop_requested() -> str | None:
    """Return the name of the signal that asked this process to stop, if one did."""
    return _requested


def raise_if_stopped() -> None:
    """Raise `Interrupted` if a stop was asked for."""
    if _requested is not None:
        raise Interrupted(_requested)


@contextmanager
def handle_signals(pass_to_children: bool = False) -> Iterator[None]:
    """Turn the first signal into the flag, for good; a second Ctrl-C stops at once.

    Args:
        pass_to_children: pass SIGTERM and SIGUSR2 on to the processes that this one started, which train in its place.
            (A terminal sends Ctrl-C to all of them itself.)
    """
    if threading.current_thread() is not threading.main_thread():  # signals reach the main thread only
        yield
        return

    def request_stop(number: int, frame: FrameType | None) -> None:
        global _requested
        if _requested is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if _requested is None:
            print("stopping: saving first (Ctrl-C again stops at once)", file=sys.stderr, flush=True)
        _requested = signal.Signals(number).name
        if pass_to_children and number != signal.SIGINT:
            for child in psutil.Process().children():
                with suppress(psutil.NoSuchProcess):
                    child.send_signal(number)

    before = {number: signal.signal(number, request_stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def return_to_submitit() -> None:
    """Give SIGUSR2 to who handled it before: submitit, which queues the job again; a SIGTERM may mean cancelled."""
    if _requested == "SIGUSR2" and callable(signal.getsignal(signal.SIGUSR2)):
        signal.raise_signal(signal.SIGUSR2)
