"""Stochastic rounding to bfloat16, with bits that are a hash of (seed, step, element index) instead of a generator.

A float32 number lies between two bfloat16 neighbours, which share its upper 16 bits. Adding 16 uniform bits below and cutting them off picks the
upper neighbour with a probability equal to the position between the two, so the mean over the bits is the number itself. A hash needs no state beyond the step
count: a resumed run draws the same bits, eager and compiled kernels agree, and so do CPU and CUDA.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rootfree.optim.base import check_choice, dtype_of_state, foreach, scale_

_MASK = 0xFFFFFFFF


def stochastic_bfloat16(value: Tensor, seed: int, step: Tensor) -> Tensor:
    """Round a float32 tensor to bfloat16 so that the expectation over steps is `value`; infinities and NaN stay.

    Args:
        value: What to round, float32, of any shape.
        seed: Which stream of bits: tensors with different seeds draw independent bits.
        step: 0-d int64 tensor on the device of `value`; each step draws new bits.
    """
    key = _hash(step + 0x632BE5AB * (seed + 1) & _MASK)
    index = torch.arange(value.numel(), device=value.device).view(value.shape)
    noise = (_hash((index + key) & _MASK) >> 16).to(torch.int32)  # 16 uniform bits per element
    rounded = ((value.view(torch.int32) + noise) & -0x10000).view(torch.float32)
    # The sum may turn the bits of a NaN into those of a number, so non-finite values take the ordinary way.
    return torch.where(torch.isfinite(value), rounded, value).to(torch.bfloat16)


def _hash(x: Tensor) -> Tensor:
    """Mix the bits of 32-bit integers by xor-shifts and odd multipliers, held in int64 so that no product overflows."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _MASK
    x = x ^ (x >> 15)
    x = (x * (0x846CA68B - 2**32)) & _MASK  # the same modulo 2^32, and small enough for int64
    return x ^ (x >> 16)


def average_squares_(
    second_moments: Sequence[Tensor],
    grads: Sequence[Tensor],
    beta2: float,
    gain: float,
    steps: Sequence[Tensor],
    seeds: Sequence[int],
) -> None:
    """Do s <- beta2 s + gain g^2 in place: stochastically rounded where `steps` are given, else in the arithmetic of s, which rounds to nearest."""
    if not steps:
        scale_(second_moments, beta2)
        foreach("addcmul_", second_moments, grads, grads, value=gain)
        return
    foreach("add_", steps, 1)
    for second_moment, grad, step, seed in zip(second_moments, grads, steps, seeds, strict=True):
        exact = beta2 * second_moment.float() + gain * grad.float().square()
        second_moment.copy_(stochastic_bfloat16(exact, seed, step))


def check_rounding(rounding: Any, state_dtype: str | None) -> None:
    """Raise `ValueError` unless `rounding` is known, and possible for this state dtype."""
    check_choice("rounding", rounding, ("nearest", "stochastic"))
    if rounding == "stochastic" and state_dtype != "bfloat16":
        raise ValueError(
            f"rounding = 'stochastic' is not allowed with state_dtype = {state_dtype!r}: it needs 'bfloat16'"
        )


def warn_of_freeze(groups: list[dict[str, Any]], beta2s: list[float]) -> None:
    """Warn if the last group is the first whose second moment, rounded to nearest, never decays: once per optimizer."""
    frozen = [freeze(group, beta2) for group, beta2 in zip(groups, beta2s, strict=True)]
    if frozen[-1] and not any(frozen[:-1]):
        dtype = str(frozen[-1]).removeprefix("torch.")
        warnings.warn(
            f"beta2 = {beta2s[-1]} freezes a second moment kept in {dtype}: rounded to nearest, it never decays, because 1 - beta2 is below "
            f"{torch.finfo(frozen[-1]).eps / 4:.2g}. Use rounding='stochastic' (bfloat16), a larger 1 - beta2, or a wider state_dtype.",
            stacklevel=4,
        )


def freeze(group: dict[str, Any], beta2: float) -> torch.dtype | None:
    """Return the dtype in which beta2 * s rounds to s whatever s is, if this group keeps its second moment in such a one."""
    dtypes = {dtype_of_state(group, param) for param in group["params"]} if group["rounding"] == "nearest" else set()
    return next((dtype for dtype in dtypes if 0 < 1 - beta2 < torch.finfo(dtype).eps / 4), None)
