"""What a data set is to the trainer: three splits of inputs and targets, and batches made of them on the device."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Examples in memory: `inputs` (N, ...), for instance images (N, 3, H, W) uint8, and `targets` (N, ...) int64."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: Tensor | slice) -> "Split":
        return Split(self.inputs[index], self.targets[index])


@dataclass(frozen=True)
class Files:
    """Labelled images on disk: N `paths`, `targets` (N,) int64."""

    paths: list[Path]
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: Tensor) -> "Files":
        return Files([self.paths[i] for i in index.tolist()], self.targets[index])


S = TypeVar("S", Split, Files)


class Batches(ABC):
    """Iterate over a split: (inputs, targets), both on the device.

    Inputs are as the data's models want them, images (B, 3, H, W) float32 normalised and channels-last. Targets are
    classes (B, ...) int64, or probabilities (B, classes) float32 where images are mixed. The random numbers of an epoch
    are drawn for the whole split on each rank, and a rank takes its share of each batch: what is made of an example
    depends neither on the rank nor on how many there are.

    Args:
        split: the inputs and targets.
        device: where batches are made.
        batch_size: examples per batch, over all ranks together.
        generator: a CPU generator, advanced by each pass: shuffle and augment. None: every one once, in order, plain.
        shard: (rank, world). Where the last batch is smaller than the world, some ranks get an empty one.
        drop_last: leave out a last batch that is not full.

    Attributes:
        size: examples of one pass, over all ranks.
        steps: this rank's share of each batch, as positions in the order of the pass.
    """

    def __init__(
        self,
        split: Split | Files,
        device: torch.device,
        batch_size: int,
        generator: torch.Generator | None,
        shard: tuple[int, int],
        drop_last: bool = False,
    ) -> None:
        self.device, self.generator = device, generator
        self.size = len(split) // batch_size * batch_size if drop_last else len(split)
        if self.size == 0:
            raise ValueError(f"a batch of {batch_size} is not allowed: there are {len(split)} examples, and drop_last")
        rank, world = shard
        sizes = [min(batch_size, self.size - start) for start in range(0, self.size, batch_size)]
        self.steps = [
            range(i * batch_size + size * rank // world, i * batch_size + size * (rank + 1) // world)
            for i, size in enumerate(sizes)
        ]

    def __len__(self) -> int:
        return len(self.steps)

    @abstractmethod
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...


@dataclass(frozen=True)
class Splits(ABC, Generic[S]):
    """A data set ready for training; `test` is looked at once, after the last epoch.

    Attributes:
        name: what records and figures call it.
        classes: names of what a target can be, in their order.
        train: training examples, `val` already cut away.
        val: held out of train, for curves and every choice.
        test: for the final number only.
        fingerprint: hash of all inputs and targets: with `name` it identifies the data in a run id.
        batch_size: examples per training step.
    """

    name: str
    classes: tuple[str, ...]
    train: S
    val: S
    test: S
    fingerprint: str
    batch_size: int

    @property
    @abstractmethod
    def for_model(self) -> dict[str, int]:
        """What the function that makes a model is told of the data, by name."""

    @property
    def class_counts(self) -> dict[str, int]:
        """How many targets of the training split are of each class."""
        counts = torch.bincount(self.train.targets.flatten(), minlength=len(self.classes)).tolist()
        return dict(zip(self.classes, counts, strict=True))

    @property
    def description(self) -> str:
        """A line on what is trained on."""
        sizes = self.class_counts.values()
        return (f"{self.name}: {len(self.train)} training examples, {min(sizes)} to {max(sizes)} of each of "
                f"{len(sizes)} classes")  # fmt: skip

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed, which each rank does with those of its own share."""
        return False

    @abstractmethod
    def batches(
        self,
        split: S,
        device: torch.device,
        batch_size: int,
        generator: torch.Generator | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> Batches:
        """Make batches of a split; see `Batches` for the arguments."""


@dataclass(frozen=True)
class TensorSplits(Splits[Split]):
    """A data set of small images, held in memory.

    Attributes:
        pad: training images are zero-padded by this many pixels and cropped back at random.
        flip: training images are mirrored with probability 1/2.
    """

    pad: int
    flip: bool

    def with_label_noise(self, share: float) -> "TensorSplits":
        """Permute the labels of a share of the training images among them: one draw, the same for all runs.

        About one in (number of classes) of them gets the label that it had. Val and test stay as they are. Whatever is
        said of training images afterwards, training accuracy too, is about the labels that were trained on.
        """
        if share == 0:
            return self
        generator, labels = torch.Generator().manual_seed(2), self.train.targets.clone()  # hold_out has seeds 0 and 1
        chosen = torch.randperm(len(labels), generator=generator)[: round(share * len(labels))]
        labels[chosen] = labels[chosen[torch.randperm(len(chosen), generator=generator)]]
        mark = hashlib.sha256(f"{self.fingerprint} label_noise={share}".encode()).hexdigest()[:16]
        return replace(self, name=f"{self.name}-noise{100 * share:g}", train=Split(self.train.inputs, labels),
                       fingerprint=mark)  # fmt: skip

    @property
    def for_model(self) -> dict[str, int]:  # noqa: D102
        return {"num_classes": len(self.classes), "image_size": self.train.inputs.shape[-1]}

    @cached_property
    def pixel_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel of the training images, (1, 3, 1, 1) each, in grey levels."""
        # uint8 sums are exact in int64, so the statistics do not depend on the order of summation
        histogram = torch.stack([channel.flatten().bincount(minlength=256) for channel in self.train.inputs.unbind(1)])
        level, weight = torch.arange(256, dtype=torch.float64), histogram.double() / histogram[0].sum()
        mean = weight @ level
        std = (weight @ level**2 - mean**2).sqrt().clamp(min=1.0)
        return mean.float().view(1, 3, 1, 1), std.float().view(1, 3, 1, 1)

    def batches(  # noqa: D102
        self,
        split: Split,
        device: torch.device,
        batch_size: int,
        generator: torch.Generator | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> "TensorBatches":
        return TensorBatches(self, split, device, batch_size, generator, shard)


class TensorBatches(Batches):
    """Batches of a split that lives on the device, and is shuffled, cropped and flipped there.

    Args:
        data: gives the augmentation, and the training split whose mean and sd normalise the pixels.
        others: see `Batches`.
    """

    def __init__(self, data: TensorSplits, split: Split, device: torch.device, *others: Any) -> None:
        super().__init__(split, device, *others)
        layout = torch.channels_last  # turning each batch would cost more than all else that is done to it
        self.inputs, self.targets = split.inputs.to(device, memory_format=layout), split.targets.to(device)
        self.data = data
        self.mean, self.std = (  # of each pixel, since broadcasting to pixels is several times slower
            statistic.to(device).expand(1, *split.inputs.shape[1:]).contiguous(memory_format=layout)
            for statistic in data.pixel_statistics
        )

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        images, labels = self.inputs, self.targets
        if self.generator is not None:
            images, labels = self._shuffled_and_augmented(self.generator)
        for step in self.steps:
            pixels = images[step.start : step.stop].to(torch.float32)
            yield pixels.sub_(self.mean).div_(self.std), labels[step.start : step.stop]

    def _shuffled_and_augmented(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One epoch of training images, made at once: one copy per crop offset is far cheaper than one per image."""
        count, size, pad, device = len(self.targets), self.inputs.shape[-1], self.data.pad, self.device
        order = torch.randperm(count, generator=generator).to(device)
        offset = torch.randint((2 * pad + 1) ** 2, (count,), generator=generator).to(device)
        mirrored = torch.rand(count, generator=generator).to(device) < 0.5
        images = self.inputs[order]
        if pad:
            padded, images = F.pad(images, [pad] * 4), torch.empty_like(images)
            for which in range((2 * pad + 1) ** 2):
                row, column = divmod(which, 2 * pad + 1)
                chosen = (offset == which).nonzero().squeeze(1)
                images[chosen] = padded[chosen, :, row : row + size, column : column + size]
        if self.data.flip:
            images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)
        return images, self.targets[order]


@dataclass(frozen=True)
class PlainSplits(Splits[Split]):
    """A data set in memory whose inputs models take as they are."""

    def batches(  # noqa: D102
        self,
        split: Split,
        device: torch.device,
        batch_size: int,
        generator: torch.Generator | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> "PlainBatches":
        return PlainBatches(split, device, batch_size, generator, shard)


class PlainBatches(Batches):
    """Batches of a split that lives on the device, and is shuffled there; see `Batches` for the arguments."""

    def __init__(self, split: Split, device: torch.device, *others: Any) -> None:
        super().__init__(split, device, *others)
        self.inputs, self.targets = split.inputs.to(device), split.targets.to(device)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        inputs, targets = self.inputs, self.targets
        if self.generator is not None:
            order = torch.randperm(len(targets), generator=self.generator).to(self.device)
            inputs, targets = inputs[order], targets[order]
        for step in self.steps:
            yield inputs[step.start : step.stop], targets[step.start : step.stop]


def fingerprint(splits: Mapping[str, Split], classes: tuple[str, ...]) -> str:
    """Hash of all inputs, targets and class names: 16 hexadecimal digits."""
    digest = hashlib.sha256(repr(classes).encode())
    for name in sorted(splits):
        digest.update(f"{name} {tuple(splits[name].inputs.shape)}".encode())
        digest.update(splits[name].inputs.contiguous().numpy().data)
        digest.update(splits[name].targets.contiguous().numpy().data)
    return digest.hexdigest()[:16]
