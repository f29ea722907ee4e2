"""ConvNeXt, on timm's `ConvNeXt`."""

from typing import Annotated

from annotated_types import Ge, Gt, Lt
from torch import nn


def convnext_atto(
    num_classes: int,
    image_size: int,
    patch: Annotated[int, Gt(0)] | None = None,
    drop_path: Annotated[float, Ge(0), Lt(1)] = 0.0,
) -> nn.Module:
    """ConvNeXt-Atto (timm; Liu et al. 2022 scaled down): blocks 2, 2, 6, 2 of width 40, 80, 160, 320.

    Args:
        num_classes: number of logits.
        image_size: height and width of the images, pixels; at least 8 patches. What exceeds a multiple is cut off.
        patch: stride and side of the first convolution, pixels; None: 4, and 2 up to 64 pixels.
        drop_path: share of the last block's residuals that are dropped per image; rises linearly from 0 with depth.

    Raises:
        ValueError: if the images are too small.
    """
    patch = patch or (2 if image_size <= 64 else 4)
    if image_size < 8 * patch:
        raise ValueError(f"convnext_atto with model.patch = {patch} takes images of {8 * patch} pixels or more, "
                         f"not {image_size}")  # fmt: skip
    import timm

    return timm.create_model("convnext_atto", num_classes=num_classes, patch_size=patch, drop_path_rate=drop_path)
