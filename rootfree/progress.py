"""How a run, or a sweep, is doing: a line that moves on a terminal, plain lines elsewhere."""

import threading
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from rootfree.folder import ENDED, STATUSES, headline, status_of


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
            self.console.print(self.title)
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
        speed = f"{metrics['images_per_second']:,.0f} images/s"
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
        titles: of the runs.
        folders: of the runs, in the same order.
    """

    def __init__(self, titles: list[str], folders: list[Path]) -> None:
        self.console = Console()
        self.titles = dict(zip(folders, titles, strict=True))
        self.stand = {folder: status_of(folder) for folder in folders}
        columns = [TimeRemainingColumn(), BarColumn(10), MofNCompleteColumn(), TextColumn("{task.description}")]
        self.bar = Progress(*columns, console=self.console, disable=not self.console.is_terminal, transient=True)
        ended = sum(status in ENDED for status in self.stand.values())
        self.task = self.bar.add_task("runs", total=len(folders), completed=ended)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        print(f"{len(folders)} runs, {ended} of them ended before", flush=True)

    def __enter__(self) -> "SweepProgress":
        self.bar.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._look()
        self.bar.stop()

    def _watch(self) -> None:
        while not self._ended.wait(1):
            self._look()

    def _look(self) -> None:
        """Print a line for each run that ended since the last look, and count."""
        for folder, status in self.stand.items():
            if status not in ENDED and (now := status_of(folder)) != status:
                self.stand[folder] = now
                if now in ENDED:
                    self.bar.advance(self.task)
                    self.console.print(f"{self.titles[folder]} {headline(folder)}", highlight=False, soft_wrap=True)
        count = Counter(self.stand.values())
        self.bar.update(self.task, description=", ".join(f"{count[s]} {s}" for s in STATUSES if count[s]))
