"""Time collecting and reporting over synthetic records, each in a process of its own, and write what it took.

A third of the runs are draws of searches; the others fill studies of equal size, arms times seeds, with curves. First a
quarter of the records, so that the growth can be seen.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import torch

from rootfree.bench import Measurement, memory_mb, publish, row
from rootfree.run.provenance import describe_device

ROOT = Path(__file__).parents[1]
ARMS = ["sgd", "adamw", "rf_rmsprop", "rf_rmsprop_placebo", "rmsprop", "sign_momentum", "rf_adamw", "shampoo"]
ARMS += ["if_shampoo", "lion", "rf_rmsprop_bf16", "rf_shampoo"]
CASES = {  # code, and the bounds in seconds at the default size; all stay below 1.5 GB
    "import": ("import rootfree.analysis.report", 1.5),
    "collect": ("from rootfree.analysis.collect import collect; collect(outputs, tables)", 60),
    "report": ("from rootfree.analysis.report import report; report(tables, claims)", 60),
}
CODE = """
import sys
from pathlib import Path
outputs, tables, claims = map(Path, sys.argv[1:])
{}
assert not {{"torch", "hydra"}} & set(sys.modules)
print(Path("/proc/self/status").read_text())
"""


def measure(runs: int, epochs: int, studies: int) -> Iterator[Measurement]:
    """Time and memory of each case, in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folders = [f"{name}/outputs", f"{name}/tables", str(ROOT / "experiments" / "claims.yaml")]
        write(Path(folders[0]), runs, epochs, studies)
        for case, (code, bound) in CASES.items():
            started = time.perf_counter()
            command = [sys.executable, "-c", CODE.format(code), *folders]
            done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
            taken = time.perf_counter() - started
            size = f"{runs} runs, {epochs} epochs, {studies} studies"
            yield row(f"{case}, {size}", taken, "s", bound=f"<= {bound}")
            yield row(f"memory of {case}, {size}", memory_mb(done.stdout, "VmHWM") / 1e3, "GB", bound="<= 1.5")


def write(outputs: Path, runs: int, epochs: int, studies: int) -> None:
    """Write run folders as training leaves them."""
    rng = random.Random(0)
    for number in range(runs):
        search = number % 3 == 0
        place, rest = number % studies, number // studies
        arm, seed = ARMS[rest % len(ARMS)], rest // len(ARMS)
        lr = round(10 ** rng.uniform(-4, -1), 5) if search else 0.1
        level = 0.8 + 0.01 * (rest % len(ARMS)) + rng.gauss(0, 0.01)
        diverged = rng.random() < 0.01
        run_id = f"{number:012x}"
        folder = outputs / run_id
        folder.mkdir(parents=True)
        summary = {
            "run_id": run_id, "status": "diverged" if diverged else "finished", "scale": None if search else "gpu",
            "purpose": "search" if search else "final", "preset": None if search else ("cnn", "vit")[place % 2],
            "dataset": f"data{place}", "model": "net", "loss": "cross_entropy", "optimizer": arm,
            "schedule": "multistep", "arm": f"{arm} optimizer.lr={lr}" if search else arm, "seed": seed,
            "study": f"s{place:011x}", "epochs": epochs, "steps": 100 * epochs, "batch_size": 128,
            "seconds": 60 + rng.random(), "images_per_second": 1e4, "train_acc": 0.99, "val_acc": level,
            "test_acc": None if diverged or search else level, "train_loss": 0.1, "val_loss": 0.5, "test_loss": 0.5,
            "gap_acc": None if diverged or search else 0.99 - level, "gap_loss": -0.4, "parameters": 1,
            "state_bytes": 8_000_000, "commit": "0" * 40, "dirty": False, "versions": {"torch": "2.0"},
            "device": "cpu: synthetic", "weights": run_id, "finished_at": "2026-01-01T00:00:00+00:00",
            "command": f"python -m rootfree.train optimizer={arm} seed={seed} +experiments/cnn=gpu",
            "config": {
                "seed": seed, "optimizer": {"_target_": f"x.{arm}", "lr": lr, "momentum": 0.9, "weight_decay": 0.0},
                "trainer": {"epochs": epochs}, "model": {"_target_": "x.net"}, "dataset": {"batch_size": 128},
            },
        }  # fmt: skip
        lines = []
        for epoch in range(1, epochs + 1):
            done, noise = 1 - 0.95**epoch, rng.gauss(0, 0.01)
            lines.append({
                "epoch": epoch, "step": 100 * epoch, "lr": lr, "loss": 2 - done, "train_acc": 0.99 * done,
                "train_loss": 2.1 - 2 * done + noise, "val_acc": level * done + noise, "val_loss": 2.5 - 2 * done,
                "gap_acc": 0.1, "images_per_second": 1e4, "seconds": 0.6 * epoch, "cosine_sgd": 0.5 + noise,
                "data_ms": 1.5, "optimizer_ms": 2.5, "effective_lr_q05": 0.01, "effective_lr_q50": 0.1 + abs(noise),
                "effective_lr_q95": 1.0, "grad_norm": 1 + noise, "update_norm": 0.1, "share_above_damping": done,
                "share_frozen": 1 - done,
            })  # fmt: skip
        (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        (folder / "summary.json").write_text(json.dumps(summary))


def main() -> None:
    """Parse the command line, measure a quarter of the records and then all, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000, help="records")
    parser.add_argument("--epochs", type=int, default=100, help="lines in the curve of each")
    parser.add_argument("--studies", type=int, default=8, help="studies they are divided into")
    parser.add_argument("--output", type=Path, default=Path("results/bench_analysis.csv"), help="the table to write")
    args = parser.parse_args()
    parts = (measure(runs, args.epochs, args.studies) for runs in (args.runs // 4, args.runs))
    publish(chain.from_iterable(parts), args.output, describe_device(torch.device("cpu")))


if __name__ == "__main__":
    main()
