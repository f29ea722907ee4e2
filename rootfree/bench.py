"""What the benchmarks share: a row per measurement, and the table that newer rows of the same machine replace."""

import csv
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

Measurement = dict[str, Any]  # what was measured: see `row`


def row(what: str, value: float, unit: str, peer: str = "", peer_value: float | None = None, bound: str = "",
        ratio: float | None = None, note: str = "") -> Measurement:  # fmt: skip
    """Make the row of one measurement, in `unit`; `bound` is what its ratio to the peer, or else its value, must keep.

    `ratio` defaults to that of the two values; of repeated measurements it is the median of theirs (`compared`).
    """
    ratio = value / peer_value if ratio is None and peer_value else ratio
    return {"what": what, "value": value, "unit": unit, "peer": peer, "peer_value": peer_value, "ratio": ratio,
            "bound": bound, "note": note}  # fmt: skip


def compared(what: str, pairs: Sequence[tuple[float, float]], unit: str, peer: str, bound: str = "") -> Measurement:
    """Make the row of measurements that alternated with those of a peer."""
    values, peers = zip(*pairs, strict=True)
    ratio, rounds = median_ratio(values, peers), f"{len(pairs)} rounds"
    return row(what, statistics.median(values), unit, peer, statistics.median(peers), bound, ratio, rounds)


def median_ratio(values: Sequence[float], peers: Sequence[float]) -> float:
    """Return the median of the ratios of neighbours in time, which a machine's other work disturbs alike."""
    return statistics.median(value / peer for value, peer in zip(values, peers, strict=True))


def seconds(function: Callable[..., object], *arguments: Any, times: int = 1) -> float:
    """Return the mean time of a call."""
    started = time.perf_counter()
    for _ in range(times):
        function(*arguments)
    return (time.perf_counter() - started) / times


def memory_mb(status: str, key: str) -> float:
    """Return an entry of the text of /proc/<process>/status, such as VmHWM, the peak: it says kB and means KiB."""
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(key)) * 1024 / 1e6


def publish(
    rows: Iterable[Measurement], file: Path, device: str, key: Sequence[str] = ("what",), hide: str = ""
) -> None:
    """Measure the rows, print them, and write them to a CSV file.

    Args:
        rows: all with the same columns.
        file: the table; what earlier calls wrote stays, unless a new row has the same `key`, device and threads.
        device: the hardware in words.
        key: columns that tell rows of one device apart.
        hide: columns that are not printed, in one string.
    """
    console, measured = Console(width=None if sys.stdout.isatty() else 160), []
    for found in rows:
        said = (f"{name} {_text(found[name])}" for name in (*key, "value", "unit", "ratio") if name in found)
        console.print(", ".join(said), style="dim")
        measured.append(found | {"device": device, "threads": torch.get_num_threads(), "torch": torch.__version__})
    shown = [name for name in measured[0] if name not in (*hide.split(), "device", "threads", "torch")]
    table = Table(*shown, title=f"{device}, torch {torch.__version__}")
    for found in measured:
        table.add_row(*(_text(found[name]) for name in shown), style=None if keeps_bound(found) else "red")
    console.print(table)

    earlier = list(csv.DictReader(file.open(newline=""))) if file.exists() else []
    by_key = {tuple(map(_text, map(line.get, (*key, "device", "threads")))): line for line in [*earlier, *measured]}
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(measured[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _text(value) for name, value in line.items()} for line in by_key.values())
    console.print(f"{len(measured)} rows into {file}, which holds {len(by_key)}")


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def keeps_bound(found: Measurement) -> bool:
    """Return whether a bound such as "<= 2" is kept; a bare number is a largest ratio."""
    if found["bound"] in ("", None):
        return True
    sign, limit = found["bound"].split() if isinstance(found["bound"], str) else ("<=", found["bound"])
    value = found.get("value") if found["ratio"] is None else found["ratio"]
    return value is not None and (value >= float(limit) if sign == ">=" else value <= float(limit))
