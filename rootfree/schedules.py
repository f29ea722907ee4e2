"""Learning-rate schedules: pure functions of progress (0 at the first step, 1 after the last) that return a factor.

A short run and a long one thus share one shape; the trainer multiplies each group's `lr` by the factor at every step.
"""

import math
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

Share = Annotated[float, Ge(0), Le(1)]
Rate = Annotated[float, Gt(0)]


def constant(progress: float) -> float:
    """Return 1: the learning rate as given."""
    return 1.0


def multistep(
    progress: float, milestones: tuple[Share, ...] = (1 / 3, 2 / 3), gamma: Annotated[float, Gt(0), Le(1)] = 0.1
) -> float:
    """Return `gamma` to the number of milestones passed.

    The paper's code steps its scheduler at the start of an epoch, not at the end, so a drop "at 70 of 210" comes after
    69 epochs: its milestones are 69/210 and 139/210.

    Args:
        progress: share of the run that is done.
        milestones: shares of the run at which the rate drops.
        gamma: factor of each drop.
    """
    # 1/3 of 948 steps is step 316, whose progress may round to just below 1/3
    return gamma ** sum(progress >= milestone - 1e-9 for milestone in milestones)


def warmup_cosine(
    progress: float,
    warmup: Annotated[float, Ge(0), Lt(1)] = 0.1,
    final: Share = 0.0,
    start: Share = 0.0,
    cooldown: Annotated[float, Ge(0), Lt(1)] = 0.0,
) -> float:
    """Rise linearly over the first `warmup` share of the run, fall along half a cosine to `final`, and stay there.

    Args:
        progress: share of the run that is done.
        warmup: share of the run spent rising from `start` to 1.
        final: factor at the end of the cosine.
        start: factor of the first step; at 0 that step changes nothing.
        cooldown: share of the run at its end that is spent at `final`.

    Raises:
        ValueError: if no time is left between warm-up and cooldown.
    """
    falling = 1 - warmup - cooldown
    if falling <= 0:
        raise ValueError(f"warmup = {warmup} and cooldown = {cooldown} leave no time for the cosine")
    if progress < warmup:
        return start + (1 - start) * progress / warmup
    return final + (1 - final) * 0.5 * (1 + math.cos(min(math.pi * (progress - warmup) / falling, math.pi)))


def warmup_cosine_absolute(
    progress: float,
    lr: Rate,
    warmup: Annotated[float, Ge(0), Lt(1)] = 0.1,
    final_lr: Annotated[float, Ge(0)] = 0.0,
    start_lr: Annotated[float, Ge(0)] = 0.0,
    cooldown: Annotated[float, Ge(0), Lt(1)] = 0.0,
) -> float:
    """`warmup_cosine` between learning rates instead of factors, as timm and the paper's recipes give them.

    `start` is start_lr / lr and `final` is final_lr / lr, so both depend on the arm: 5e-6 is nothing to an SGD at 0.17
    and 6% of an RF-RMSProp at 8e-5.

    Args:
        progress: share of the run that is done.
        lr: the optimizer's learning rate.
        warmup: share of the run spent rising from `start_lr` to `lr`.
        final_lr: learning rate at the end of the cosine.
        start_lr: learning rate of the first step.
        cooldown: share of the run at its end that is spent at `final_lr`.
    """
    return warmup_cosine(progress, warmup, final_lr / lr, start_lr / lr, cooldown)
