"""Claims as data: what `experiments/claims.yaml` may hold, and how it is read and checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from rootfree.analysis.checks import Check
from rootfree.analysis.statistics import TESTS
from rootfree.analysis.tables import Study

# The metrics that can be compared, 1 if more is better, and their units.
BETTER = {"test_acc": 1, "test_loss": -1, "gap_acc": -1, "gap_loss": 1, "unrest": -1}
UNITS = {"test_acc": "points", "gap_acc": "points", "test_loss": "nats", "gap_loss": "nats", "unrest": "points"}
COUNTED = ("diverged", "failures")  # what a run can suffer
KINDS = [*TESTS, "ordering", "count", "exact"]


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
