"""What is said about a step: against numbers worked out by hand."""

import math

import pytest
import torch
from torch import nn

from rootfree.diagnostics import WINDOW, Diagnostics
from rootfree.optim import IFShampoo, RFAdamW, RFRMSProp, RFShampoo, Shampoo


def probed(make: type[torch.optim.Optimizer], steps: int = WINDOW + 5, scale: float = 1.0, size: int = 1000,
           **hyper: float) -> dict:  # fmt: skip
    """Train a vector whose gradient is itself, and describe the last step."""
    torch.manual_seed(0)
    param = nn.Parameter(scale * torch.randn(size))
    optimizer = make([param], **hyper)
    probe = Diagnostics(optimizer)
    for left in range(steps, 0, -1):
        param.grad = param.detach().clone()
        probe.watch(left)
        before = param.detach().clone()
        optimizer.step()
    found = probe.read()
    assert found["grad_norm"] == pytest.approx(param.grad.norm().item(), rel=1e-6)
    assert found["update_norm"] == pytest.approx((param - before).norm().item(), rel=1e-5)
    return found


def test_momentum_sgd_moves_as_momentum_sgd() -> None:
    found = probed(torch.optim.SGD, lr=1e-3, momentum=0.9)
    assert found["cosine_sgd"] == pytest.approx(1, abs=1e-4)
    assert "share_frozen" not in found


def test_sign_descent_does_not() -> None:
    # g and sign(g) of normal numbers enclose an angle of cosine sqrt(2 / pi)
    found = probed(torch.optim.RMSprop, lr=1e-5, alpha=0.0, eps=1e-12)
    assert found["cosine_sgd"] == pytest.approx(math.sqrt(2 / math.pi), abs=0.02)
    assert found["share_above_damping"] == 1


def test_a_second_moment_that_rounding_freezes_is_seen() -> None:
    small = dict(scale=1e-4, lr=1e-4, batch_size=128, beta2=0.999, damping=0.5)
    with pytest.warns(UserWarning, match="freezes"):
        frozen = probed(RFRMSProp, state_dtype="bfloat16", **small)
    moving = probed(RFRMSProp, **small)
    assert (frozen["share_frozen"], moving["share_frozen"]) == (1, 0)
    assert frozen["share_above_damping"] == moving["share_above_damping"] == 1
    assert frozen["effective_lr_q50"] == pytest.approx(1e-4 / 1.5)


def test_effective_learning_rates_of_known_states() -> None:
    one = probed(RFAdamW, steps=1, lr=0.1, batch_size=4, betas=(0.0, 0.0), damping=0.25)
    torch.manual_seed(0)
    exact = 0.1 / (4 * torch.randn(1000) ** 2 + 0.25)
    for share in (5, 50, 95):
        assert one[f"effective_lr_q{share:02}"] == pytest.approx(exact.quantile(share / 100).item(), rel=1e-5)
    adam = probed(torch.optim.AdamW, steps=1, lr=0.1, betas=(0.0, 0.9), eps=0.5, weight_decay=0.0)
    torch.manual_seed(0)
    exact = 0.1 / (torch.randn(1000).abs() + 0.5)  # the first step's bias correction undoes the average
    assert adam["effective_lr_q50"] == pytest.approx(exact.median().item(), rel=1e-2)


MATRIX = [
    (IFShampoo, {"batch_size": 1}),
    (RFShampoo, {"batch_size": 1}),
    (Shampoo, {}),
    (Shampoo, {"grafting": "adam"}),
]


@pytest.mark.parametrize(("make", "hyper"), MATRIX, ids=["if_shampoo", "rf_shampoo", "shampoo", "shampoo grafted"])
def test_matrix_methods_keep_factors_and_no_second_moment_per_coordinate(
    make: type[torch.optim.Optimizer], hyper: dict
) -> None:
    found = probed(make, size=16, lr=1e-3, **hyper)
    assert set(found) == {"grad_norm", "update_norm", "cosine_sgd", "share_frozen"}
    assert found["share_frozen"] == 0


def test_factors_that_rounding_freezes_are_seen() -> None:
    # bfloat16 cannot take a ten-thousandth from a diagonal of ones; off it, products of any size add up from zero
    slow = dict(size=16, scale=1e-3, lr=1e-3, batch_size=1, beta2=0.9999)
    frozen = [probed(RFShampoo, state_dtype=dtype, **slow)["share_frozen"] for dtype in ("float32", "bfloat16")]
    assert frozen == [0, 1 / 16]
