"""Claims as data: what `experiments/claims.yaml` may hold, and how it is read and checked."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BeforeValidator, Discriminator, Field, Tag, ValidationError, field_validator, model_validator
from yaml import YAMLError

from rootfree.analysis.checks import Check, Strict
from rootfree.analysis.statistics import TESTS
from rootfree.analysis.tables import Study

# The metrics that can be compared, 1 if more is better, and their units.
BETTER = {"test_acc": 1, "test_loss": -1, "test_bits": -1, "gap_acc": -1, "gap_loss": 1, "gap_bits": 1, "unrest": -1}
UNITS = dict.fromkeys(("test_acc", "gap_acc", "unrest"), "points") | {"test_loss": "nats", "gap_loss": "nats"}
UNITS |= dict.fromkeys(("test_bits", "gap_bits"), "bits")  # per character, of text alone
OF_A_KIND = {"count": ["failures"], "exact": ["weights"]}  # the metrics of other kinds than comparisons


class Part(Strict):
    """One comparison: a weighted sum of arms per seed, held against a margin."""

    text: str
    kind: Literal["superiority", "noninferiority", "equivalence", "count", "exact"]
    difference: dict[str, float]
    margin: dict[str, Annotated[float, Field(ge=0)]]  # per scale, `other` for the rest; a plain number is that for all
    reason: str
    metric: str = "test_acc"

    @field_validator("margin", mode="before")
    @classmethod
    def _for_all(cls, margin: Any) -> Any:
        return margin if isinstance(margin, dict) else {"other": margin}

    @model_validator(mode="after")
    def _fits(self) -> "Part":
        if "other" not in self.margin:
            raise ValueError(f"margin {self.margin!r} must be a number, or one per scale and one for `other`")
        allowed = OF_A_KIND.get(self.kind, list(BETTER))
        if self.metric not in allowed:
            raise ValueError(f"metric {self.metric!r} is unknown for a {self.kind}; allowed are {', '.join(allowed)}")
        weights = list(self.difference.values())
        if self.kind == "count":
            fits, asked = weights in ([1], [-1]), "be one arm, 1 for above the margin and -1 for below"
        elif self.kind == "exact":
            fits, asked = weights == [1, -1], "be {first: 1, second: -1}"
        else:
            fits, asked = min(weights, default=0) < 0 < max(weights, default=0), "weigh arms, with both signs"
        if not fits:
            raise ValueError(f"difference {self.difference!r} must {asked}")
        return self

    @property
    def in_points(self) -> bool:
        """Whether its difference is one of percentage points."""
        return self.kind in TESTS and UNITS[self.metric] == "points"

    def bound(self, scale: str | None) -> float:
        """The margin at a scale."""
        return self.margin.get(scale or "other", self.margin["other"])


def _listed(value: Any) -> list[str]:
    return [str(item) for item in (value if isinstance(value, list) else [value])]


def _tag(part: Any) -> str:
    return "check" if isinstance(part, Check) or (isinstance(part, dict) and "table" in part) else "part"


class Claim(Strict):
    """A statement, whose it is and where it stands, and the comparisons that decide it."""

    id: str
    short: str  # as a question of a few words
    statement: str
    origin: Literal["paper", "code", "ours"]
    source: str
    preset: Annotated[list[str], BeforeValidator(_listed)] = []
    parts: list[Annotated[Annotated[Part, Tag("part")] | Annotated[Check, Tag("check")], Discriminator(_tag)]] = Field(
        min_length=1
    )
    premise: Part | None = None
    where: dict[str, Annotated[list[str], BeforeValidator(_listed)]] = {}  # what a deciding study has in its columns
    fitted: float = Field(0, ge=0, le=100)  # training accuracy (%) that both runs of a pair must end with to count
    seeds: int = 0  # pairs that were planned
    missing: str = ""  # what it would take, where nothing can decide it

    @model_validator(mode="after")
    def _decidable(self) -> "Claim":
        if self.compared and not self.preset:
            raise ValueError("lacks preset, whose runs its parts compare")
        return self

    def concerns(self, study: Study) -> bool:
        """Whether a study decides this claim."""
        first = study.runs.iloc[0]
        fits = all(str(first.get(column)) in allowed for column, allowed in self.where.items())
        known = not study.outdated and study.preset in self.preset
        return fits and known and any(study.size(study.arm(arm)) for arm in self.arms)

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


class Placebo(Strict):
    """An arm that is the same method as another up to rounding."""

    arm: str
    of: str


class Failure(Strict):
    """When a run has failed: it is not finite, or ends below so many times chance on validation data.

    With two or three classes twice chance is out of reach, or nearly so: a third of the way from chance to 100% counts.
    """

    times_chance: float
    classes: dict[str, int]  # of each data set; where it is not known, only what is not finite has failed

    def of(self, study: Study, arm: str) -> pd.Series:
        """Which of an arm's runs failed, by seed."""
        classes = self.classes.get(str(study.runs["dataset"].iloc[0]), float("inf"))
        floor = 100 / classes * min(self.times_chance, 1 + (classes - 1) / 3)
        return study.column(arm, "status").ne("finished") | study.column(arm, "val_acc").astype(float).lt(floor)


class Question(Strict):
    """What several claims answer together."""

    title: str
    claims: list[str]


class Claims(Strict):
    """What `claims.yaml` holds."""

    claims: list[Claim]
    baselines: list[str] = []
    placebo: Placebo | None = None
    failure: Failure = Failure(times_chance=2, classes={})
    targets: dict[str, float] = {}  # study -> the validation accuracy to be reached
    questions: list[Question] = []

    @model_validator(mode="after")
    def _consistent(self) -> "Claims":
        ids = [claim.id for claim in self.claims]
        if len(set(ids)) < len(ids):
            raise ValueError(f"claim ids must differ, found {', '.join(ids)}")
        asked = [claim for question in self.questions for claim in question.claims]
        if self.questions and sorted(asked) != sorted(ids):
            raise ValueError(f"questions must name every claim once: {', '.join(ids)}; found {', '.join(asked)}")
        return self

    def wanted(self) -> dict[str, list[str]]:
        """The arms that a preset's claims compare, whichever preset asked for their runs first."""
        arms: dict[str, list[str]] = {}
        for claim in self.claims:
            for preset in claim.preset:
                known = arms.setdefault(preset, [])
                known += [arm for arm in claim.arms if arm not in known]
        return arms


def load_claims(path: Path) -> Claims:
    """Read and check `claims.yaml`.

    Raises:
        ValueError: Something in it cannot be understood; the message names the claim, the key, its value and what is
            allowed.
    """
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist") from error
    except (YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"{path} is not readable yaml: {' '.join(str(error).split())}") from error
    try:
        return Claims.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"{path}: {_in_words(error, content)}") from error


def _in_words(error: ValidationError, content: Any) -> str:
    """The first thing that is wrong, with its place, value and what is allowed."""
    first = error.errors(include_url=False)[0]
    models: dict[Any, type[Strict]] = {"claims": Claim, "part": Part, "check": Check, "premise": Part}
    models |= {"placebo": Placebo, "failure": Failure, "questions": Question}
    model: type[Strict] = Claims
    place: list[str] = []
    for key in first["loc"]:
        known = isinstance(key, int) or (isinstance(content, dict) and key in content)
        is_tag = key in ("part", "check") and not known  # which of the two it is, is no key of the file
        model = models.get(key, model) if is_tag or key not in ("part", "check") else model
        if is_tag:
            continue
        content = content[key] if known else None
        if isinstance(key, int) and place:
            named = f" ({content['id']})" if isinstance(content, dict) and "id" in content else ""
            place[-1] = f"{place[-1].removesuffix('s')} {key + 1}{named}"
        else:
            place.append(str(key))
    if first["type"] in ("extra_forbidden", "missing"):
        *place, name = place
        allowed = f"key {name!r} is unknown; allowed are {', '.join(model.model_fields)}"
        said = f"lacks {name}" if first["type"] == "missing" else allowed
    elif first["type"] == "value_error":
        said = str(first["ctx"]["error"])
    else:
        asked = re.sub(r" or instance of \w+", "", first["msg"])
        said = f"{asked[0].lower()}{asked[1:]}, not {first['input']!r}"
    return ": ".join(filter(None, [", ".join(place), said]))
