"""Low-precision second moments: what freezes them, and stochastic rounding, which does not.

A float32 number lies between two bfloat16 neighbours, which share its upper 16 bits. Adding 16 uniform bits below and
cutting them off picks the upper neighbour with a probability equal to the position between the two, so the mean over
the bits is the number itself. The bits are a hash of (seed, step, element index): unlike a generator that needs no
state beyond a step count, so a resumed run draws the same ones, and eager and compiled code, CPU and CUDA agree.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rootfree.optim.base import check_choice, dtype_of_state
from rootfree.optim.multi_tensor import add_squares_, scale_

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
    second_moments: list[Tensor],
    grads: list[Tensor],
    beta2: float | Tensor,
    gain: float | Tensor,
    steps: Sequence[Tensor],
    seeds: Sequence[int],
) -> None:
    """Do s <- beta2 s + gain g^2 in place, stochastically rounded where there are `seeds`, else to nearest."""
    if not seeds:
        scale_(second_moments, beta2)
        add_squares_(second_moments, grads, gain)
        return
    # a 0-d second moment would take part in wider arithmetic than others
    beta2, gain = (number.float() if isinstance(number, Tensor) else number for number in (beta2, gain))
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
    """Warn if the last group is the first whose second moment never decays: once per optimizer."""
    dtype = _freezing_dtype(groups[-1], beta2s[-1])
    if dtype and not any(map(_freezing_dtype, groups[:-1], beta2s[:-1])):
        warnings.warn(
            f"beta2 = {beta2s[-1]} freezes a second moment in {str(dtype).removeprefix('torch.')}: rounded to "
            f"nearest, it never decays, because 1 - beta2 is below {torch.finfo(dtype).eps / 4:.2g}. Remedies: "
            "rounding='stochastic' (in bfloat16), a larger 1 - beta2, a wider state_dtype",
            stacklevel=5,  # the line that calls the constructor
        )


def _freezing_dtype(group: dict[str, Any], beta2: float) -> torch.dtype | None:
    """Return the dtype in which beta2 * s rounds to s for every s, if the group keeps a second moment in such a one."""
    dtypes = {dtype_of_state(group, param) for param in group["params"]} if group["rounding"] == "nearest" else set()
    floating = (dtype for dtype in dtypes if dtype.is_floating_point)
    return next((dtype for dtype in floating if 0 < 1 - beta2 < torch.finfo(dtype).eps / 4), None)
