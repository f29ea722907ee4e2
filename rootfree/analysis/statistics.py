"""What paired differences say: t intervals and the three tests a claim can ask for.

One seed fixes initialisation, order and augmentation together, so runs of two arms at the same seed form a pair, and
every test looks at the differences of the pairs. They are oriented so that positive speaks for the claim. Margin m:

    superiority     supported if the 95% interval lies above 0; refuted if below m: what would matter is ruled out
    noninferiority  supported if the 95% interval lies above -m; refuted if below -m
    equivalence     supported if the 90% interval lies within (-m, m), two one-sided tests at 5%; refuted if outside

What is neither is `underpowered` if these pairs could not have shown a difference as small as the margin (see
`detectable`), and `inconclusive` otherwise. No bootstrap: resampling fewer than ten seeds covers too little.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import stdtrit  # the quantile of scipy.stats.t, without that module's slow import

Verdict = Literal["supported", "inconclusive", "underpowered", "no data", "premise not met", "refuted"]
POWER = 0.8


class Interval(NamedTuple):
    """A mean, its spread and its t interval; one value has an interval without bounds, no value has no mean."""

    n: int
    mean: float
    sd: float
    low: float
    high: float


class Outcome(NamedTuple):
    """What a test found: the verdict, the interval it rests on, and the smallest difference these pairs could show."""

    verdict: Verdict
    interval: Interval
    detectable: float


def t_interval(values: Sequence[float] | np.ndarray, level: float = 0.95) -> Interval:
    """The mean of independent values with its two-sided t interval."""
    data = np.asarray(values, dtype=float)
    if data.size < 2:
        return Interval(data.size, float(data[0]) if data.size else np.nan, np.nan, -np.inf, np.inf)
    mean, sd = float(data.mean()), float(data.std(ddof=1))
    half = float(stdtrit(data.size - 1, 0.5 + level / 2)) * sd / data.size**0.5
    return Interval(data.size, mean, sd, mean - half, mean + half)


def detectable(values: Sequence[float] | np.ndarray, alpha: float, beta: float) -> float:
    """The true difference that a one-sided test at `alpha` misses with probability `beta`, given this spread."""
    data = np.asarray(values, dtype=float)
    if data.size < 2:
        return np.inf
    quantiles = stdtrit(data.size - 1, 1 - alpha) + stdtrit(data.size - 1, 1 - beta)
    return float(quantiles * data.std(ddof=1) / data.size**0.5)


def superiority(differences: Sequence[float] | np.ndarray, margin: float) -> Outcome:
    """Is the difference above zero? Refuted where it is surely below the margin; margin 0 asks for the sign alone."""
    interval = t_interval(differences)
    limit = detectable(differences, alpha=0.025, beta=1 - POWER)
    return _outcome(interval, interval.low > 0 and interval.high >= margin, interval.high < margin, limit, margin)


def noninferiority(differences: Sequence[float] | np.ndarray, margin: float) -> Outcome:
    """Is the difference above minus the margin?"""
    interval = t_interval(differences)
    limit = detectable(differences, alpha=0.025, beta=1 - POWER)
    return _outcome(interval, interval.low > -margin, interval.high < -margin, limit, margin)


def equivalence(differences: Sequence[float] | np.ndarray, margin: float) -> Outcome:
    """Is the difference within the margin on both sides?"""
    interval = t_interval(differences, level=0.90)
    limit = detectable(differences, alpha=0.05, beta=(1 - POWER) / 2)  # both sides must succeed
    inside = -margin < interval.low and interval.high < margin
    outside = interval.low > margin or interval.high < -margin
    return _outcome(interval, inside, outside, limit, margin)


TESTS: dict[str, Callable[[Sequence[float] | np.ndarray, float], Outcome]] = {
    "superiority": superiority,
    "noninferiority": noninferiority,
    "equivalence": equivalence,
}


def _outcome(interval: Interval, supported: bool, refuted: bool, limit: float, margin: float) -> Outcome:
    verdict: Verdict = "underpowered" if limit > margin else "inconclusive"
    if interval.n == 0:
        verdict = "no data"
    elif supported:
        verdict = "supported"
    elif refuted:
        verdict = "refuted"
    return Outcome(verdict, interval, limit)
