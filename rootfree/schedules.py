"""Learning-rate schedules: pure functions of progress (0 at the first step, 1 after the last) that return a factor.

A short run and a long one thus share one shape; the trainer multiplies each group's `lr` by the factor at every step.
"""

import math
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

Share = Annotated[float, Ge(0), Le(1)]


def constant(progress: float) -> float:
    """Return 1: the learning rate as given."""
    return 1.0


def multistep(
    progress: float, milestones: tuple[Share, ...] = (1 / 3, 2 / 3), gamma: Annotated[float, Gt(0), Le(1)] = 0.1
) -> float:
    """Return `gamma` to the number of milestones passed.

    Args:
        progress: share of the run that is done.
        milestones: shares of the run at which the rate drops.
        gamma: factor of each drop.
    """
    # 1/3 of 948 steps is step 316, whose progress may round to just below 1/3
    return gamma ** sum(progress >= milestone - 1e-9 for milestone in milestones)


def warmup_cosine(progress: float, warmup: Annotated[float, Ge(0), Lt(1)] = 0.1, final: Share = 0.0) -> float:
    """Rise linearly over the first `warmup` share of the run, then fall along half a cosine to `final`.

    Args:
        progress: share of the run that is done.
        warmup: share of the run spent rising from 0 to 1.
        final: factor at the end.
    """
    if progress < warmup:
        return progress / warmup
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))
