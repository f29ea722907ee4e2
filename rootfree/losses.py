"""Losses beside torch's own: functions of (input, target) that return the mean over a batch."""

from functools import cache
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
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


def weighted_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: list[Annotated[float, Ge(0)]] | None = None,
    label_smoothing: Annotated[float, Ge(0), Le(1)] = 0.0,
) -> Tensor:
    """Return the mean over the batch of cross-entropy times the weight of the true class.

    torch's `cross_entropy(weight=...)` divides by the sum of the batch's weights instead of by its size, and so depends
    on how a batch is divided among processes or micro-batches; this does not.

    Args:
        input: logits (B, C).
        target: labels, (B) integers; or class probabilities (B, C), as mixed images have them.
        weight: C factors, one for each class in the order of the classes' names; all 1 if null.
        label_smoothing: share of each target that goes to all classes alike.

    Raises:
        ValueError: if there are not as many weights as classes.
    """
    logits = input.to(torch.promote_types(input.dtype, torch.float32))
    if weight is not None and len(weight) != logits.shape[1]:
        raise ValueError(f"loss.weight = {weight} is not allowed: it has {len(weight)} numbers, and there are "
                         f"{logits.shape[1]} classes")  # fmt: skip
    factors = None if weight is None else _on_device(tuple(weight), logits.dtype, logits.device)
    summed = nn.functional.cross_entropy(logits, target, factors, reduction="sum", label_smoothing=label_smoothing)
    return summed / len(logits)


@cache  # to copy them to a device in each step would make it wait
def _on_device(weight: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(weight, dtype=dtype, device=device)
