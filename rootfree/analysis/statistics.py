"""What paired runs say: t intervals, the tests a claim can ask for, and what testing many claims at once costs.

One seed fixes initialisation, order and augmentation together, so runs of two arms at the same seed form a pair, and
every test looks at the differences of the pairs. They are oriented so that positive speaks for the claim. Margin m:

    superiority     supported if the 95% interval lies above 0; refuted if below m: what would matter is ruled out
    noninferiority  supported if the 95% interval lies above -m; refuted if below -m
    equivalence     supported if the 90% interval lies within (-m, m), two one-sided tests at 5%; refuted if outside
    ordering        an exact sign test over the pairs that one arm wins: supported, or refuted, if p <= 5%
    count           the exact 95% interval of a share of runs lies beyond m: supported; on the wrong side: refuted

What is neither is `underpowered` if these pairs could not have shown a difference as small as the margin (see
`detectable`), and `inconclusive` otherwise. Each outcome has the p of the hypothesis that its verdict rejects, at most
5% where the interval decides; `holm` adjusts the p of a family, and what a test could have shown depends on the level
that this leaves it: its `alpha`. No bootstrap: resampling fewer than ten seeds covers too little.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

# what scipy.stats is made of, without that module's slow import
from scipy.special import bdtr, bdtrc, betaincinv, stdtr, stdtrit

Verdict = Literal["supported", "inconclusive", "underpowered", "no data", "premise not met", "refuted"]
Values = Sequence[float] | np.ndarray
POWER = 0.8
ALPHA = 0.05


class Interval(NamedTuple):
    """A mean, its spread and its t interval; one value has an interval without bounds, no value has no mean."""

    n: int
    mean: float
    sd: float
    low: float
    high: float


class Outcome(NamedTuple):
    """What a test found.

    Attributes:
        verdict: what it says by itself.
        interval: what the verdict rests on.
        detectable: the smallest difference, or share, that so many pairs could show.
        p: of the hypothesis that the verdict rejects; where it is undecided, the smaller p of the two it might reject.
        undecided: the verdict where p, once adjusted, no longer decides.
    """

    verdict: Verdict
    interval: Interval
    detectable: float
    p: float
    undecided: Verdict


def t_interval(values: Values, level: float = 0.95) -> Interval:
    """The mean of independent values with its two-sided t interval."""
    data = np.asarray(values, dtype=float)
    if data.size < 2:
        return Interval(data.size, float(data[0]) if data.size else np.nan, np.nan, -np.inf, np.inf)
    mean, sd = float(data.mean()), float(data.std(ddof=1))
    half = float(stdtrit(data.size - 1, 0.5 + level / 2)) * sd / data.size**0.5
    return Interval(data.size, mean, sd, mean - half, mean + half)


def share_interval(events: int, n: int, level: float = 0.95) -> Interval:
    """A share with its exact (Clopper-Pearson) interval."""
    tail = (1 - level) / 2
    low = float(betaincinv(events, n - events + 1, tail)) if events else 0.0
    high = float(betaincinv(events + 1, n - events, 1 - tail)) if events < n else 1.0
    return Interval(n, events / n if n else np.nan, np.nan, low, high)


def detectable(values: Values, alpha: float, beta: float) -> float:
    """The true difference that a one-sided test at `alpha` misses with probability `beta`, given this spread."""
    data = np.asarray(values, dtype=float)
    if data.size < 2:
        return np.inf
    quantiles = stdtrit(data.size - 1, 1 - alpha) + stdtrit(data.size - 1, 1 - beta)
    return float(quantiles * data.std(ddof=1) / data.size**0.5)


def superiority(differences: Values, margin: float, alpha: float = ALPHA) -> Outcome:
    """Is the difference above zero? Refuted where it is surely below the margin; margin 0 asks for the sign alone."""
    interval = t_interval(differences)
    refuted = interval.high < margin
    p_above, p_below = 2 * _p_above(interval, 0), 2 * _p_below(interval, margin)
    limit = _limit(differences, alpha)
    return _outcome(interval, interval.low > 0 and not refuted, refuted, p_above, p_below, limit, margin)


def noninferiority(differences: Values, margin: float, alpha: float = ALPHA) -> Outcome:
    """Is the difference above minus the margin?"""
    interval = t_interval(differences)
    p_above, p_below = 2 * _p_above(interval, -margin), 2 * _p_below(interval, -margin)
    limit = _limit(differences, alpha)
    return _outcome(interval, interval.low > -margin, interval.high < -margin, p_above, p_below, limit, margin)


def equivalence(differences: Values, margin: float, alpha: float = ALPHA) -> Outcome:
    """Is the difference within the margin on both sides?"""
    interval = t_interval(differences, level=0.90)
    limit = detectable(differences, alpha, beta=(1 - POWER) / 2)  # both sides must succeed
    inside = -margin < interval.low and interval.high < margin
    outside = interval.low > margin or interval.high < -margin
    p_inside = max(_p_above(interval, -margin), _p_below(interval, margin))
    p_outside = min(_p_above(interval, margin), _p_below(interval, -margin))
    return _outcome(interval, inside, outside, p_inside, p_outside, limit, margin)


TESTS: dict[str, Callable[..., Outcome]] = {
    "superiority": superiority,
    "noninferiority": noninferiority,
    "equivalence": equivalence,
}


def ordering(wins: int, losses: int, margin: float, alpha: float = ALPHA) -> Outcome:
    """Does one arm win more pairs than it loses? `margin` is the share of wins that would matter, above 1/2.

    Ties are left out, as in every sign test. The interval is that of the share of wins.
    """
    n = wins + losses
    p_more = min(1.0, 2 * float(bdtrc(wins - 1, n, 0.5))) if wins else 1.0
    p_fewer = min(1.0, 2 * float(bdtr(wins, n, 0.5))) if n else 1.0
    enough = next((k for k in range(n + 1) if k and 2 * bdtrc(k - 1, n, 0.5) <= alpha), None)
    limit = np.inf if enough is None else float(betaincinv(enough, n - enough + 1, POWER))
    supported, refuted = p_more <= ALPHA and wins > losses, p_fewer <= ALPHA and wins < losses
    return _outcome(share_interval(wins, n), supported, refuted, p_more, p_fewer, limit, margin)


def count(events: int, n: int, margin: float, above: bool, alpha: float = ALPHA) -> Outcome:
    """Is the share of runs with an event above, or else below, the margin? `detectable`: what all or none of n show."""
    interval = share_interval(events, n)
    p_above = min(1.0, 2 * float(bdtrc(events - 1, n, margin))) if events else 1.0
    p_below = min(1.0, 2 * float(bdtr(events, n, margin))) if n else 1.0
    over, under = interval.low > margin, interval.high < margin
    if above:
        extreme = share_interval(n, n, 1 - alpha).low
        return _outcome(interval, over, under, p_above, p_below, extreme, margin, blind=extreme <= margin)
    extreme = share_interval(0, n, 1 - alpha).high
    return _outcome(interval, under, over, p_below, p_above, extreme, margin)


def exact(agreeing: int, n: int, measured: bool = False) -> Outcome:
    """Do all rows agree with what is stated? Nothing is estimated, so there is no p.

    One row that does not refutes; where rows are measurements of their own, such as times, only all of them do.
    """
    share = agreeing / n if n else np.nan
    verdict: Verdict = "no data"
    if n:
        verdict = "supported" if agreeing == n else "inconclusive" if agreeing and measured else "refuted"
    return Outcome(verdict, Interval(n, share, np.nan, -np.inf, np.inf), np.nan, np.nan, verdict)


def holm(p_values: Values) -> tuple[np.ndarray, np.ndarray]:
    """Holm's adjusted p values, and the level that each p had to keep to; NaN is not a test.

    The family's chance of any false rejection stays below `ALPHA`.
    """
    p = np.asarray(p_values, dtype=float)
    tested = np.flatnonzero(~np.isnan(p))
    ranked = tested[np.argsort(p[tested], kind="stable")]
    factors = np.arange(ranked.size, 0, -1)
    adjusted, levels = np.full(p.shape, np.nan), np.full(p.shape, np.nan)
    adjusted[ranked] = np.minimum(1, np.maximum.accumulate(p[ranked] * factors))
    levels[ranked] = ALPHA / factors
    return adjusted, levels


def _limit(differences: Values, alpha: float) -> float:
    return detectable(differences, alpha / 2, beta=1 - POWER)


def _p_above(interval: Interval, bound: float) -> float:
    """One-sided p of the hypothesis that the mean is at most the bound; 1 for fewer than two values."""
    return _p(interval, interval.mean - bound)


def _p_below(interval: Interval, bound: float) -> float:
    return _p(interval, bound - interval.mean)


def _p(interval: Interval, distance: float) -> float:
    if interval.n < 2:
        return 1.0
    if interval.sd == 0:  # every pair says the same
        return float(distance <= 0)
    return float(stdtr(interval.n - 1, -distance / (interval.sd / interval.n**0.5)))


def _outcome(
    interval: Interval,
    supported: bool,
    refuted: bool,
    p_support: float,
    p_refute: float,
    limit: float,
    margin: float,
    blind: bool | None = None,
) -> Outcome:
    undecided: Verdict = "underpowered" if (limit > margin if blind is None else blind) else "inconclusive"
    if interval.n == 0:
        return Outcome("no data", interval, limit, np.nan, "no data")
    p = p_support if supported else p_refute if refuted else min(p_support, p_refute)
    verdict: Verdict = "supported" if supported else "refuted" if refuted else undecided
    return Outcome(verdict, interval, limit, min(1.0, p), undecided)
