"""Losses beside torch's own: functions of (input, target) that return the mean over a batch."""

from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor, nn

Positive = Annotated[float, Gt(0)]


def rescaled_mse(input: Tensor, target: Tensor, k: Positive = 15.0, m: Positive = 30.0) -> Tensor:
    """Return the squared distance of the true class's logit from `m`, weighted by `k`, and of the others from 0.

    Hui and Belkin 2021, "Evaluation of neural architectures trained with square loss vs cross-entropy in
    classification tasks", section 2.2, with the paper's numbers; the mean is over the batch *and* the classes, as in
    the paper's code, which multiplies the true logit and its target by sqrt(k).

    Args:
        input: logits (B, C).
        target: labels, (B) integers; or class probabilities (B, C), as mixed images have them: the loss is then the
            expectation over labels drawn from them.
        k: weight of the true class.
        m: target of the true class's logit.
    """
    logits = input.to(torch.promote_types(input.dtype, torch.float32))  # squares of about m overwhelm half precision
    probabilities = target if target.is_floating_point() else nn.functional.one_hot(target, logits.shape[1])
    return (probabilities * k * (logits - m).square() + (1 - probabilities) * logits.square()).mean()
