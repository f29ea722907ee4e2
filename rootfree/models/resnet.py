"""Residual networks for small images: `resnet8` for one CPU thread, `resnet18` as the field knows it."""

from typing import Annotated

from annotated_types import Gt
from torch import nn


def resnet8(num_classes: int, image_size: int, stem_stride: Annotated[int, Gt(0)] = 2) -> nn.Module:
    """ResNet-8 (He et al. 2016, section 4.2): three stages of one basic block with 16, 32 and 64 channels.

    Args:
        num_classes: number of logits.
        image_size: height and width of the images, pixels; any size works.
        stem_stride: stride of the first convolution; 2 makes a step four times cheaper than the literature's 1.
    """
    from timm.models.resnet import BasicBlock  # 2 s to import, for nothing where a run is finished already

    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stem_stride, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        BasicBlock(16, 16),
        BasicBlock(16, 32, stride=2, downsample=_projection(16, 32)),
        BasicBlock(32, 64, stride=2, downsample=_projection(32, 64)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, num_classes),
    )


def _projection(channels: int, wider: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, wider, 1, 2, bias=False), nn.BatchNorm2d(wider))


def resnet18(num_classes: int, image_size: int) -> nn.Module:
    """ResNet-18 (timm), every block starting with ones in its last norm, as in the paper's CIFAR networks.

    Args:
        num_classes: number of logits.
        image_size: height and width of the images, pixels; up to 64 give the CIFAR stem, a 3x3 convolution of stride 1
            without pooling.
    """
    import timm

    model: nn.Module = timm.create_model("resnet18", num_classes=num_classes, zero_init_last=False)
    if image_size <= 64:
        model.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        model.maxpool = nn.Identity()
    return model
