"""Residual networks: `resnet8` for one CPU thread, `resnet18`, `resnet34` and `resnet50` as the field knows them."""

from typing import Annotated

from annotated_types import Gt
from torch import nn


def resnet8(
    num_classes: int, image_size: int, stem_stride: Annotated[int, Gt(0)] = 2, width: Annotated[int, Gt(0)] = 16
) -> nn.Module:
    """ResNet-8 (He et al. 2016, section 4.2): three stages of one basic block with 16, 32 and 64 channels.

    Args:
        num_classes: number of logits.
        image_size: height and width of the images, pixels; any size works.
        stem_stride: stride of the first convolution; 2 makes a step four times cheaper than the literature's 1.
        width: channels of the first stage.
    """
    from timm.models.resnet import BasicBlock  # 2 s to import, for nothing where a run is finished already

    return nn.Sequential(
        nn.Conv2d(3, width, 3, stem_stride, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        BasicBlock(width, width),
        BasicBlock(width, 2 * width, stride=2, downsample=_projection(width, 2 * width)),
        BasicBlock(2 * width, 4 * width, stride=2, downsample=_projection(2 * width, 4 * width)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, num_classes),
    )


def _projection(channels: int, wider: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, wider, 1, 2, bias=False), nn.BatchNorm2d(wider))


def resnet18(num_classes: int, image_size: int) -> nn.Module:
    """ResNet-18 (He et al. 2016, timm): two basic blocks per stage.

    Args:
        num_classes: number of logits.
        image_size: height and width of the images, pixels; any size works, up to 64 with the CIFAR stem.
    """
    return _resnet("resnet18", num_classes, image_size)


def resnet34(num_classes: int, image_size: int) -> nn.Module:
    """ResNet-34 (He et al. 2016, timm): basic blocks, 3, 4, 6 and 3 per stage.

    Args:
        num_classes: number of logits.
        image_size: height and width of the images, pixels; any size works, up to 64 with the CIFAR stem.
    """
    return _resnet("resnet34", num_classes, image_size)


def resnet50(num_classes: int, image_size: int) -> nn.Module:
    """ResNet-50 (He et al. 2016, timm): bottleneck blocks that halve the side in their 3x3 convolution.

    Args:
        num_classes: number of logits.
        image_size: height and width of the images, pixels; any size works, up to 64 with the CIFAR stem.
    """
    return _resnet("resnet50", num_classes, image_size)


def _resnet(name: str, num_classes: int, image_size: int) -> nn.Module:
    """Up to 64 pixels with the CIFAR stem, a 3x3 convolution of stride 1 without pooling.

    Every block starts with ones in its last norm, as in the paper's CIFAR networks (timm's default is zeros).
    """
    import timm

    model: nn.Module = timm.create_model(name, num_classes=num_classes, zero_init_last=False)
    if image_size <= 64:
        model.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        model.maxpool = nn.Identity()
    return model
