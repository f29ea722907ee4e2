"""DenseNet-121, on timm's `DenseNet`."""

from torch import nn


def densenet121(num_classes: int, image_size: int) -> nn.Module:
    """DenseNet-121 (Huang et al. 2017, timm): growth 32, blocks of 6, 12, 24 and 16 layers.

    Args:
        num_classes: number of logits.
        image_size: height and width of the images, pixels; 8 or more. Up to 64 give the CIFAR stem, a 3x3 convolution
            of stride 1 to 64 channels with neither norm nor pooling: the first dense layer begins with a norm.

    Raises:
        ValueError: if the images are too small for three transitions.
    """
    if image_size < 8:
        raise ValueError(f"densenet121 takes images of 8 pixels or more, not {image_size}")
    import timm

    model: nn.Module = timm.create_model("densenet121", num_classes=num_classes)
    if image_size <= 64:
        stem = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        nn.init.kaiming_normal_(stem.weight)  # as timm starts the others
        features = model.get_submodule("features")
        features.conv0, features.norm0, features.pool0 = stem, nn.Identity(), nn.Identity()
    return model
