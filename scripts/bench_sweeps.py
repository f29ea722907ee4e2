"""Time what a sweep costs beside its training: per run, per worker, when all is done, and to look at."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from rootfree.bench import Measurement, publish, row, seconds
from rootfree.checkpoint import State
from rootfree.models.resnet import resnet18
from rootfree.run.files import write_atomically
from rootfree.run.identity import NUMERICS, run_id_of
from rootfree.run.provenance import describe_device

ROOT = Path(__file__).resolve().parent.parent
TRAIN = [sys.executable, "-m", "rootfree.train", "hydra.mode=MULTIRUN", "wandb.mode=disabled"]


def call(*command: str) -> float:
    """Return how long a command takes."""
    return seconds(lambda: subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE))


def write_photos(folder: Path) -> list[str]:
    """Write 80 training images, and return the settings of runs of one step on them."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 4)):
        for name in ("a", "b"):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(256, size=(16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    return ["dataset=image_folder", f"dataset.root={folder}", "dataset.name=bench", "dataset.image_size=16",
            f"dataset.cache={folder}/cache", "dataset.batch_size=128", "trainer.epochs=1"]  # fmt: skip


def per_run(folder: Path) -> Iterator[Measurement]:
    """What a run costs beside its step, by a long and a short sweep; and what one costs that has ended."""
    data, times = write_photos(folder / "photos"), {}
    for count in (1, 10, 110):  # the first fills caches
        outputs = folder / f"runs{count}"
        times[count] = call(*TRAIN, *data, f"outputs={outputs}", f"seed=range({count})")
        summaries = [json.loads(file.read_text()) for file in outputs.glob("*/summary.json")]
        times[count] -= sum(summary["seconds"] for summary in summaries)
    each = (times[110] - times[10]) / 100
    yield row("a run of a sweep, beside its steps", each, "s", bound="<= 0.3", note="100 runs")

    for seed in range(1000):
        run_id = run_id_of({"numerics": NUMERICS, **summaries[0]["config"], "seed": seed})
        (folder / "done" / run_id).mkdir(parents=True)
        (folder / "done" / run_id / "summary.json").write_text('{"status": "finished"}')
    again = call(*TRAIN, *data, f"outputs={folder}/done", "seed=range(1000)")
    assert len(list((folder / "done").glob("*/summary.json"))) == 1000, "other runs than these were trained"
    yield row("the command of 1,000 finished runs again", again, "s", bound="<= 5")


def workers(folder: Path) -> Iterator[Measurement]:
    """Twelve runs of resnet8 by one worker and by two."""
    words = [*TRAIN, "seed=range(12)", "trainer.epochs=6"]
    one = call(*words, f"outputs={folder}/one")
    two = call(*words, f"outputs={folder}/two", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    yield row("12 runs of resnet8, one worker", one, "s", "two workers", two, ">= 1.7")


def status(folder: Path) -> Iterator[Measurement]:
    """Look at ten thousand runs."""
    summary = {"status": "finished", "preset": "cnn", "scale": "laptop", "model": "resnet8", "arm": "sgd"}
    text = json.dumps(summary | {"config": {f"key{i}": "a value" for i in range(100)}})
    for i in range(10_000):
        run = folder / "many" / f"{i:012x}"
        run.mkdir(parents=True)
        (run / "config.yaml").write_text("preset: cnn\n")
        (run / "summary.json").write_text(text)
    taken = call(sys.executable, "-m", "rootfree", "status", str(folder / "many"))
    yield row("status of 10,000 runs", taken, "s", bound="<= 2")


def checkpoints(folder: Path) -> Iterator[Measurement]:
    """A checkpoint of ResNet-18, against an epoch of 5,000 images of 32 pixels on this machine."""
    torch.manual_seed(0)
    model = resnet18(num_classes=10, image_size=32).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images = torch.randn(64, 3, 32, 32).to(memory_format=torch.channels_last)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), torch.zeros(64, dtype=torch.long)).backward()
        optimizer.step()

    state = State(model, optimizer, torch.amp.GradScaler("cpu", enabled=False), torch.Generator(), None)
    step()
    epoch, file = seconds(step, times=5) * 5000 / 64, folder / "checkpoint.pt"
    save = seconds(lambda: write_atomically(file, lambda stream: torch.save(state.state_dict(), stream)), times=5)
    yield row("checkpoint of ResNet-18", save, "s", "epoch of 5,000 images", epoch, "<= 0.03")


def main() -> None:
    """Parse the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("results/bench_sweeps.csv"), help="the table to write")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch for the checkpoint's epoch")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        parts = (part(Path(name)) for part in (per_run, workers, status, checkpoints))
        publish(chain.from_iterable(parts), args.output, describe_device(torch.device("cpu")))


if __name__ == "__main__":
    main()
