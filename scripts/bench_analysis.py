"""Time collecting and reporting over synthetic records, each in a process of its own, and write what it took.

A third of the runs are draws of searches; the others fill studies of equal size, arms times seeds, with curves. First a
quarter of the records, so that the growth can be seen.
"""

import argparse
import csv
import json
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIMITS = {"import": 1.5, "collect": 60.0, "report": 60.0}  # seconds, at the default size
MEMORY = 1.5  # GB
ARMS = ["sgd", "adamw", "rf_rmsprop", "rf_rmsprop_placebo", "rmsprop", "sign_momentum", "rf_adamw", "shampoo"]
ARMS += ["if_shampoo", "lion", "rf_rmsprop_bf16", "rf_shampoo"]
COLLECT = "from rootfree.analysis.collect import collect; collect(Path(sys.argv[1]), Path(sys.argv[2]))"
REPORT = "from rootfree.analysis.report import report; report(Path(sys.argv[2]), Path(sys.argv[3]))"
CASES = {"import": "import rootfree.analysis.report", "collect": COLLECT, "report": REPORT}


def main() -> None:
    """Parse the command line, make the records, time, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--studies", type=int, default=8)
    parser.add_argument("--into", type=Path, default=ROOT / "results" / "bench_analysis.csv", help="the table")
    args = parser.parse_args()
    machine = f"{processor()}, python {platform.python_version()}"
    rows = []
    for runs in (args.runs // 4, args.runs):
        with tempfile.TemporaryDirectory() as place:
            outputs, tables = Path(place) / "outputs", Path(place) / "tables"
            write(outputs, runs, args.epochs, args.studies)
            for name, code in CASES.items():
                started = time.perf_counter()
                gigabytes = measure(code, outputs, tables)
                seconds = time.perf_counter() - started
                row = {"what": name, "runs": runs, "epochs": args.epochs, "studies": args.studies}
                row |= {"seconds": f"{seconds:.3g}", "limit": LIMITS[name], "gigabytes": f"{gigabytes:.3g}"}
                rows.append(row | {"machine": machine})
                print(f"{name}, {runs} runs: {seconds:.2f} s (limit {LIMITS[name]:g}), ", end="")
                print(f"{gigabytes:.2f} GB (limit {MEMORY:g})", flush=True)
    with args.into.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def measure(code: str, outputs: Path, tables: Path) -> float:
    """Run code in a process of its own; return the most memory it had, in GB."""
    after = "; assert not {'torch', 'hydra'} & set(sys.modules)"
    peak = "; import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    command = [sys.executable, "-c", f"import sys; from pathlib import Path; {code}{after}{peak}"]
    arguments = [str(outputs), str(tables), str(ROOT / "experiments" / "claims.yaml")]
    said = subprocess.run([*command, *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return int(said.split()[-1]) / (1e9 if sys.platform == "darwin" else 1e6)


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


def processor() -> str:
    """The processor's name, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if "model name" in line), platform.processor())


if __name__ == "__main__":
    main()
