"""The verdict that runs and tables give on each claim, and the numbers behind it: the rule of `statistics`, applied."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, isnan, nan
from typing import Any, NamedTuple

import pandas as pd

from rootfree.analysis.checks import elsewhere
from rootfree.analysis.claims import Claim, Claims, Part
from rootfree.analysis.comparisons import Finding, compare, look_up
from rootfree.analysis.searches import Search
from rootfree.analysis.statistics import ALPHA, MOST, TESTS, Verdict, fewest, holm, seeds_needed
from rootfree.analysis.tables import Study


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
        if not self.study:
            return frozenset()
        arms = {arm for finding in self.tested for arm in finding.arms.values()}
        return frozenset(self.study.runs.loc[self.study.runs["arm"].isin(arms), "run_id"])

    def chances(self, of: Callable[[Finding], tuple[float, float]]) -> dict[Verdict, float]:
        """The p of each verdict that the claim can have, from those of its findings."""
        support = max(of(finding)[0] for finding in self.findings)
        refute = min(of(finding)[1] for finding in self.findings)
        refute = min(1.0, refute * max(1, sum(isinstance(finding.part, Part) for finding in self.findings)))
        if not self.premise:
            return {"supported": support, "refuted": refute}
        holds, fails = of(self.premise)
        return {"supported": max(holds, support), "refuted": max(holds, refute), "premise not met": fails}


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
        read = [look_up(part, tables) for part in claim.checked]
        deciding: list[Study | None] = [study for study in studies if claim.concerns(study)]
        for study in deciding or [None]:
            found = [compare(part, claim, study, claims, searches) for part in claim.compared]
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
    shown = nan if all(finding.kind == "exact" for finding in draft.tested) else adjusted
    findings = [replace(finding, adjusted=shown) for finding in draft.tested]
    premise = findings.pop(0) if draft.premise else None
    return replace(draft, premise=premise, findings=findings, verdict=verdict, reason=reason)


def _reason(draft: Judgement, adjusted: float, level: float) -> str:
    """Why a judgement is undecided, in one sentence on the part that stands in the way."""
    asked = [draft.premise] if draft.premise and draft.premise.verdict != "supported" else draft.findings
    unsettled = [finding for finding in asked if finding.verdict == "undecided"]
    refuted = [finding for finding in asked if finding.verdict == "refuted"]
    if refuted or not unsettled:
        finding = min(refuted or asked, key=lambda finding: finding.refute if refuted else -finding.support)
        once = f"{finding.part.text}: {finding.verdict} by itself (p {finding.p:.3f})"
        return _sentence(f"{once}, not after adjustment for all that is tested here (p {adjusted:.3f})")

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
    elif finding.kind == "count":
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
