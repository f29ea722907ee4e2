"""How a run, or a sweep, is doing: a line that moves on a terminal, plain lines elsewhere."""

import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from rootfree.run.status import ENDED, STATUSES, headline, status_of


class EpochProgress:
    """Progress of one run, from `first_epoch` to `epochs`, in steps; a context manager.

    With `quiet` it shows nothing: in a sweep `SweepProgress` speaks for all runs.
    """

    def __init__(self, title: str, epochs: int, steps_per_epoch: int, first_epoch: int, quiet: bool = False) -> None:
        self.title, self.epochs, self.quiet = title, epochs, quiet
        self.console = Console()
        self.live = self.console.is_terminal and not quiet
        columns = [TimeRemainingColumn(), TextColumn("{task.description}"), BarColumn(10), TaskProgressColumn()]
        self.bar = Progress(*columns, console=self.console, disable=not self.live, transient=True)
        self.task = self.bar.add_task(title, total=epochs * steps_per_epoch, completed=first_epoch * steps_per_epoch)

    def __enter__(self) -> "EpochProgress":
        if self.live:
            self.console.print(self.title, markup=False)
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def advance(self) -> None:
        """Count one step."""
        self.bar.advance(self.task)

    def end_epoch(self, metrics: dict[str, Any]) -> None:
        """Show the epoch's loss, accuracies (%) and training speed."""
        numbers = f"loss {metrics['loss']:.3f}  train {metrics['train_acc']:.1%}  val {metrics['val_acc']:.1%}"
        speed = f"{metrics['images_per_second']:,.0f} examples/s"
        if self.live:  # without the title, to fit in 80 columns
            done = f"{metrics['epoch']}/{self.epochs}"
            self.bar.update(self.task, description=f"{done} {numbers}  {speed}")
        elif not self.quiet:
            left = metrics["seconds"] / metrics["epoch"] * (self.epochs - metrics["epoch"])
            where = f"{self.title}  epoch {metrics['epoch']}/{self.epochs}"
            print(f"{where}  {numbers}  {speed}  ETA {left:.0f} s", flush=True)


class SweepProgress:
    """Progress of many runs, as their folders tell it, whoever trains them; a context manager.

    Args:
        runs: title and folder of each.
    """

    def __init__(self, runs: Sequence[tuple[str, Path]]) -> None:
        self.console = Console()
        self.titles = {folder: title for title, folder in runs}
        self.statuses = {folder: status_of(folder) for folder in self.titles}
        columns = [TimeRemainingColumn(), BarColumn(10), MofNCompleteColumn(), TextColumn("{task.description}")]
        self.bar = Progress(*columns, console=self.console, disable=not self.console.is_terminal, transient=True)
        self.before = self._ended()
        self.task = self.bar.add_task("runs", total=len(runs), completed=self.before)
        self.started = time.monotonic()
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        print(f"{len(runs)} runs, {self.before} of them ended before", flush=True)

    def __enter__(self) -> "SweepProgress":
        self.bar.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave.set()
        self._thread.join()
        self._look()
        self.bar.stop()

    def _ended(self) -> int:
        return sum(status in ENDED for status in self.statuses.values())

    def _watch(self) -> None:
        while not self._leave.wait(1):
            self._look()

    def _look(self) -> None:
        """Print a line for each run that ended since the last look, and count."""
        for folder, status in self.statuses.items():
            if status not in ENDED and (now := status_of(folder)) != status:
                self.statuses[folder] = now
                if now in ENDED:
                    self.bar.advance(self.task)
                    text = f"{self.titles[folder]} {headline(folder)}{self._left()}"
                    self.console.print(text, highlight=False, soft_wrap=True, markup=False)
        count = Counter(self.statuses.values())
        self.bar.update(self.task, description=", ".join(f"{count[s]} {s}" for s in STATUSES if count[s]))

    def _left(self) -> str:
        """How many runs ended and how long the rest takes, where no bar shows it."""
        done, total = self._ended(), len(self.statuses)
        if self.console.is_terminal or done == total:
            return ""
        seconds = (time.monotonic() - self.started) / max(done - self.before, 1) * (total - done)
        return f" ({done} of {total}, ETA {seconds:.0f} s)"
