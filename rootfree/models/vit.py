"""Vision transformers: a small one with a convolutional stem, and ViT-Ti and ViT-S, on timm's `VisionTransformer`."""

import math
from itertools import pairwise
from typing import Annotated

from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

Positive = Annotated[int, Gt(0)]
DropRate = Annotated[float, Ge(0), Lt(1)]


def vit_mini(
    num_classes: int, image_size: int, patch: Positive = 8, dim: Positive = 96, depth: Positive = 3, heads: Positive = 4
) -> nn.Module:
    """A small ViT with a convolutional stem and average pooling, which learns from a few thousand images.

    Args:
        num_classes: number of logits.
        image_size: height and width of the images, pixels; a multiple of `patch`.
        patch: pixels per side of what becomes one token; a power of two.
        dim: width of a token.
        depth: number of blocks.
        heads: attention heads per block; divides `dim`.

    Raises:
        ValueError: if sizes do not divide as they must.
    """
    if dim % heads:
        raise ValueError(f"model.dim = {dim} is not a multiple of model.heads = {heads}")
    if patch < 2 or patch & (patch - 1):
        raise ValueError(f"model.patch = {patch} is not a power of two, 2 or more")
    if image_size % patch:
        raise ValueError(f"image size {image_size} is not a multiple of model.patch = {patch}")
    from timm.models.vision_transformer import VisionTransformer  # 2 s to import, for nothing where a run is finished

    return VisionTransformer(
        img_size=image_size,
        patch_size=patch,
        num_classes=num_classes,
        embed_dim=dim,
        depth=depth,
        num_heads=heads,
        mlp_ratio=2,
        class_token=False,
        global_pool="avg",
        embed_layer=ConvStem,
    )


class ConvStem(nn.Module):
    """Strided 3x3 convolutions from pixels (N, 3, H, W) to tokens (N, H/patch * W/patch, dim), each halving the side.

    Xiao et al. 2021, "Early convolutions help transformers see better": linear patches underfit at this scale.
    """

    def __init__(self, img_size: int, patch_size: int, in_chans: int, embed_dim: int, **_: object) -> None:
        super().__init__()
        self.num_patches = (img_size // patch_size) ** 2
        halvings = round(math.log2(patch_size))
        channels = [in_chans, *(embed_dim // 2 ** (halvings - 1 - i) for i in range(halvings))]
        self.layers = nn.Sequential()
        for narrow, wide in pairwise(channels):
            self.layers.append(nn.Conv2d(narrow, wide, 3, 2, 1, bias=False))
            self.layers.append(nn.BatchNorm2d(wide))
            self.layers.append(nn.ReLU(inplace=True))

    def forward(self, images: Tensor) -> Tensor:
        """Return the tokens of a batch of images, row by row."""
        return self.layers(images).flatten(2).transpose(1, 2)


def vit_tiny(num_classes: int, image_size: int, patch: Positive | None = None, drop_path: DropRate = 0.0) -> nn.Module:
    """ViT-Ti (Touvron et al. 2021, timm): 12 blocks of width 192 with 3 heads, class token, learned positions.

    Args:
        num_classes: number of logits.
        image_size: height and width of the images, pixels; a multiple of `patch`.
        patch: pixels per side of what becomes one token; None: 16 at 224 pixels, and for smaller images the largest
            power of two that leaves 8 tokens per side (8 at 112 and 64 pixels, 4 at 32).
        drop_path: share of the last block's residuals that are dropped per image; rises linearly from 0 with depth.

    Raises:
        ValueError: if the patches do not tile the images.
    """
    return _vit("vit_tiny_patch16_224", num_classes, image_size, patch, drop_path)


def vit_small(num_classes: int, image_size: int, patch: Positive | None = None, drop_path: DropRate = 0.0) -> nn.Module:
    """ViT-S (Touvron et al. 2021, timm): 12 blocks of width 384 with 6 heads, class token, learned positions.

    Args:
        num_classes: number of logits.
        image_size: height and width of the images, pixels; a multiple of `patch`.
        patch: pixels per side of what becomes one token; None: as for `vit_tiny`.
        drop_path: share of the last block's residuals that are dropped per image; rises linearly from 0 with depth.

    Raises:
        ValueError: if the patches do not tile the images.
    """
    return _vit("vit_small_patch16_224", num_classes, image_size, patch, drop_path)


def _vit(name: str, num_classes: int, image_size: int, patch: int | None, drop_path: float) -> nn.Module:
    patch = patch or next((size for size in (16, 8, 4, 2) if image_size >= 8 * size), 1)
    if image_size % patch:
        raise ValueError(f"image size {image_size} is not a multiple of model.patch = {patch}")
    import timm

    return timm.create_model(
        name, num_classes=num_classes, img_size=image_size, patch_size=patch, drop_path_rate=drop_path
    )
