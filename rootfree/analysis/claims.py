"""Claims as data, and the verdict that a study gives on each: see `experiments/claims.yaml` for the vocabulary."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from rootfree.analysis.statistics import TESTS, Outcome, Verdict
from rootfree.analysis.tables import Study

# The metrics a claim can be about, 1 if more is better.
BETTER = {"test_acc": 1, "test_loss": -1, "gap_acc": -1, "gap_loss": 1}
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

    def margin(self, scale: str | None) -> float:
        """The margin at a scale."""
        return self.margins.get(scale or "other", self.margins["other"])


@dataclass(frozen=True)
class Claim:
    """A statement, where it comes from, and the comparisons that decide it."""

    id: str
    statement: str
    source: str
    preset: str
    metric: str
    parts: list[Part]
    premise: Part | None


class Placebo(NamedTuple):
    """An arm that is the same method as another up to rounding."""

    arm: str
    of: str


class Claims(NamedTuple):
    """What `claims.yaml` holds."""

    claims: list[Claim]
    baselines: list[str]
    placebo: Placebo | None


class Finding(NamedTuple):
    """What a study says about one part; `note` tells why the verdict is not the test's own."""

    part: Part
    margin: float
    outcome: Outcome
    note: str = ""


class Judgement(NamedTuple):
    """A claim's verdict in one study, or without one where no study can decide it."""

    claim: Claim
    study: Study | None
    verdict: Verdict
    premise: Finding | None
    findings: list[Finding]


def differences(study: Study, weights: Mapping[str, float], metric: str) -> np.ndarray:
    """The weighted sum of arms at every seed that all finished; positive is better for arms with positive weight."""
    columns = [study.finished(arm, metric) * weight * BETTER[metric] for arm, weight in weights.items()]
    shared = sorted(set.intersection(*(set(column.index) for column in columns)))
    return np.sum([column.loc[shared].to_numpy(dtype=float) for column in columns], axis=0)


def judge(claim: Claim, study: Study, placebo: Placebo | None = None) -> Judgement:
    """The verdict of one study on one claim: its weakest part's, provided that the premise holds."""
    findings = [_test(part, study, claim.metric, placebo) for part in claim.parts]
    verdict = min((finding.outcome.verdict for finding in findings), key=STRENGTH.index)
    premise = _test(claim.premise, study, claim.metric, placebo) if claim.premise else None
    if premise and premise.outcome.verdict != "supported":
        # An undecided premise leaves the claim as undecided as itself: it is not known to fail.
        verdict = "premise not met" if premise.outcome.verdict == "refuted" else premise.outcome.verdict
    return Judgement(claim, study, verdict, premise, findings)


def scorecard(claims: Claims, studies: list[Study]) -> list[Judgement]:
    """Every claim with every study of its preset; `no data` for a claim that has none."""
    judgements = []
    for claim in claims.claims:
        deciding = [study for study in studies if claim.preset in study.presets]
        judgements += [judge(claim, study, claims.placebo) for study in deciding]
        if not deciding:
            judgements.append(Judgement(claim, None, "no data", None, []))
    return judgements


def _test(part: Part, study: Study, metric: str, placebo: Placebo | None) -> Finding:
    """Test one part, and withhold support that the diverged runs or the noise floor do not allow."""
    margin = part.margin(study.scale)
    outcome = TESTS[part.kind](differences(study, part.difference, metric), margin)
    missing = [arm for arm in part.difference if not study.size(arm)]
    if missing:
        return Finding(part, margin, outcome, f"{', '.join(missing)} was not run")
    if outcome.verdict == "no data":
        lost = [arm for arm in part.difference if study.diverged(arm)]
        if lost:  # it was run and it failed: that is not nothing
            note = "; ".join(f"{arm} diverged in {study.diverged(arm)} of {study.size(arm)} runs" for arm in lost)
            return Finding(part, margin, outcome._replace(verdict="inconclusive"), note)
        return Finding(part, margin, outcome, "no seed is shared by the arms")
    if outcome.verdict != "supported":
        return Finding(part, margin, outcome)

    share = {arm: study.diverged(arm) / study.size(arm) for arm in part.difference}
    favoured = max((arm for arm, weight in part.difference.items() if weight > 0), key=lambda arm: share[arm])
    rival = min((arm for arm, weight in part.difference.items() if weight < 0), key=lambda arm: share[arm])
    if part.kind == "equivalence" and share[rival] > share[favoured]:
        favoured, rival = rival, favoured
    note = ""
    if share[favoured] > share[rival]:
        counts = f"{study.diverged(favoured)} of {study.size(favoured)} runs"
        note = f"{favoured} diverged more often ({counts}) than {rival}"
    elif part.kind == "superiority" and placebo:
        floor = differences(study, {placebo.arm: 1, placebo.of: -1}, metric)
        if floor.size and outcome.interval.mean <= abs(floor.mean()):
            note = f"not above the noise floor: {placebo.arm} is {abs(floor.mean()):.2f} away from {placebo.of}"
    return Finding(part, margin, outcome._replace(verdict="inconclusive") if note else outcome, note)


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
    top = _keys(content, {"claims": list, "baselines": list}, {"placebo": dict}, str(path))
    placebo = None
    if "placebo" in top:
        placebo = Placebo(**_keys(top["placebo"], {"arm": str, "of": str}, {}, f"{path}: placebo"))
    claims = [_claim(entry, f"{path}: claim {number}") for number, entry in enumerate(top["claims"], start=1)]
    ids = [claim.id for claim in claims]
    if len(set(ids)) < len(ids):
        raise ValueError(f"{path}: claim ids must differ, found {', '.join(ids)}")
    return Claims(claims, top["baselines"], placebo)


def _claim(entry: Any, where: str) -> Claim:
    required: dict[str, type] = dict.fromkeys(["id", "statement", "source", "preset", "metric"], str) | {"parts": list}
    if isinstance(entry, dict) and "id" in entry:
        where = f"{where} ({entry['id']})"
    fields = _keys(entry, required, {"premise": dict}, where)
    _one_of(fields["metric"], BETTER, f"{where}: metric")
    if not fields["parts"]:
        raise ValueError(f"{where}: parts is empty, a claim needs at least one")
    parts = [_part(part, f"{where}, part {number}") for number, part in enumerate(fields.pop("parts"), start=1)]
    premise = fields.pop("premise", None)
    return Claim(**fields, parts=parts, premise=_part(premise, f"{where}, premise") if premise else None)


def _part(entry: Any, where: str) -> Part:
    fields = _keys(entry, {"text": str, "kind": str, "difference": dict, "margin": object, "reason": str}, {}, where)
    _one_of(fields["kind"], TESTS, f"{where}: kind")
    margin = fields.pop("margin")
    margins = margin if isinstance(margin, dict) else {"other": margin}
    if "other" not in margins or not all(_number(value) and value >= 0 for value in margins.values()):
        raise ValueError(f"{where}: margin must be a number >= 0, or one per scale and one for `other`, not {margin!r}")
    weights = fields["difference"].values()
    if not all(map(_number, weights)) or not min(weights, default=0) < 0 < max(weights, default=0):
        raise ValueError(f"{where}: difference must weigh arms, with both signs, not {fields['difference']!r}")
    return Part(**fields, margins=margins)


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


def _one_of(name: Any, allowed: Mapping[str, Any], where: str) -> None:
    if name not in allowed:
        raise ValueError(f"{where} {name!r} is unknown; allowed are {', '.join(allowed)}")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
