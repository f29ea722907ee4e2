"""`tiny_imagenet` (Stanford CS231n): 200 classes of ImageNet at 64x64 pixels, 100,000 training images."""

from collections import Counter
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

from rootfree.data.download import download_folder
from rootfree.data.image_folder import Listing, check_classes, decoded, images_of, in_memory, list_splits
from rootfree.data.listing import is_leftover
from rootfree.data.splits import TensorSplits

URL, MD5 = "http://cs231n.stanford.edu/tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de"


def tiny_imagenet(
    root: str = "data/tiny-imagenet-200",
    batch_size: Annotated[int, Gt(0)] = 128,
    val_share: Annotated[float, Gt(0), Lt(1)] = 0.1,
    pad: Annotated[int, Ge(0)] = 8,
    flip: bool = True,
    label_noise: Annotated[float, Ge(0), Le(1)] = 0.0,
    download: bool = False,
    cache: str = "data/cache",
) -> TensorSplits:
    """Tiny ImageNet as distributed, or put into class folders; its `val`, which has labels, is our test split.

    Args:
        root: folder that holds, or receives, `train` and `val`.
        batch_size: images per training step.
        val_share: share of the training images held out for validation, by a seeded stratified draw.
        pad: padding of the random crop, pixels.
        flip: mirror training images with probability 1/2.
        label_noise: share of the training images whose labels are permuted among them, as `with_label_noise` does.
        download: fetch the data (248 MB, checked against its MD5) if `root` is not there.
        cache: folder that keeps the decoded images.

    Raises:
        FileNotFoundError: if the data is not there and may not, or cannot, be fetched.
        ValueError: as `image_folder`.
    """
    folder = Path(root).expanduser().resolve()
    download_folder(folder, URL, MD5, download)
    annotations = folder / "val" / "val_annotations.txt"
    if annotations.is_file():  # train/<class>/images/*, val/images/* with a table of classes
        listing = {"train": _train(folder / "train"), "test": _val(annotations)}
        check_classes(folder, listing)
    else:
        listing = list_splits(folder, test=("val",))
    return in_memory(decoded(64, Path(cache), listing), "tiny_imagenet", batch_size, val_share, None, pad,
                     flip).with_label_noise(label_noise)  # fmt: skip


def _train(folder: Path) -> Listing:
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not is_leftover(path.name))
    return {path.name: images_of(path / "images", Counter()) for path in classes}


def _val(annotations: Path) -> Listing:
    listing: dict[str, list[Path]] = {}
    for line in sorted(annotations.read_text().splitlines()):
        file, name = line.split("\t")[:2]
        listing.setdefault(name, []).append(annotations.parent / "images" / file)
    return listing
