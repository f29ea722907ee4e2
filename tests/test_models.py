"""Models have the literature's size, train in all their parts, and start from the seed."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from rootfree.models.convnext import convnext_atto
from rootfree.models.densenet import densenet121
from rootfree.models.hierarchical import focalnet_tiny, gcvit_xxtiny, swin_tiny
from rootfree.models.resnet import resnet8, resnet18, resnet34, resnet50
from rootfree.models.vgg import vgg16
from rootfree.models.vit import vit_mini, vit_small, vit_tiny

Model = Callable[..., nn.Module]
# whole paths: with drop_path a batch of two may skip a block, which then has no gradient
SMALLEST = [
    (resnet8, 32), (resnet18, 32), (resnet34, 16), (resnet50, 16), (resnet18, 72), (vgg16, 32), (vgg16, 40),
    (densenet121, 32), (densenet121, 72), (vit_mini, 32), (vit_tiny, 32), (vit_small, 32), (convnext_atto, 32),
    (convnext_atto, 112), (partial(focalnet_tiny, drop_path=0.0), 32), (partial(swin_tiny, drop_path=0.0), 32),
    (partial(swin_tiny, drop_path=0.0), 112), (partial(gcvit_xxtiny, drop_path=0.0), 64),
    (partial(gcvit_xxtiny, drop_path=0.0), 112),
]  # fmt: skip


def name_of(value: object) -> str | None:
    """What a case is called: its model, partly filled in or not."""
    function = value.func if isinstance(value, partial) else value
    return getattr(function, "__name__", None)


@pytest.mark.parametrize(
    ("model", "classes", "image_size", "parameters"),
    [
        (resnet8, 10, 32, 78_042),
        (resnet18, 10, 32, 11_173_962),  # the CIFAR variants of github.com/kuangliu/pytorch-cifar
        (resnet34, 10, 32, 21_282_122),
        (resnet50, 10, 32, 23_520_842),
        (densenet121, 10, 32, 6_956_298),
        (vgg16, 10, 32, 14_728_266),
        (resnet34, 100, 32, 21_328_292),  # the paper's, on CIFAR-100: 90 rows and biases more
        (resnet50, 100, 64, 23_705_252),
        (densenet121, 100, 64, 7_048_548),
        (vgg16, 100, 32, 14_774_436),
        (resnet18, 10, 96, 11_181_642),  # above 64 pixels torchvision's
        (resnet18, 1000, 224, 11_689_512),
        (resnet34, 1000, 224, 21_797_672),
        (resnet50, 1000, 224, 25_557_032),
        (densenet121, 1000, 224, 7_978_856),
        (vit_mini, 10, 32, 279_874),
        (vit_tiny, 1000, 224, 5_717_416),  # 5.7 million
        (vit_small, 1000, 224, 22_050_664),  # 22.1 million
        (swin_tiny, 1000, 224, 28_288_354),  # 28.3 million
        (focalnet_tiny, 1000, 224, 28_427_116),  # 28.4 million
        (gcvit_xxtiny, 1000, 224, 11_995_428),  # 12.0 million
        (convnext_atto, 1000, 224, 3_695_520),  # 3.7 million
        (partial(swin_tiny, outputs=1000), 10, 224, 28_288_354),  # the paper's, on 10 classes
    ],
    ids=name_of,
)
def test_size_is_the_literatures(model: Model, classes: int, image_size: int, parameters: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in model(classes, image_size).parameters()) == parameters


@pytest.mark.parametrize(("model", "image_size"), SMALLEST, ids=name_of)
def test_every_parameter_receives_a_gradient_in_either_memory_format(model: Model, image_size: int) -> None:
    torch.manual_seed(0)
    images, labels = torch.randn(2, 3, image_size, image_size), torch.tensor([3, 7])
    gradients = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        net = model(num_classes=10, image_size=image_size).to(memory_format=memory_format)
        logits = net(images.to(memory_format=memory_format))
        assert logits.shape == (2, 10)
        nn.functional.cross_entropy(logits, labels).backward()
        gradients.append([p.grad for p in net.parameters()])
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
    whole = [torch.cat([g.flatten() for g in gradient]) for gradient in gradients]
    assert torch.cosine_similarity(*whole, dim=0) > 0.999


@pytest.mark.parametrize("model", [resnet34, vgg16, densenet121, vit_tiny, swin_tiny, focalnet_tiny, gcvit_xxtiny],
                         ids=name_of)  # fmt: skip
def test_the_seed_decides_where_weights_start(model: Model) -> None:
    sums = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        sums.append(sum(p.double().abs().sum().item() for p in model(10, 64).parameters()))
    assert sums[0] == sums[1] != sums[2]


def test_vgg_starts_as_in_the_paper() -> None:
    torch.manual_seed(0)
    layers = list(vgg16(100, 32).modules())
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == 13
    for layer in convolutions[2:]:  # enough weights to see the deviation
        assert layer.weight.std().item() == pytest.approx((2 / (9 * layer.out_channels)) ** 0.5, rel=0.02)
    (linear,) = [layer for layer in layers if isinstance(layer, nn.Linear)]
    assert linear.weight.std().item() == pytest.approx(0.01, rel=0.02)


def test_patches_and_windows_follow_the_image_size() -> None:
    with torch.device("meta"):
        patches = [vit_tiny(10, size).patch_embed.patch_size[0] for size in (224, 112, 64, 32)]
        swin = [[s.blocks[0].window_size[0] for s in swin_tiny(10, size).layers] for size in (224, 112, 64, 32)]
        gcvit = [[s.blocks[0].window_size[0] for s in gcvit_xxtiny(10, size).stages] for size in (224, 112, 64)]
    assert patches == [16, 8, 8, 4]
    assert swin == [[7, 7, 7, 7], [7, 7, 7, 4], [4, 4, 4, 4], [4, 4, 4, 2]]
    assert gcvit == [[7, 7, 14, 7], [7, 7, 7, 4], [4, 4, 4, 2]]


@pytest.mark.parametrize("model", [swin_tiny, focalnet_tiny, gcvit_xxtiny, vit_tiny, convnext_atto], ids=name_of)
def test_drop_path_reaches_the_model(model: Model) -> None:
    with torch.device("meta"):
        rates = [getattr(m, "drop_prob", 0.0) for m in model(10, 64, drop_path=0.3).modules()]
    assert max(rates) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("model", "image_size", "words"),
    [
        (vgg16, 28, "32 pixels or more, not 28"),
        (densenet121, 4, "8 pixels or more, not 4"),
        (vit_mini, 30, "image size 30 is not a multiple of model.patch = 8"),
        (vit_tiny, 225, "image size 225 is not a multiple of model.patch = 16"),
        (swin_tiny, 30, "32 pixels or more, in multiples of 2, not 30"),
        (swin_tiny, 98, "64 pixels or more, in multiples of 4, not 98"),
        (partial(swin_tiny, outputs=5), 64, "model.outputs = 5 is fewer than the 10 classes"),
        (focalnet_tiny, 28, "32 pixels or more, not 28"),
        (gcvit_xxtiny, 32, "64, 80, 96, 112, 128, 160, 192, 224, .* not 32"),
        (gcvit_xxtiny, 100, "images of 64, .* not 100"),
        (partial(convnext_atto, patch=4), 28, "32 pixels or more, not 28"),
    ],
    ids=name_of,
)
def test_a_size_that_does_not_fit_names_those_that_do(model: Model, image_size: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        model(10, image_size)
