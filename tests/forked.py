"""Commands in processes of their own that start in a tenth of a second instead of ten."""

import ctypes
import gc
import multiprocessing
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
# a process that has imported what takes a command seconds, if it is installed, and is forked for each
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["rootfree.search", "rootfree.trainer", "torch._dynamo", "timm", "wandb"])


class Forked(FORKSERVER.Process):  # type: ignore[name-defined]
    """A command `rootfree <words>` in a process (and group) of its own, forked from one that has done the imports.

    Args:
        words: what follows `rootfree`.
        code: what it runs, if not the command.
        cwd: the folder in which it runs.
        output: the file to which it prints.
        environment: variables that it sees besides those of the tests.
    """

    def __init__(
        self,
        *words: str,
        code: str = "from rootfree.__main__ import main; main()",
        cwd: Path = ROOT,
        output: Path = Path(os.devnull),
        **environment: str,
    ) -> None:
        super().__init__()
        self.words, self.code, self.cwd, self.output, self.environment = words, code, cwd, output, environment
        self.start()

    def run(self) -> None:
        """Become what a new interpreter would be, in the forked process."""
        gc.freeze()  # to look for garbage among what was imported would copy the memory of the other process
        os.setsid()
        os.chdir(self.cwd)
        os.environ.update(self.environment)
        sys.path[:0] = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        for stream in (1, 2):
            os.dup2(os.open(self.output, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        sys.argv = ["rootfree", *self.words]
        # what `python -c` does, its end included: threads, workers and atexit, which multiprocessing leaves out
        failed = ctypes.pythonapi.PyRun_SimpleString(self.code.encode())
        ctypes.pythonapi.Py_Exit(-failed)

    def wait(self, seconds: float = 240) -> int:
        """Its exit code: of a process that was killed, the negative number of the signal."""
        self.join(seconds)
        if self.exitcode is None:
            raise TimeoutError(f"{self.words} goes on after {seconds} s")
        return self.exitcode

    def __enter__(self) -> "Forked":
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # with the processes that it started
        self.join()
