"""The verdict that runs and tables give on each claim, and the numbers behind it."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from rootfree.analysis.checks import Check, evaluate
from rootfree.analysis.claims import BETTER, Claim, Claims, Part, Placebo
from rootfree.analysis.statistics import ALPHA, TESTS, Outcome, Verdict, count, exact, holm, ordering
from rootfree.analysis.tables import Study

# Verdicts, weakest first.
STRENGTH: list[Verdict] = ["refuted", "no data", "premise not met", "underpowered", "inconclusive", "supported"]


class Finding(NamedTuple):
    """What a study, or a table, says about one part; `note` tells why the verdict is not the test's own."""

    part: Part | Check
    margin: float
    outcome: Outcome
    note: str = ""
    test: Callable[..., Outcome] | None = None  # what gives the outcome, for any level `alpha`
    adjusted: float = np.nan  # p after Holm
    arms: Mapping[str, str] = {}  # an arm of the claim -> its name in the study
    left_out: str = ""  # runs that diverged, whose pairs enter no mean

    @property
    def verdict(self) -> Verdict:
        """What is left of the test's verdict: the adjusted p decides."""
        decided = self.outcome.verdict in ("supported", "refuted")
        return self.outcome.undecided if decided and self.adjusted > ALPHA else self.outcome.verdict

    def among(self, adjusted: float, level: float) -> "Finding":
        """The finding as one of a family, which leaves its test this level."""
        if not self.test:
            return self._replace(adjusted=adjusted)
        strict, outcome = self.test(alpha=level), self.outcome
        verdict = strict.undecided if outcome.verdict == outcome.undecided else outcome.verdict
        outcome = outcome._replace(verdict=verdict, undecided=strict.undecided, detectable=strict.detectable)
        return self._replace(adjusted=adjusted, outcome=outcome)


class Judgement(NamedTuple):
    """A claim's verdict in one study, or without a study from tables, or from nothing.

    `counts` is whether it is the claim's verdict at this scale and on this data set, for which there is one.
    """

    claim: Claim
    study: Study | None
    verdict: Verdict
    premise: Finding | None
    findings: list[Finding]
    counts: bool = True

    @property
    def pairs(self) -> int:
        """The least number of pairs, or runs, that a comparison of it rests on."""
        return min((f.outcome.interval.n for f in _tested(self) if isinstance(f.part, Part)), default=0)

    @property
    def place(self) -> tuple[str | None, str] | None:
        """Scale and data set."""
        return (self.study.scale, str(self.study.runs["dataset"].iloc[0])) if self.study else None


def differences(study: Study, weights: Mapping[str, float], metric: str) -> np.ndarray:
    """The weighted sum of arms at every seed that all finished; positive is better for arms with positive weight."""
    columns = [study.finished(study.arm(arm), metric) * weight * BETTER[metric] for arm, weight in weights.items()]
    shared = sorted(set.intersection(*(set(column.index) for column in columns)))
    return np.sum([column.loc[shared].to_numpy(dtype=float) for column in columns], axis=0)


def record(study: Study, first: str, second: str, metric: str) -> tuple[int, int, int]:
    """Pairs that the first arm wins, loses, ties; a run that diverged loses to one that finished."""
    ended = set(study.seeds(first)) & set(study.seeds(second))
    values = [study.finished(arm, metric) * BETTER[metric] for arm in (first, second)]
    a, b = (column.reindex(sorted(ended)).fillna(-np.inf).to_numpy(dtype=float) for column in values)
    return int((a > b).sum()), int((a < b).sum()), int((a == b).sum())


def judge(claim: Claim, study: Study, placebo: Placebo | None = None) -> Judgement:
    """The verdict of one study on one claim, as if nothing else had been tested."""
    return scorecard(Claims([claim], [], placebo), [study])[0]


def scorecard(claims: Claims, studies: Sequence[Study], tables: Mapping[str, pd.DataFrame] = {}) -> list[Judgement]:
    """Every claim with every study that decides it, and its tables; `no data` where there is neither.

    At each scale and on each data set one verdict counts: that of the study with most pairs, and among equals the
    weakest. What is tested in the studies with most pairs is one family for Holm; any other study is one of its own.

    Args:
        claims: what is asked.
        studies: the runs.
        tables: `theory` and `bench`, as far as there are any.
    """
    drafts = []
    for claim in claims.claims:
        read = [_look_up(part, tables) for part in claim.checked]
        deciding: list[Study | None] = [study for study in studies if claim.concerns(study)]
        for study in deciding or [None]:
            found = [_compare(part, study, claims.placebo) for part in claim.compared]
            premise = found.pop(0) if claim.premise else None
            drafts.append(Judgement(claim, study, "no data", premise, [*found, *read]))
    most = {(draft.claim.id, draft.place): 0 for draft in drafts}
    for draft in drafts:
        most[draft.claim.id, draft.place] = max(most[draft.claim.id, draft.place], draft.pairs)
    drafts = [draft._replace(counts=draft.pairs == most[draft.claim.id, draft.place]) for draft in drafts]
    families: dict[Any, list[float]] = {}
    for draft in drafts:
        families.setdefault(_family(draft), []).extend(finding.outcome.p for finding in _tested(draft))
    left = {family: zip(*map(np.ndarray.tolist, holm(p)), strict=True) for family, p in families.items()}
    judged = []
    for draft in drafts:
        found = [finding.among(*next(left[_family(draft)])) for finding in _tested(draft)]
        premise = found.pop(0) if draft.premise else None
        judged.append(draft._replace(premise=premise, findings=found, verdict=_verdict(premise, found)))
    weakest: dict[Any, Judgement] = {}
    for one in judged:
        known = weakest.get((one.claim.id, one.place))
        if one.counts and (known is None or STRENGTH.index(one.verdict) < STRENGTH.index(known.verdict)):
            weakest[one.claim.id, one.place] = one
    return [one._replace(counts=weakest[one.claim.id, one.place] is one) for one in judged]


def _family(judgement: Judgement) -> Any:
    """What tests are adjusted with: those that count at a scale and on a data set, or else those of a study."""
    return judgement.place if judgement.counts or not judgement.study else judgement.study.slug


def _tested(judgement: Judgement) -> list[Finding]:
    return [*([judgement.premise] if judgement.premise else []), *judgement.findings]


def _verdict(premise: Finding | None, findings: list[Finding]) -> Verdict:
    """The weakest part's, provided that the premise holds."""
    if premise and premise.verdict != "supported":
        # An undecided premise leaves the claim as undecided as itself: it is not known to fail.
        return "premise not met" if premise.verdict == "refuted" else premise.verdict
    return min((finding.verdict for finding in findings), key=STRENGTH.index)


def _look_up(part: Check, tables: Mapping[str, pd.DataFrame]) -> Finding:
    agreeing, n, note = evaluate(part, tables)
    return Finding(part, np.nan, exact(agreeing, n, measured=part.column is not None), note)


def _compare(part: Part, study: Study | None, placebo: Placebo | None) -> Finding:
    """Test one part, and withhold support that the diverged runs or the noise floor do not allow."""
    if study is None:
        return Finding(part, np.nan, exact(0, 0), "not run")
    margin = part.margin(study.scale)
    arms = {arm: study.arm(arm) for arm in part.difference}
    if missing := [arm for arm, found in arms.items() if not study.size(found)]:
        return Finding(part, margin, exact(0, 0), f"{', '.join(missing)} was not run")
    if part.kind == "count":
        return _count(part, study, margin, arms)
    if part.kind == "exact":
        columns = [study.column(arm, part.metric) for arm in arms.values()]
        pairs = pd.concat(columns, axis=1, join="inner").dropna()
        same = int((pairs.iloc[:, 0] == pairs.iloc[:, 1]).sum())
        return Finding(part, margin, exact(same, len(pairs)), f"{same} of {len(pairs)} pairs", arms=arms)
    if part.kind == "ordering":
        first, second = arms.values()
        wins, losses, ties = record(study, first, second, part.metric)
        test, note = partial(ordering, wins, losses, margin), f"{ties} ties" if ties else ""
    else:
        test, note = partial(TESTS[part.kind], differences(study, part.difference, part.metric), margin), ""
    outcome = test()
    lost = {arm: study.diverged(found) for arm, found in arms.items()}
    if outcome.verdict == "no data":
        note = "no seed is shared by the arms"
        if any(lost.values()):  # it was run and it failed: that is not nothing
            outcome = outcome._replace(verdict="inconclusive", undecided="inconclusive")
            note = "; ".join(f"{arm} diverged in {n} of {study.size(arms[arm])} runs" for arm, n in lost.items() if n)
        return Finding(part, margin, outcome, note, arms=arms)
    left_out = ", ".join(f"{n} of {arm}" for arm, n in lost.items() if n) if part.kind != "ordering" else ""
    if outcome.verdict == "supported":
        reason = _diverges(part, study, arms) or _too_near(part, study, outcome, placebo)
        if reason:
            outcome = outcome._replace(verdict="inconclusive", undecided="inconclusive")
            return Finding(part, margin, outcome, reason, arms=arms, left_out=left_out)
    return Finding(part, margin, outcome, note, test, arms=arms, left_out=left_out)


def _count(part: Part, study: Study, margin: float, arms: dict[str, str]) -> Finding:
    ((arm, weight),) = part.difference.items()
    happened = study.column(arms[arm], "status") == "diverged"
    if part.metric == "failures":
        happened |= study.column(arms[arm], "failed_roots").astype(float).gt(0)
    test = partial(count, int(happened.sum()), len(happened), margin, above=weight > 0)
    return Finding(part, margin, test(), f"{happened.sum()} of {len(happened)} runs", test, arms=arms)


def _diverges(part: Part, study: Study, arms: dict[str, str]) -> str:
    """Why a part is not supported: its arm diverged more often than its rival."""
    share = {arm: study.diverged(found) / study.size(found) for arm, found in arms.items()}
    favoured = max((arm for arm, weight in part.difference.items() if weight > 0), key=lambda arm: share[arm])
    rival = min((arm for arm, weight in part.difference.items() if weight < 0), key=lambda arm: share[arm])
    if part.kind == "equivalence" and share[rival] > share[favoured]:
        favoured, rival = rival, favoured
    if share[favoured] <= share[rival]:
        return ""
    counts = f"{study.diverged(arms[favoured])} of {study.size(arms[favoured])} runs"
    return f"{favoured} diverged more often ({counts}) than {rival}"


def _too_near(part: Part, study: Study, outcome: Outcome, placebo: Placebo | None) -> str:
    """Why a part is not supported: the placebo is as far from the method that it equals."""
    if part.kind != "superiority" or not placebo:
        return ""
    floor = differences(study, {placebo.arm: 1, placebo.of: -1}, part.metric)
    if not floor.size or outcome.interval.mean > abs(floor.mean()):
        return ""
    return f"not above the noise floor: {placebo.arm} is {abs(floor.mean()):.2f} away from {placebo.of}"
