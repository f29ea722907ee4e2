"""Time the training loop: against a plain loop, against its own loader, from the command to the first step.

Whole epochs alternate with those of the peer in one process, and the ratio is the median over rounds; what needs
processes of its own says so in its note.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bench import device_name
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.data import DataLoader, Dataset

from rootfree.data.cluttered_digits import cluttered_digits
from rootfree.models.resnet import resnet8
from rootfree.models.vit import vit_mini
from rootfree.schedules import constant
from rootfree.trainer import fit

ROOT = Path(__file__).resolve().parent.parent
SGD = partial(torch.optim.SGD, lr=0.01, momentum=0.9)


@dataclass
class Row:
    """One line of the table; `value` and `peer_value` are in `unit`, `bound` is what the ratio or value must reach."""

    what: str
    value: float
    unit: str
    peer: str = ""
    peer_value: float | None = None
    ratio: float | None = None
    bound: str = ""
    note: str = ""
    device: str = ""
    threads: int = 0
    torch: str = ""


class Silent:
    """A record that keeps the metrics and writes nothing."""

    title, quiet = "bench", True

    def heed(self, state: Callable[[], dict[str, Any]]) -> None:
        """Never stop."""

    def __init__(self) -> None:
        self.metrics: list[dict[str, Any]] = []

    def load_checkpoint(self) -> None:
        """Nothing to go on from."""

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Nothing to keep."""

    def log(self, metrics: dict[str, Any]) -> None:
        """Keep what the trainer measured."""
        self.metrics.append(metrics)


def ours(data: Any, make: Callable[[], nn.Module], epochs: int = 1, **settings: Any) -> float:
    """Images per second of the last of some epochs of our trainer."""
    torch.manual_seed(0)
    record = Silent()
    model = make().to(memory_format=torch.channels_last)
    fit(model, nn.functional.cross_entropy, SGD, constant, data, record, seed=0, device=torch.device("cpu"),
        epochs=epochs, clean_size=1, evaluate_test=False, **settings)  # fmt: skip
    return record.metrics[-1]["images_per_second"]


class Photos(Dataset):
    """The training images as PIL images, each augmented by itself, as in most tutorials."""

    def __init__(self, data: Any) -> None:
        from torchvision.transforms import v2

        self.images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in data.train.images]
        self.labels = data.train.labels.tolist()
        mean, std = (statistic.flatten() / 255 for statistic in data.pixel_statistics)
        self.transform = v2.Compose([
            v2.RandomCrop(32, padding=data.pad), v2.ToImage(), v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean.tolist(), std.tolist()),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


def plain(loader: DataLoader, make: Callable[[], nn.Module]) -> float:
    """Images per second of one epoch of a plain loop: a DataLoader over PIL images, NCHW, metrics read each step."""
    torch.manual_seed(0)
    model = make().train()
    optimizer, seen, right, total = SGD(model.parameters()), 0, 0, 0.0
    started = time.perf_counter()
    for images, labels in loader:
        optimizer.zero_grad()
        logits = model(images)
        loss = nn.functional.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        seen, total = seen + len(labels), total + loss.item()
        right += (logits.argmax(1) == labels).sum().item()
    return seen / (time.perf_counter() - started)


def loaded(data: Any) -> float:
    """Images per second of an epoch of batches that nobody trains on."""
    batches = data.batches(data.train, torch.device("cpu"), data.batch_size, torch.Generator().manual_seed(0))
    for _ in batches:  # workers start, files are read
        pass
    started = time.perf_counter()
    for _ in batches:
        pass
    return batches.size / (time.perf_counter() - started)


def against_a_plain_loop(rounds: int) -> Iterator[Row]:
    """Training of resnet8 on 32-pixel images."""
    data, make = cluttered_digits(batch_size=64), partial(resnet8, num_classes=10, image_size=32)
    loader = DataLoader(Photos(data), 64, shuffle=True, num_workers=2, persistent_workers=True)
    plain(loader, make)
    for name, bound, settings in (("eager", 1.4, {}), ("compiled", 1.7, {"compile": True, "epochs": 2})):
        pairs = [(ours(data, make, **settings), plain(loader, make)) for _ in range(rounds)]
        yield compared(f"training, resnet8, 32 px, {name}", pairs, "plain loop with 2 workers", f">= {bound}")
    pairs = [(loaded(data), ours(data, make)) for _ in range(rounds)]
    yield compared("loader alone, 32 px in memory", pairs, "training of resnet8", ">= 20")


def compared(what: str, pairs: list[tuple[float, float]], peer: str, bound: str) -> Row:
    """A row of images per second; the ratio is the median of the rounds' own."""
    value, other = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    return Row(what, value, "images/s", peer, other, ratio, bound, f"{len(pairs)} rounds")


def large_images(root: Path, rounds: int) -> Iterator[Row]:
    """Loader of 112-pixel JPEG files against a small ViT."""
    from rootfree.data.large_image_folder import large_image_folder

    data = large_image_folder(root=str(root), name=root.name, image_size=112, batch_size=64, workers=2)
    make = partial(vit_mini, num_classes=len(data.classes), image_size=112, patch=16)
    pairs = [(loaded(data), ours(data, make)) for _ in range(rounds)]
    yield compared(
        f"loader alone, {root.name}, 2 workers", pairs, "training of vit_mini, patch 16, loader included", ">= 1"
    )


def start() -> Iterator[Row]:
    """From the command to the first step, and our imports, in processes of their own."""
    code = """
import os, sys, time, torch
outputs, begun = sys.argv[1], float(sys.argv[2])
started = time.time()
import rootfree.train
print("imports", time.time() - started)
def first_step(*_, **__):
    print("start", time.time() - begun, flush=True)
    os._exit(0)
torch.optim.SGD.step = first_step
sys.argv[1:] = [f"outputs={outputs}"]
rootfree.train.main()
"""
    found: dict[str, list[float]] = {}
    for _ in range(5):
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run([sys.executable, "-c", code, folder, str(time.time())], cwd=ROOT, text=True,
                                  stdout=subprocess.PIPE, check=True)  # fmt: skip
        for line in done.stdout.splitlines():
            name, _, seconds = line.partition(" ")
            if name in ("imports", "start"):
                found.setdefault(name, []).append(float(seconds))
    yield Row(
        "command to first step, data cached", statistics.median(found["start"]), "s", bound="<= 8", note="5 starts"
    )
    yield Row("imports beyond torch", statistics.median(found["imports"]), "s", bound="<= 1", note="5 starts")


def two_processes() -> Iterator[Row]:
    """One process with one thread against two, of a model without batch statistics."""
    speeds = []
    for count in (2, 1):
        with tempfile.TemporaryDirectory() as folder:
            launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
            subprocess.run(
                [sys.executable, *launcher, "-m", "rootfree.train", f"outputs={folder}", "model=vit_tiny",
                 "model.patch=8", "trainer.epochs=2", "wandb.mode=disabled"],
                cwd=ROOT, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            (metrics,) = Path(folder).glob("*/metrics.jsonl")
            speeds.append(json.loads(metrics.read_text().splitlines()[-1])["images_per_second"])
    yield compared("training, vit_tiny, two processes", [(speeds[0], speeds[1])], "one process", "")


def main() -> None:
    """Parse the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("results/bench_training.csv"), help="the table to write")
    parser.add_argument("--rounds", type=int, default=5, help="epochs per comparison")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--photos", type=Path, help="an image folder of 112-pixel JPEG files, for the loader of files")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    parts = [against_a_plain_loop(args.rounds), start(), two_processes()]
    parts += [large_images(args.photos, 1)] if args.photos else []
    finish(parts, args.output, args.threads)


def finish(parts: list[Iterator[Row]], output: Path, threads: int) -> None:
    """Measure the rows, print and write them."""
    console, rows = Console(), []
    for row in (row for part in parts for row in part):
        row.device, row.threads, row.torch = device_name("cpu"), threads, torch.__version__
        console.print(f"{row.what}: {row.value:.4g} {row.unit}", style="dim")
        rows.append(row)
    table = Table(title=f"{rows[0].device}, {threads} threads, torch {torch.__version__}")
    for name in ("what", "value", "unit", "peer", "peer value", "ratio", "bound"):
        table.add_column(name)
    for row in rows:
        numbers = ["" if number is None else f"{number:.4g}" for number in (row.value, row.peer_value, row.ratio)]
        table.add_row(row.what, numbers[0], row.unit, row.peer, numbers[1], numbers[2], row.bound)
    console.print(table)
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            values = asdict(row).items()
            writer.writerow({key: f"{value:.4g}" if isinstance(value, float) else value for key, value in values})


if __name__ == "__main__":
    main()
