"""Where the time of a step goes, measured without making any step wait."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")


class Clock:
    """Seconds spent in named parts of an epoch.

    On a CPU these are read from the clock; on a GPU, which works while the program goes on, from pairs of events that
    are put between its kernels and read at the epoch's end.

    Args:
        device: where the work is done.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._seconds: dict[str, float] = {}
        self._events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what is done in this context as part `name`."""
        if self.device.type == "cuda":
            first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            first.record()
            yield
            last.record()
            self._events.setdefault(name, []).append((first, last))
        else:
            started = time.perf_counter()
            yield
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - started

    def each(self, items: Iterable[T], name: str) -> Iterator[T]:
        """Yield the items; the time it takes to make them counts as part `name`."""
        iterator = iter(items)
        while True:
            with self.part(name):
                item = next(iterator, None)
            if item is None:
                return
            yield item

    def read(self) -> dict[str, float]:
        """Return the seconds of each part since the last call; on a GPU this waits until it is idle."""
        if self._events:
            torch.cuda.synchronize(self.device)
        seconds = self._seconds | {
            name: sum(first.elapsed_time(last) for first, last in pairs) / 1e3 for name, pairs in self._events.items()
        }
        self._seconds, self._events = {}, {}
        return seconds
