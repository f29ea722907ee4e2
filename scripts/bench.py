"""Time the optimizers of this package against their peers, on the parameters of three networks and random gradients.

Method and peer alternate in one process: a cycle is `update_every` steps of either, what is compared is the mean time
per step within a cycle, and the ratio is the median over cycles. Peak memory is measured in processes of their own.
"""

import argparse
import multiprocessing
import os
import statistics
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import timm
import torch
from pytorch_optimizer import SOAP, Kate
from pytorch_optimizer import Shampoo as PeersShampoo
from sirfshampoo import SIRFShampoo
from torch import Tensor, nn

from rootfree.bench import Measurement, median_ratio, memory_mb, publish, seconds
from rootfree.models.resnet import resnet8
from rootfree.optim import IFShampoo, RFAdamW, RFRMSProp, RFShampoo, Shampoo
from rootfree.run.provenance import describe_device

BATCH_SIZE = 128
LR = 1e-4
PARAMETERS: dict[str, Callable[[], nn.Module]] = {
    "resnet8": partial(resnet8, num_classes=10, image_size=32),
    "resnet18": partial(timm.create_model, "resnet18", num_classes=10),
    "vit_tiny": partial(timm.create_model, "vit_tiny_patch16_224", num_classes=10),
}
NETWORKS = tuple(PARAMETERS)
WIDTHS = ("width_128", "width_256", "width_512", "width_1024")  # one square weight each: how costs grow
PARAMETERS |= {name: partial(nn.Linear, int(name[6:]), int(name[6:]), bias=False) for name in WIDTHS}


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
    "RFRMSProp bfloat16 compiled": own(RFRMSProp, beta2=0.99, compile=True, **BFLOAT16),
    "RFRMSProp bfloat16 stochastic compiled": own(RFRMSProp, rounding="stochastic", compile=True, **BFLOAT16),
    "RFAdamW": own(RFAdamW, **ROOTFREE),
    "RFAdamW compiled": own(RFAdamW, compile=True, **ROOTFREE),
    "IFShampoo": own(IFShampoo, **ROOTFREE),
    "IFShampoo max_dim 256": own(IFShampoo, max_dim=256, **ROOTFREE),
    "IFShampoo bfloat16": own(IFShampoo, **BFLOAT16),
    "RFShampoo": own(RFShampoo, **ROOTFREE),
    "Shampoo": own(Shampoo, weight_decay=1e-4),
    "torch AdamW fused": own(torch.optim.AdamW, fused=True),
    "torch AdamW foreach": own(torch.optim.AdamW, foreach=True),
    "torch RMSprop foreach": own(torch.optim.RMSprop, momentum=0.9, weight_decay=1e-4, foreach=True),
    "sirfshampoo": lambda model, every: SIRFShampoo(model, lr=LR, T=every, batch_size=BATCH_SIZE),
    "pytorch-optimizer Shampoo": lambda model, every: PeersShampoo(
        model.parameters(), lr=LR, momentum=0.9, preconditioning_compute_steps=every
    ),
    "pytorch-optimizer Kate": own(Kate, weight_decay=1e-4),  # the nearest packaged relative without a root
    "pytorch-optimizer SOAP": lambda model, every: SOAP(model.parameters(), lr=LR, precondition_frequency=every),
    "eigh float32": lambda model, _: Operation(model, torch.linalg.eigh, torch.float32),
    "matmul bfloat16": lambda model, _: Operation(model, lambda matrix: matrix @ matrix, torch.bfloat16),
}


@dataclass
class Comparison:
    """A method, its peer, how often both update preconditioners, and the ratio that must be reached, by network."""

    method: str
    peer: str
    bounds: dict[str, float]
    update_every: int = 1
    on: tuple[str, ...] = NETWORKS


COMPARISONS = [
    Comparison("RFRMSProp compiled", "torch AdamW fused", {"resnet18": 1.0, "vit_tiny": 1.05}),
    Comparison("RFAdamW compiled", "torch AdamW fused", {"resnet18": 1.0, "vit_tiny": 1.05}),
    Comparison("RFRMSProp", "torch AdamW foreach", {"resnet8": 1.2, "resnet18": 1.2, "vit_tiny": 1.2}),
    Comparison("RFAdamW", "torch AdamW foreach", {}),
    Comparison("RFRMSProp", "torch RMSprop foreach", {}),
    Comparison("RFRMSProp without momentum", "torch AdamW foreach", {}),
    Comparison("RFRMSProp bfloat16", "torch AdamW foreach", {}),
    Comparison("RFRMSProp bfloat16 compiled", "torch AdamW fused", {"vit_tiny": 0.75}),
    Comparison("RFRMSProp bfloat16 stochastic compiled", "torch AdamW fused", {"vit_tiny": 1.3}),
    Comparison("IFShampoo", "sirfshampoo", {"resnet8": 0.5, "resnet18": 0.5, "vit_tiny": 0.5}, update_every=2),
    Comparison("IFShampoo max_dim 256", "sirfshampoo", {"vit_tiny": 0.4}, update_every=2),
    Comparison("IFShampoo", "pytorch-optimizer SOAP", {"vit_tiny": 1.0}, update_every=2),
    Comparison("RFShampoo", "pytorch-optimizer SOAP", {"vit_tiny": 1.0}, update_every=2),
    Comparison("RFRMSProp", "pytorch-optimizer Kate", {}),
    Comparison("IFShampoo bfloat16", "IFShampoo", {}, update_every=2),
    Comparison("IFShampoo", "Shampoo", {}, update_every=2),
    Comparison("IFShampoo", "RFShampoo", {}, update_every=2),
    Comparison("Shampoo", "pytorch-optimizer Shampoo", {}, update_every=2),
    Comparison("IFShampoo", "RFRMSProp", {}, update_every=2, on=(*NETWORKS, *WIDTHS)),
    Comparison("RFRMSProp", "IFShampoo", {}, update_every=2, on=WIDTHS),
    Comparison("eigh float32", "matmul bfloat16", {}, on=WIDTHS),
]


def network(parameters: str, device: str) -> nn.Module:
    """A network whose parameters have random gradients."""
    torch.manual_seed(0)
    model = PARAMETERS[parameters]().to(device)
    for param in model.parameters():
        param.grad = 1e-2 * torch.randn_like(param)
    return model


def cycle(optimizer: torch.optim.Optimizer, steps: int, device: str) -> None:
    """Make some steps, and wait for them."""
    for _ in range(steps):
        optimizer.step()
    if device == "cuda":
        torch.cuda.synchronize()


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


def peak_mb(optimizer: str, parameters: str, update_every: int) -> float | None:
    """How much memory two cycles of steps take at their peak, state included, in a fresh process (on Linux)."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    # glibc must give freed memory back at once, or what building the network left behind would be reused unseen
    exact = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    with patch.dict(os.environ, exact), ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak_mb, optimizer, parameters, update_every, torch.get_num_threads()).result()


def _peak_mb(optimizer: str, parameters: str, update_every: int, threads: int) -> float:
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore", UserWarning)
    model = network(parameters, "cpu")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    status = Path("/proc/self/status")
    before = memory_mb(status.read_text(), "VmRSS")
    stepper = OPTIMIZERS[optimizer](model, update_every)  # some make their state here, some in the first step
    for _ in range(2 * update_every):
        stepper.step()
    return memory_mb(status.read_text(), "VmHWM") - before


def compare(comparison: Comparison, parameters: str, cycles: int, device: str) -> Measurement:
    """Measure one method against its peer. Memory in MB, times in ms per step; None is what could not be measured."""
    names, steps = (comparison.method, comparison.peer), comparison.update_every
    row: Measurement = {"ratio": None, "bound": comparison.bounds.get(parameters), "method": names[0], "peer": names[1],
                "parameters": parameters, "update_every": steps, "cycles": cycles}  # fmt: skip
    row |= dict.fromkeys(("ms", "peer_ms", "state_mb", "peer_state_mb", "peak_mb", "peer_peak_mb")) | {"note": ""}
    optimizers = [OPTIMIZERS[name](network(parameters, device), steps) for name in names]
    times: list[list[float]] = [[], []]
    for _ in range(2 + cycles):
        for optimizer, measured in zip(optimizers, times, strict=True):
            measured.append(1e3 * seconds(cycle, optimizer, steps, device) / steps)
    times = [measured[2:] for measured in times]  # two to warm up
    row["ratio"] = median_ratio(*times)
    row["ms"], row["peer_ms"] = map(statistics.median, times)
    row["state_mb"], row["peer_state_mb"] = (
        state_mb({**vars(optimizer), "param_groups": None, "model": None}, set(map(id, optimizer.state)))
        for optimizer in optimizers
    )
    del optimizers, optimizer
    if device == "cpu" and "compiled" not in comparison.method:  # the compiler's memory would hide the step's
        row["peak_mb"], row["peer_peak_mb"] = (peak_mb(name, parameters, steps) for name in names)
    return row


def main() -> None:
    """Parse the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("results/bench.csv"), help="the table to write")
    parser.add_argument("--cycles", type=int, default=12, help="cycles per comparison, after two to warm up")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the parameters are")
    parser.add_argument("--parameters", nargs="+", choices=PARAMETERS, default=list(PARAMETERS), help="which networks")
    parser.add_argument("--only", default="", metavar="TEXT", help="only comparisons of a method or peer with TEXT")
    args = parser.parse_args()
    comparisons = [c for c in COMPARISONS if args.only in f"{c.method} | {c.peer}"]
    if not comparisons:
        sys.exit(f"bench: no comparison of a method or peer that contains {args.only!r}")
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore", UserWarning)  # the bfloat16 states, on purpose
    rows = (compare(c, name, args.cycles, args.device) for name in args.parameters for c in comparisons if name in c.on)
    key = ("method", "peer", "parameters", "update_every")
    publish(rows, args.output, describe_device(torch.device(args.device)), key, hide="update_every cycles note")


if __name__ == "__main__":
    main()
