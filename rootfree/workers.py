"""Processes that train one run after the other, as command lines of `rootfree.train`, for whoever asks.

A process lives longer than a run, since starting takes seconds; a run that kills its process takes no other run with
it: the next one gets a new process.
"""

import contextlib
import io
import multiprocessing
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from queue import SimpleQueue
from types import FrameType
from typing import Any, NamedTuple

from rootfree.stop import REQUEUE

STOPPED = (REQUEUE, 130)  # exit codes of a process that was told to stop, and would stop every run after that as well
DIED = -1  # instead of an exit code, where the process of a run is gone


class Reply(NamedTuple):
    """What a command line of `rootfree.train` ended with."""

    code: int
    printed: str

    @property
    def reason(self) -> str:
        """The last line, which says what went wrong."""
        return (self.printed.strip().splitlines() or [f"exit code {self.code}"])[-1].removeprefix("error: ")


def serve(pipe: Connection) -> None:
    """Run command lines of `rootfree.train` in this process, and answer each, until nobody asks."""
    from rootfree import train  # not needed by the process that asks

    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            sys.argv = ["rootfree.train", *pipe.recv()]
            printed, code = io.StringIO(), 0
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                try:
                    train.main()
                except SystemExit as stop:
                    code = stop.code if isinstance(stop.code, int) else 1
                except Exception:
                    code = 1
                    traceback.print_exc()
            pipe.send(Reply(code, printed.getvalue()))
            if code in STOPPED:
                return


class Worker:
    """One process, started when it is asked, and again after it ended."""

    def __init__(self) -> None:
        self.process: Any = None

    def ask(self, words: list[str]) -> Reply:
        """Run a command line and wait for its end."""
        if self.process is None or not self.process.is_alive():
            context = multiprocessing.get_context("spawn")
            self.pipe, theirs = context.Pipe()
            self.process = context.Process(target=serve, args=(theirs,))
            self.process.start()
            theirs.close()  # else the end of that process would go unnoticed
        try:
            self.pipe.send(words)
            reply: Reply = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            return Reply(DIED, f"its process ended, with exit code {self.process.exitcode}")
        if reply.code in STOPPED:
            self.process.join()
        return reply


class Workers:
    """As many processes as there are jobs, and a queue of runs for them; a context manager."""

    def __init__(self, jobs: int) -> None:
        self.stopping = threading.Event()
        self._threads = ThreadPoolExecutor(jobs)
        self._all = [Worker() for _ in range(jobs)]
        self._idle: SimpleQueue[Worker] = SimpleQueue()
        for worker in self._all:
            self._idle.put(worker)

    def __enter__(self) -> "Workers":
        def stop(number: int, frame: FrameType | None) -> None:
            for worker in self._all:  # a terminal sends Ctrl-C to all of them itself, SIGTERM comes to this one alone
                if worker.process is not None and worker.process.is_alive():
                    worker.process.terminate()
            raise KeyboardInterrupt

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGUSR2, stop)
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._threads.shutdown(cancel_futures=True)  # waits for runs that are being saved
        for worker in self._all:
            if worker.process is not None:
                worker.pipe.close()
                worker.process.join()

    def submit(self, task: Callable[[Worker], Any]) -> Future[Any]:
        """Call a function with a worker as soon as one is idle."""

        def call() -> Any:
            worker = self._idle.get()
            try:
                return task(worker)
            finally:
                self._idle.put(worker)

        return self._threads.submit(call)

    def ask(self, words: list[str]) -> Future[Reply]:
        """Run a command line as soon as a worker is idle."""
        return self.submit(lambda worker: worker.ask(words))
