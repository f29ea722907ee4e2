"""`large_image_folder`: images above 64 pixels, decoded by worker processes as they are needed, and ImageNet's subsets.

Workers decode, crop and distort 8-bit pixels; the device turns whole batches into normalised floats and mixes them.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le, Lt
from PIL import Image
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from rootfree.data.cache import cached, source_key
from rootfree.data.decoder import MEAN, STD, Decoder, Erasing, seeded
from rootfree.data.division import divide
from rootfree.data.download import download_folder
from rootfree.data.image_folder import flat, list_splits, read_image, refuse
from rootfree.data.splits import Batches, Files, Splits

SHARED_MEMORY = Path("/dev/shm")  # where, on Linux, workers hand over their batches
TIMEOUT = 300  # seconds that may pass until the next batch
Share = Annotated[float, Ge(0), Le(1)]


def large_image_folder(
    root: str,
    name: str,
    batch_size: Annotated[int, Gt(0)] = 128,
    image_size: Annotated[int, Ge(8)] = 224,
    val_share: Annotated[float, Gt(0), Lt(1)] = 0.1,
    train_size: Annotated[int, Gt(0)] | None = None,
    scale: tuple[Annotated[float, Gt(0), Le(1)], Annotated[float, Gt(0), Le(1)]] = (0.08, 1.0),
    flip: bool = True,
    color_jitter: Share = 0.4,
    rand_augment: Annotated[int, Ge(0), Le(30)] | None = None,
    erasing: Share = 0.25,
    mixup: Annotated[float, Ge(0)] = 0.0,
    cutmix: Annotated[float, Ge(0)] = 0.0,
    crop: Annotated[float, Gt(0), Le(1)] = 0.875,
    drop_last: bool = False,
    workers: Annotated[int, Ge(0)] = 2,
    class_list: str | None = None,
    url: str | None = None,
    md5: str | None = None,
    download: bool = False,
    cache: str = "data/cache",
) -> "FileSplits":
    """Images in class folders, kept on disk. Training: random resized crops, distorted; else: resize, centre crop.

    The first time, every image is decoded once, so that damaged ones are found before the training and not in it. A
    class's images may lie in folders below its own. What else lies below `root` is counted, by kind, in one line.

    Args:
        root: folder that holds `train/<class>/*` and `test/<class>/*` (or `val/<class>/*`: used as the test split).
        name: what records and figures call the data; with the files' hash it identifies them, the path does not.
        batch_size: images per training step.
        image_size: height and width of what the model sees, pixels.
        val_share: share of the training images held out for validation, by a seeded stratified draw.
        train_size: use only so many of the remaining training images, drawn once, stratified; all if null.
        scale: least and greatest share of an image's area that a training crop covers; its sides are 3:4 to 4:3.
        flip: mirror training images with probability 1/2.
        color_jitter: greatest change of brightness, contrast and saturation, each a share.
        rand_augment: magnitude, of 30, of two random operations of RandAugment (Cubuk et al. 2020); none if null.
        erasing: probability that a rectangle of 1/50 to 1/3 of a training image becomes noise.
        mixup: alpha of mixup (Zhang et al. 2018), 0 for none; labels become probabilities.
        cutmix: alpha of CutMix (Yun et al. 2019), 0 for none; with both, half of the batches each. A rank mixes the
            images of its own share of a batch.
        crop: share of the resized image's side that the centre crop keeps outside training.
        drop_last: leave out a last training batch that is not full.
        workers: processes that decode, for each split and rank; 0 for this process. Says nothing about the result.
        class_list: file with the names of the classes to use, one a line; all if null. A relative path starts at
            the folder of this module.
        url: archive to fetch the data from.
        md5: the archive's checksum.
        download: fetch the data if `root` is not there.
        cache: folder that remembers which images were decoded without error.

    Raises:
        FileNotFoundError: if `root` or a split folder is missing.
        ValueError: if there are fewer than two classes, classes differ between splits, a class is empty,
            images cannot be decoded (all are named), there are too few images for the split, or a setting cannot work
            with another.
    """
    folder = Path(root).expanduser().resolve()
    if url is not None:
        download_folder(folder, url, md5, download)
    elif download:
        raise ValueError("dataset.download = true is not allowed: dataset.url does not say from where")
    if scale[0] > scale[1]:
        raise ValueError(f"dataset.scale = {scale} is not allowed: the least comes first")
    only = (Path(__file__).parent / Path(class_list).expanduser()).read_text().split() if class_list else None
    listing = list_splits(folder, only=only)
    splits, classes = {split: flat(found) for split, found in listing.items()}, tuple(sorted(listing["train"]))
    files = [path for found in splits.values() for path in found.paths]
    fingerprint = cached(Path(cache) / f"large_image_folder-{source_key(files)}.pt",
                         lambda: {"fingerprint": _verify(splits, classes)})["fingerprint"]  # fmt: skip
    train, val = divide(splits["train"], val_share, train_size)

    bicubic = v2.InterpolationMode.BICUBIC
    distort: list[Callable] = [v2.RandomResizedCrop(image_size, scale, interpolation=bicubic)]
    if flip:
        distort.append(v2.RandomHorizontalFlip())
    if rand_augment is not None:
        distort.append(v2.RandAugment(magnitude=rand_augment, interpolation=v2.InterpolationMode.BILINEAR))
    if color_jitter:
        distort.append(v2.ColorJitter(color_jitter, color_jitter, color_jitter))
    distort += [v2.PILToTensor(), Erasing(erasing, (1 / 50, 1 / 3), (0.3, 1 / 0.3), "random")]
    plain = [v2.Resize(round(image_size / crop), bicubic), v2.CenterCrop(image_size), v2.PILToTensor()]
    return FileSplits(name, classes, train, val, splits["test"], fingerprint, batch_size, image_size,
                      v2.Compose(distort), v2.Compose(plain), mixup, cutmix, drop_last, workers)  # fmt: skip


def _verify(splits: dict[str, Files], classes: tuple[str, ...]) -> str:
    """Decode every image once, and return a hash of all files, labels and class names: 16 hexadecimal digits."""

    def check(path: Path) -> bytes | ValueError:
        try:
            read_image(path, least=1)  # all of a JPEG's bytes are read even for the smallest size
        except ValueError as error:
            return error
        return hashlib.sha256(path.read_bytes()).digest()

    digest, damaged = hashlib.sha256(repr(classes).encode()), []
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoders let go of Python's lock
        for split, found in sorted(splits.items()):
            digest.update(split.encode() + found.targets.numpy().tobytes())
            for content in track(pool.map(check, found.paths), f"verifying {split}", len(found)):
                if isinstance(content, ValueError):
                    damaged.append(content)
                else:
                    digest.update(content)
    refuse(damaged)
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class FileSplits(Splits[Files]):
    """A data set of images that stay on disk.

    Attributes:
        side: height and width of what the model sees, pixels.
        distort: makes a training image, a tensor (3, side, side) uint8, of a PIL image, with torch's random numbers.
        plain: the same for other images, without random numbers.
        mixup: alpha, 0 for none.
        cutmix: alpha, 0 for none.
        drop_last: leave out a last training batch that is not full.
        workers: processes that decode.
    """

    side: int
    distort: Callable[[Image.Image], Tensor]
    plain: Callable[[Image.Image], Tensor]
    mixup: float
    cutmix: float
    drop_last: bool
    workers: int

    @property
    def for_model(self) -> dict[str, int]:  # noqa: D102
        return {"num_classes": len(self.classes), "image_size": self.side}

    @property
    def mixes(self) -> bool:  # noqa: D102
        return self.mixup > 0 or self.cutmix > 0

    def batches(  # noqa: D102
        self,
        split: Files,
        device: torch.device,
        batch_size: int,
        generator: torch.Generator | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> "FileBatches":
        return FileBatches(self, split, device, batch_size, generator, shard)


class FileBatches(Batches):
    """Batches of images that are decoded as they are needed.

    Each image has a random seed of its own, so that its pixels depend on `generator` alone: not on workers or ranks.

    Args:
        data: gives the transforms.
        others: see `Batches`.

    Raises:
        ValueError: if images are to be mixed and a rank has an odd number of them, or if the workers' batches have no
            room in shared memory.
    """

    def __init__(
        self,
        data: FileSplits,
        split: Files,
        device: torch.device,
        batch_size: int,
        generator: torch.Generator | None,
        shard: tuple[int, int],
    ) -> None:
        training = generator is not None
        super().__init__(split, device, batch_size, generator, shard, training and data.drop_last)
        self.targets = split.targets.to(device)
        self.mean, self.std = (255 * torch.tensor(s, device=device).view(1, 3, 1, 1) for s in (MEAN, STD))
        self._mix = None
        if training and (data.mixup or data.cutmix):
            from timm.data import Mixup  # 2 s to import

            if any(len(step) % 2 for step in self.steps):
                raise ValueError("dataset.mixup and cutmix pair images: each rank needs an even number of them; take "
                                 "an even dataset.batch_size, and dataset.drop_last=true")  # fmt: skip
            self._mix = Mixup(data.mixup, data.cutmix, label_smoothing=0.0, num_classes=len(data.classes))
        if data.workers:  # each makes two batches ahead, and one is in use
            at_once = min(2 * data.workers + 1, len(self.steps))
            _check_room(at_once * max(map(len, self.steps)) * 3 * data.side**2)
        self._epoch: list[list[tuple[int, int]]] = []  # (image, seed) of each batch: what the loader's workers are told
        decoder = Decoder(split.paths, data.distort if training else data.plain, data.side)
        self._loader: DataLoader[Tensor] = DataLoader(
            decoder,  # type: ignore[arg-type]
            batch_size=None,  # the workers make whole batches
            sampler=self._epoch,
            num_workers=data.workers,
            persistent_workers=data.workers > 0,
            timeout=TIMEOUT if data.workers else 0,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # or the loader would draw from the global one
        )

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        count = len(self.targets)
        order, seeds, mixing = torch.arange(count), torch.zeros(count, dtype=torch.long), torch.zeros(len(self))
        if self.generator is not None:
            order = torch.randperm(count, generator=self.generator)
            seeds = torch.randint(2**62, (count,), generator=self.generator)
            mixing = torch.randint(2**32, (len(self),), generator=self.generator)
        pairs = list(zip(order.tolist(), seeds.tolist(), strict=True))
        self._epoch[:] = [pairs[step.start : step.stop] for step in self.steps]
        order = order.to(self.device)
        for step, pixels, seed in zip(self.steps, self._loaded(), mixing.tolist(), strict=True):
            images = pixels.to(self.device, non_blocking=True).to(torch.float32, memory_format=torch.channels_last)
            images, labels = (images - self.mean) / self.std, self.targets[order[step.start : step.stop]]
            yield (images, labels) if self._mix is None else seeded(self._mix, seed, images, labels)

    def _loaded(self) -> Iterator[Tensor]:
        """Iterate over the loader; without its timeout, a worker that finds no room would be waited for, for ever."""
        try:
            yield from self._loader
        except RuntimeError as error:
            if "timed out" not in str(error):
                raise
            raise RuntimeError(f"no batch came within {TIMEOUT} s: the disk may hang, or {SHARED_MEMORY} be full, "
                               "which dataset.workers=0 does without") from error  # fmt: skip


def _check_room(needed: int) -> None:
    free = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else needed
    if free < needed:
        raise ValueError(f"the batches of dataset.workers need {needed / 2**20:.0f} MB in {SHARED_MEMORY}, which has "
                         f"{free / 2**20:.0f} MB: make it larger (docker run --shm-size=1g), take smaller batches "
                         "(dataset.batch_size, trainer.eval_batch_size), or dataset.workers=0")  # fmt: skip
