"""`image_folder`: any folder of images `<root>/<split>/<class>/<file>`, decoded once, then read from one file."""

import hashlib
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Gt, Lt
from PIL import Image, ImageOps
from rich.progress import track

from rootfree.data.splits import Split, Splits, cached, fingerprint, hold_out

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif"}
VERSION = 1  # raise it when decoding changes, so that old cache files are not read
TRAIN, TEST = ("train", "training"), ("test", "val", "valid", "validation")


def image_folder(
    root: str,
    name: str,
    batch_size: Annotated[int, Gt(0)] = 64,
    image_size: Annotated[int, Ge(8)] = 32,
    val_share: Annotated[float, Gt(0), Lt(1)] = 0.1,
    train_size: Annotated[int, Gt(0)] | None = None,
    pad: Annotated[int, Ge(0)] = 4,
    flip: bool = True,
    cache: str = "data/cache",
) -> Splits:
    """Images in class folders, resized (shorter side, then centre crop) to `image_size`, held in memory as uint8.

    Args:
        root: folder that holds `train/<class>/*` and `test/<class>/*` (or `val/<class>/*`: used as the test split).
        name: what records and figures call the data; with the pixels' hash it identifies them, the path does not.
        batch_size: images per training step.
        image_size: height and width, pixels.
        val_share: share of the training images held out for validation, by a seeded stratified draw.
        train_size: use only so many of the remaining training images, drawn once, stratified; all if null.
        pad: padding of the random crop, pixels.
        flip: mirror training images with probability 1/2.
        cache: folder that keeps the decoded images.

    Raises:
        FileNotFoundError: if `root` or a split folder is missing.
        ValueError: if there are fewer than two classes, classes differ between splits, a class is empty, an image
            cannot be decoded, or there are too few images for the split.
    """
    made = _decoded(Path(root).expanduser().resolve(), image_size, Path(cache))
    whole, test = (Split(made[key]["images"], made[key]["labels"]) for key in ("train", "test"))
    train, val = hold_out(whole, round(len(whole) * val_share), seed=0)
    if train_size is not None:
        if train_size > len(train):
            raise ValueError(f"dataset.train_size = {train_size} is not allowed: {name} has {len(train)} after val")
        train = train if train_size == len(train) else hold_out(train, train_size, seed=1)[1]
    return Splits(name, tuple(made["classes"]), train, val, test, fingerprint=made["fingerprint"],
                  batch_size=batch_size, pad=pad, flip=flip)  # fmt: skip


@lru_cache(maxsize=1)
def _decoded(root: Path, image_size: int, cache: Path) -> dict[str, Any]:
    """Decode a folder, or read what an earlier run decoded from files of the same names, sizes and times."""
    files = {"train": _list(root, TRAIN), "test": _list(root, TEST)}
    classes = {split: sorted({file.parent.name for file in found}) for split, found in files.items()}
    if classes["train"] != classes["test"]:
        odd = ", ".join(sorted(set(classes["train"]) ^ set(classes["test"])))
        raise ValueError(f"{root}: train and test must have the same classes, but these are in one only: {odd}")
    if len(classes["train"]) < 2:
        raise ValueError(f"{root}: only one class ({classes['train'][0]}); at least two are needed")
    stats = [
        (str(f.relative_to(root)), f.stat().st_size, f.stat().st_mtime_ns) for f in chain.from_iterable(files.values())
    ]
    key = hashlib.sha256(repr((VERSION, str(root), stats, image_size)).encode()).hexdigest()[:16]

    def decode() -> dict[str, Any]:
        splits = {split: _decode(found, classes["train"], image_size, split) for split, found in files.items()}
        made: dict[str, Any] = {split: {"images": s.images, "labels": s.labels} for split, s in splits.items()}
        made["fingerprint"] = fingerprint(splits, tuple(classes["train"]))
        made["classes"] = classes["train"]
        return made

    return cached(cache / f"image_folder-{key}.pt", decode)


def _list(root: Path, names: tuple[str, ...]) -> list[Path]:
    """List the image files of the first of the split folders `names` that exists, class by class, sorted."""
    if not root.is_dir():
        raise FileNotFoundError(
            f"dataset.root = {root} is not a folder: it must hold train/<class>/* and test/<class>/*"
        )
    folder = next((root / name for name in names if (root / name).is_dir()), None)
    if folder is None:
        raise FileNotFoundError(f"{root} has no folder {' or '.join(names)}: images belong in {names[0]}/<class>/*")
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    if not classes:
        raise ValueError(f"{folder} has no class folders: images belong in {folder.name}/<class>/*")
    files = []
    for path in classes:
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        if not found:
            raise ValueError(f"{path} is an empty class: no file ends in {', '.join(sorted(SUFFIXES))}")
        files += found
    return files


def _decode(files: list[Path], classes: list[str], image_size: int, split: str) -> Split:
    images = torch.empty(len(files), 3, image_size, image_size, dtype=torch.uint8)
    for i, file in enumerate(track(files, f"decoding {split}")):
        try:
            with Image.open(file) as image:
                upright = ImageOps.exif_transpose(image).convert("RGB")
                fitted = ImageOps.fit(upright, (image_size, image_size), Image.Resampling.BICUBIC)
        except Exception as error:  # decoders raise errors of many kinds
            raise ValueError(f"{file} is not a readable image: {error}. Repair or remove it") from error
        images[i] = torch.from_numpy(np.asarray(fitted).copy()).permute(2, 0, 1)
    index = {name: label for label, name in enumerate(classes)}
    return Split(images, torch.tensor([index[file.parent.name] for file in files]))
