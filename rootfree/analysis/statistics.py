"""What paired runs say on a claim, as a rule in five sentences.

1. One seed fixes initialisation, order and augmentation together, so two arms are compared by the mean difference of
   their runs at equal seeds, with its t interval, turned so that positive speaks for the claim.
2. The interval lies wholly above the bound that a part asks about, wholly below it, or across it (size): an arm that is
   to be ahead is held against its margin, one that is not to be behind against minus the margin, and two that are to be
   equal against both; the same interval against zero tells who is ahead (direction).
3. A claim is supported by the largest p of its parts, and refuted by the smallest times their number.
4. The claims that are tested at one scale and on one data set share one step of Holm; the same runs enter it once, and
   what cannot be decided at its n does not enter it.
5. What is neither supported nor refuted at 5% is undecided, and says why.

Intervals are 95% ones, with two-sided p; equivalence is two one-sided tests at 5%, and has a 90% interval. A share of
runs has its exact interval. No bootstrap of seeds: fewer than ten of them cover too little.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, inf, log, nan
from typing import Literal, NamedTuple

import numpy as np

# what scipy.stats is made of, without that module's slow import
from scipy.special import bdtr, bdtrc, betaincinv, chdtri, nctdtr, ndtr, stdtr, stdtrit

Verdict = Literal["supported", "refuted", "undecided", "premise not met", "no data"]
Direction = Literal["ahead", "behind", "not resolved"]
Size = Literal["larger", "smaller", "unclear"]
Values = Sequence[float] | np.ndarray
ALPHA = 0.05
POWER = 0.8  # with which so many seeds would decide
MOST = 1000  # seeds that are worth counting


class Interval(NamedTuple):
    """A mean, its spread and its t interval; one value has an interval without bounds, no value has no mean."""

    n: int
    mean: float
    sd: float
    low: float
    high: float


@dataclass(frozen=True)
class Outcome:
    """What a test reads off the number line.

    Attributes:
        direction: the interval against zero; that of a share against the margin.
        size: the interval against the bound that is asked about; for equivalence, the difference against the margin.
        support: p of the hypothesis that support rejects; 1 where nothing was tested.
        refute: p of the hypothesis that refutation rejects.
        best: the smallest `support` and `refute` that so many runs could give.
    """

    n: int
    estimate: float = nan
    sd: float = nan
    low: float = nan
    high: float = nan
    direction: Direction = "not resolved"
    size: Size = "unclear"
    support: float = 1.0
    refute: float = 1.0
    best: tuple[float, float] = (1.0, 1.0)

    @property
    def verdict(self) -> Verdict:
        """What it says by itself, as if nothing else had been tested."""
        if not self.n:
            return "no data"
        return "supported" if self.support <= ALPHA else "refuted" if self.refute <= ALPHA else "undecided"


def t_interval(values: Values, level: float = 0.95) -> Interval:
    """The mean of independent values with its two-sided t interval."""
    data = np.asarray(values, dtype=float)
    if data.size < 2:
        return Interval(data.size, float(data[0]) if data.size else nan, nan, -inf, inf)
    mean, sd = float(data.mean()), float(data.std(ddof=1))
    half = float(stdtrit(data.size - 1, 0.5 + level / 2)) * sd / data.size**0.5
    return Interval(data.size, mean, sd, mean - half, mean + half)


def share_interval(events: int, n: int, level: float = 0.95) -> Interval:
    """A share with its exact (Clopper-Pearson) interval."""
    tail = (1 - level) / 2
    low = float(betaincinv(events, n - events + 1, tail)) if events else 0.0
    high = float(betaincinv(events + 1, n - events, 1 - tail)) if events < n else 1.0
    return Interval(n, events / n if n else nan, nan, low, high)


def superiority(differences: Values, margin: float) -> Outcome:
    """Is the difference larger than the margin? Margin 0 asks for the sign alone."""
    interval = t_interval(differences)
    return _outcome(interval, 2 * _p_above(interval, margin), 2 * _p_above(interval, margin, -1))


def noninferiority(differences: Values, margin: float) -> Outcome:
    """Is the difference larger than minus the margin?"""
    return superiority(differences, -margin)


def equivalence(differences: Values, margin: float) -> Outcome:
    """Is the difference smaller than the margin on both sides?"""
    interval = t_interval(differences, level=0.90)
    inside = max(_p_above(interval, -margin), _p_above(interval, margin, -1))
    outside = min(_p_above(interval, margin), _p_above(interval, -margin, -1))
    return _outcome(interval, inside, outside, sizes=("smaller", "larger"))


TESTS: dict[str, Callable[[Values, float], Outcome]] = {
    "superiority": superiority,
    "noninferiority": noninferiority,
    "equivalence": equivalence,
}


def share(events: int, n: int, margin: float, above: bool) -> Outcome:
    """Is the share of runs with an event above the margin, or else below it?"""
    over = min(1.0, 2 * float(bdtrc(events - 1, n, margin))) if events else 1.0
    under = min(1.0, 2 * float(bdtr(events, n, margin))) if n else 1.0
    all_of_them, none = 2 * margin**n, 2 * (1 - margin) ** n
    interval = share_interval(events, n)
    if above:
        return _outcome(interval, over, under, best=(all_of_them, none))
    return _outcome(interval, under, over, sizes=("smaller", "larger"), best=(none, all_of_them))


def fewest(margin: float) -> int:
    """The number of runs from which on all of them, and none of them, tell a share from the margin."""
    return ceil(log(ALPHA / 2) / log(max(margin, 1 - margin)))


def exact(agreeing: int, n: int, measured: bool = False) -> Outcome:
    """Do all rows agree with what is stated? Nothing is estimated: p is 0 or 1.

    One row that does not refutes; where rows are measurements of their own, such as times, only all of them do.
    """
    support = float(not n or agreeing < n)
    refute = float(not support or not n or (measured and agreeing > 0))
    return Outcome(n, agreeing / n if n else nan, support=support, refute=refute, best=(support, refute))


def holm(p_values: Values) -> tuple[np.ndarray, np.ndarray]:
    """Holm's adjusted p values, and the level that each p had to keep to; NaN is not a test.

    The family's chance of any false rejection stays below `ALPHA`.
    """
    p = np.asarray(p_values, dtype=float)
    tested = np.flatnonzero(~np.isnan(p))
    ranked = tested[np.argsort(p[tested], kind="stable")]
    factors = np.arange(ranked.size, 0, -1)
    adjusted, levels = np.full(p.shape, nan), np.full(p.shape, nan)
    adjusted[ranked] = np.minimum(1, np.maximum.accumulate(p[ranked] * factors))
    levels[ranked] = ALPHA / factors
    return adjusted, levels


def seeds_needed(kind: str, mean: float, sd: float, margin: float, level: float = ALPHA) -> int | None:
    """The pairs with which a test would decide, one way or the other, with a chance of `POWER`.

    Args:
        kind: one of `TESTS`.
        mean: of the differences, taken for the true one.
        sd: of the differences, taken for the true one.
        margin: of the test.
        level: at which the test is made, of both sides together.

    Returns:
        At least 2, or None for more than `MOST`.
    """
    n = np.arange(2, MOST + 1)
    root = np.sqrt(n) / sd if sd else np.full(n.size, inf)
    if kind == "equivalence":
        half = stdtrit(n - 1, 1 - level)
        bound = abs(mean) - margin
    else:
        half = stdtrit(n - 1, 1 - level / 2)
        bound = mean - (margin if kind == "superiority" else -margin)
    if kind == "equivalence" and bound < 0:
        # both tests must succeed, and they share the estimated spread: the mean over its distribution, by quantiles
        spread = np.sqrt(chdtri(n[:, None] - 1, (np.arange(100) + 0.5) / 100) / (n[:, None] - 1)) * half[:, None]
        power = np.maximum(ndtr((margin - mean) * root[:, None] - spread)
                           - ndtr(spread - (margin + mean) * root[:, None]), 0).mean(axis=1)  # fmt: skip
    elif sd == 0:
        power = np.full(n.size, float(bound != 0))
    else:
        power = 1 - nctdtr(n - 1, abs(bound) * root, half)
    enough = np.flatnonzero(power >= POWER)
    return int(n[enough[0]]) if enough.size else None


def _p_above(interval: Interval, bound: float, sign: int = 1) -> float:
    """One-sided p of the hypothesis that the mean is at most the bound (-1: at least); 1 for fewer than two values."""
    distance = sign * (interval.mean - bound)
    if interval.n < 2:
        return 1.0
    if interval.sd == 0:  # every pair says the same
        return float(distance <= 0)
    return float(stdtr(interval.n - 1, -distance / (interval.sd / interval.n**0.5)))


def _outcome(
    interval: Interval,
    support: float,
    refute: float,
    sizes: tuple[Size, Size] = ("larger", "smaller"),
    best: tuple[float, float] | None = None,
) -> Outcome:
    """An outcome, whose size has the first of the two names where it is supported, and the second where refuted."""
    n, mean, sd, low, high = interval
    yes, no = support <= ALPHA, refute <= ALPHA
    ahead, behind = (yes, no) if best else (low > 0, high < 0)
    direction: Direction = "ahead" if ahead else "behind" if behind else "not resolved"
    size: Size = sizes[0] if yes else sizes[1] if no else "unclear"
    least = best or ((0.0, 0.0) if n > 1 else (1.0, 1.0))
    return Outcome(n, mean, sd, low, high, direction, size, min(1.0, support), min(1.0, refute), least)
