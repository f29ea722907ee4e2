"""`image_folder`: any folder of images `<root>/<split>/<class>/<file>`, decoded once, then read from one file."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Gt, Le, Lt
from PIL import Image, ImageOps
from rich.progress import track
from torch import Tensor

from rootfree.data.cache import cached, source_key
from rootfree.data.division import divide
from rootfree.data.listing import entries, files_below, kind_of, tell_unread
from rootfree.data.splits import Files, Split, TensorSplits, fingerprint

SUFFIXES = {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".gif",
            ".avif", ".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".tga"}  # fmt: skip
VERSION = 2  # raise it when decoding changes, so that old cache files are not read
TRAIN, TEST = ("train", "training"), ("test", "val", "valid", "validation")
LARGEST = 64  # pixels; larger images are better decoded as they are needed

Listing = dict[str, list[Path]]  # class name -> its files


def image_folder(
    root: str,
    name: str,
    batch_size: Annotated[int, Gt(0)] = 64,
    image_size: Annotated[int, Ge(8)] = 32,
    val_share: Annotated[float, Gt(0), Lt(1)] = 0.1,
    train_size: Annotated[int, Gt(0)] | None = None,
    pad: Annotated[int, Ge(0)] = 4,
    flip: bool = True,
    label_noise: Annotated[float, Ge(0), Le(1)] = 0.0,
    cache: str = "data/cache",
) -> TensorSplits:
    """Images in class folders, resized (shorter side, then centre crop) to `image_size`, held in memory as uint8.

    A class's images may lie in folders below its own. What else lies below `root` is counted, by kind, in one line.

    Args:
        root: folder that holds `train/<class>/*` and `test/<class>/*` (or `val/<class>/*`: used as the test split).
        name: what records and figures call the data; with the pixels' hash it identifies them, the path does not.
        batch_size: images per training step.
        image_size: height and width, pixels, up to 64.
        val_share: share of the training images held out for validation, by a seeded stratified draw.
        train_size: use only so many of the remaining training images, drawn once, stratified; all if null.
        pad: padding of the random crop, pixels.
        flip: mirror training images with probability 1/2.
        label_noise: share of the training images whose labels are permuted among them, as `with_label_noise` does.
        cache: folder that keeps the decoded images.

    Raises:
        FileNotFoundError: if `root` or a split folder is missing.
        ValueError: if there are fewer than two classes, classes differ between splits, a class is empty,
            images cannot be decoded (all are named), or there are too few images for the split.
    """
    if image_size > LARGEST:
        raise ValueError(f"dataset.image_size = {image_size} is not allowed: image_folder holds its images in memory, "
                         f"up to {LARGEST} pixels; for larger ones, dataset=large_image_folder")  # fmt: skip
    folder = Path(root).expanduser().resolve()
    made = decoded(image_size, Path(cache), list_splits(folder))
    return in_memory(made, name, batch_size, val_share, train_size, pad, flip).with_label_noise(label_noise)


def in_memory(
    made: dict[str, Any], name: str, batch_size: int, val_share: float, train_size: int | None, pad: int, flip: bool
) -> TensorSplits:
    """Make splits of what `decoded` returned."""
    whole, test = (Split(made[key]["images"], made[key]["labels"]) for key in ("train", "test"))
    train, val = divide(whole, val_share, train_size)
    return TensorSplits(name, tuple(made["classes"]), train, val, test, made["fingerprint"], batch_size, pad, flip)


def decoded(image_size: int, cache: Path, listing: Mapping[str, Listing]) -> dict[str, Any]:
    """Decode listed files, or read what an earlier run decoded from files of the same names, sizes and times."""
    splits = {split: flat(found) for split, found in listing.items()}

    def decode() -> dict[str, Any]:
        damaged: list[ValueError] = []
        made = {
            split: Split(_decode(found.paths, image_size, split, damaged), found.targets)
            for split, found in splits.items()
        }
        refuse(damaged)
        classes = list(listing["train"])
        content: dict[str, Any] = {split: {"images": s.inputs, "labels": s.targets} for split, s in made.items()}
        return {**content, "fingerprint": fingerprint(made, tuple(classes)), "classes": classes}

    key = source_key([path for found in splits.values() for path in found.paths], VERSION, image_size)
    return cached(cache / f"image_folder-{key}.pt", decode)


def list_splits(
    root: Path, train: tuple[str, ...] = TRAIN, test: tuple[str, ...] = TEST, only: list[str] | None = None
) -> dict[str, Listing]:
    """List the images of the first of the `train` and of the `test` folders that has class folders, class by class.

    Args:
        root: folder that holds both.
        train: possible names of the training images' folder.
        test: possible names of the test images' folder.
        only: use these classes and no others.

    Raises:
        FileNotFoundError: if a folder is missing.
        ValueError: if there are no class folders, a class is missing or empty, or classes differ between the splits.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"dataset.root = {root} is not a folder: give the one that holds train/<class>/* and "
                                "test/<class>/* (or val/<class>/*)")  # fmt: skip
    others: Counter[str] = Counter()
    folders = {"train": _split_folder(root, train), "test": _split_folder(root, test)}
    listing = {split: _list(folder, only, others) for split, folder in folders.items()}
    check_classes(root, listing)
    for path in entries(root):
        if not path.is_dir():
            others[kind_of(path)] += 1
        elif path not in folders.values():  # another split is counted; what else there is may be anything, of any size
            inside = sum(1 for _ in files_below(path)) if path.name in TRAIN + TEST else 0
            others[f"in {path.name}/" if inside else f"{path.name}/"] = inside
    tell_unread(root, others)
    return listing


def check_classes(root: Path, listing: Mapping[str, Listing]) -> None:
    """Refuse classes that are in one split only, and a single class."""
    if odd := set(listing["train"]) ^ set(listing["test"]):
        raise ValueError(f"{root}: train and test must have the same classes, but these are in one only: "
                         f"{', '.join(sorted(odd))}")  # fmt: skip
    if len(listing["train"]) < 2:
        raise ValueError(f"{root}: only one class ({', '.join(listing['train'])}); at least two are needed")


def flat(listing: Listing) -> Files:
    """Number the classes in the order of their names, and put their files one after the other."""
    names = sorted(listing)
    labels = [torch.full((len(listing[name]),), label) for label, name in enumerate(names)]
    return Files([file for name in names for file in listing[name]], torch.cat(labels))


def images_of(folder: Path, others: Counter[str]) -> list[Path]:
    """List the image files of a class and of the folders below, sorted, and count others; none is an error."""
    found = []
    for file in files_below(folder):
        if file.suffix.lower() in SUFFIXES:
            found.append(file)
        else:
            others[kind_of(file)] += 1
    if not found:
        raise ValueError(f"{folder} is an empty class: no file ends in {', '.join(sorted(SUFFIXES))}")
    return sorted(found, key=lambda file: str(file.relative_to(folder)))


def _split_folder(root: Path, names: tuple[str, ...]) -> Path:
    folders = [root / name for name in names if (root / name).is_dir()]
    if not folders:
        raise FileNotFoundError(f"{root} has no folder {' or '.join(names)}: images belong in {names[0]}/<class>/*")
    for folder in folders:
        if any(path.is_dir() for path in entries(folder)):
            return folder
    raise ValueError(f"{folder} has no class folders: images belong in {folder.name}/<class>/*")


def _list(folder: Path, only: list[str] | None, others: Counter[str]) -> Listing:
    classes = [path for path in entries(folder) if path.is_dir()]
    others.update(f"{kind_of(path)} beside the class folders" for path in entries(folder) if not path.is_dir())
    if only is not None:
        if missing := sorted(set(only) - {path.name for path in classes}):
            raise ValueError(f"{folder} lacks {len(missing)} of {len(only)} listed classes, such as {missing[0]}")
        classes = [path for path in classes if path.name in set(only)]
    return {path.name: images_of(path, others) for path in classes}


def _decode(files: list[Path], image_size: int, split: str, damaged: list[ValueError]) -> Tensor:
    images = torch.empty(len(files), 3, image_size, image_size, dtype=torch.uint8)
    for i, file in enumerate(track(files, f"decoding {split}")):
        try:
            fitted = ImageOps.fit(read_image(file), (image_size, image_size), Image.Resampling.BICUBIC)
        except ValueError as error:
            damaged.append(error)
        else:
            images[i] = torch.from_numpy(np.asarray(fitted).copy()).permute(2, 0, 1)
    return images


def refuse(damaged: list[ValueError]) -> None:
    """Raise one `ValueError` that names all damaged images, if there are any; of more than 100, the first."""
    if damaged:
        more = f"; and {len(damaged) - 100} more" if len(damaged) > 100 else ""
        raise ValueError(
            "; ".join(map(str, damaged[:100])) + more + f". Repair or remove {'it' if len(damaged) == 1 else 'them'}"
        )


def read_image(file: Path, least: int | None = None) -> Image.Image:
    """Decode an image of any kind to upright RGB of 8 bits; transparency is dropped.

    Args:
        file: the image.
        least: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, to no fewer pixels than this.

    Raises:
        ValueError: naming the file, if it cannot be decoded.
    """
    try:
        with Image.open(file) as image:
            if least is not None:
                image.draft(None, (least, least))
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):  # PIL would clip at 255
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            elif upright.mode in ("I", "F"):
                raise ValueError(f"what is black and white in pixels of mode {upright.mode} is not known")
            elif upright.mode == "P":  # PIL would warn of a palette with transparency
                upright = upright.convert("RGBA")
            return upright.convert("RGB")
    except Exception as error:  # decoders raise errors of many kinds
        raise ValueError(f"{file} is not a readable image: {error}") from error
