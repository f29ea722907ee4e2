"""Time what a sweep costs beside its training: per run, per worker, when all is done, and to look at."""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_training import ROOT, SGD, Row, finish
from PIL import Image
from torch import nn

from rootfree.checkpoint import State
from rootfree.models.resnet import resnet18
from rootfree.run.files import write_atomically

TRAIN = [sys.executable, "-m", "rootfree.train", "hydra.mode=MULTIRUN", "wandb.mode=disabled"]


def seconds(command: list[str]) -> float:
    """How long a command takes."""
    started = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE)
    return time.perf_counter() - started


def photos(folder: Path) -> list[str]:
    """Settings of a data set of 64 training images, for runs of one step."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 4)):
        for name in ("a", "b"):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(256, size=(16, 16, 3), dtype=np.uint8)).save(
                    folder / split / name / f"{i}.png"
                )
    return ["dataset=image_folder", f"dataset.root={folder}", "dataset.name=bench", "dataset.image_size=16",
            f"dataset.cache={folder}/cache", "dataset.batch_size=128", "trainer.epochs=1"]  # fmt: skip


def per_run(folder: Path) -> Iterator[Row]:
    """What a run costs beside its step: the difference between a long sweep and a short one."""
    data, times = photos(folder / "photos"), {}
    for count in (1, 10, 110):
        outputs = folder / f"runs{count}"
        times[count] = seconds([*TRAIN, *data, f"outputs={outputs}", f"seed=range({count})"])
        trained = sum(json.loads(file.read_text())["seconds"] for file in outputs.glob("*/summary.json"))
        times[count] -= trained
    yield Row(
        "a run of a sweep, beside its steps", (times[110] - times[10]) / 100, "s", bound="<= 0.3", note="100 runs"
    )

    command = [*TRAIN, *data, f"outputs={folder}/done", "seed=range(1000)"]
    listed = subprocess.run([*command, "plan=true"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for run_id in re.findall(r"to do ([0-9a-f]{12}) ", listed):
        (folder / "done" / run_id).mkdir(parents=True)
        (folder / "done" / run_id / "summary.json").write_text('{"status": "finished"}')
    yield Row("the command of 1,000 finished runs again", seconds(command), "s", bound="<= 5")


def workers(folder: Path) -> Iterator[Row]:
    """Twelve runs of resnet8 by one worker and by two."""
    words = [*TRAIN, "seed=range(12)", "trainer.epochs=6"]
    one = seconds([*words, f"outputs={folder}/one"])
    two = seconds([*words, f"outputs={folder}/two", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"])
    yield Row("12 runs of resnet8, one worker", one, "s", "two workers", two, one / two, ">= 1.7")


def status(folder: Path) -> Iterator[Row]:
    """Look at ten thousand runs."""
    summary = {"status": "finished", "preset": "cnn", "scale": "laptop", "model": "resnet8", "arm": "sgd"}
    text = json.dumps(summary | {"config": {f"key{i}": "a value" for i in range(100)}})
    for i in range(10_000):
        run = folder / "many" / f"{i:012x}"
        run.mkdir(parents=True)
        (run / "config.yaml").write_text("preset: cnn\n")
        (run / "summary.json").write_text(text)
    taken = seconds([sys.executable, "scripts/status.py", str(folder / "many")])
    yield Row("status of 10,000 runs", taken, "s", bound="<= 2")


def checkpoints(folder: Path) -> Iterator[Row]:
    """A checkpoint of ResNet-18, against an epoch of 5,000 images of 32 pixels on this machine."""
    torch.manual_seed(0)
    model = resnet18(num_classes=10, image_size=32).to(memory_format=torch.channels_last)
    optimizer, images = SGD(model.parameters()), torch.randn(64, 3, 32, 32).to(memory_format=torch.channels_last)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), torch.zeros(64, dtype=torch.long)).backward()
        optimizer.step()

    state = State(model, optimizer, torch.amp.GradScaler("cpu", enabled=False), torch.Generator(), None)
    step()
    epoch = timed(step, 5) * 5000 / 64
    save = timed(
        lambda: write_atomically(folder / "checkpoint.pt", lambda file: torch.save(state.state_dict(), file)), 5
    )
    yield Row("checkpoint of ResNet-18", save, "s", "epoch of 5,000 images", epoch, save / epoch, "<= 0.03")


def timed(function: Callable[[], Any], times: int) -> float:
    """The mean time of a call."""
    started = time.perf_counter()
    for _ in range(times):
        function()
    return (time.perf_counter() - started) / times


def main() -> None:
    """Parse the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("results/bench_sweeps.csv"), help="the table to write")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch for the checkpoint's epoch")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        finish([per_run(folder), workers(folder), status(folder), checkpoints(folder)], args.output, args.threads)


if __name__ == "__main__":
    main()
