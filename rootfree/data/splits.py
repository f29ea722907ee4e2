"""What a data set is to the trainer: three splits of labelled uint8 images, and batches made of them on the device."""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Labelled images: `images` (N, 3, H, W) uint8, `labels` (N,) int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> "Split":
        return Split(self.images[index], self.labels[index])


@dataclass(frozen=True)
class Splits:
    """A data set ready for training; `test` is looked at once, after the last epoch.

    Attributes:
        name: what records and figures call it.
        classes: class names, in label order.
        train: training images, `val` already cut away.
        val: held out of train, for curves and every choice.
        test: for the final number only.
        fingerprint: hash of all pixels and labels: with `name` it identifies the data in a run id.
        batch_size: images per training step.
        pad: training images are zero-padded by this many pixels and cropped back at random.
        flip: training images are mirrored with probability 1/2.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    test: Split
    fingerprint: str
    batch_size: int
    pad: int
    flip: bool

    @cached_property
    def pixel_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel of the training images, (1, 3, 1, 1) each, in grey levels."""
        # uint8 sums are exact in int64, so the statistics do not depend on the order of summation
        histogram = torch.stack([channel.flatten().bincount(minlength=256) for channel in self.train.images.unbind(1)])
        level, weight = torch.arange(256, dtype=torch.float64), histogram.double() / histogram[0].sum()
        mean = weight @ level
        std = (weight @ level**2 - mean**2).sqrt().clamp(min=1.0)
        return mean.float().view(1, 3, 1, 1), std.float().view(1, 3, 1, 1)

    @property
    def image_size(self) -> int:
        """Height and width in pixels."""
        return self.train.images.shape[-1]

    def batches(
        self, split: Split, device: torch.device, batch_size: int, generator: torch.Generator | None = None
    ) -> "Batches":
        """Make batches of a split on a device; augmented, in random order, if a generator is given."""
        return Batches(split, self, device, batch_size, generator)


class Batches:
    """Iterate over a split that lives on the device: shuffled, cropped and flipped there if a generator is given.

    All random numbers come from `generator`, a CPU generator whatever the device, so that a seed gives the same
    batches everywhere. The last batch may be smaller. Without a generator: every image once, in order, unchanged.

    Args:
        split: the images and labels.
        data: gives the batch size, the augmentation, and the training split whose mean and sd normalise the pixels.
        device: where batches are made.
        batch_size: images per batch.
        generator: source of order and augmentation, advanced by each pass.
    """

    def __init__(
        self,
        split: Split,
        data: Splits,
        device: torch.device,
        batch_size: int,
        generator: torch.Generator | None = None,
    ) -> None:
        self.images, self.labels = split.images.to(device), split.labels.to(device)
        self.device, self.size = device, len(split)
        self.data, self.batch_size, self.generator = data, batch_size, generator
        self.mean, self.std = (statistic.to(device) for statistic in data.pixel_statistics)

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        images, labels = self.images, self.labels
        if self.generator is not None:
            images, labels = self._shuffled_and_augmented()
        for start in range(0, len(labels), self.batch_size):
            batch = images[start : start + self.batch_size]
            pixels = batch.to(torch.float32, memory_format=torch.channels_last)
            yield (pixels - self.mean) / self.std, labels[start : start + self.batch_size]

    def _shuffled_and_augmented(self) -> tuple[Tensor, Tensor]:
        """One epoch of training images, made at once: one copy per crop offset is far cheaper than one per image."""
        count, size, pad, device = len(self.labels), self.images.shape[-1], self.data.pad, self.images.device
        order = torch.randperm(count, generator=self.generator).to(device)
        offset = torch.randint((2 * pad + 1) ** 2, (count,), generator=self.generator).to(device)
        mirrored = torch.rand(count, generator=self.generator).to(device) < 0.5
        images = self.images[order]
        if pad:
            padded, images = F.pad(images, [pad] * 4), torch.empty_like(images)
            for which in range((2 * pad + 1) ** 2):
                row, column = divmod(which, 2 * pad + 1)
                chosen = (offset == which).nonzero().squeeze(1)
                images[chosen] = padded[chosen, :, row : row + size, column : column + size]
        if self.data.flip:
            images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)
        return images, self.labels[order]


def fingerprint(splits: dict[str, Split], classes: tuple[str, ...]) -> str:
    """Hash of every pixel, label and class name: 16 hexadecimal digits."""
    digest = hashlib.sha256(repr(classes).encode())
    for name in sorted(splits):
        digest.update(f"{name} {tuple(splits[name].images.shape)}".encode())
        digest.update(splits[name].images.contiguous().numpy().data)
        digest.update(splits[name].labels.numpy().data)
    return digest.hexdigest()[:16]


def cached(file: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return `make()`, kept in `file`: tensors and plain values only; written atomically, read back memory-mapped."""
    if not file.exists():
        value = make()
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}.part")
        with part.open("wb") as stream:
            torch.save(value, stream)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(file)
    try:
        return torch.load(file, weights_only=True, mmap=True)
    except RuntimeError as error:
        raise ValueError(f"{file} is damaged: remove it, it will be made again") from error


def hold_out(split: Split, count: int, seed: int) -> tuple[Split, Split]:
    """Cut `count` images from a split by a seeded stratified draw; return (the rest, the held-out).

    Args:
        split: the images to divide.
        count: how many to hold out, shared out over the classes in proportion (largest remainders first).
        seed: of the draw; not the run's seed, so that all runs share one validation split.

    Raises:
        ValueError: if a class would be left without an image on either side.
    """
    sizes = torch.bincount(split.labels).double()
    exact = sizes * count / len(split)
    quota = exact.floor().long()
    quota[(quota - exact).argsort(stable=True)[: count - int(quota.sum())]] += 1
    if int(quota.min()) < 1 or bool((quota >= sizes).any()):
        raise ValueError(
            f"cannot hold out {count} of {len(split)} images: the smallest of {len(sizes)} classes has "
            f"{int(sizes.min())}, and each class needs an image on both sides"
        )
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))
    held = torch.cat([order[split.labels[order] == label][:size] for label, size in enumerate(quota.tolist())])
    rest = torch.ones(len(split), dtype=torch.bool)
    rest[held] = False
    return split[rest.nonzero().squeeze(1)], split[held.sort().values]
