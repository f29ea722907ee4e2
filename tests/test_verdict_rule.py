"""The rule as a whole: the published verdicts, computed a second time, and how often it errs as evidence grows."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from rootfree.analysis.claims import Claim, Claims, load_claims
from rootfree.analysis.grouping import studies
from rootfree.analysis.searches import read_searches
from rootfree.analysis.statistics import ALPHA, TESTS, share, t_interval
from rootfree.analysis.tables import Study, read
from rootfree.analysis.verdicts import Judgement, scorecard, table

ROOT = Path(__file__).parents[1]
BETTER_IF_LESS = ("gap_acc", "test_loss", "test_bits", "unrest")


@pytest.fixture(scope="module")
def found() -> list[Study]:
    """The published studies."""
    claims = load_claims(ROOT / "experiments" / "claims.yaml")
    runs, curves = read(ROOT / "results")
    searches = read_searches(ROOT / "results" / "search")
    return studies(runs, curves, tables=searches, wanted=claims.wanted(), root=ROOT)


@pytest.fixture(scope="module")
def published(found: list[Study]) -> list[Judgement]:
    claims = load_claims(ROOT / "experiments" / "claims.yaml")
    tables = {name: pd.read_csv(ROOT / "results" / f"{name}.csv") for name in ("theory", "bench")}
    return scorecard(claims, found, tables, read_searches(ROOT / "results" / "search"))


def p_values(part: dict[str, Any], arms: dict[str, pd.DataFrame], scale: str) -> tuple[float, float]:
    """The p of support and of refutation, from the rows of each arm and scipy alone."""
    margin = part["margin"]
    margin = margin.get(scale, margin["other"]) if isinstance(margin, dict) else margin
    metric = part.get("metric", "test_acc")
    if part["kind"] == "count":
        ((arm, sign),) = part["difference"].items()
        rows = arms[arm]
        bad = (rows["status"] != "finished") | (rows["val_acc"] < 0.2) | (rows["failed_roots"].fillna(0) > 0)
        more, fewer = (
            2 * stats.binomtest(int(bad.sum()), len(bad), margin, side).pvalue for side in ("greater", "less")
        )
        return (more, fewer) if sign > 0 else (fewer, more)
    values = [weight * arms[arm].query("status == 'finished'").set_index("seed")[metric]
              for arm, weight in part["difference"].items()]  # fmt: skip
    data = sum(values[1:], values[0]).dropna() * (-1 if metric in BETTER_IF_LESS else 1)
    data = data * (100 if metric.endswith("_acc") else 1)

    def above(bound: float) -> float:
        return float(stats.ttest_1samp(data, bound, alternative="greater").pvalue)

    if part["kind"] == "equivalence":
        return max(above(-margin), 1 - above(margin)), min(above(margin), 1 - above(-margin))
    bound = margin if part["kind"] == "superiority" else -margin
    return 2 * above(bound), 2 * (1 - above(bound))


def again(judgements: list[Judgement]) -> list[str]:
    """The verdict of every judgement, from `runs.csv` and `claims.yaml`; which runs stand for an arm is taken over."""
    runs = pd.read_csv(ROOT / "results" / "runs.csv", low_memory=False).set_index("run_id", drop=False)
    curves = pd.read_csv(ROOT / "results" / "curves.csv", usecols=["run_id", "epoch", "val_acc"])
    late = curves.assign(change=100 * curves.groupby("run_id")["val_acc"].diff().abs())
    late = late[late["epoch"] > 0.75 * late.groupby("run_id")["epoch"].transform("max")]
    runs["unrest"] = late.groupby("run_id")["change"].mean()
    asked = {
        claim["id"]: claim for claim in yaml.safe_load((ROOT / "experiments" / "claims.yaml").read_text())["claims"]
    }
    families: dict[Any, list[tuple[int, float]]] = {}
    likeliest = {}
    for number, one in enumerate(judgements):
        claim, exact, pairs, rows = asked[one.claim.id], [], [], {}
        for finding in one.tested:
            for arm, name in finding.arms.items():
                rows[arm] = runs.loc[one.study.runs.loc[one.study.runs["arm"] == name, "run_id"]]
                rows[arm] = rows[arm][~(rows[arm]["train_acc"] < claim.get("fitted", 0) / 100)]
        for part, finding in zip(claim["parts"], one.findings, strict=True):
            if part["kind"] == "exact":
                exact.append({"supported": (0.0, 1.0), "refuted": (1.0, 0.0)}.get(finding.verdict, (1.0, 1.0)))
            elif rows:
                pairs.append(p_values(part, rows, one.study.scale))
        p = [*exact, *pairs] or [(1.0, 1.0)]
        tested = sum("table" not in part for part in claim["parts"]) or 1
        decisions = {"supported": max(a for a, _ in p), "refuted": tested * min(b for _, b in p)}
        if "premise" in claim:
            holds, fails = p_values(claim["premise"], rows, one.study.scale)
            decisions = {verdict: max(holds, value) for verdict, value in decisions.items()} | {
                "premise not met": fails
            }
        likeliest[number] = min(decisions, key=lambda verdict: decisions[verdict])
        hopeless = [
            part["kind"] == "count" and finding.n < 4
            for part, finding in zip(claim["parts"], one.findings, strict=True)
        ]
        if not all(hopeless):
            families.setdefault(one.place, []).append((number, min(decisions.values())))
    verdicts = ["undecided"] * len(judgements)
    for family in families.values():
        for place, (number, p) in enumerate(sorted(family, key=lambda member: member[1])):
            if p * (len(family) - place) > 0.05:
                break
            verdicts[number] = likeliest[number]
    return verdicts


def test_published_verdicts_are_those_of_a_second_computation(published: list[Judgement]) -> None:
    """One that shares no code with the first but the choice of runs; and the table says what the judgements say."""
    counted = [one for one in published if one.counts and one.verdict != "no data"]
    assert [one.verdict for one in counted] == again(counted)
    assert len({one.verdict for one in counted}) == 4
    assert all(one.reason for one in published if one.verdict in ("undecided", "no data"))
    written = table(published)
    assert [*written] == [
        "claim", "origin", "place", "study", "part", "kind", "margin", "n", "planned", "estimate", "low", "high", "p",
        "p_adjusted", "direction", "size", "verdict", "reason", "low_searches", "high_searches",
    ]  # fmt: skip
    wide = written.dropna(subset="low_searches")
    assert len(wide) > 5
    assert ((wide["low_searches"] <= wide["low"]) & (wide["high_searches"] >= wide["high"])).all()


def test_published_studies_have_no_retired_settings(found: list[Study]) -> None:
    """Every published run is told apart by the files; the damping study has no other, and says so."""
    assert [study.preset for study in found if study.outdated] == ["ablation_damping"]
    first = next(study for study in found if study.id == "fb4fb6b00ea6" and study.preset == "cnn")
    assert set(first.column("sgd", "config.optimizer.lr")) == {0.09305}
    assert set(first.retired.loc[first.retired["arm"] == "sgd", "config.optimizer.lr"]) == {0.08057}


def right(kind: str, effect: float) -> str:
    """The verdict that is true of an effect, at a margin of 1."""
    holds = {"superiority": effect > 1, "noninferiority": effect > -1, "equivalence": abs(effect) < 1}[kind]
    return "supported" if holds else "refuted"


@pytest.mark.slow
@pytest.mark.parametrize("effect", [-2.0, -1.3, -1.0, -0.7, 0.0, 0.7, 1.0, 1.3, 2.0])
@pytest.mark.parametrize("kind", TESTS)
def test_more_evidence_never_turns_a_right_verdict_into_a_wrong_one(kind: str, effect: float) -> None:
    """From 3 seeds to 150, right verdicts do not become fewer, nor wrong ones more than their level."""
    rng, repeats = np.random.default_rng(0), 2000
    tolerance = 3 * (0.25 / repeats) ** 0.5
    level = ALPHA if kind == "equivalence" else ALPHA / 2
    bounds = {"superiority": [1], "noninferiority": [-1], "equivalence": [-1, 1]}[kind]
    truth = "" if effect in bounds else right(kind, effect)  # at the bound either verdict is wrong
    shares = []
    for n in (3, 5, 10, 15, 50, 150):
        said = [TESTS[kind](row, 1.0).verdict for row in rng.normal(effect, 0.67, (repeats, n))]
        rates = {verdict: said.count(verdict) / repeats for verdict in ("supported", "refuted")}
        shares.append(rates.pop(truth, 1.0))
        assert max(rates.values()) <= level + 4 * (level * (1 - level) / repeats) ** 0.5
    assert all(after >= before - tolerance for before, after in itertools.pairwise(shares))
    assert shares[-1] > 0.9


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.25, 0.5, 0.8, 1.0])
def test_more_runs_never_turn_a_right_count_into_a_wrong_one(rate: float) -> None:
    """Exactly, by the chance of every number of events: is the share below a quarter?"""
    shares = []
    for n in (3, 10, 30, 150):
        chances = stats.binom.pmf(np.arange(n + 1), n, rate)
        said = np.array([share(events, n, 0.25, above=False).verdict for events in range(n + 1)])
        supported, refuted = (chances[said == verdict].sum() for verdict in ("supported", "refuted"))
        assert (supported if rate >= 0.25 else 0) <= ALPHA / 2
        assert (refuted if rate <= 0.25 else 0) <= ALPHA / 2
        shares.append(supported if rate < 0.25 else refuted)
    assert rate == 0.25 or (shares == sorted(shares) and shares[-1] > 0.9)


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 5, 10])
def test_intervals_cover_as_often_as_they_say(n: int) -> None:
    data = np.random.default_rng(n).normal(0, 1, (20_000, n))
    covered = np.mean([t_interval(row).low < 0 < t_interval(row).high for row in data])
    assert covered == pytest.approx(0.95, abs=4 * (0.05 * 0.95 / 20_000) ** 0.5)


def drawn(means: dict[str, float], n: int, rng: np.random.Generator) -> Study:
    """Runs of several arms."""
    rows = [
        {"arm": arm, "seed": seed, "test_acc": rng.normal(80 + mean, 1)}
        for arm, mean in means.items()
        for seed in range(n)
    ]
    shared = {
        "preset": "cnn",
        "scale": "laptop",
        "dataset": "digits",
        "optimizer": "x",
        "status": "finished",
        "study": "s",
    }
    frame = pd.DataFrame(rows).assign(val_acc=80.0, run_id=[str(number) for number in range(len(rows))], **shared)
    return Study(frame, pd.DataFrame())


def claim(name: str, *parts: tuple[str, str]) -> Claim:
    asked = [{"text": "t", "kind": "superiority", "margin": 0, "reason": "r", "difference": {a: 1.0, b: -1.0}}
             for a, b in parts]  # fmt: skip
    return Claim(id=name, short="?", statement="s", origin="ours", source="s", preset="cnn", parts=asked)


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 10])
@pytest.mark.parametrize(
    "claims",
    [[claim(a + b, (a, b)) for a, b in ("ab", "ac", "ad", "bc", "bd", "cd")],
     [claim("X", ("a", "b"), ("c", "d")), claim("Y", ("b", "a"), ("d", "c"))]],
    ids=["six claims", "claims in parts"],
)  # fmt: skip
def test_a_family_errs_as_often_as_one_test(claims: list[Claim], n: int) -> None:
    """Without any effect some verdict is wrong in at most 5% of studies, in any number of claims and parts."""
    rng, repeats = np.random.default_rng(n), 200
    wrong = 0
    for _ in range(repeats):
        cards = scorecard(Claims(claims=claims), [drawn(dict.fromkeys("abcd", 0.0), n, rng)])
        wrong += any(card.verdict in ("supported", "refuted") for card in cards)
    assert wrong / repeats <= 0.05 + 3 * (0.05 * 0.95 / repeats) ** 0.5
