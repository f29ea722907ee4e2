"""Claims as data, and the verdict that a study gives on each: see `experiments/claims.yaml` for the vocabulary."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from rootfree.analysis.checks import Check, evaluate
from rootfree.analysis.statistics import ALPHA, TESTS, Outcome, Verdict, count, exact, holm, ordering
from rootfree.analysis.tables import Study

# The metrics that can be compared, 1 if more is better, and their units.
BETTER = {"test_acc": 1, "test_loss": -1, "gap_acc": -1, "gap_loss": 1, "unrest": -1}
UNITS = {"test_acc": "points", "gap_acc": "points", "test_loss": "nats", "gap_loss": "nats", "unrest": "points"}
COUNTED = ("diverged", "failures")  # what a run can suffer
KINDS = [*TESTS, "ordering", "count", "exact"]
# Verdicts, weakest first.
STRENGTH: list[Verdict] = ["refuted", "no data", "premise not met", "underpowered", "inconclusive", "supported"]


@dataclass(frozen=True)
class Part:
    """One comparison: a weighted sum of arms per seed, tested against a margin."""

    text: str
    kind: str
    difference: dict[str, float]
    margins: dict[str, float]
    reason: str
    metric: str = "test_acc"
    seeds: int = 0  # pairs that were planned

    @property
    def in_points(self) -> bool:
        """Whether its difference is one of percentage points."""
        return self.kind in TESTS and UNITS[self.metric] == "points"

    def margin(self, scale: str | None) -> float:
        """The margin at a scale."""
        return self.margins.get(scale or "other", self.margins["other"])


@dataclass(frozen=True)
class Claim:
    """A statement, where it comes from, and the comparisons that decide it."""

    id: str
    statement: str
    source: str
    presets: list[str]
    parts: list[Part | Check]
    premise: Part | None = None
    where: dict[str, list[str]] = field(default_factory=dict)  # what a deciding study has in its columns
    missing: str = ""  # what it would take, where nothing can decide it

    def concerns(self, study: Study) -> bool:
        """Whether a study decides this claim."""
        first = study.runs.iloc[0]
        fits = all(str(first.get(column)) in allowed for column, allowed in self.where.items())
        return fits and study.preset in self.presets and any(study.size(study.arm(arm)) for arm in self.arms)

    @property
    def compared(self) -> list[Part]:
        """The premise, if any, and the parts that compare runs."""
        return [part for part in (self.premise, *self.parts) if isinstance(part, Part)]

    @property
    def checked(self) -> list[Check]:
        """The parts that look a table up."""
        return [part for part in self.parts if isinstance(part, Check)]

    @property
    def arms(self) -> list[str]:
        """The arms that are compared."""
        return list(dict.fromkeys(arm for part in self.compared for arm in part.difference))


class Placebo(NamedTuple):
    """An arm that is the same method as another up to rounding."""

    arm: str
    of: str


class Question(NamedTuple):
    """What several claims answer together, on one page."""

    title: str
    claims: list[str]
    presets: list[str]  # whose second moments are shown


class Claims(NamedTuple):
    """What `claims.yaml` holds."""

    claims: list[Claim]
    baselines: list[str]
    placebo: Placebo | None
    questions: Sequence[Question] = ()

    def wanted(self) -> dict[str, list[str]]:
        """The arms that a preset's claims compare, whichever preset asked for their runs first."""
        arms: dict[str, list[str]] = {}
        for claim in self.claims:
            for preset in claim.presets:
                known = arms.setdefault(preset, [])
                known += [arm for arm in claim.arms if arm not in known]
        return arms


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


def load_claims(path: Path) -> Claims:
    """Read and check `claims.yaml`.

    Raises:
        ValueError: Something in it cannot be understood; the message names the claim, the key and what is allowed.
    """
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist") from error
    except (YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"{path} is not readable yaml: {' '.join(str(error).split())}") from error
    top = _keys(content, {"claims": list, "baselines": list}, {"placebo": dict, "questions": list}, str(path))
    placebo = None
    if "placebo" in top:
        placebo = Placebo(**_keys(top["placebo"], {"arm": str, "of": str}, {}, f"{path}: placebo"))
    claims = [_claim(entry, f"{path}: claim {number}") for number, entry in enumerate(top["claims"], start=1)]
    ids = [claim.id for claim in claims]
    if len(set(ids)) < len(ids):
        raise ValueError(f"{path}: claim ids must differ, found {', '.join(ids)}")
    keys: dict[str, type] = {"title": str, "claims": list, "presets": list}
    questions = [Question(**_keys(entry, keys, {}, f"{path}: question")) for entry in top.get("questions", [])]
    for asked in (claim for question in questions for claim in question.claims):
        _one_of(asked, ids, f"{path}: question, claim")
    return Claims(claims, top["baselines"], placebo, questions)


def _claim(entry: Any, where: str) -> Claim:
    required: dict[str, type] = dict.fromkeys(["id", "statement", "source"], str) | {"parts": list}
    optional: dict[str, type] = {
        "preset": object,
        "metric": str,
        "premise": dict,
        "where": dict,
        "missing": str,
        "seeds": int,
    }
    if isinstance(entry, dict) and "id" in entry:
        where = f"{where} ({entry['id']})"
    fields = _keys(entry, required, optional, where)
    defaults = {"metric": fields.pop("metric", "test_acc"), "seeds": fields.pop("seeds", 0)}
    if not fields["parts"]:
        raise ValueError(f"{where}: parts is empty, a claim needs at least one")
    parts = [
        _part(part, defaults, f"{where}, part {number}") for number, part in enumerate(fields.pop("parts"), start=1)
    ]
    premise = _part(fields.pop("premise"), defaults, f"{where}, premise") if "premise" in fields else None
    presets = _listed(fields.pop("preset", []))
    if not presets and any(isinstance(part, Part) for part in parts):
        raise ValueError(f"{where}: lacks preset, whose runs its parts compare")
    if isinstance(premise, Check):
        raise ValueError(f"{where}, premise: must compare runs")
    chosen = {column: _listed(allowed) for column, allowed in fields.pop("where", {}).items()}
    return Claim(**fields, presets=presets, parts=parts, premise=premise, where=chosen)


def _part(entry: Any, defaults: dict[str, Any], where: str) -> Part | Check:
    if isinstance(entry, dict) and "table" in entry:
        return _check(entry, where)
    required: dict[str, type] = {"text": str, "kind": str, "difference": dict, "margin": object, "reason": str}
    fields = defaults | _keys(entry, required, {"metric": str, "seeds": int}, where)
    kind = fields["kind"]
    _one_of(kind, KINDS, f"{where}: kind")
    if kind != "exact":
        _one_of(fields["metric"], COUNTED if kind == "count" else BETTER, f"{where}: metric")
    margin = fields.pop("margin")
    margins = margin if isinstance(margin, dict) else {"other": margin}
    if "other" not in margins or not all(_number(value) and value >= 0 for value in margins.values()):
        raise ValueError(f"{where}: margin must be a number >= 0, or one per scale and one for `other`, not {margin!r}")
    weights = fields["difference"].values()
    if kind == "count":
        if len(weights) != 1 or not all(map(_number, weights)):
            raise ValueError(f"{where}: difference must be one arm, 1 for above the margin and -1 for below")
    elif not all(map(_number, weights)) or not min(weights, default=0) < 0 < max(weights, default=0):
        raise ValueError(f"{where}: difference must weigh arms, with both signs, not {fields['difference']!r}")
    elif kind in ("ordering", "exact") and list(weights) != [1, -1]:
        raise ValueError(f"{where}: difference must be {{first: 1, second: -1}}, not {fields['difference']!r}")
    return Part(**fields, margins=margins)


def _check(entry: dict[str, Any], where: str) -> Check:
    optional: dict[str, type] = {"against": dict, "column": str, "above": object, "below": object, "rising": bool}
    required: dict[str, type] = {"text": str, "kind": str, "table": str, "rows": dict, "reason": str}
    fields = _keys(entry, required, optional, where)
    _one_of(fields.pop("kind"), ["exact"], f"{where}: kind")
    _one_of(fields["table"], ["theory", "bench"], f"{where}: table")
    asked = any(key in fields for key in ("above", "below", "rising"))
    if ("column" in fields) != asked or not all(_number(fields.get(key, 0)) for key in ("above", "below")):
        raise ValueError(f"{where}: needs column with above, below (numbers) or rising, or none of them")
    return Check(**fields)


def _listed(value: Any) -> list[str]:
    return [str(item) for item in (value if isinstance(value, list) else [value])]


def _keys(entry: Any, required: dict[str, type], optional: dict[str, type], where: str) -> dict[str, Any]:
    """`entry` if it is a mapping with these keys and types."""
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: must be a mapping, not {entry!r}")
    for key, value in entry.items():
        _one_of(key, required | optional, f"{where}: key")
        kind = (required | optional)[key]
        if not isinstance(value, kind):
            raise ValueError(f"{where}: {key} must be a {kind.__name__}, not {value!r}")
    if missing := [key for key in required if key not in entry]:
        raise ValueError(f"{where}: lacks {', '.join(missing)}")
    return dict(entry)


def _one_of(name: Any, allowed: Sequence[str] | Mapping[str, Any], where: str) -> None:
    if name not in allowed:
        raise ValueError(f"{where} {name!r} is unknown; allowed are {', '.join(allowed)}")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
