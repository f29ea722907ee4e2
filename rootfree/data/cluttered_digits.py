"""`cluttered_digits`: the embedded data set, composed in seconds from real handwritten digits, no download.

The 1,797 scans of 8x8 pixels that scikit-learn ships are first divided into base images for train, val and test; then
each image of a split is composed from base images of that split alone: a bilinear background of four random corner
colours, two distractors (4x4 windows of other digits), one digit, scaled, rotated, sheared and placed anywhere, each
added along a random signed colour; then pixel noise. The label is the digit's.
"""

import math
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from PIL import Image

from rootfree.data.cache import cached
from rootfree.data.splits import Split, TensorSplits, fingerprint

SIZE = 32  # pixels
BASE = {"train": 1000, "val": 300, "test": 497}  # base digits, of 1,797
COUNT = {"train": 5000, "val": 2000, "test": 10000}  # composed images, classes balanced
VERSION = 1  # raise it when the composition changes, so that old cache files are not read


def cluttered_digits(
    batch_size: Annotated[int, Gt(0)] = 64,
    pad: Annotated[int, Ge(0)] = 2,
    label_noise: Annotated[float, Ge(0), Le(1)] = 0.0,
    cache: str = "data/cache",
) -> TensorSplits:
    """Handwritten digits on cluttered 32x32 colour backgrounds: 5,000 train, 2,000 val, 10,000 test, 10 classes.

    Args:
        batch_size: images per training step.
        pad: padding of the random crop, pixels. Digits are never mirrored.
        label_noise: share of the training images whose labels are permuted among them, as `with_label_noise` does.
        cache: folder that keeps the composed images.
    """
    made = _made(Path(cache))
    splits = {name: Split(made[name]["images"], made[name]["labels"]) for name in COUNT}
    classes = tuple(str(digit) for digit in range(10))
    return TensorSplits("cluttered_digits", classes, **splits, fingerprint=made["fingerprint"],
                        batch_size=batch_size, pad=pad, flip=False).with_label_noise(label_noise)  # fmt: skip


@lru_cache(maxsize=1)
def _made(cache: Path) -> dict[str, Any]:
    return cached(cache / f"cluttered_digits-{VERSION}.pt", compose)


def compose() -> dict[str, Any]:
    """Compose the three splits; the same bytes every time."""
    from sklearn.datasets import load_digits  # 2 s to import, needed only when nothing is cached

    digits, labels = load_digits(return_X_y=True)
    digits = (digits.reshape(-1, 8, 8) / 16).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(digits))
    splits, start = {}, 0
    for index, name in enumerate(BASE):
        base = order[start : start + BASE[name]]
        start += BASE[name]
        splits[name] = _compose_split(digits[base], labels[base], COUNT[name], np.random.default_rng([1, index]))
    made: dict[str, Any] = {name: {"images": s.inputs, "labels": s.targets} for name, s in splits.items()}
    made["fingerprint"] = fingerprint(splits, tuple(str(digit) for digit in range(10)))
    return made


def _compose_split(digits: np.ndarray, labels: np.ndarray, count: int, rng: np.random.Generator) -> Split:
    """Compose `count` images (count, 3, 32, 32) from base `digits` (n, 8, 8), with as many of each class."""
    images = np.empty((count, 3, SIZE, SIZE), np.uint8)
    target = rng.permutation(np.arange(count) % 10)
    of_class = [np.flatnonzero(labels == label) for label in range(10)]
    ramp = np.linspace(0.0, 1.0, SIZE)
    for i in range(count):
        corners = rng.random((2, 2, 3, 1, 1))
        top = corners[0, 0] * (1 - ramp) + corners[0, 1] * ramp
        bottom = corners[1, 0] * (1 - ramp) + corners[1, 1] * ramp
        canvas = top * (1 - ramp[:, None]) + bottom * ramp[:, None]
        digit = int(rng.choice(of_class[target[i]]))
        for other in rng.choice(np.delete(np.arange(len(digits)), digit), 2, replace=False):
            row, column = rng.integers(5, size=2)
            window = digits[other, row : row + 4, column : column + 4]
            canvas += _stroke(window, rng, size=(8, 14), angle=180.0, shear=0.0, amplitude=(0.25, 0.5))
        canvas += _stroke(digits[digit], rng, size=(20, 26), angle=15.0, shear=0.2, amplitude=(0.6, 1.2))
        canvas += rng.normal(0.0, 0.04, canvas.shape)
        images[i] = np.rint(canvas.clip(0.0, 1.0) * 255).astype(np.uint8)
    return Split(torch.from_numpy(images), torch.from_numpy(target.astype(np.int64)))


def _stroke(
    patch: np.ndarray,
    rng: np.random.Generator,
    size: tuple[int, int],
    angle: float,
    shear: float,
    amplitude: tuple[float, float],
) -> np.ndarray:
    """Place a square patch anywhere on the canvas, along a random signed colour: (3, 32, 32).

    Args:
        patch: grey values in [0, 1].
        rng: source of all choices.
        size: least and greatest side on the canvas, pixels.
        angle: greatest rotation either way, degrees.
        shear: greatest shear either way.
        amplitude: least and greatest size of the colour's strongest channel.
    """
    pixels = int(rng.integers(size[0], size[1] + 1))
    turn, slant = math.radians(rng.uniform(-angle, angle)), rng.uniform(-shear, shear)
    x, y = rng.uniform(pixels / 2, SIZE - pixels / 2, 2)  # centre
    # a border of zeros lets the bicubic kernel fade out instead of cutting the patch off at its edge
    framed = np.pad(patch, 2)
    # PIL wants the map from canvas to patch: from the centre, turn back, shear back, scale down
    scale, middle = len(patch) / pixels, len(framed) / 2
    cos, sin = math.cos(turn) * scale, math.sin(turn) * scale
    a, b, d, e = cos + slant * sin, sin - slant * cos, -sin, cos
    inverse = (a, b, middle - a * x - b * y, d, e, middle - d * x - e * y)
    image = Image.fromarray(framed)
    mask = image.transform((SIZE, SIZE), Image.Transform.AFFINE, inverse, Image.Resampling.BICUBIC)
    colour = rng.normal(size=3)
    colour *= rng.uniform(*amplitude) / np.abs(colour).max()
    return colour[:, None, None] * np.asarray(mask)
