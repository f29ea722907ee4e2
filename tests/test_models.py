"""Models have the literature's size, schedules their shape."""

import pytest
import torch
from torch import nn

from rootfree.models.resnet import resnet8, resnet18
from rootfree.models.vit import vit_mini
from rootfree.schedules import constant, multistep, warmup_cosine


@pytest.mark.parametrize(
    ("model", "image_size", "parameters"),
    [
        (resnet8, 32, 78_042),
        (resnet18, 32, 11_173_962),  # the CIFAR variant
        (resnet18, 96, 11_181_642),  # torchvision's, with 10 classes
        (vit_mini, 32, 279_874),
    ],
)
def test_size_output_and_gradients(model: type[nn.Module], image_size: int, parameters: int) -> None:
    torch.manual_seed(0)
    net = model(num_classes=10, image_size=image_size).to(memory_format=torch.channels_last)
    assert sum(p.numel() for p in net.parameters()) == parameters
    logits = net(torch.randn(2, 3, image_size, image_size))
    assert logits.shape == (2, 10)
    nn.functional.cross_entropy(logits, torch.tensor([3, 7])).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_schedules_are_functions_of_progress() -> None:
    assert constant(0.7) == 1
    steps = 948
    factors = [multistep(step / steps, (1 / 3, 2 / 3)) for step in range(steps)]
    assert [factors.index(pytest.approx(f)) for f in (1, 0.1, 0.01)] == [0, 316, 632]
    assert [warmup_cosine(p, warmup=0.2, final=0.1) for p in (0, 0.1, 0.2, 0.6, 1)] == pytest.approx(
        [0, 0.5, 1, 0.55, 0.1]
    )
    assert warmup_cosine(0, warmup=0.0) == 1
