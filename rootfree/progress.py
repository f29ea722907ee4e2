"""One line that shows how a run is doing: live on a terminal, a plain line per epoch elsewhere."""

import multiprocessing
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn


class EpochProgress:
    """Progress of one run, from `first_epoch` to `epochs`, in steps; a context manager.

    Workers that share a terminal print plain lines: two live lines would overwrite each other.
    """

    def __init__(self, title: str, epochs: int, steps_per_epoch: int, first_epoch: int) -> None:
        self.title, self.epochs = title, epochs
        self.console = Console()
        self.live = self.console.is_terminal and multiprocessing.current_process().name == "MainProcess"
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
        else:
            left = metrics["seconds"] / metrics["epoch"] * (self.epochs - metrics["epoch"])
            where = f"{self.title}  epoch {metrics['epoch']}/{self.epochs}"
            print(f"{where}  {numbers}  {speed}  ETA {left:.0f} s", flush=True)
