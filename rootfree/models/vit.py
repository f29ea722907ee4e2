"""Vision transformers for small images, on timm's `VisionTransformer`."""

import math
from itertools import pairwise
from typing import Annotated

from annotated_types import Gt
from torch import Tensor, nn

Positive = Annotated[int, Gt(0)]


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
