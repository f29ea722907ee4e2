"""VGG-16 with batch normalisation and a single linear layer."""

from torch import nn

WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))  # of the layers before each pooling


def vgg16(num_classes: int, image_size: int) -> nn.Module:
    """VGG-16 (Simonyan and Zisserman 2015, configuration D) for small images: no hidden linear layers.

    Convolutions start from N(0, sqrt(2 / n)) with n = 9 times their output channels, the linear layer from N(0, 0.01).
    The convolutions have biases, which the norms after them cancel: the literature's parameter count includes them.

    Args:
        num_classes: number of logits.
        image_size: height and width of the images, pixels; 32 or more. Five poolings leave 1x1 of 32 pixels; what is
            left of larger images is averaged, so the number of parameters stays the same.

    Raises:
        ValueError: if the images are too small for five poolings.
    """
    if image_size < 32:
        raise ValueError(f"vgg16 takes images of 32 pixels or more, not {image_size}")
    model, channels = nn.Sequential(), 3
    for widths in WIDTHS:
        for width in widths:
            convolution = nn.Conv2d(channels, width, 3, padding=1)
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(convolution.get_parameter("bias"))
            model.extend([convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)])
            channels = width
        model.append(nn.MaxPool2d(2))
    linear = nn.Linear(channels, num_classes)
    nn.init.normal_(linear.weight, std=0.01)
    nn.init.zeros_(linear.bias)
    return model.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear])
