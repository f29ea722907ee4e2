"""Check on a GPU what the tests check on a CPU, and time it: one table, results/gpu.csv. Without a GPU, the CPU half.

The optimizers must follow their float64 trajectory on the CPU, the loop must train in every precision and go on bit for
bit, and no step may wait for the device. Then come the times of steps and epochs, next to those of their peers.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import timm
import torch
from torch import Tensor, nn

from rootfree.bench import Measurement, compared, keeps_bound, publish, row, seconds
from rootfree.data.cluttered_digits import cluttered_digits
from rootfree.models.resnet import resnet8, resnet18
from rootfree.optim import IFShampoo, RFAdamW, RFRMSProp, RFShampoo, Shampoo
from rootfree.optim.rounding import stochastic_bfloat16
from rootfree.precision import forward_in, set_arithmetic
from rootfree.run.provenance import describe_device
from rootfree.schedules import constant
from rootfree.trainer import fit, pick_device

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts; without it nothing repeats
ROOT = Path(__file__).resolve().parent.parent
SHAPES = ((24, 16), (8, 4, 3, 3), (16,), (24, 16), ())
STEPS = 20
BATCH: dict[str, Any] = {"lr": 1e-3, "batch_size": 16}
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "RFRMSProp": partial(RFRMSProp, **BATCH),
    "RFRMSProp rooted": partial(RFRMSProp, power=0.5, **BATCH),
    "RFAdamW": partial(RFAdamW, **BATCH),
    "Shampoo": partial(Shampoo, lr=1e-3),
    "Shampoo grafted": partial(Shampoo, lr=1e-3, grafting="adam"),
    "RFShampoo": partial(RFShampoo, **BATCH),
    "IFShampoo": partial(IFShampoo, **BATCH),
}
COMPILES = ("RFRMSProp", "RFRMSProp rooted", "RFAdamW")


def trajectory(make: Callable[..., torch.optim.Optimizer], device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Return how far some steps from zero come along gradients that are the same everywhere, in float64 on the CPU."""
    draws = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.zeros(shape, device=device, dtype=dtype)) for shape in SHAPES]
    optimizer = make(params)
    for _ in range(STEPS):
        for param in params:
            param.grad = (0.1 * torch.randn(param.shape, generator=draws)).to(device, dtype)
        optimizer.step()
    return [param.detach().cpu().double() for param in params]


def optimizers(device: torch.device) -> Iterator[Measurement]:
    """Every optimizer against its float64 trajectory on the CPU, and the bits of stochastic rounding."""
    cpu, cuda = torch.device("cpu"), device.type == "cuda"
    for name, make in OPTIMIZERS.items():
        exact = trajectory(make, cpu, torch.float64)
        kinds: dict[str, dict[str, Any]] = {"float32": {}}
        kinds |= {"float32 compiled": {"compile": True}} if cuda and name in COMPILES else {}
        kinds |= {"bfloat16 state": {"state_dtype": "bfloat16"}} if name.startswith(("RF", "IF")) else {}
        for kind, settings in kinds.items():
            found = trajectory(partial(make, **settings), device, torch.float32)
            error = max(((a - b).norm() / b.norm()).item() for a, b in zip(found, exact, strict=True))
            bound = "<= 0.1" if "state" in kind else "<= 1e-3"  # bfloat16 has 8 bits
            yield row(f"{name}, {kind}: distance from float64 after {STEPS} steps", error, "relative", bound=bound)
    values = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    here, there = (stochastic_bfloat16(values.to(to), 3, torch.tensor(7, device=to)).cpu() for to in (cpu, device))
    yield row("stochastic rounding: elements unlike the CPU's", float((here != there).sum()), "count", bound="<= 0")
    if cuda:
        yield row("RFRMSProp in a CUDA graph: distance from eager", captured(device), "relative", bound="<= 1e-6")


def captured(device: torch.device) -> float:
    """Return how far steps that a CUDA graph repeats end from those that Python makes."""
    ends = []
    for in_graph in (False, True):
        torch.manual_seed(0)
        params = [nn.Parameter(torch.randn(64, 32, device=device)) for _ in range(3)]
        for param in params:
            param.grad = torch.randn_like(param)
        optimizer = RFRMSProp(params, **BATCH)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # the state is made before the capture
            optimizer.step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        if in_graph:
            with torch.cuda.graph(graph):
                optimizer.step()
        for _ in range(STEPS):
            (graph.replay if in_graph else optimizer.step)()
        ends.append(torch.cat([param.detach().flatten() for param in params]))
    return ((ends[0] - ends[1]).norm() / ends[0].norm()).item()


def train(device: torch.device, make: Any = resnet8, saved: Any = None, epochs: int = 2, batch_size: int = 128,
          optimizer: Any = None, **settings: Any) -> tuple[list[dict[str, Any]], list[Any], Any]:  # fmt: skip
    """Train on the embedded images; return the metrics of the epochs, the states at their ends, and the summary."""
    states: list[Any] = []
    record = Mock(title="gpu-check", quiet=True, load_checkpoint=lambda: saved)  # it keeps nothing
    record.save_checkpoint = lambda state: states.append(deepcopy(state))
    data = cluttered_digits(batch_size)
    if device.type == "cpu":
        data = replace(data, **{name: getattr(data, name)[torch.arange(500)] for name in ("train", "val")})
    torch.manual_seed(0)
    model = make(num_classes=10, image_size=32).to(device, memory_format=torch.channels_last)
    optimizer = optimizer or partial(RFRMSProp, lr=0.01, batch_size=batch_size)
    summary = fit(model, nn.functional.cross_entropy, optimizer, constant, data, record, seed=0, device=device,
                  epochs=epochs, clean_size=500, evaluate_test=False, **settings)  # fmt: skip
    return [call.args[0] for call in record.log.call_args_list], states, summary


def loop(device: torch.device) -> Iterator[Measurement]:
    """The loop in every precision, its going on bit for bit, and how often an epoch's steps wait for the device."""
    kinds: dict[str, dict[str, Any]] = {"float32": {}}
    if device.type == "cuda":
        kinds |= {"bf16": {"precision": "bf16"}, "fp16": {"precision": "fp16"}, "float32 compiled": {"compile": True}}
    for kind, settings in kinds.items():
        metrics, _, _ = train(device, **settings)
        losses = [found["loss"] for found in metrics]
        yield row(f"loop, {kind}: loss of epoch 2 over that of epoch 1", losses[-1] / losses[0], "ratio", bound="<= 1")
    _, states, whole = train(device, deterministic=True)
    _, _, resumed = train(device, saved=states[0], deterministic=True)
    set_arithmetic(tf32=False, deterministic=False)
    unlike = float(whole["weights"] != resumed["weights"])
    yield row("loop resumed after epoch 1: weights unlike those of one go", unlike, "count", bound="<= 0")
    if device.type == "cuda":
        for kind, settings in {"float32": {}, "bf16": {"precision": "bf16"}}.items():
            per_epoch = [waits(device, **{"batch_size": size, **settings}) for size in (128, 64)]
            what = f"loop, {kind}: waits for the device per step"  # from epochs of 39 and of 78 steps
            yield row(what, (per_epoch[1] - per_epoch[0]) / 39, "count", bound="<= 0")
        if find_spec("hydra_plugins.hydra_joblib_launcher"):
            yield row("two runs at a time on the GPU that failed", two_runs(), "count", bound="<= 0")


def waits(device: torch.device, **settings: Any) -> float:
    """Return how often an epoch, evaluation included, waits for the device."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            train(device, epochs=1, **settings)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return float(sum("synchroniz" in str(warning.message) for warning in caught))


def two_runs() -> float:
    """Return how many of two runs that share the device, each in a process, did not finish."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["-m", "hydra/launcher=local", "hydra.launcher.n_jobs=2", "trainer.epochs=1", "seed=0,1", "device=cuda",
                 "wandb.mode=disabled", f"outputs={folder}"]  # fmt: skip
        subprocess.run([sys.executable, "-m", "rootfree.train", *words], cwd=ROOT, stdout=subprocess.DEVNULL)
        return 2.0 - len(list(Path(folder).glob("*/summary.json")))


def step_times(device: torch.device, rounds: int = 10, steps: int = 10) -> Iterator[Measurement]:
    """Steps of an optimizer next to those of its peer, on random gradients."""
    networks = {"resnet18": partial(timm.create_model, "resnet18", num_classes=10),
                "vit_tiny": partial(timm.create_model, "vit_tiny_patch16_224", num_classes=10)}  # fmt: skip
    adamw: dict[str, Any] = {name: partial(torch.optim.AdamW, **{name: True}) for name in ("fused", "foreach")}
    pairs = {
        ("RFRMSProp", "AdamW foreach"): (partial(RFRMSProp, **BATCH), adamw["foreach"]),
        ("RFRMSProp compiled", "AdamW fused"): (partial(RFRMSProp, compile=True, **BATCH), adamw["fused"]),
        ("RFAdamW compiled", "AdamW fused"): (partial(RFAdamW, compile=True, **BATCH), adamw["fused"]),
    }
    if find_spec("sirfshampoo"):
        from sirfshampoo import SIRFShampoo

        theirs = partial(SIRFShampoo, lr=1e-3, T=2, batch_size=16)
        pairs["IFShampoo", "sirfshampoo"] = (partial(IFShampoo, update_every=2, **BATCH), theirs)
    for network, build in networks.items():
        for (name, peer), makes in pairs.items():
            steppers = []
            for make in makes:
                model = build().to(device)
                for param in model.parameters():
                    param.grad = 1e-2 * torch.randn_like(param)
                steppers.append(make(model if peer == "sirfshampoo" and make is makes[1] else model.parameters()))

            def run(stepper: torch.optim.Optimizer) -> None:
                for _ in range(steps):
                    stepper.step()
                torch.cuda.synchronize()

            times = [tuple(1e3 * seconds(run, stepper) / steps for stepper in steppers) for _ in range(2 + rounds)]
            yield compared(f"step of {name}, {network}", times[2:], "ms", peer)


def epochs(device: torch.device) -> Iterator[Measurement]:
    """Speed of ResNet-18, how much of a step is not the network's or the optimizer's own, and the memory it takes."""
    sgd = partial(torch.optim.SGD, lr=0.01, momentum=0.9, fused=True)
    for size in (128, 512):
        torch.cuda.reset_peak_memory_stats()
        found = train(device, resnet18, epochs=4, batch_size=size, optimizer=sgd, precision="bf16")[0][-1]
        yield row(f"ResNet-18, 32 px, bf16, batch {size}", found["images_per_second"], "images/s")
        yield row(f"its peak memory, batch {size}", torch.cuda.max_memory_allocated() / 1e6, "MB")
        bare = size / bare_step(device, size, sgd)
        yield row(f"share of a step outside forward, backward and step, batch {size}",
                  1 - found["images_per_second"] / bare, "share")  # fmt: skip


def bare_step(device: torch.device, size: int, make: Callable[..., torch.optim.Optimizer], steps: int = 30) -> float:
    """Return the seconds of forward, backward and step on one batch again and again."""
    model = resnet18(num_classes=10, image_size=32).to(device, memory_format=torch.channels_last)
    inputs = torch.randn(size, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    targets, optimizer = torch.randint(10, (size,), device=device), make(model.parameters())

    def run() -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            with forward_in("bf16", device):
                loss = nn.functional.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()
        torch.cuda.synchronize()

    run()
    return seconds(run) / steps


def main() -> None:
    """Parse the command line, check, print and write; exit code 1 if a bound is not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("results/gpu.csv"), help="the table to write")
    parser.add_argument("--device", default="auto", help="auto (the GPU if there is one), cpu, or cuda")
    args = parser.parse_args()
    device = pick_device(args.device)
    parts = [optimizers(device), loop(device)]
    if device.type == "cuda":
        parts += [step_times(device), epochs(device)]
    else:
        print("gpu-check: no GPU here, so only the half that a CPU can do: nothing below is about a GPU", flush=True)
    warnings.simplefilter("ignore", UserWarning)  # the bfloat16 states, on purpose
    rows = list(chain.from_iterable(parts))
    publish(rows, args.output, describe_device(device))
    sys.exit(0 if all(map(keeps_bound, rows)) else 1)


if __name__ == "__main__":
    main()
