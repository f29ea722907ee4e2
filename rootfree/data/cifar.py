"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) through torchvision."""

from functools import lru_cache
from pathlib import Path
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Lt

from rootfree.data.splits import Split, Splits, fingerprint, hold_out


def cifar10(
    root: str = "data",
    batch_size: Annotated[int, Gt(0)] = 128,
    val_size: Annotated[int, Gt(0), Lt(50_000)] = 5000,
    pad: Annotated[int, Ge(0)] = 4,
    flip: bool = True,
    download: bool = False,
) -> Splits:
    """CIFAR-10: 50,000 training and 10,000 test images of 32x32 pixels, 10 classes.

    Args:
        root: folder that holds, or receives, torchvision's `cifar-10-batches-py`.
        batch_size: images per training step.
        val_size: training images held out for validation, by a seeded stratified draw.
        pad: padding of the random crop, pixels.
        flip: mirror training images with probability 1/2.
        download: fetch the data (170 MB, checked by torchvision against its MD5) if it is not there.

    Raises:
        FileNotFoundError: if the data is not there and may not, or cannot, be fetched.
    """
    return _splits("CIFAR10", root, batch_size, val_size, pad, flip, download)


def cifar100(
    root: str = "data",
    batch_size: Annotated[int, Gt(0)] = 128,
    val_size: Annotated[int, Gt(0), Lt(50_000)] = 5000,
    pad: Annotated[int, Ge(0)] = 4,
    flip: bool = True,
    download: bool = False,
) -> Splits:
    """CIFAR-100: as `cifar10`, with 100 classes of 500 training images (`cifar-100-python`, 169 MB)."""
    return _splits("CIFAR100", root, batch_size, val_size, pad, flip, download)


def _splits(kind: str, root: str, batch_size: int, val_size: int, pad: int, flip: bool, download: bool) -> Splits:
    whole, test, classes, digest = _read(kind, Path(root), download)
    train, val = hold_out(whole, val_size, seed=0)
    return Splits(kind.lower(), classes, train, val, test, digest, batch_size, pad, flip)


@lru_cache(maxsize=1)
def _read(kind: str, root: Path, download: bool) -> tuple[Split, Split, tuple[str, ...], str]:
    from torchvision import datasets  # 1 s to import, needed by no other data set

    try:
        parts = [getattr(datasets, kind)(root, train=train, download=download) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        remedy = "is the network there?" if download else "add dataset.download=true to fetch it"
        raise FileNotFoundError(f"{kind} is not in dataset.root = {root}: {remedy} ({error})") from error
    pixels = [torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous() for part in parts]
    whole, test = (Split(images, torch.tensor(part.targets)) for images, part in zip(pixels, parts, strict=True))
    classes = tuple(parts[0].classes)
    return whole, test, classes, fingerprint({"train": whole, "test": test}, classes)
