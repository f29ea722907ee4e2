"""Time the training loop: against a plain loop, against its own loader, from the command to the first step.

Whole epochs alternate with those of the peer in one process, and the ratio is the median over rounds; what needs
processes of its own says so in its note.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from rootfree.bench import Measurement, compared, publish, row, seconds
from rootfree.data.cluttered_digits import cluttered_digits
from rootfree.data.language import definitions
from rootfree.data.large_image_folder import large_image_folder
from rootfree.models.gpt import GPT
from rootfree.models.resnet import resnet8
from rootfree.models.vit import vit_mini
from rootfree.run.provenance import describe_device
from rootfree.schedules import constant
from rootfree.trainer import fit

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parent.parent
SGD = partial(torch.optim.SGD, lr=0.01, momentum=0.9)


def ours(data: Any, make: Callable[[], nn.Module], epochs: int = 1, optimizer: Any = SGD, **settings: Any) -> float:
    """Examples per second of the last of some epochs of our trainer."""
    torch.manual_seed(0)
    record = Mock(title="bench", quiet=True, load_checkpoint=lambda: None)  # it keeps nothing
    model = make().to(memory_format=torch.channels_last)
    fit(model, nn.functional.cross_entropy, optimizer, constant, data, record, seed=0, device=CPU, epochs=epochs,
        clean_size=1, evaluate_test=False, **settings)  # fmt: skip
    return record.log.call_args.args[0]["images_per_second"]


class Photos(Dataset):
    """The training images as PIL images, each augmented by itself, as in most tutorials."""

    def __init__(self, data: Any) -> None:
        self.images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in data.train.inputs]
        self.labels = data.train.targets.tolist()
        mean, std = ((statistic.flatten() / 255).tolist() for statistic in data.pixel_statistics)
        to_float = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
        self.transform = v2.Compose([v2.RandomCrop(32, padding=data.pad), *to_float])

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
    batches = data.batches(data.train, CPU, data.batch_size, torch.Generator().manual_seed(0))

    def epoch() -> None:
        for _ in batches:
            pass

    epoch()  # workers start, files are read
    return batches.size / seconds(epoch)


def against_a_plain_loop(rounds: int) -> Iterator[Measurement]:
    """Training of resnet8 on 32-pixel images."""
    data, make = cluttered_digits(batch_size=64), partial(resnet8, num_classes=10, image_size=32)
    loader = DataLoader(Photos(data), 64, shuffle=True, num_workers=2, persistent_workers=True)
    plain(loader, make)
    for name, bound, settings in (("eager", 1.4, {}), ("compiled", 1.7, {"compile": True, "epochs": 2})):
        pairs = [(ours(data, make, **settings), plain(loader, make)) for _ in range(rounds)]
        what = f"training, resnet8, 32 px, {name}"
        yield compared(what, pairs, "images/s", "plain loop with 2 workers", f">= {bound}")
    pairs = [(loaded(data), ours(data, make)) for _ in range(rounds)]
    yield compared("loader alone, 32 px in memory", pairs, "images/s", "training of resnet8", ">= 20")


def large_images(root: Path) -> Iterator[Measurement]:
    """Loader of 112-pixel JPEG files against a small ViT."""
    data = large_image_folder(root=str(root), name=root.name, image_size=112, batch_size=64, workers=2)
    make = partial(vit_mini, num_classes=len(data.classes), image_size=112, patch=16)
    peer, pairs = "training of vit_mini, patch 16, loader included", [(loaded(data), ours(data, make))]
    yield compared(f"loader alone, {root.name}, 2 workers", pairs, "images/s", peer, ">= 1")


class PlainGPT(nn.Module):
    """nanoGPT's model for a CPU (4 blocks of width 128, 4 heads, no biases), written out as its equations are."""

    def __init__(self, symbols: int, context: int, width: int = 128, depth: int = 4) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(symbols, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({
                "norm_1": nn.LayerNorm(width, bias=False), "attend": nn.Linear(width, 3 * width, bias=False),
                "project": nn.Linear(width, width, bias=False), "norm_2": nn.LayerNorm(width, bias=False),
                "mlp": nn.Sequential(nn.Linear(width, 4 * width, bias=False), nn.GELU(),
                                     nn.Linear(4 * width, width, bias=False)),
            }) for _ in range(depth)
        )  # fmt: skip
        self.norm, self.head = nn.LayerNorm(width, bias=False), nn.Linear(width, symbols, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, symbols: torch.Tensor) -> torch.Tensor:
        """Return the logits (batch, time, symbols) of what follows."""
        (batch, time), x = symbols.shape, self.tokens(symbols) + self.positions(torch.arange(symbols.shape[1]))
        for block in self.blocks:
            parts = block["attend"](block["norm_1"](x)).split(x.shape[2], dim=2)
            heads = (part.view(batch, time, 4, -1).transpose(1, 2) for part in parts)
            mixed = nn.functional.scaled_dot_product_attention(*heads, is_causal=True)
            x = x + block["project"](mixed.transpose(1, 2).contiguous().view(batch, time, -1))
            x = x + block["mlp"](block["norm_2"](x))
        return self.head(self.norm(x))


def plain_text(text: torch.Tensor, symbols: int, steps: int, batch: int, context: int) -> float:
    """Tokens per second of nanoGPT's loop: windows drawn anywhere, AdamW in two groups, clipping, the loss read."""
    torch.manual_seed(0)
    model = PlainGPT(symbols, context)
    groups = [[p for p in model.parameters() if (p.ndim > 1) == wide] for wide in (True, False)]
    decays = [{"params": group, "weight_decay": decay} for group, decay in zip(groups, (0.1, 0.0), strict=True)]
    optimizer = torch.optim.AdamW(decays, lr=1e-3, betas=(0.9, 0.99))
    started = time.perf_counter()
    for _ in range(steps):
        offsets = torch.randint(len(text) - context, (batch,)).tolist()
        inputs, targets = (torch.stack([text[i + k : i + k + context] for i in offsets]) for k in (0, 1))
        loss = nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
    return steps * batch * context / (time.perf_counter() - started)


def against_nanogpt(rounds: int, steps: int = 50, batch: int = 12) -> Iterator[Measurement]:
    """Training of gpt_mini on text, at the batch of nanoGPT's recipe for a CPU."""
    data = definitions(batch_size=batch)
    context, text = data.train.inputs.shape[1], data.train.inputs.flatten()
    few = replace(data, train=data.train[: steps * batch], val=data.val[:batch], test=data.test[:batch])
    make, adamw = partial(GPT, **data.for_model), partial(torch.optim.AdamW, lr=1e-3, fused=True)
    pairs = [
        (context * ours(few, make, optimizer=adamw, clip_norm=1.0),
         plain_text(text, len(data.classes), steps, batch, context))
        for _ in range(rounds)
    ]  # fmt: skip
    yield compared("training, gpt_mini, batch 12", pairs, "tokens/s", "nanoGPT's loop and model", ">= 1")


def start(starts: int = 5) -> Iterator[Measurement]:
    """From the command to the first step, and our imports, in processes of their own."""
    code = """
import os, sys, time, torch
outputs, begun = sys.argv[1], float(sys.argv[2])
started = time.time()
import rootfree.train
imports = time.time() - started
def first_step(*_, **__):
    print(time.time() - begun, imports, flush=True)
    os._exit(0)
torch.optim.SGD.step = first_step
sys.argv[1:] = [f"outputs={outputs}"]
rootfree.train.main()
"""
    found = []
    for _ in range(starts):
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run([sys.executable, "-c", code, folder, str(time.time())], cwd=ROOT, text=True,
                                  stdout=subprocess.PIPE, check=True)  # fmt: skip
        found.append([float(word) for word in done.stdout.splitlines()[-1].split()])
    first, imports = map(statistics.median, zip(*found, strict=True))
    yield row("command to first step, data cached", first, "s", bound="<= 8", note=f"{starts} starts")
    yield row("imports beyond torch", imports, "s", bound="<= 1", note=f"{starts} starts")


def two_processes() -> Iterator[Measurement]:
    """One process with one thread against two, of a model without batch statistics."""
    speeds = []
    for count in (2, 1):
        with tempfile.TemporaryDirectory() as folder:
            launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
            words = ["model=vit_tiny", "model.patch=8", "trainer.epochs=2", "wandb.mode=disabled", f"outputs={folder}"]
            subprocess.run([sys.executable, *launcher, "-m", "rootfree.train", *words], cwd=ROOT, check=True,
                           capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
            (metrics,) = Path(folder).glob("*/metrics.jsonl")
            speeds.append(json.loads(metrics.read_text().splitlines()[-1])["images_per_second"])
    yield compared("training, vit_tiny, two processes", [(speeds[0], speeds[1])], "images/s", "one process")


def main() -> None:
    """Parse the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("results/bench_training.csv"), help="the table to write")
    parser.add_argument("--rounds", type=int, default=5, help="epochs per comparison")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--photos", type=Path, help="an image folder of 112-pixel JPEG files, for the loader of files")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    parts = [against_a_plain_loop(args.rounds), against_nanogpt(args.rounds), start(), two_processes()]
    parts += [large_images(args.photos)] if args.photos else []
    publish(chain.from_iterable(parts), args.output, describe_device(CPU))


if __name__ == "__main__":
    main()
