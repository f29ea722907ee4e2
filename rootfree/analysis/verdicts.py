"""The verdict that runs and tables give on each claim, and the numbers behind it: the rule of `statistics`, applied."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf, isnan, nan
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from rootfree.analysis.checks import Check, elsewhere, evaluate
from rootfree.analysis.claims import BETTER, Claim, Claims, Part
from rootfree.analysis.searches import Search, behind, other_draws
from rootfree.analysis.statistics import (
    ALPHA,
    MOST,
    TESTS,
    Outcome,
    Verdict,
    exact,
    fewest,
    holm,
    seeds_needed,
    share,
)
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
    def p(self) -> float:
        """Of the hypothesis that its verdict rejects, or, undecided, the smaller of both; NaN for what is exact."""
        return nan if self.kind == "exact" or not self.n else min(self.support, self.refute)


@dataclass(frozen=True, eq=False)
class Judgement:
    """A claim's verdict in one study, or without a study from tables, or from nothing.

    Attributes:
        reason: one sentence on why it is undecided or without data, or what limits a decided one; mostly empty.
        counts: whether it is the claim's verdict at this scale and on this data set, for which there is one.
    """

    claim: Claim
    study: Study | None
    premise: Finding | None
    findings: list[Finding]
    verdict: Verdict = "no data"
    reason: str = ""
    counts: bool = True

    @property
    def tested(self) -> list[Finding]:
        """The premise, if any, and the parts."""
        return [*([self.premise] if self.premise else []), *self.findings]

    @property
    def pairs(self) -> int:
        """The least number of pairs, or runs, that a comparison of it rests on."""
        return min((finding.n for finding in self.tested if isinstance(finding.part, Part)), default=0)

    @property
    def place(self) -> tuple[str | None, str] | None:
        """Scale and data set."""
        return (self.study.scale, str(self.study.runs["dataset"].iloc[0])) if self.study else None

    @property
    def runs(self) -> frozenset[str]:
        """The runs that it rests on."""
        arms = {arm for finding in self.tested for arm in finding.arms.values()}
        return (
            frozenset(self.study.runs.loc[self.study.runs["arm"].isin(arms), "run_id"]) if self.study else frozenset()
        )

    def chances(self, of: Callable[[Finding], tuple[float, float]]) -> dict[Verdict, float]:
        """The p of each verdict that the claim can have, from those of its findings."""
        support = max(of(finding)[0] for finding in self.findings)
        refute = min(of(finding)[1] for finding in self.findings)
        refute = min(1.0, refute * max(1, sum(isinstance(finding.part, Part) for finding in self.findings)))
        if not self.premise:
            return {"supported": support, "refuted": refute}
        holds, fails = of(self.premise)
        return {"supported": max(holds, support), "refuted": max(holds, refute), "premise not met": fails}


def differences(study: Study, weights: Mapping[str, float], metric: str) -> np.ndarray:
    """The weighted sum of arms at every seed that all finished; positive is better for arms with positive weight."""
    columns = [study.finished(study.arm(arm), metric) * weight * BETTER[metric] for arm, weight in weights.items()]
    shared = sorted(set.intersection(*(set(column.index) for column in columns)))
    return np.sum([column.loc[shared].to_numpy(dtype=float) for column in columns], axis=0)


def wins_losses_ties(study: Study, first: str, second: str, metric: str) -> tuple[int, int, int]:
    """Pairs that the first arm wins, loses, ties; a run that diverged loses to one that finished."""
    ended = set(study.seeds(first)) & set(study.seeds(second))
    values = [study.finished(arm, metric) * BETTER[metric] for arm in (first, second)]
    a, b = (column.reindex(sorted(ended)).fillna(-np.inf).to_numpy(dtype=float) for column in values)
    return int((a > b).sum()), int((a < b).sum()), int((a == b).sum())


def scorecard(
    claims: Claims,
    studies: Sequence[Study],
    tables: Mapping[str, pd.DataFrame] = {},
    searches: Sequence[Search] = (),
) -> list[Judgement]:
    """Every claim with every study that decides it, and its tables; `no data` where there is neither.

    At each scale and on each data set one verdict counts: that of the study with most pairs. Where several have as
    many, of other runs, they decide together, as if their parts were parts of one claim, and the weakest of them
    stands for all. What counts is one family for Holm; any other study is one of its own.

    Args:
        claims: what is asked.
        studies: the runs.
        tables: `theory` and `bench`, as far as there are any.
        searches: the tables of searches, for the intervals over seeds and searches.
    """
    drafts = []
    for claim in claims.claims:
        read = [_look_up(part, tables) for part in claim.checked]
        deciding: list[Study | None] = [study for study in studies if claim.concerns(study)]
        for study in deciding or [None]:
            found = [_compare(part, claim, study, claims, searches) for part in claim.compared]
            drafts.append(Judgement(claim, study, found.pop(0) if claim.premise else None, [*found, *read]))
    cases = [_case(draft, drafts) for draft in drafts]
    said: dict[int, tuple[float, float]] = {}
    for family in {case.family for case in cases}:
        members = [place for place, case in enumerate(cases) if case.family == family]
        p = [min(cases[place].p.values()) if cases[place].decidable else nan for place in members]
        said |= dict(zip(members, zip(*holm(p), strict=True), strict=True))
    return [_judged(case, *said[place], tables) for place, case in enumerate(cases)]


class Case(NamedTuple):
    """A judgement whose family is known: what Holm adjusts it with, and the p of each verdict that it can have."""

    draft: Judgement
    family: Any
    p: dict[Verdict, float]
    decidable: bool  # whether the clearest result at its n would be a verdict


def _case(draft: Judgement, drafts: Sequence[Judgement]) -> Case:
    rivals = [other for other in drafts if other.claim is draft.claim and other.place == draft.place]
    most = max(other.pairs for other in rivals)
    same: dict[frozenset[str], Judgement] = {}
    for other in rivals:
        if other.pairs == most:
            same.setdefault(other.runs, other)
    leading = [*same.values()]
    weakest = max(leading, key=lambda other: (other.chances(_p)["supported"], -other.chances(_p)["refuted"]))
    if draft is not weakest:
        draft, leading = replace(draft, counts=False), [draft]
    family = draft.place if draft.counts or not draft.study else draft.study.slug
    best = _together(leading, lambda finding: finding.best)
    return Case(draft, family, _together(leading, _p), min(best.values()) <= ALPHA)


def _p(finding: Finding) -> tuple[float, float]:
    return finding.support, finding.refute


def _together(drafts: Sequence[Judgement], of: Callable[[Finding], tuple[float, float]]) -> dict[Verdict, float]:
    """The p of each verdict of several studies on a claim: support asks for all of them, anything else for one."""
    each = [draft.chances(of) for draft in drafts]
    least = {verdict: min(1.0, len(each) * min(p[verdict] for p in each)) for verdict in each[0]}
    return least | {"supported": max(p["supported"] for p in each)}


def _judged(case: Case, adjusted: float, level: float, tables: Mapping[str, pd.DataFrame]) -> Judgement:
    """A judgement with its verdict, once the adjusted p of its claim is known."""
    draft, verdict = case.draft, min(case.p, key=lambda verdict: case.p[verdict])
    if adjusted <= ALPHA:
        reason = " ".join(filter(None, (elsewhere(part, tables) for part in draft.claim.checked)))
    elif lacking := [finding for finding in draft.tested if not finding.n]:
        verdict, reason = "no data", _sentence(draft.claim.missing or lacking[0].note)
    else:
        verdict, reason = "undecided", _reason(draft, adjusted, level)
    findings = [replace(finding, adjusted=adjusted) for finding in draft.tested]
    premise = findings.pop(0) if draft.premise else None
    return replace(draft, premise=premise, findings=findings, verdict=verdict, reason=reason)


def _reason(draft: Judgement, adjusted: float, level: float) -> str:
    """Why a judgement is undecided, in one sentence on the part that stands in the way."""
    asked = [draft.premise] if draft.premise and draft.premise.verdict != "supported" else draft.findings
    unsettled = [finding for finding in asked if finding.verdict == "undecided"]
    refuted = [finding for finding in asked if finding.verdict == "refuted"]
    if refuted or not unsettled:
        finding = min(refuted or asked, key=lambda finding: finding.refute if refuted else -finding.support)
        once, then = (
            f"{finding.verdict} by itself (p {finding.p:.3f})",
            f"for all that is tested here (p {adjusted:.3f})",
        )
        return _sentence(f"{finding.part.text}: {once}, not after adjustment {then}")

    def needed(finding: Finding) -> float:
        if finding.kind not in TESTS or finding.n < 2:
            return inf
        allowed = ALPHA if isnan(level) else level
        return seeds_needed(finding.kind, finding.estimate, finding.sd, finding.margin, allowed) or inf

    # one part is enough to refute, all of them must support
    against = [finding for finding in unsettled if finding.refute < finding.support and not finding.withheld]
    finding = min(against, key=needed) if against else max(unsettled, key=needed)
    told = []
    if finding.withheld or finding.kind == "exact":
        told.append(finding.note)
    elif finding.kind in ("count", "ordering"):
        told.append(f"{finding.note} do not tell the share from {finding.margin:g}")
        if min(finding.best) > ALPHA:
            told.append(f"so few cannot: it takes {fewest(finding.margin)} at least")
    else:
        clear = finding.direction != "not resolved" and finding.margin
        told.append(f"direction clear ({finding.direction}), size not" if clear else "direction not resolved")
    if 0 < finding.n < finding.planned:
        told.append(f"{finding.n} of {finding.planned} planned seeds")
    if finding.kind in TESTS and not finding.withheld and finding.n > 1:
        seeds = needed(finding)
        told.append(f"about {seeds:g} seeds would decide it" if seeds < inf else f"it takes more than {MOST} seeds")
    premise = "the premise is open, " if finding is draft.premise else ""
    return _sentence(f"{premise}{finding.part.text}: {'; '.join(told)}")


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def _look_up(part: Check, tables: Mapping[str, pd.DataFrame]) -> Finding:
    agreeing, n, note = evaluate(part, tables)
    return Finding(**vars(exact(agreeing, n, measured=part.column is not None)), part=part, note=note)


def _compare(part: Part, claim: Claim, study: Study | None, claims: Claims, searches: Sequence[Search]) -> Finding:
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
        note = f"{events.sum()} of {len(events)} runs"
        return found(share(int(events.sum()), len(events), margin, above=weight > 0), note)
    if part.kind == "exact":
        columns = [study.column(name, part.metric) for name in arms.values()]
        pairs = pd.concat(columns, axis=1, join="inner").dropna()
        same = int((pairs.iloc[:, 0] == pairs.iloc[:, 1]).sum())
        return found(exact(same, len(pairs)), f"{same} of {len(pairs)} pairs end with the same weights")
    if part.kind == "ordering":
        first, second = arms.values()
        wins, losses, ties = wins_losses_ties(study, first, second, part.metric)
        outcome = share(wins, wins + losses, margin, above=True)
        note = f"{wins} of {wins + losses} pairs won{f', {ties} tied' if ties else ''}"
    else:
        outcome = TESTS[part.kind](differences(study, part.difference, part.metric), margin)
        lost = {arm: study.diverged(name) for arm, name in arms.items()}
        note = ", ".join(f"left out: {n} of {arm} diverged" for arm, n in lost.items() if n)
    if not outcome.n:
        counts = {
            arm: f"{arm} failed in {runs.sum()} of {len(runs)} runs" for arm, runs in failed.items() if runs.any()
        }
        if not counts:
            return found(outcome, "no seed is shared by the arms")
        # it was run and it failed: that is not nothing
        return found(replace(outcome, n=min(map(len, failed.values()))), "; ".join(counts.values()), withheld=True)
    why = _fails_more(part, failed) or _too_near(part, study, outcome, claims)
    if why and outcome.verdict == "supported":
        return found(replace(outcome, support=1.0), why, withheld=True)
    low, high = _over_searches(part, study, outcome, arms, searches)
    return found(outcome, note, low_searches=low, high_searches=high)


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
    weights: dict[str, float] = {}
    known = {}
    for arm, name in arms.items():
        run = study.settings(name)
        match behind(searches, run):
            case (model, _, search) if model == run["model"]:
                known[search.name] = search
                weights[search.name] = weights.get(search.name, 0) + part.difference[arm]
    if not known:
        return nan, nan
    rng = np.random.default_rng(0)
    drawn = outcome.estimate + outcome.sd / outcome.n**0.5 * rng.standard_t(outcome.n - 1, REPEATS)
    for name in sorted(known):
        drawn += weights[name] * other_draws(known[name], REPEATS, rng)
    tail = ALPHA if part.kind == "equivalence" else ALPHA / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return min(float(low), outcome.low), max(float(high), outcome.high)


def table(judgements: Sequence[Judgement]) -> pd.DataFrame:
    """`verdicts.csv`: of every verdict that counts a row per part, the premise first; verdict and reason are a claim's.

    Estimates and intervals have the unit of the part's metric, or are shares of runs (a count) or of rows (a check).
    """
    own = ["margin", "n", "planned", "estimate", "low", "high", "p", "adjusted", "direction", "size"]
    rows = []
    for judgement in [judgement for judgement in judgements if judgement.counts]:
        claim, study = judgement.claim, judgement.study
        place = " ".join(filter(None, judgement.place or ()))
        for finding in judgement.tested:
            about = {"claim": claim.id, "origin": claim.origin, "place": place, "study": study.slug if study else ""}
            about |= {"part": finding.part.text, "kind": finding.kind} | {key: getattr(finding, key) for key in own}
            about |= {"verdict": judgement.verdict, "reason": judgement.reason}
            rows.append(about | {"low_searches": finding.low_searches, "high_searches": finding.high_searches})
    return pd.DataFrame(rows).rename(columns={"adjusted": "p_adjusted"})
