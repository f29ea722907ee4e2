"""Vision transformers for small images, on timm's `VisionTransformer`."""

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


def vit_mini(num_classes: int, image_size: int, dim: int = 64, depth: int = 4, heads: int = 4) -> nn.Module:
    """A small ViT with a convolutional stem, average-pooled: it learns from a few thousand images of 32 pixels.

    The stem (Xiao et al. 2021, "Early convolutions help transformers see better") stands for patches of 4x4 pixels:
    plain linear patches of that size or larger underfit at this scale.

    Args:
        num_classes: number of logits.
        image_size: height and width of the images, pixels; a multiple of 4.
        dim: width of a token.
        depth: number of blocks.
        heads: attention heads per block; divides `dim`.
    """
    return VisionTransformer(
        img_size=image_size,
        patch_size=4,
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
    """Two strided convolutions from pixels (N, 3, H, W) to tokens (N, H/4 * W/4, `embed_dim`)."""

    def __init__(self, img_size: int, patch_size: int, in_chans: int, embed_dim: int, **_: object) -> None:
        super().__init__()
        self.num_patches = (img_size // patch_size) ** 2
        self.layers = nn.Sequential(
            nn.Conv2d(in_chans, embed_dim // 2, 3, 2, 1, bias=False),
            nn.BatchNorm2d(embed_dim // 2),
            nn.ReLU(inplace=True),
            nn.Conv2d(embed_dim // 2, embed_dim, 3, 2, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the tokens of a batch of images, row by row."""
        return self.layers(images).flatten(2).transpose(1, 2)
