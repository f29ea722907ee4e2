"""Time the optimizers of this package against their peers, on the parameters of three networks and random gradients.

Method and peer alternate in one process: a cycle is `update_every` steps of either, what is compared is the mean time
per step within a cycle, and the ratio is the median over cycles. Peak memory is measured in processes of their own.
"""

import argparse
import csv
import multiprocessing
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import timm
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from rootfree.models.resnet import resnet8
from rootfree.optim import IFShampoo, RFAdamW, RFRMSProp, RFShampoo, Shampoo

BATCH_SIZE = 128
KEY = ("method", "peer", "parameters", "update_every", "device", "threads")  # of a row
LR = 1e-4
PARAMETERS: dict[str, Callable[[], nn.Module]] = {
    "resnet8": partial(resnet8, num_classes=10, image_size=32),
    "resnet18": partial(timm.create_model, "resnet18", num_classes=10),
    "vit_tiny": partial(timm.create_model, "vit_tiny_patch16_224", num_classes=10),
}
NETWORKS = tuple(PARAMETERS)
WIDTHS = ("width_128", "width_256", "width_512", "width_1024")  # one square weight each: how costs grow
PARAMETERS |= {name: partial(nn.Linear, int(name[6:]), int(name[6:]), bias=False) for name in WIDTHS}


def sirfshampoo(model: nn.Module, update_every: int) -> torch.optim.Optimizer:
    """The authors' IF-Shampoo with dense factors, which needs the model."""
    from sirfshampoo import SIRFShampoo

    return SIRFShampoo(model, lr=LR, T=update_every, batch_size=BATCH_SIZE)


def pytorch_optimizer_shampoo(model: nn.Module, update_every: int) -> torch.optim.Optimizer:
    """Shampoo of the package pytorch-optimizer."""
    from pytorch_optimizer import Shampoo as Peer

    return Peer(model.parameters(), lr=LR, momentum=0.9, preconditioning_compute_steps=update_every)


def own(optimizer_class: Any, **hyper: Any) -> Callable[[nn.Module, int], torch.optim.Optimizer]:
    """A builder of an optimizer without an update interval, or (`matrix`) with one."""
    matrix = optimizer_class in (IFShampoo, RFShampoo, Shampoo)

    def build(model: nn.Module, update_every: int) -> torch.optim.Optimizer:
        interval = {"update_every": update_every} if matrix else {}
        return optimizer_class(model.parameters(), lr=LR, **interval, **hyper)

    return build


class Operation:
    """What an optimizer does inside, by itself: an operation on each weight, timed like an optimizer's step."""

    def __init__(self, model: nn.Module, function: Callable[[Tensor], Any], dtype: torch.dtype) -> None:
        self.function = function
        self.matrices = [(param.detach() @ param.detach().T).to(dtype) for param in model.parameters()]
        self.state: dict[Tensor, Any] = {}

    def step(self) -> None:
        """Do the operation."""
        for matrix in self.matrices:
            self.function(matrix)


ROOTFREE: dict[str, Any] = {"batch_size": BATCH_SIZE, "weight_decay": 1e-4}
BFLOAT16: dict[str, Any] = {**ROOTFREE, "state_dtype": "bfloat16"}
OPTIMIZERS: dict[str, Callable[[nn.Module, int], Any]] = {
    "RFRMSProp": own(RFRMSProp, **ROOTFREE),
    "RFRMSProp compiled": own(RFRMSProp, compile=True, **ROOTFREE),
    "RFRMSProp without momentum": own(RFRMSProp, momentum=0.0, **ROOTFREE),
    "RFRMSProp bfloat16": own(RFRMSProp, beta2=0.99, **BFLOAT16),
    "RFRMSProp bfloat16 stochastic compiled": own(RFRMSProp, rounding="stochastic", compile=True, **BFLOAT16),
    "RFAdamW": own(RFAdamW, **ROOTFREE),
    "RFAdamW compiled": own(RFAdamW, compile=True, **ROOTFREE),
    "IFShampoo": own(IFShampoo, **ROOTFREE),
    "IFShampoo bfloat16": own(IFShampoo, **BFLOAT16),
    "RFShampoo": own(RFShampoo, **ROOTFREE),
    "Shampoo": own(Shampoo, weight_decay=1e-4),
    "torch AdamW fused": own(torch.optim.AdamW, fused=True),
    "torch AdamW foreach": own(torch.optim.AdamW, foreach=True),
    "torch RMSprop foreach": own(torch.optim.RMSprop, momentum=0.9, weight_decay=1e-4, foreach=True),
    "sirfshampoo": sirfshampoo,
    "pytorch-optimizer Shampoo": pytorch_optimizer_shampoo,
    "eigh float32": lambda model, _: Operation(model, torch.linalg.eigh, torch.float32),
    "matmul bfloat16": lambda model, _: Operation(model, lambda matrix: matrix @ matrix, torch.bfloat16),
}
PEER_MODULES = {"sirfshampoo": "sirfshampoo", "pytorch-optimizer Shampoo": "pytorch_optimizer"}


@dataclass
class Comparison:
    """A method, its peer, how often both update preconditioners, and the ratio that must be reached, by network."""

    method: str
    peer: str
    bounds: dict[str, float]
    update_every: int = 1
    on: tuple[str, ...] = NETWORKS


COMPARISONS = [
    Comparison("RFRMSProp compiled", "torch AdamW fused", {"resnet18": 1.0, "vit_tiny": 1.15}),
    Comparison("RFAdamW compiled", "torch AdamW fused", {"resnet18": 1.0, "vit_tiny": 1.15}),
    Comparison("RFRMSProp", "torch AdamW foreach", {"resnet8": 1.2, "resnet18": 1.2, "vit_tiny": 1.2}),
    Comparison("RFAdamW", "torch AdamW foreach", {}),
    Comparison("RFRMSProp", "torch RMSprop foreach", {}),
    Comparison("RFRMSProp without momentum", "torch AdamW foreach", {}),
    Comparison("RFRMSProp bfloat16", "torch AdamW foreach", {}),
    Comparison("RFRMSProp bfloat16 stochastic compiled", "torch AdamW fused", {}),
    Comparison("IFShampoo", "sirfshampoo", {"resnet8": 0.5, "resnet18": 0.5, "vit_tiny": 0.5}, update_every=2),
    Comparison("IFShampoo bfloat16", "IFShampoo", {}, update_every=2),
    Comparison("IFShampoo", "Shampoo", {}, update_every=2),
    Comparison("IFShampoo", "RFShampoo", {}, update_every=2),
    Comparison("Shampoo", "pytorch-optimizer Shampoo", {}, update_every=2),
    Comparison("IFShampoo", "RFRMSProp", {}, update_every=2, on=(*NETWORKS, *WIDTHS)),
    Comparison("RFRMSProp", "IFShampoo", {}, update_every=2, on=WIDTHS),
    Comparison("eigh float32", "matmul bfloat16", {}, on=WIDTHS),
]


@dataclass
class Row:
    """One line of the results. Memory in MB, times in ms per step; None is what could not be measured."""

    ratio: float | None
    bound: float | None
    method: str
    peer: str
    parameters: str
    update_every: int
    cycles: int
    ms: float | None = None
    peer_ms: float | None = None
    state_mb: float | None = None
    peer_state_mb: float | None = None
    peak_mb: float | None = None
    peer_peak_mb: float | None = None
    note: str = ""
    device: str = ""
    threads: int = 0
    torch: str = ""


def network(parameters: str, device: str) -> nn.Module:
    """A network whose parameters have random gradients."""
    torch.manual_seed(0)
    model = PARAMETERS[parameters]().to(device)
    for param in model.parameters():
        param.grad = 1e-2 * torch.randn_like(param)
    return model


def seconds_per_step(optimizer: torch.optim.Optimizer, steps: int, device: str) -> float:
    """The mean over one cycle."""
    start = time.perf_counter()
    for _ in range(steps):
        optimizer.step()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / steps


def state_mb(value: Any, seen: set[int]) -> float:
    """Bytes of all tensors reachable from an optimizer's attributes, its parameters and gradients apart."""
    if id(value) in seen:
        return 0.0
    seen.add(id(value))
    if isinstance(value, Tensor):
        return value.nbytes / 1e6
    if isinstance(value, dict):
        children = list(value.values())
    elif isinstance(value, (list, tuple)):
        children = list(value)
    elif type(value).__module__.startswith("singd"):  # the structured matrices of sirfshampoo
        children = list(vars(value).values())
    else:
        children = []
    return sum(state_mb(child, seen) for child in children)


def peak_mb(optimizer: str, parameters: str, update_every: int, threads: int) -> float | None:
    """How much memory two cycles of steps take at their peak, state included, in a fresh process (on Linux)."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    # glibc must give freed memory back at once, or what building the network left behind would be reused unseen
    exact = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    with patch.dict(os.environ, exact), ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak_mb, optimizer, parameters, update_every, threads).result()


def _peak_mb(optimizer: str, parameters: str, update_every: int, threads: int) -> float:
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore", UserWarning)
    model = network(parameters, "cpu")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _resident_mb("VmRSS")
    stepper = OPTIMIZERS[optimizer](model, update_every)  # some make their state here, some in the first step
    for _ in range(2 * update_every):
        stepper.step()
    return _resident_mb("VmHWM") - before


def _resident_mb(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1e3


def compare(comparison: Comparison, parameters: str, cycles: int, device: str, threads: int) -> Row:
    """Measure one method against its peer."""
    steps = comparison.update_every
    row = Row(
        None, comparison.bounds.get(parameters), comparison.method, comparison.peer, parameters, steps, cycles,
        device=device_name(device), threads=threads, torch=torch.__version__,
    )  # fmt: skip
    missing = [PEER_MODULES[name] for name in (comparison.method, comparison.peer) if name in PEER_MODULES]
    missing = [module for module in missing if find_spec(module) is None]
    if missing:
        row.note = f"{', '.join(missing)} is not installed"
        return row

    methods = (comparison.method, comparison.peer)
    optimizers = [OPTIMIZERS[name](network(parameters, device), steps) for name in methods]
    times: list[list[float]] = [[], []]
    for cycle in range(-2, cycles):  # two to warm up
        for optimizer, measured in zip(optimizers, times, strict=True):
            seconds = seconds_per_step(optimizer, steps, device)
            if cycle >= 0:
                measured.append(seconds)
    row.ratio = statistics.median(method / peer for method, peer in zip(*times, strict=True))
    row.ms, row.peer_ms = (1e3 * statistics.median(measured) for measured in times)
    row.state_mb, row.peer_state_mb = (
        state_mb({**vars(optimizer), "param_groups": None, "model": None}, set(map(id, optimizer.state)))
        for optimizer in optimizers
    )
    del optimizers
    if device == "cpu" and "compiled" not in comparison.method:  # the compiler's memory would hide the step's
        row.peak_mb, row.peer_peak_mb = (
            peak_mb(name, parameters, steps, threads) for name in (comparison.method, comparison.peer)
        )
    return row


def device_name(device: str) -> str:
    """The model of the processor or card."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return f"{names[0]} ({len(names)} cores)" if names else platform.processor()


def show(rows: list[Row], console: Console) -> None:
    """Print what was measured, ratio first."""
    table = Table(title=f"{rows[0].device}, {rows[0].threads} threads, torch {rows[0].torch}")
    for heading in (
        "ratio",
        "bound",
        "method",
        "peer",
        "parameters",
        "ms",
        "peer",
        "state MB",
        "peer",
        "peak MB",
        "peer",
    ):
        table.add_column(heading, justify="left" if heading in ("method", "parameters") else "right")
    for row in rows:
        reached = row.ratio is not None and (row.bound is None or row.ratio <= row.bound)
        sizes = (row.ms, row.peer_ms, row.state_mb, row.peer_state_mb, row.peak_mb, row.peer_peak_mb)
        table.add_row(
            f"{row.ratio:.2f}x" if row.ratio is not None else row.note,
            f"{row.bound:.2f}x" if row.bound is not None else "",
            row.method,
            row.peer,
            row.parameters,
            *("" if size is None else f"{size:.3g}" if size < 1000 else f"{size:.0f}" for size in sizes),
            style=None if reached else "red",
        )
    console.print(table)


def main() -> None:
    """Parse the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("results/bench.csv"), help="the table to write")
    parser.add_argument("--cycles", type=int, default=12, help="cycles per comparison, after two to warm up")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the parameters are")
    parser.add_argument("--parameters", nargs="+", choices=PARAMETERS, default=list(PARAMETERS), help="which networks")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="only comparisons whose method or peer contains TEXT"
    )
    args = parser.parse_args()
    comparisons = [c for c in COMPARISONS if args.only in f"{c.method} | {c.peer}"]
    if not comparisons:
        sys.exit(f"bench: no comparison of a method or peer that contains {args.only!r}")
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore", UserWarning)  # the bfloat16 states, on purpose

    console = Console()
    if not console.is_terminal:
        console.width = 160
    rows = []
    for parameters in args.parameters:
        for comparison in (comparison for comparison in comparisons if parameters in comparison.on):
            console.print(f"{parameters}: {comparison.method} against {comparison.peer}", style="dim")
            rows.append(compare(comparison, parameters, args.cycles, args.device, args.threads))
    show(rows, console)
    lines = [
        {key: f"{value:.4g}" if isinstance(value, float) else str(value) for key, value in asdict(row).items()}
        for row in rows
    ]
    measured = {tuple(line[key] for key in KEY): line for line in [*read(args.output), *lines]}  # newer rows replace
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with args.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows({key: "" if value == "None" else value for key, value in m.items()} for m in measured.values())
    console.print(f"{len(rows)} rows into {args.output}, which holds {len(measured)}")


def read(file: Path) -> list[dict[str, str]]:
    """Read what an earlier call measured, if anything."""
    if not file.exists():
        return []
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


if __name__ == "__main__":
    main()
