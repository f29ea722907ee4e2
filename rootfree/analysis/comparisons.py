"""What one study, or one table, says about one part of a claim."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import nan
from typing import Any

import numpy as np
import pandas as pd

from rootfree.analysis.checks import Check, evaluate
from rootfree.analysis.claims import BETTER, Claim, Claims, Part
from rootfree.analysis.searches import Search, behind, other_draws
from rootfree.analysis.statistics import ALPHA, TESTS, Direction, Outcome, exact, share
from rootfree.analysis.tables import Study

REPEATS = 10_000  # of the bootstrap over searches


@dataclass(frozen=True)
class Finding(Outcome):
    """What a study, or a table, says about one part.

    Attributes:
        margin: what the difference, or the share of runs, is held against.
        planned: pairs that were planned.
        adjusted: the claim's p after Holm, for all of its findings the same.
        arms: an arm of the claim -> its name in the study.
        low_searches: the interval over seeds and searches; NaN where no arm has a search.
        note: what a table says, which runs are missing, or why support is withheld.
        withheld: whether it is: the p of support is 1 then.
    """

    part: Part | Check = field(kw_only=True)
    margin: float = nan
    planned: int = 0
    arms: Mapping[str, str] = field(default_factory=dict)
    low_searches: float = nan
    high_searches: float = nan
    note: str = ""
    withheld: bool = False
    adjusted: float = nan

    @property
    def kind(self) -> str:
        """The kind of its test."""
        return self.part.kind

    @property
    def over_searches(self) -> Direction:
        """The interval over seeds and searches against zero."""
        return "ahead" if self.low_searches > 0 else "behind" if self.high_searches < 0 else "not resolved"

    @property
    def p(self) -> float:
        """Of the hypothesis that its verdict rejects, or, undecided, the smaller of both; NaN for what is exact."""
        return nan if self.kind == "exact" or not self.n else min(self.support, self.refute)


def differences(study: Study, weights: Mapping[str, float], metric: str, fitted: float = 0) -> np.ndarray:
    """The weighted sum of arms at every seed that all finished; positive is better for arms with positive weight.

    Where `fitted` is given, only seeds count at which all ended with so much training accuracy (%).
    """
    columns = [study.finished(study.arm(arm), metric) * weight * BETTER[metric] for arm, weight in weights.items()]
    if fitted:
        columns = [column[study.finished(study.arm(arm), "train_acc").reindex(column.index) >= fitted]
                   for column, arm in zip(columns, weights, strict=True)]  # fmt: skip
    shared = sorted(set.intersection(*(set(column.index) for column in columns)))
    return np.sum([column.loc[shared].to_numpy(dtype=float) for column in columns], axis=0)


def wins_losses_ties(study: Study, first: str, second: str, metric: str) -> tuple[int, int, int]:
    """Pairs that the first arm wins, loses, ties; a run that diverged loses to one that finished."""
    ended = set(study.seeds(first)) & set(study.seeds(second))
    values = [study.finished(arm, metric) * BETTER[metric] for arm in (first, second)]
    a, b = (column.reindex(sorted(ended)).fillna(-np.inf).to_numpy(dtype=float) for column in values)
    return int((a > b).sum()), int((a < b).sum()), int((a == b).sum())


def look_up(part: Check, tables: Mapping[str, pd.DataFrame]) -> Finding:
    """Check a table."""
    agreeing, n, note = evaluate(part, tables)
    return Finding(**vars(exact(agreeing, n, measured=part.column is not None)), part=part, note=note)


def compare(part: Part, claim: Claim, study: Study | None, claims: Claims, searches: Sequence[Search]) -> Finding:
    """Test one part, and withhold support that the failed runs or the noise floor do not allow."""
    if study is None:
        return Finding(0, part=part, note=f"preset {' or '.join(claim.preset)} was not run", planned=claim.seeds)
    arms = {arm: study.arm(arm) for arm in part.difference}
    margin = part.bound(study.scale)

    def found(outcome: Outcome, note: str = "", **rest: Any) -> Finding:
        known = {"part": part, "margin": margin, "planned": claim.seeds, "arms": arms, "note": note}
        return Finding(**(vars(outcome) | known | rest))

    if missing := [arm for arm, name in arms.items() if not study.size(name)]:
        return found(Outcome(0), f"{', '.join(missing)} was not run")
    failed = {arm: claims.failure.of(study, name) for arm, name in arms.items()}
    if part.kind == "count":
        ((arm, weight),) = part.difference.items()
        events = failed[arm] | study.column(arms[arm], "failed_roots").astype(float).gt(0)
        outcome = share(int(events.sum()), len(events), margin, above=weight > 0)
        return found(outcome, f"{events.sum()} of {len(events)} runs")
    if part.kind == "exact":
        columns = [study.column(name, part.metric) for name in arms.values()]
        pairs = pd.concat(columns, axis=1, join="inner").dropna()
        same = int((pairs.iloc[:, 0] == pairs.iloc[:, 1]).sum())
        return found(exact(same, len(pairs)), f"{same} of {len(pairs)} pairs end with the same weights")
    outcome = TESTS[part.kind](differences(study, part.difference, part.metric, claim.fitted), margin)
    pairs = differences(study, part.difference, part.metric).size if claim.fitted else outcome.n
    few = [f"{outcome.n} of {pairs} pairs have a training accuracy of {claim.fitted:g}%"] if outcome.n < pairs else []
    if few and not outcome.n:
        return found(outcome, few[0])
    if not outcome.n:
        lost = [f"{arm} failed in {runs.sum()} of {len(runs)} runs" for arm, runs in failed.items() if runs.any()]
        if not lost:
            return found(outcome, "no seed is shared by the arms")
        # it was run and it failed: that is not nothing
        return found(replace(outcome, n=min(map(len, failed.values()))), "; ".join(lost), withheld=True)
    low, high = _over_searches(part, study, outcome, arms, searches)
    over = {"low_searches": low, "high_searches": high}
    why = _fails_more(part, failed) or _too_near(part, study, outcome, claims)
    if why and outcome.verdict == "supported":
        return found(replace(outcome, support=1.0), why, withheld=True, **over)
    diverged = {arm: study.diverged(name) for arm, name in arms.items()}
    left_out = [f"{n} of {arm}" for arm, n in diverged.items() if n]
    few += [f"left out, as diverged: {', '.join(left_out)}"] if left_out else []
    return found(outcome, "; ".join(few), **over)


def _fails_more(part: Part, failed: Mapping[str, pd.Series]) -> str:
    """Why a part is not supported: its arm failed more often than its rival."""
    favoured = max((arm for arm, weight in part.difference.items() if weight > 0), key=lambda arm: failed[arm].mean())
    rival = min((arm for arm, weight in part.difference.items() if weight < 0), key=lambda arm: failed[arm].mean())
    if part.kind == "equivalence" and failed[rival].mean() > failed[favoured].mean():
        favoured, rival = rival, favoured
    if failed[favoured].mean() <= failed[rival].mean():
        return ""
    return f"{favoured} failed more often ({failed[favoured].sum()} of {len(failed[favoured])} runs) than {rival}"


def _too_near(part: Part, study: Study, outcome: Outcome, claims: Claims) -> str:
    """Why a part is not supported: the placebo is as far from the method that it equals."""
    if part.kind != "superiority" or not claims.placebo:
        return ""
    arm, of = claims.placebo.arm, claims.placebo.of
    floor = differences(study, {arm: 1, of: -1}, part.metric)
    if not floor.size or outcome.estimate > abs(floor.mean()):
        return ""
    return f"not above the noise floor: {arm} is {abs(floor.mean()):.2f} away from {of}"


def _over_searches(
    part: Part, study: Study, outcome: Outcome, arms: Mapping[str, str], searches: Sequence[Search]
) -> tuple[float, float]:
    """The interval of a difference of test accuracies had other settings been drawn and other seeds been run.

    The spread of the mean over seeds, as its t interval has it, joined with what other draws would have found on
    validation data, taken for test accuracy; arms that share a search share its draws. Never narrower than over seeds.
    """
    if not searches or part.kind not in TESTS or part.metric != "test_acc" or outcome.n < 2:
        return nan, nan
    known: dict[str, Search] = {}
    weights: dict[str, float] = {}
    for arm, name in arms.items():
        run = study.settings(name)
        if (tuned := behind(searches, run)) and tuned[0] == run["model"]:
            known[tuned[2].name] = tuned[2]
            weights[tuned[2].name] = weights.get(tuned[2].name, 0) + part.difference[arm]
    if not known:
        return nan, nan
    rng = np.random.default_rng(0)
    drawn = outcome.estimate + outcome.sd / outcome.n**0.5 * rng.standard_t(outcome.n - 1, REPEATS)
    for name in sorted(known):
        drawn += weights[name] * other_draws(known[name], REPEATS, rng)
    tail = ALPHA if part.kind == "equivalence" else ALPHA / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return min(float(low), outcome.low), max(float(high), outcome.high)
