"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) through torchvision."""

from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Le, Lt

from rootfree.data.cache import cached
from rootfree.data.division import hold_out
from rootfree.data.splits import Split, TensorSplits, fingerprint

MD5 = {10: "c58f30108f718f92721af3b95e74349a", 100: "eb9058c3a382ffc7106e4002c42a8d85"}  # of the official archives


def cifar(
    num_classes: Literal[10, 100],
    root: str = "data",
    batch_size: Annotated[int, Gt(0)] = 128,
    val_size: Annotated[int, Gt(0), Lt(50_000)] = 5000,
    pad: Annotated[int, Ge(0)] = 4,
    flip: bool = True,
    label_noise: Annotated[float, Ge(0), Le(1)] = 0.0,
    download: bool = False,
    cache: str = "data/cache",
) -> TensorSplits:
    """CIFAR-10 or CIFAR-100: 50,000 training and 10,000 test images of 32x32 pixels.

    Pixels are normalised by the mean and sd of our training images; those of all 50,000 of CIFAR-100 are published as
    (0.5071, 0.4867, 0.4408) and (0.2675, 0.2565, 0.2761).

    Args:
        num_classes: which of the two.
        root: folder that holds, or receives, torchvision's `cifar-10-batches-py` or `cifar-100-python`.
        batch_size: images per training step.
        val_size: training images held out for validation, by a seeded stratified draw.
        pad: padding of the random crop, pixels.
        flip: mirror training images with probability 1/2.
        label_noise: share of the training images whose labels are permuted among them, as `with_label_noise` does.
        download: fetch the data (170 MB, checked against its MD5) if it is not there.
        cache: folder that keeps the images in one file, which is then used without looking at `root`.

    Raises:
        FileNotFoundError: if the data is not there and may not, or cannot, be fetched.
    """
    name = f"cifar{num_classes}"
    # torchvision checks the files against their MD5, so they have one possible content
    made = cached(Path(cache) / f"{name}-{MD5[num_classes][:16]}.pt",
                  lambda: _read(name.upper(), Path(root).expanduser(), download))  # fmt: skip
    whole, test = (Split(made[key]["images"], made[key]["labels"]) for key in ("train", "test"))
    train, val = hold_out(whole, val_size, seed=0)
    return TensorSplits(name, tuple(made["classes"]), train, val, test, made["fingerprint"], batch_size, pad,
                        flip).with_label_noise(label_noise)  # fmt: skip


def _read(kind: str, root: Path, download: bool) -> dict[str, Any]:
    from torchvision import datasets  # 1 s to import, needed only when nothing is cached

    try:
        parts = [getattr(datasets, kind)(root, train=train, download=download) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        remedy = "is the network there?" if download else "add dataset.download=true to fetch it"
        raise FileNotFoundError(f"{kind} is not in dataset.root = {root}: {remedy} ({error})") from error
    pixels = [torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous() for part in parts]
    whole, test = (Split(images, torch.tensor(part.targets)) for images, part in zip(pixels, parts, strict=True))
    classes = parts[0].classes
    return {
        "train": {"images": whole.inputs, "labels": whole.targets},
        "test": {"images": test.inputs, "labels": test.targets},
        "fingerprint": fingerprint({"train": whole, "test": test}, tuple(classes)),
        "classes": classes,
    }
