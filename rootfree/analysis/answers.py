"""What the verdicts say, in words and numbers: of a claim, of a question, and over all for whoever chooses a method."""

from collections.abc import Mapping, Sequence
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd

from rootfree.analysis.checks import Check
from rootfree.analysis.claims import UNITS, Claims, Part, Question
from rootfree.analysis.comparisons import Finding
from rootfree.analysis.overview import VERDICTS
from rootfree.analysis.page import Link, p_value, safe_name
from rootfree.analysis.sections import FEW
from rootfree.analysis.verdicts import Judgement

SIZES = {  # the interval against the bound that is asked about, in words
    "superiority": {"larger": "by more than", "smaller": "by less than", "unclear": "perhaps by"},
    "noninferiority": {"larger": "not behind by", "smaller": "by more than", "unclear": "perhaps behind by"},
    "equivalence": {"larger": "beyond", "smaller": "within", "unclear": "perhaps beyond"},
}
ORIGINS = {"paper": "the paper's words", "code": "the released code", "ours": "our own question"}
PLACE = ("estimate", "low", "high", "low_searches", "high_searches", "margin")  # of a row of the forest, in points


def parts(judgement: Judgement) -> pd.DataFrame:
    """The parts of a judgement: what was asked, what came out, and how sure that is."""
    rows = []
    for finding in judgement.tested:
        question = f"{'Premise: ' if finding is judgement.premise else ''}{finding.part.text}"
        row = {"question": question, "result": result(finding), "verdict": finding.verdict}
        rows.append(row | {"confidence": confidence(finding)})
    return pd.DataFrame(rows)


def result(finding: Finding) -> str:
    """A part's estimate in words, or what a table says."""
    if isinstance(finding.part, Check) or finding.kind not in SIZES or np.isnan(finding.estimate):
        return finding.note or "-"
    said = f"{finding.estimate:+.2f} {UNITS[finding.part.metric]}: {finding.direction}"
    said += f", {SIZES[finding.kind][finding.size]} the margin of {finding.margin:g}" if finding.margin else ""
    return f"{said}; {finding.note}" if finding.note else said


def confidence(finding: Finding) -> str:
    """The intervals of a part, and the runs they rest on."""
    if isinstance(finding.part, Check) or not finding.n:
        return "-"
    said = [f"n = {finding.n}" + (f" of {finding.planned} planned" if finding.n < finding.planned else "")]
    if finding.kind in SIZES:
        said.append(ends(finding))
    elif finding.kind == "count":
        said.append(f"95% {finding.low:.2f} to {finding.high:.2f}")
    if finding.n > 2 and np.isfinite([finding.low_searches, finding.high_searches]).all():
        said.append(f"{finding.low_searches:+.2f} to {finding.high_searches:+.2f} over seeds and searches")
    if np.isfinite(finding.p):
        said.append(p_value(finding.p))
    return "; ".join(said)


def ends(finding: Finding) -> str:
    """The interval of a part over seeds, with its level; that of two pairs says nothing and is not told."""
    if finding.n < 3:
        return FEW
    return f"{90 if finding.kind == 'equivalence' else 95}% {finding.low:+.2f} to {finding.high:+.2f}"


def asked(question: Question, judgements: Sequence[Judgement]) -> list[Judgement]:
    """The verdicts on the claims of a question, in its order."""
    these = [one for one in judgements if one.claim.id in question.claims and one.counts]
    return sorted(these, key=lambda one: question.claims.index(one.claim.id))


def main_part(judgement: Judgement) -> Finding:
    """The part that is shown for a claim: what refutes it, or else the first that was measured in points."""
    if judgement.verdict == "refuted":
        return min(judgement.findings, key=lambda finding: finding.refute)
    return next(filter(in_points, judgement.findings), judgement.findings[0])


def in_points(finding: Finding) -> bool:
    """Whether a part's estimate is one of percentage points."""
    return not isinstance(finding.part, Check) and finding.part.in_points and bool(np.isfinite(finding.estimate))


def verdicts(judgements: Sequence[Judgement], pages: Mapping[str, str]) -> pd.DataFrame:
    """What was found on several claims, a row per claim and place; a place leads to its page where there is one."""
    rows = []
    for one in judgements:
        finding, page = main_part(one), pages.get(one.study.slug) if one.study else None
        where = [f"{one.study.scale}: {one.study.setting}"] if one.study else []
        place = " and ".join([*where, *dict.fromkeys(f"{part.table}.csv" for part in one.claim.checked)]) or "-"
        row: dict[str, Any] = {"claim": one.claim.id, "question": one.claim.short, "whose": ORIGINS[one.claim.origin]}
        row |= {"where": Link(place, f"{page}#{safe_name(one.claim.id)}") if page else place, "verdict": one.verdict}
        row["result"] = f"{finding.part.text}: {result(finding)}" if finding.n else "-"
        rows.append(row | {"confidence": confidence(finding), "why": one.reason or "-"})
    return pd.DataFrame(rows)


def forest(claims: Claims, judgements: Sequence[Judgement]) -> pd.DataFrame:
    """A row per claim and place, as `overview.forest` wants them, in the order of the questions."""
    rows = []
    for question in claims.questions:
        for one in asked(question, judgements):
            finding = main_part(one)
            row = {"question": question.title, "claim": one.claim.id, "title": one.claim.short, "verdict": one.verdict}
            row["dataset"] = one.place[1] if one.place else ""
            row["note"] = finding.note if one.study or finding.n else "not run"
            known = PLACE if finding.n > 2 else ("estimate", "margin")  # an interval of two pairs is not drawn
            shown = {key: getattr(finding, key) for key in known if in_points(finding)}
            rows.append(row | dict.fromkeys(PLACE, np.nan) | shown)
    return pd.DataFrame(rows)


def summaries(claims: Claims, judgements: Sequence[Judgement]) -> list[dict[str, Any]]:
    """A row per question: what its first claim came to at every place, and how often all of them were borne out."""
    rows = []
    for question in claims.questions:
        these = asked(question, judgements)
        tested = [one for one in these if one.verdict != "no data"]
        told, short = [], []
        for one in [one for one in tested if one.claim.id == tested[0].claim.id]:
            finding, verdict = main_part(one), f"{one.verdict}{f' on {one.place[1]}' if one.place else ''}"
            measured = in_points(finding)
            short.append(f"{verdict} ({finding.estimate:+.1f} points)" if measured else verdict)
            said = f"{finding.estimate:+.2f} points ({ends(finding)}, n = {finding.n})" if measured else result(finding)
            told.append(f"{verdict}, {said}")
        failing = [one.premise.part.text for one in tested[:1] if one.premise and one.verdict == "premise not met"]
        if tested:
            row: dict[str, Any] = {"title": question.title, "asked": tested[0].claim.short, "answer": "; ".join(told)}
            row |= {"claims": question.claims, "short": "; ".join(short), "premise": next(iter(failing), "")}
            rows.append(row | {"tally": tally(these)})
    return rows


def tally(judgements: Sequence[Judgement]) -> str:
    """How many verdicts of each kind there are, apart for each origin of a claim."""
    told = []
    for origin in ORIGINS:
        said = [one.verdict for one in judgements if one.claim.origin == origin]
        counted = [f"{said.count(verdict)} {verdict}" for verdict in VERDICTS if verdict in said]
        told += [f"{origin}: {', '.join(counted)}"] if said else []
    return "; ".join(told)


def duels(claims: Claims, judgements: Sequence[Judgement], each: int = 2) -> list[dict[str, Any]]:
    """Whether methods without the root were ahead of such with it on test accuracy, by model and data set.

    A lead is one over searches, too, where the wider interval says the same; else it is called one over seeds.

    Args:
        claims: All of them; the pairs are those that they compare by plain names, from three seeds on.
        judgements: What was found.
        each: How many pairs of a question, at most.
    """
    rows: list[dict[str, Any]] = []
    for question in claims.questions:
        for one in asked(question, judgements):
            for finding in filter(in_points, one.findings):
                arms, part, study = (*finding.arms.values(),), finding.part, one.study
                plain = isinstance(part, Part) and part.metric == "test_acc" and part.kind != "equivalence"
                if not (plain and study and one.place) or finding.n < 3 or any(" " in arm for arm in arms):
                    continue
                if [study.root_free(arm) for arm in arms] == [True, False]:
                    row = {"question": question.title, "pair": arms, "model": str(study.runs["model"].iloc[0])}
                    row |= {"claim": one.claim.id, "dataset": one.place[1], "direction": finding.direction}
                    sure = finding.over_searches == finding.direction != "not resolved"
                    rows.append(row | {"sure": sure, "estimate": f"{finding.estimate:+.1f}"})
    found: list[dict[str, Any]] = []
    for (pair, model), group in pd.DataFrame(rows).groupby(["pair", "model"], sort=False) if rows else ():
        first = group[group["claim"] == group["claim"].iloc[0]]  # another claim asks of other settings
        places = first.drop_duplicates("dataset").to_dict("records")
        ahead = all(place["direction"] == "ahead" for place in places)
        trailing = [place["sure"] for place in places if place["direction"] == "behind"]
        sure = all(place["sure"] for place in places) if ahead else any(trailing)
        duel = {"pair": pair, "model": model, "places": places, "ahead": ahead, "behind": bool(trailing), "sure": sure}
        found.append(duel | {key: places[0][key] for key in ("claim", "question")})
    return [duel for _, these in groupby(found, key=itemgetter("question")) for duel in islice(these, each)]
