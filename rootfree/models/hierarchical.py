"""Vision models that halve the side from stage to stage: Swin, FocalNet and GCViT, the paper's three, on timm."""

import math
from typing import Annotated

from annotated_types import Ge, Gt, Lt
from torch import nn

Positive = Annotated[int, Gt(0)]
DropRate = Annotated[float, Ge(0), Lt(1)]


def swin_tiny(
    num_classes: int,
    image_size: int,
    patch: Positive | None = None,
    window: Positive = 7,
    drop_path: DropRate = 0.2,
    outputs: Positive | None = None,
) -> nn.Module:
    """Swin-T (Liu et al. 2021, timm): blocks 2, 2, 6, 2 with heads 3, 6, 12, 24, width 96 at first.

    Args:
        num_classes: number of classes.
        image_size: height and width of the images, pixels; a multiple of `patch`, at least 16 patches.
        patch: pixels per side of what becomes one token; None: 4, and 2 up to 64 pixels.
        window: largest side of an attention window, tokens. Each stage halves its map until a window fits: 7 in all
            stages at 224 pixels; 7, 7, 7 and 4 at 112.
        drop_path: share of the last block's residuals that are dropped per image; rises linearly from 0 with depth.
        outputs: number of logits; None: one per class. The paper's runs left ImageNet's 1,000 for 10 classes.

    Raises:
        ValueError: if the images are too small, the patches do not tile them, or there are fewer outputs than classes.
    """
    patch = patch or (2 if image_size <= 64 else 4)
    outputs = outputs or num_classes
    if outputs < num_classes:
        raise ValueError(f"model.outputs = {outputs} is fewer than the {num_classes} classes")
    if image_size % patch or image_size < 16 * patch:  # smaller, and the last stage attends to a single token
        raise ValueError(f"swin_tiny with model.patch = {patch} takes images of {16 * patch} pixels or more, "
                         f"in multiples of {patch}, not {image_size}")  # fmt: skip
    import timm

    return timm.create_model(
        "swin_tiny_patch4_window7_224",
        num_classes=outputs,
        img_size=image_size,
        patch_size=patch,
        window_size=tuple(math.ceil(fit(side, window)) for side in sides(image_size, patch)),
        drop_path_rate=drop_path,
    )


def focalnet_tiny(num_classes: int, image_size: int, drop_path: DropRate = 0.1) -> nn.Module:
    """FocalNet-T with small receptive fields (Yang et al. 2022, timm's `focalnet_tiny_srf`).

    Args:
        num_classes: number of logits.
        image_size: height and width of the images, pixels; 32 or more, with patches of 4. What exceeds a multiple of
            32 may be cut off.
        drop_path: share of the last block's residuals that are dropped per image; rises linearly from 0 with depth.

    Raises:
        ValueError: if the images are too small.
    """
    if image_size < 32:
        raise ValueError(f"focalnet_tiny takes images of 32 pixels or more, not {image_size}")
    import timm

    return timm.create_model("focalnet_tiny_srf", num_classes=num_classes, drop_path_rate=drop_path)


def gcvit_xxtiny(num_classes: int, image_size: int, drop_path: DropRate = 0.2) -> nn.Module:
    """GCViT-XXT (Hatamizadeh et al. 2023, timm): windows attend to themselves and to a summary of the whole image.

    Args:
        num_classes: number of logits.
        image_size: height and width of the images, pixels; with patches of 4, each stage must halve its map to a
            window of at most 7 tokens, 14 in the third stage: at 224 pixels 7, 7, 14 and 7; at 112 7, 7, 7 and 4.
        drop_path: share of the last block's residuals that are dropped per image; rises linearly from 0 with depth.

    Raises:
        ValueError: if windows do not tile the images; it names the sizes that work.
    """
    if not _tiled(image_size):
        allowed = ", ".join(str(size) for size in range(64, 513) if _tiled(size))
        raise ValueError(f"gcvit_xxtiny takes images of {allowed} pixels (and twice the last ones), not {image_size}")
    import timm

    windows = tuple(int(fit(side, largest)) for side, largest in zip(sides(image_size, 4), (7, 7, 14, 7), strict=True))
    return timm.create_model(
        "gcvit_xxtiny", num_classes=num_classes, img_size=image_size, window_size=windows, drop_path_rate=drop_path
    )


def sides(image_size: int, patch: int) -> list[int]:
    """The sides of the four stages' maps, tokens; an odd side rounds up where it is halved."""
    return [math.ceil(image_size / patch / 2**stage) for stage in range(4)]


def fit(side: float, largest: int) -> float:
    """Halve a map's side until it is a window of at most `largest` tokens."""
    return side if side <= largest else fit(side / 2, largest)


def _tiled(image_size: int) -> bool:
    """Whether GCViT's windows tile the maps of all stages; timm miscounts the halvings of smaller images."""
    windows = [fit(side, largest) for side, largest in zip(sides(image_size, 4), (7, 7, 14, 7), strict=True)]
    return image_size % 4 == 0 and image_size >= 64 and all(window % 1 == 0 for window in windows)
