"""The verdicts on hand-made tables: the rule zone by zone, its reasons and families, and what feeds it."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from rootfree.analysis.answers import confidence, duels, forest, summaries, tally
from rootfree.analysis.checks import Check, evaluate
from rootfree.analysis.claims import Claim, Claims, Failure, Placebo, Question, load_claims
from rootfree.analysis.comparisons import wins_losses_ties
from rootfree.analysis.grouping import studies
from rootfree.analysis.page import render
from rootfree.analysis.searches import Search, chance_ahead, other_draws
from rootfree.analysis.statistics import (
    ALPHA,
    TESTS,
    exact,
    fewest,
    holm,
    seeds_needed,
    share,
    share_interval,
    superiority,
    t_interval,
)
from rootfree.analysis.tables import Study, read
from rootfree.analysis.targets import profile, target, to_target
from rootfree.analysis.tuned import stands
from rootfree.analysis.verdicts import Judgement, scorecard, table

ROOT = Path(__file__).parents[1]
CLAIMS = ROOT / "experiments" / "claims.yaml"
COLUMNS = {"loss": "cross_entropy", "schedule": "multistep", "batch_size": 64, "model": "resnet8", "epochs": 2}
Values = list[float | None]  # per seed; None is a run that diverged
ARMS: dict[str, Values] = {
    "sgd": [88.9, 89.1, 89.3, 88.7, 89.0],
    "adamw": [86.8, 87.1, 87.2, 86.9, 87.0],
    "rf_rmsprop": [89.0, 89.0, 89.4, 88.8, 88.9],
}
CLEAR: dict[str, Values] = {"a": [82.0, 82.1, 82.2, 81.9], "b": [80.0, 80.2, 80.1, 80.0]}


def made(arms: dict[str, Values], **columns: Any) -> Study:
    """A study without files."""
    rows = [
        {"arm": arm, "seed": seed, "status": "finished" if value else "diverged", "test_acc": value or np.nan,
         "val_acc": value or np.nan}
        for arm, values in arms.items() for seed, value in enumerate(values)
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["arm", "seed", "status", "test_acc", "val_acc"])
    words = {"preset": "cnn", "scale": "laptop", "dataset": "digits", "study": "77e1234"} | COLUMNS | columns
    frame = frame.assign(optimizer=frame["arm"].str.split().str[0], **words)
    ids = frame["arm"] + frame["seed"].astype(str) + str(words["dataset"]) + str(words["study"])
    return Study(frame.assign(run_id=ids), pd.DataFrame())


def part(kind: str = "superiority", margin: float = 1.0, **rest: Any) -> dict[str, Any]:
    """A comparison of the arms a and b."""
    base = {"text": "a against b", "kind": kind, "margin": margin, "reason": "reason"}
    return base | {"difference": {"a": 1.0, "b": -1.0}} | rest


def claimed(*parts: dict[str, Any], **rest: Any) -> Claim:
    base = {"id": "X", "short": "?", "statement": "s", "origin": "ours", "source": "s", "preset": "cnn"}
    return Claim(**(base | {"parts": [*parts]} | rest))


def judge(claim: Claim, *pool: Study, **rest: Any) -> Judgement:
    """The verdict that counts on one claim."""
    tables = rest.pop("tables", {})
    (counted,) = [one for one in scorecard(Claims(claims=[claim], **rest), pool, tables) if one.counts]
    return counted


def verdict(kind: str, a: Values, b: Values, margin: float = 1.0, **rest: Values) -> str:
    placebo = Placebo(arm="placebo", of="b") if rest else None
    return judge(claimed(part(kind, margin)), made({"a": a, "b": b} | rest), placebo=placebo).verdict


def test_interval_is_the_textbook_one() -> None:
    """scipy.stats gives the same numbers; one value has no bounds, none has no mean."""
    data = [1.0, 2.5, 3.0, 4.5]
    expected = stats.t.interval(0.95, 3, loc=np.mean(data), scale=stats.sem(data))
    assert t_interval(data)[3:] == pytest.approx(expected, rel=1e-12)
    assert t_interval([2.0])[:2] == (1, 2.0)
    assert t_interval([2.0])[3:] == (-np.inf, np.inf)
    assert t_interval([]).n == 0
    assert np.isnan(t_interval([]).mean)


AROUND = [-0.3, 0.3, 0.1, -0.1]
ZONES = [
    ("superiority", [2.0, 2.2, 1.8, 2.1], "ahead", "larger", "supported"),
    ("superiority", [0.3, 0.4, 0.35, 0.3], "ahead", "smaller", "refuted"),
    ("superiority", [0.6, 1.4, 0.4, 1.0, 0.9, 0.8, 1.3, 1.2], "ahead", "unclear", "undecided"),
    ("superiority", [3.0, -2.0, 1.0], "not resolved", "unclear", "undecided"),
    ("superiority", AROUND, "not resolved", "smaller", "refuted"),
    ("superiority", [-2.0, -2.2, -1.8, -2.1], "behind", "smaller", "refuted"),
    ("superiority", [0.0, 0.0, 0.0], "not resolved", "smaller", "refuted"),
    ("noninferiority", [2.0, 2.2, 1.8, 2.1], "ahead", "larger", "supported"),
    ("noninferiority", AROUND, "not resolved", "larger", "supported"),
    ("noninferiority", [-0.5, -0.4, -0.3, -0.4], "behind", "larger", "supported"),
    ("noninferiority", [-1.4, -0.6, -1.2, -0.8, -1.0, -1.0], "behind", "unclear", "undecided"),
    ("noninferiority", [-2.0, -2.2, -1.8], "behind", "smaller", "refuted"),
    ("noninferiority", [-4.0, 4.0, 1.0], "not resolved", "unclear", "undecided"),
    ("noninferiority", [0.0], "not resolved", "unclear", "undecided"),
    ("equivalence", AROUND, "not resolved", "smaller", "supported"),
    ("equivalence", [0.5, 0.4, 0.3, 0.4], "ahead", "smaller", "supported"),
    ("equivalence", [2.0, 2.1, 1.9], "ahead", "larger", "refuted"),
    ("equivalence", [-2.0, -2.1, -1.9], "behind", "larger", "refuted"),
    ("equivalence", [0.6, 1.4, 0.8, 1.2, 1.0, 1.0], "ahead", "unclear", "undecided"),
    ("equivalence", [], "not resolved", "unclear", "no data"),
]


@pytest.mark.parametrize(
    ("kind", "data", "direction", "size", "expected"),
    ZONES,
    ids=[f"{kind}-{direction}-{size}-{place}" for place, (kind, _, direction, size, _) in enumerate(ZONES)],
)
def test_every_zone_of_the_number_line(kind: str, data: list[float], direction: str, size: str, expected: str) -> None:
    """At a margin of 1: the interval against zero, against the bound that is asked about, and what follows."""
    outcome = TESTS[kind](data, 1.0)
    assert (outcome.direction, outcome.size, outcome.verdict) == (direction, size, expected)


def test_p_values_are_those_of_scipy_and_decide_as_the_intervals_do() -> None:
    """Raw p at most 5% exactly where an interval decides."""
    data = [1.0, 2.5, 3.0, 4.5]
    assert superiority(data, 0).support == pytest.approx(stats.ttest_1samp(data, 0).pvalue)
    below, above = (stats.ttest_1samp(data, m, alternative=side).pvalue for m, side in ((-4, "greater"), (4, "less")))
    assert TESTS["equivalence"](data, 4).support == pytest.approx(max(below, above))
    rng = np.random.default_rng(1)
    for _ in range(300):
        drawn = rng.normal(rng.uniform(-2, 2), 1, rng.integers(2, 8))
        ahead, kept, equal = (TESTS[kind](drawn, 1.0) for kind in TESTS)
        assert (ahead.low > 1, ahead.high < 1) == (ahead.verdict == "supported", ahead.verdict == "refuted")
        assert (kept.low > -1, kept.high < -1) == (kept.verdict == "supported", kept.verdict == "refuted")
        assert (equal.low > -1 and equal.high < 1) == (equal.verdict == "supported")
        assert (equal.low > 1 or equal.high < -1) == (equal.verdict == "refuted")
    assert superiority([1.0], 0).support == superiority([1.0], 0).refute == 1
    assert superiority([1.0, 1.0], 0).support == 0


def test_shares_are_exact() -> None:
    """As scipy's binomial test and Clopper and Pearson's interval; what so few runs cannot decide is known."""
    for events, n, margin in ((6, 6, 0.5), (9, 10, 0.5), (2, 11, 0.25), (0, 0, 0.5), (5, 5, 0.5), (3, 7, 0.4)):
        outcome = share(events, n, margin, above=True)
        if n:
            more, fewer = (stats.binomtest(events, n, margin, side).pvalue for side in ("greater", "less"))
            assert (outcome.support, outcome.refute) == pytest.approx((min(1, 2 * more), min(1, 2 * fewer)))
            assert min(outcome.best) == pytest.approx(2 * min(margin**n, (1 - margin) ** n))
    assert share_interval(2, 9)[3:] == pytest.approx(stats.binomtest(2, 9).proportion_ci())
    below = {events: share(events, 15, 0.25, above=False).verdict for events in (0, 3, 10)}
    assert below == {0: "supported", 3: "undecided", 10: "refuted"}
    above = {events: share(events, 6, 0.5, above=True).verdict for events in (6, 4, 0)}
    assert above == {6: "supported", 4: "undecided", 0: "refuted"}
    assert share(0, 0, 0.5, above=True).verdict == "no data"
    assert fewest(0.5) == 6
    assert share(6, 6, 0.5, above=True).best[0] <= ALPHA < share(5, 5, 0.5, above=True).best[0]
    assert [exact(k, 3).verdict for k in (3, 2, 0)] == ["supported", "refuted", "refuted"]
    assert [exact(k, 3, measured=True).verdict for k in (3, 2, 0)] == ["supported", "undecided", "refuted"]


def test_holm_by_hand() -> None:
    """0.01 x 3, 0.03 x 2, then never less than what came before; what was not tested does not count."""
    adjusted, levels = holm([0.03, 0.01, 0.04])
    assert adjusted == pytest.approx([0.06, 0.03, 0.06])
    assert levels == pytest.approx([0.05 / 2, 0.05 / 3, 0.05])
    adjusted, levels = holm([0.03, np.nan, 0.6])
    assert adjusted == pytest.approx([0.06, np.nan, 0.6], nan_ok=True)
    assert levels == pytest.approx([0.025, np.nan, 0.05], nan_ok=True)
    assert holm([])[0].size == 0


@pytest.mark.parametrize(
    ("kind", "mean", "sd"),
    [("superiority", 4.0, 0.6), ("superiority", 1.6, 0.67), ("noninferiority", -0.2, 0.9), ("equivalence", 0.0, 0.2),
     ("equivalence", 0.3, 0.5), ("equivalence", -2.0, 0.3)],
    ids=["ahead, n = 3", "ahead", "not behind", "equal, n = 3", "equal", "not equal, n = 3"],
)  # fmt: skip
def test_so_many_seeds_would_decide(kind: str, mean: float, sd: float) -> None:
    """On drawn data with that mean and spread four tests of five decide with so many pairs, fewer with one less."""
    n = seeds_needed(kind, mean, sd, 1.0)
    assert n is not None
    rng = np.random.default_rng(0)
    rates = [np.mean([TESTS[kind](rng.normal(mean, sd, pairs), 1.0).verdict in ("supported", "refuted")
                      for _ in range(2000)]) for pairs in (n - 1, n)]  # fmt: skip
    assert rates[0] < 0.82
    assert rates[1] > 0.78
    if kind == "superiority":
        chance = stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, (mean - 1) / sd * n**0.5)
        assert chance >= 0.8
    assert seeds_needed(kind, 1.0 if kind == "superiority" else -1.0, sd, 1.0) is None, "at the bound none do"


@pytest.mark.parametrize(
    ("digits", "photos", "expected"),
    [
        ((1.0, 2.0), (0.5, 2.0), {"ahead": True, "behind": False, "sure": True}),
        ((1.0, 2.0), (-0.5, 2.0), {"ahead": True, "behind": False, "sure": False}),
        ((1.0, 2.0), (np.nan, np.nan), {"ahead": True, "behind": False, "sure": False}),
        ((-2.0, -1.0), (1.0, 2.0), {"ahead": False, "behind": True, "sure": True}),
        ((-2.0, 1.0), (1.0, 2.0), {"ahead": False, "behind": True, "sure": False}),
    ],
    ids=["both lead", "one leads over seeds", "no search", "trails", "trails over seeds"],
)
def test_a_lead_is_sure_where_both_intervals_agree(
    digits: tuple[float, float], photos: tuple[float, float], expected: dict[str, bool]
) -> None:
    """What other searches might turn around is called a lead over seeds alone, on the line of the bottom, too."""
    claim = claimed(part("noninferiority", difference={"rf_rmsprop": 1.0, "sgd": -1.0}), id="C1")
    claims = Claims(claims=[claim], questions=[Question(title="Q", claims=["C1"])])
    judgements = []
    for dataset, (low, high) in {"digits": digits, "photos": photos}.items():
        lead = 1.5 if np.isnan(low) or high > 1.5 else -1.5
        runs: dict[str, Values] = {"rf_rmsprop": [80 + lead, 81 + lead, 82.1 + lead], "sgd": [80.0, 81.0, 82.0]}
        target = {"config.optimizer._target_": "x.SGD", "config.optimizer.power": np.nan}
        one = judge(claim, made(runs, dataset=dataset, **target))
        wider = [replace(finding, low_searches=low, high_searches=high) for finding in one.findings]
        judgements.append(replace(one, findings=wider))
    (duel,) = duels(claims, judgements)
    assert {key: duel[key] for key in expected} == expected
    words = " ".join(render("answer.md", duels=[duel], summaries=[]).split())
    assert ("Use it" in words, "Leave it" in words) == (expected["ahead"], expected["behind"])
    assert ("over seeds alone, RF-RMSProp in place of SGD" in words) != expected["sure"]


def test_pairs_are_formed_by_seed() -> None:
    """Seeds that vary together cancel; a seed that one arm lacks is left out; an arm that was not run gives no data."""
    together: Values = [80.0, 85.0, 90.0, 95.0]
    ahead: Values = [82.0, 87.1, 92.0, 96.9]
    assert verdict("superiority", ahead, together) == "supported"
    assert verdict("superiority", ahead[::-1], together) == "undecided"
    assert verdict("superiority", [*ahead, 10.0, 10.0], together) == "supported"
    assert verdict("superiority", ahead, []) == "no data"


def test_only_runs_that_fit_are_compared() -> None:
    """A pair counts if both runs reach the training accuracy that is asked for; where none does there is no data."""
    study = made({"a": [82.0, 82.1, 82.2, 10.0], "b": [80.0, 80.2, 80.1, 99.0]})
    fits = study.runs["seed"].lt(3) | study.runs["arm"].eq("a")
    asked = claimed(part(), fitted=98)

    def trained(low: float) -> Judgement:
        return judge(asked, Study(study.runs.assign(train_acc=fits.map({True: low, False: 97.9})), study.curves))

    one = trained(98.0)
    assert (one.verdict, one.findings[0].n) == ("supported", 3)
    assert one.findings[0].note == "3 of 4 pairs have a training accuracy of 98%"
    assert judge(claimed(part()), study).verdict == "undecided"
    none = trained(97.9)
    assert (none.verdict, none.reason) == ("no data", "0 of 4 pairs have a training accuracy of 98%.")
    assert judge(asked, made({"a": [82.0], "b": []})).reason == "B was not run."


def test_failure_withholds_support() -> None:
    """Not for the arm that failed more often, whatever its surviving runs say; for its rival, support stands."""
    good: Values = [89.0, 89.1, 88.9, 89.0]
    worse: Values = [85.0, 85.2, 84.9, 85.1]
    assert verdict("superiority", [*good, None], [*worse, 85.0]) == "undecided"
    assert verdict("noninferiority", [*good, None], [*good, 89.0]) == "undecided"
    assert verdict("equivalence", [*good, 89.0], [*good, None]) == "undecided"
    assert verdict("superiority", [*good, 89.0], [*worse, None]) == "supported"
    assert verdict("superiority", [*good, None], [*worse, None]) == "supported"
    assert verdict("superiority", [None, None], [85.0, 85.2]) == "undecided"
    assert verdict("superiority", [*worse, None], [*good, 89.0]) == "refuted"


def test_a_run_at_chance_has_failed_though_it_is_finished() -> None:
    """Below twice chance on validation data, where the number of classes is known."""
    rule = Failure(times_chance=2, classes={"digits": 10})
    runs = {"a": [10.0, 19.9, 20.1, None], "b": [80.0] * 4}
    assert rule.of(made(runs), "a").tolist() == [True, True, False, True]
    assert rule.of(made(runs, dataset="letters"), "a").tolist() == [False, False, False, True]
    two = Failure(times_chance=2, classes={"coins": 2})
    assert two.of(made({"a": [66.0, 67.0], "b": [80.0] * 2}, dataset="coins"), "a").tolist() == [True, False]
    lost = claimed(part("count", 0.5, metric="failures", difference={"a": 1.0}))
    assert judge(lost, made({"a": [10.0] * 6}), failure=rule).verdict == "supported"
    assert judge(lost, made({"a": [10.0] * 6})).verdict == "refuted"
    good: Values = [89.0, 89.1, 88.9, 89.0]
    told = judge(claimed(part("noninferiority", 99.0)), made({"a": [*good, 11.0], "b": [*good, 89.0]}), failure=rule)
    assert told.reason == "A against b: a failed more often (1 of 5 runs) than b."
    published = pd.read_csv(ROOT / "results" / "runs.csv", usecols=["dataset"])["dataset"]
    known = load_claims(CLAIMS).failure.classes
    assert known["cluttered_digits"] == 10
    assert {*published} <= {*known}, "else a run at chance there passes for one that learned"


def test_placebo_sets_the_noise_floor() -> None:
    """A lead is not supported where the placebo is as far away from the method that it equals."""
    ahead: Values = [90.6, 90.5, 90.7, 90.6]
    base: Values = [88.9, 89.0, 89.1, 89.0]
    assert verdict("superiority", ahead, base, placebo=[89.0, 89.1, 89.0, 88.9]) == "supported"
    assert verdict("superiority", ahead, base, placebo=[90.9, 90.8, 91.0, 90.9]) == "undecided"


def test_first_claim_with_its_premise() -> None:
    """C1 asks for all of its parts, and asks nothing where SGD does not lead."""
    claims = load_claims(CLAIMS)
    first = claims.claims[0]

    def decide(**changes: list[Any]) -> Judgement:
        return judge(first, made(ARMS | changes), placebo=claims.placebo)

    assert decide().verdict == "supported"
    assert decide(adamw=ARMS["sgd"]).verdict == "premise not met"
    open_ = decide(adamw=[80.0, 95.0, 88.0, 92.0, 70.0])
    assert open_.verdict == "undecided"
    assert open_.reason.startswith(
        "The premise is open, SGD is ahead of AdamW: direction not resolved; 5 of 15 planned"
    )
    assert decide(rf_rmsprop=ARMS["adamw"]).verdict == "refuted"
    assert decide(rf_rmsprop=[]).verdict == "no data"
    assert first.compared[1].bound("laptop") == 1.0
    assert first.compared[1].bound("paper") == 0.5
    judgements = scorecard(claims, [made(ARMS), made(ARMS, preset=None)])
    ids = [j.claim.id for j in judgements]
    assert list(dict.fromkeys(ids)) == [claim.id for claim in claims.claims]
    assert [j.verdict for j in judgements] == ["supported", *["no data"] * (len(claims.claims) - 1)]


def test_verdicts_are_counted_by_whose_claims_they_are_on() -> None:
    """The paper's own words are not mixed with questions of ours."""
    claims = [claimed(part(margin=0), id=name, origin=origin) for name, origin in (("X", "ours"), ("Y", "paper"))]
    claims += [claimed(part(margin=0, difference={"b": 1.0, "a": -1.0}), id="Z")]
    assert tally(cards(claims, made(CLEAR))) == "paper: 1 supported; ours: 1 supported, 1 refuted"


@pytest.mark.parametrize(("n", "told"), [(2, "too few runs"), (3, "95% +1.7")])
def test_an_interval_of_two_pairs_is_neither_told_nor_drawn(n: int, told: str) -> None:
    claims = Claims(claims=[claimed(part(margin=0))], questions=[Question(title="Q", claims=["X"])])
    found = scorecard(claims, [made({arm: values[:n] for arm, values in CLEAR.items()})])
    assert told in confidence(found[0].findings[0])
    assert told in summaries(claims, found)[0]["answer"]
    drawn = forest(claims, found)
    assert drawn["estimate"].notna().all()
    assert drawn["low"].isna().all() == (n < 3)


def noisy(mean: float, n: int) -> dict[str, Values]:
    """Two arms, and differences of that mean with a standard deviation of about 1."""
    return {"a": [80 + mean + (1 if seed % 2 else -1) for seed in range(n)], "b": [80.0] * n}


REASONS = [
    (part(), noisy(1.05, 10), 10, "direction clear (ahead), size not; it takes more than 1000 seeds"),
    (part(), noisy(1.5, 4), 15, "direction not resolved; 4 of 15 planned seeds; about 44 seeds would decide it"),
    (part(margin=0), noisy(0.5, 10), 10, "direction not resolved; about 37 seeds would decide it"),
    (part("count", 0.5, metric="failures", difference={"b": 1.0}), noisy(0, 3), 3,
     "0 of 3 runs do not tell the share from 0.5; so few cannot: it takes 6 at least"),
    (part(), noisy(0.5, 1), 15, "direction not resolved; 1 of 15 planned seeds"),
    (part(), {"a": [None], "b": [80.0]}, 0, "a failed in 1 of 1 runs"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "arms", "planned", "reason"), REASONS, ids=["size", "few seeds", "sign", "count", "one seed", "lost"]
)
def test_what_is_undecided_says_why(asked: dict[str, Any], arms: dict[str, Values], planned: int, reason: str) -> None:
    one = judge(claimed(asked, seeds=planned), made(arms))
    assert (one.verdict, one.reason) == ("undecided", f"A against b: {reason}.")


def test_a_claim_is_all_of_its_parts() -> None:
    """Supported by the largest p, unadjusted; refuted by the smallest times their number, whichever part it is."""
    weak: dict[str, Values] = {"a": [81.3, 80.3, 81.1, 80.5, 80.15], "b": [80.0] * 5, "c": [70.0, 70.1, 70, 70, 70]}
    p = superiority([1.3, 0.3, 1.1, 0.5, 0.15], 0).support
    assert 0.025 < p < 0.05
    ahead, sure = part(margin=0), part(margin=0, difference={"a": 1.0, "c": -1.0})
    both = judge(claimed(ahead, sure), made(weak))
    assert both.verdict == "supported"
    assert both.findings[0].adjusted == pytest.approx(p)
    behind = part(margin=0, text="b leads", difference={"b": 1.0, "a": -1.0})
    assert judge(claimed(behind), made(weak)).verdict == "refuted"
    undone = judge(claimed(behind, sure), made(weak))
    assert undone.verdict == "undecided"
    assert undone.findings[0].adjusted == pytest.approx(2 * p)
    assert undone.reason.startswith("B leads: refuted by itself (p 0.0")
    check = {"text": "t", "kind": "exact", "table": "theory", "rows": {"claim": "X"}, "reason": "r"}
    for agrees, expected in ((True, "supported"), (False, "refuted")):
        tables = {"theory": pd.DataFrame({"claim": ["X"], "agrees": [agrees]})}
        assert judge(claimed(ahead, check), made(weak), tables=tables).verdict == expected


def cards(claims: list[Claim], *pool: Study) -> list[Judgement]:
    return scorecard(Claims(claims=claims), pool)


def test_claims_of_a_place_share_a_step_of_holm_and_no_other_place_does() -> None:
    """A p of 4% decides by itself, not beside another claim on the same data at the same scale; elsewhere it does."""
    weak: dict[str, Values] = {"a": [81.3, 80.3, 81.1, 80.5, 80.15], "b": [80.0] * 5, "c": [79.0, 82, 78, 81, 80]}
    one = claimed(part(margin=0))
    other = claimed(part(margin=0, difference={"b": 1.0, "c": -1.0}), id="Y")
    assert judge(one, made(weak)).verdict == "supported"
    first, second = cards([one, other], made(weak))
    assert (first.verdict, second.verdict) == ("undecided", "undecided")
    assert first.findings[0].verdict == "supported"
    assert first.findings[0].adjusted == pytest.approx(2 * first.findings[0].p)
    apart = claimed(*[part(margin=0, difference={"b": 1.0, "c": -1.0})], id="Y", preset="vit")
    before = cards([one, apart], made(weak))
    after = cards([one, apart], made(weak), made(weak, dataset="letters", preset="vit"))
    assert [card.verdict for card in before] == ["supported", "no data"]
    assert [card.verdict for card in after] == ["supported", "undecided"]
    assert after[0].findings[0].adjusted == before[0].findings[0].adjusted


def test_the_same_runs_enter_a_family_once() -> None:
    """Two studies that share their runs are one test; two that have as many of their own decide together."""
    claim = claimed(part(margin=0), preset=["cnn", "again"])
    alone = cards([claim], made(CLEAR))
    shared = cards([claim], made(CLEAR), made(CLEAR, preset="again"))
    assert [card.counts for card in shared] == [True, False]
    assert shared[0].findings[0].adjusted == alone[0].findings[0].adjusted == alone[0].findings[0].p
    unclear: dict[str, Values] = {"a": [82.0, 79.1, 80.2, 80.9], "b": [80.0, 80.2, 80.1, 80.0]}
    together = cards([claim], made(CLEAR), made(unclear, preset="again", study="1"))
    assert [(card.counts, card.verdict) for card in together] == [(False, "supported"), (True, "undecided")]


def test_the_study_with_most_pairs_counts() -> None:
    few = {arm: values[:3] for arm, values in CLEAR.items()}
    found = cards([claimed(part(margin=0))], made(few, study="1"), made(CLEAR), made(few, dataset="letters"))
    assert [card.counts for card in found] == [False, True, True]
    assert [card.pairs for card in found] == [3, 4, 3]
    assert all(card.findings[0].adjusted == card.findings[0].p for card in found)
    assert len(table(found)) == 2


def test_what_cannot_be_decided_at_its_n_enters_no_family() -> None:
    """Three runs tell no share from a half, and cost the other claims nothing."""
    count = claimed(part("count", 0.5, metric="failures", difference={"b": 1.0}), id="Y")
    few = {arm: values[:3] for arm, values in CLEAR.items()}
    first, second = cards([claimed(part(margin=0)), count], made(few))
    assert first.findings[0].adjusted == first.findings[0].p
    assert np.isnan(second.findings[0].adjusted)
    assert second.verdict == "undecided"


def test_lower_is_better_for_a_gap() -> None:
    """Positive weights name the favoured arm whatever the metric."""
    study = made({"a": [1.0, 1.1, 0.9], "b": [3.0, 3.2, 2.9]})
    gaps = Study(study.runs.rename(columns={"test_acc": "gap_acc"}), study.curves)
    assert judge(claimed(part(margin=0.5, metric="gap_acc")), gaps).verdict == "supported"


def test_orders_count_runs_that_diverged() -> None:
    """Such a run loses its pair, two of them tie; the means leave the pair out and say so."""
    a: Values = [90.0, 91.0, 92.0, 90.5, 91.5, 90.0, None]
    b: Values = [89.0, 90.0, None, 89.5, None, 88.0, None]
    assert wins_losses_ties(made({"a": a, "b": b}), "a", "b", "test_acc") == (6, 0, 1)
    finding = judge(claimed(part(margin=0)), made({"a": a, "b": b})).findings[0]
    assert finding.n == 4
    assert finding.note == "left out, as diverged: 1 of a, 3 of b"


def test_counts_and_equal_weights() -> None:
    """Shares of one arm's runs, whether they diverged or a root failed; final weights that are equal or not."""
    runs: dict[str, Values] = {"a": [None] * 7, "b": [80.0] * 7}
    above = part("count", 0.5, difference={"a": 1.0}, metric="failures")
    below = part("count", 0.5, difference={"b": -1.0}, metric="failures")
    assert judge(claimed(above, below), made(runs)).verdict == "supported"
    assert judge(claimed(above, below), made(runs, failed_roots=2)).verdict == "refuted"
    same = claimed(part("exact", metric="weights"))
    assert judge(same, made(runs, weights="12ab")).verdict == "supported"
    study = made(runs)
    assert judge(same, Study(study.runs.assign(weights=study.runs["arm"]), study.curves)).verdict == "refuted"
    assert judge(same, study).verdict == "no data"


def test_arms_are_choices_of_the_config() -> None:
    """By value, not by spelling; where a rate is free, the best on validation; `a | b` is the first there is."""
    study = made({"rf optimizer.lr=1 optimizer.init=0.0": [80.0], "rf optimizer.lr=2 optimizer.init=0.0": [81.0]})
    settings: dict[str, Any] = {
        "config.optimizer.lr": [1.0, 2.0],
        "config.optimizer.init": 0.0,
        "val_acc": [90.0, 70.0],
    }
    study = Study(study.runs.assign(**settings), study.curves)
    assert study.arm("rf optimizer.init=0") == "rf optimizer.lr=1 optimizer.init=0.0"
    assert study.arm("rf optimizer.init=0 optimizer.lr=2.0") == "rf optimizer.lr=2 optimizer.init=0.0"
    assert study.arm("none | rf optimizer.init=0") == "rf optimizer.lr=1 optimizer.init=0.0"
    assert study.arm("rf optimizer.init=1") == "rf optimizer.init=1"
    assert study.arm("rf") == "rf"


def run(run_id: str, preset: str, arm: str, seed: int, lr: float, init: float) -> dict[str, Any]:
    """A row of `runs.csv`."""
    settings = {"config.optimizer.lr": lr, "config.optimizer.init": init}
    base = {"purpose": "final", "scale": "laptop", "dataset": "d", "model": "m", "loss": "cross_entropy", "epochs": 1}
    return base | settings | {"run_id": run_id, "preset": preset, "arm": arm, "seed": seed, "optimizer": "rf"} | {
        "status": "finished", "test_acc": 80.0, "val_acc": 80.0, "finished_at": "2026-01-01T00:00:00Z", "study": "s"
    }  # fmt: skip


def test_presets_share_runs() -> None:
    """A run is made once: a preset that came later finds it under the first one's name, if it is what it asks for."""
    rows = [run(f"a{seed}", "cnn", "rf", seed, 0.1, 1.0) for seed in (0, 1)]
    rows += [run(f"b{seed}", "ablation", "rf optimizer.init=0.0", seed, 0.1, 0.0) for seed in (0, 1)]
    rows += [run("c0", "other", "rf optimizer.lr=9", 0, 9.0, 1.0)]
    rows += [run("d2", "other", "rf optimizer.init=0", 2, 0.1, 0.0)]
    curves = pd.DataFrame({"run_id": ["a0"], "epoch": [1]})
    rows += [run("e0", "sign", "lion", 0, 0.2, 1.0) | {"optimizer": "lion"}]
    rows += [run("f0", "bitwise", "still", 0, 0.08, 0.5) | {"optimizer": "still"}]
    tuned_since = {"optimizer": "sgd", "finished_at": "2026-02-02T00:00:00Z"}
    rows += [run("g0", "precision", "sgd", 0, 0.08, 1.0) | {"optimizer": "sgd"}]
    rows += [run("h0", "schedule", "sgd", 0, 0.09, 1.0) | tuned_since]
    wanted = {"ablation": ["rf optimizer.init=1", "rf optimizer.init=0"], "sign": ["rf optimizer.init=1"]}
    wanted |= {"bitwise": ["still", "sgd"]}
    found = {study.preset: study for study in studies(pd.DataFrame(rows), curves, wanted=wanted)}
    assert found["ablation"].arms == ["rf", "rf optimizer.init=0.0"]
    assert found["ablation"].seeds("rf optimizer.init=0.0") == [0, 1, 2]
    assert found["ablation"].arm("rf optimizer.init=1") == "rf"
    assert found["cnn"].arms == ["rf"]
    assert found["other"].size("rf optimizer.lr=9") == 1
    assert found["sign"].arms == ["lion", "rf"], "one of which it has none"
    assert found["bitwise"].column("sgd", "run_id").tolist() == ["g0"], "with the rate of its own arm, not the newest"


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    """An optimizer, its tuned file, one that takes its numbers over, and a preset."""
    files = {
        "configs/optimizer/rf.yaml": "_target_: x.Y\n_partial_: true\nlr: 1.0\ninit: 1.0\nbatch_size: ${dataset.size}",
        "configs/tuned/d-m-sgd.yaml": "optimizer: {lr: 0.1}",
        "configs/tuned/d-m-rf.yaml": "defaults: [d-m-sgd]",
        "configs/tuned/d-m-rf-squared.yaml": "optimizer: {lr: 0.7}",
        "configs/tuned/none.yaml": "# none",
        "configs/experiments/ablation/init.yaml": "defaults:\n  - override /tuned: none\noptimizer: {lr: 0.5}",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("command", "changes", "expected"),
    [
        ("optimizer=rf", {}, True),
        ("optimizer=rf", {"config.optimizer.lr": 0.2}, False),
        ("optimizer=rf optimizer.init=0", {"config.optimizer.init": 0.0}, True),
        ("optimizer=rf", {"config.optimizer.init": 0.0}, False),
        ("optimizer=rf tuned=none", {"config.optimizer.lr": 1.0}, True),
        ("optimizer=rf tuned=none", {}, False),
        ("optimizer=rf loss=squared", {"config.optimizer.lr": 0.7, "loss": "squared"}, True),
        ("optimizer=rf +experiments/ablation=init", {"config.optimizer.lr": 0.5}, True),
        ("optimizer=rf +experiments/ablation=init", {}, False),
        ("optimizer=rf 'tuned=d-${model}-rf'", {}, True),
        ("optimizer=rf tuned=mine", {}, None),
        ("--config-dir here optimizer=rf", {"config.optimizer.lr": 5.0}, None),
        ("optimizer=rf", {"config.optimizer._target_": "my.Own"}, None),
        ("optimizer=mine", {"optimizer": "mine"}, None),
    ],
)
def test_the_files_say_which_settings_stand(
    configs: Path, command: str, changes: dict[str, Any], expected: bool | None
) -> None:
    row = run("a", "cnn", "rf", 0, 0.1, 1.0) | {"config.optimizer._target_": "x.Y", "config.optimizer.batch_size": 64.0}
    assert stands(row | {"command": f"python -m rootfree.train {command} seed=0"} | changes, configs) is expected


def test_retired_settings_are_kept_apart(configs: Path) -> None:
    """Though they ran last; a study that has no other runs is marked, and decides nothing."""
    same = {"config.optimizer._target_": "x.Y", "command": "python -m rootfree.train optimizer=rf"}
    late = {"finished_at": "2026-03-03T00:00:00Z"}
    rows = [run(f"a{seed}", "cnn", "rf", seed, 0.1, 1.0) | same for seed in (0, 1)]
    rows += [run("b0", "cnn", "rf", 0, 0.2, 1.0) | same | late, run("c0", "old", "rf", 0, 0.3, 1.0) | same]
    curves = pd.DataFrame({"run_id": ["a0"], "epoch": [1]})
    fresh, old = studies(pd.DataFrame(rows), curves, root=configs)
    assert fresh.runs["run_id"].tolist() == ["a0", "a1"]
    assert (fresh.retired["run_id"].tolist(), fresh.left_out, fresh.outdated) == (["b0"], {"rf": 1}, False)
    assert (old.outdated, old.left_out) == (True, {})
    assert not claimed(part(difference={"rf": 1.0, "b": -1.0}), preset="old").concerns(old)
    latest, _ = studies(pd.DataFrame(rows), curves)
    assert latest.runs["run_id"].tolist() == ["b0"], "without files the last one stands"


def searched(name: str, scores: list[float]) -> Search:
    runs = pd.DataFrame({"draw": range(len(scores)), "optimizer.lr": np.arange(1, len(scores) + 1) / 10, "epochs": 2,
                         "seed": 100, "status": "finished", "val_acc": scores, "run_id": "r"})  # fmt: skip
    return Search(name, runs)


def test_the_chance_that_one_search_beats_another() -> None:
    """Over all pairs of choices; the best of all draws always is the best."""
    a, b = [0.5, 0.7, 0.6], [0.4, 0.6, 0.65]
    assert chance_ahead(a, b, 1) == pytest.approx(5.5 / 9)
    assert chance_ahead(a, b, 2) == pytest.approx(6.5 / 9)
    assert chance_ahead(a, b, 3) == 1
    assert np.isnan(chance_ahead(a, b, 4))
    a, b = [0.0, 0.6, 0.6, 0.0, 0.9], [0.0, 0.6, 0.9, 0.3]  # what diverged has 0: ties
    for k in range(1, 5):
        bests = itertools.product(*([max(some) for some in itertools.combinations(draws, k)] for draws in (a, b)))
        counted = [(first > second) + (first == second) / 2 for first, second in bests]
        assert chance_ahead(a, b, k) == pytest.approx(np.mean(counted))
        assert chance_ahead(b, a, k) == pytest.approx(1 - np.mean(counted))
    rng = np.random.default_rng(0)
    lost = other_draws(searched("d-m-a", [0.5, 0.9, 0.6]), 20_000, rng)
    assert np.mean(lost == 0) == pytest.approx(1 - (2 / 3) ** 3, abs=0.02)
    assert set(np.round(lost)) == {0, -30, -40}


def test_intervals_over_searches_are_wider() -> None:
    """By what other draws would have found; arms that share a search share its draws, and those without have none."""
    study = made({"a": [82.0, 82.1, 82.2, 81.9], "b": [80.0, 80.2, 80.1, 80.0], "c": [70.0] * 4})
    runs = study.runs.assign(**{"config.optimizer.lr": study.runs["arm"].map({"a": 0.3, "b": 0.2, "c": 0.9})})
    study = Study(runs, study.curves)
    tables = [searched("digits-resnet8-a", [0.7, 0.75, 0.8]), searched("digits-resnet8-b", [0.7, 0.8])]

    def found(tables: list[Search], **weights: float) -> Any:
        claims = Claims(claims=[claimed(part(margin=0, difference=weights))])
        return scorecard(claims, [study], searches=tables)[0].findings[0]

    both = found(tables, a=1.0, b=-1.0)
    assert both.low_searches < both.low - 5
    assert both.high_searches > both.high + 5
    assert found(tables, a=1.0, b=-1.0).low_searches == both.low_searches, "the same on every call"
    one = found(tables[:1], a=1.0, c=-1.0)
    assert one.low_searches < one.low - 5
    assert one.high_searches == pytest.approx(one.high, abs=0.05)
    shared = found([searched("digits-resnet8-a", [0.7, 0.75, 0.8])], a=1.0, b=-1.0)
    assert np.isnan(found([], a=1.0, b=-1.0).low_searches)
    assert shared.low_searches < shared.low


def test_steps_to_target() -> None:
    """The first epoch at the fixed target; the profile tells in what share of studies an arm is how far behind."""
    pool = []
    for number, first in enumerate([{"sgd": 2, "rf": 1}, {"sgd": 2, "rf": 3}]):
        study = made({"sgd": [80.0, 80.0], "rf": [80.0, 80.0], "rf x=1": [80.0]}, study=str(number))
        epochs = [
            {"run_id": row["run_id"], "arm": row["arm"], "status": "finished", "epoch": epoch, "step": 10 * epoch,
             "seconds": 1.5 * epoch, "val_acc": 80.0 if epoch >= first.get(row["arm"], 9) else 50.0}
            for row in study.runs.to_dict("records") for epoch in (1, 2, 3)
        ]  # fmt: skip
        pool.append(Study(study.runs, pd.DataFrame(epochs)))
    claims = Claims(claims=[], baselines=["sgd", "adamw"], targets={"0": 75.0})
    assert [target(study, claims) for study in pool] == [75.0, 80.0]
    reached = to_target(pool, claims)
    assert reached.groupby(["setting", "arm"])["step"].first()["0"].dropna().to_dict() == {"rf": 10, "sgd": 20}
    assert reached.loc[reached["arm"] == "rf x=1", "epoch"].isna().all()
    assert reached["seconds"].min() == 1.5
    told = profile(reached).set_index(["arm", "tau"])["share"].to_dict()
    assert told == {("rf", 1.0): 0.5, ("rf", 1.5): 1.0, ("sgd", 1.0): 0.5, ("sgd", 2.0): 1.0}
    known = load_claims(CLAIMS).targets
    assert known.keys() <= set(read(ROOT / "results")[0]["study"])


def test_checks_read_tables() -> None:
    """Rows that agree, ratios within bounds, ratios that rise, in the order that is asked for; and what is missing."""
    theory = pd.DataFrame({"claim": ["C1", "C1", "C2", "C3"], "setting": "s", "agrees": [True, "", False, ""]})
    bench = pd.DataFrame(
        {
            "method": ["M", "M", "D", "D", "D"],
            "parameters": ["wide", "narrow", "narrow", "narrow", "wide"],
            "ms": [9.0, 4.0, 2.0, 2.0, 3.0],
            "device": "A (2 cores)",
        }
    )
    tables = {"theory": theory, "bench": bench}
    base = {"text": "text", "kind": "exact", "reason": "r", "table": "bench", "rows": {"method": "M"}}

    def say(**changes: Any) -> tuple[int, int]:
        return evaluate(Check(**(base | changes)), tables)[:2]

    assert say(table="theory", rows={"claim": "C1"}) == (1, 1)
    assert say(table="theory", rows={"claim": ["C1", "C2"]}) == (1, 2)
    assert say(table="theory", rows={"claim": "C3"}) == (0, 0)
    assert say(column="ms", below=5) == (1, 2)
    assert say(column="ms", above=3, below=10) == (2, 2)
    assert say(column="ms", against={"method": "D"}, above=2.5) == (1, 2)
    rising = {"column": "ms", "against": {"method": "D"}, "rising": True}
    assert say(rows={"method": "M", "parameters": ["narrow", "wide"]}, **rising) == (1, 1)
    assert say(rows={"method": "M", "parameters": ["wide", "narrow"]}, **rising) == (0, 1)
    assert say(rows={"method": "M", "parameters": ["narrow", "absent"]}, **rising) == (0, 0)
    assert say(column="absent", above=1) == (0, 0)
    assert evaluate(Check(**(base | {"table": "theory"})), {})[2] == "there is no theory.csv: make theory"
    spoken = claimed(base | {"column": "ms", "above": 1, "said_of": "gpu"}, preset=[])
    assert judge(spoken, tables=tables).reason == "Said of a GPU, decided on a CPU: A (2 cores)."
    assert judge(spoken, tables={"bench": bench.assign(device="NVIDIA H100")}).reason == ""


def test_claims_name_what_exists() -> None:
    """Every preset has a file, every arm an optimizer; C3 says what is missing; every claim has a question."""
    claims = load_claims(CLAIMS)
    named = {word for file in ROOT.glob("experiments/*/*.yaml") for word in file.read_text().splitlines()}
    for claim in claims.claims:
        for preset in claim.preset:
            assert claim.missing or f"preset: {preset}" in named, (claim.id, preset)
        for option in [option for arm in claim.arms for option in arm.split(" | ")]:
            assert (ROOT / "configs" / "optimizer" / f"{option.split()[0]}.yaml").exists(), (claim.id, option)
    assert [claim.id for claim in claims.claims if claim.missing] == ["C3"]
    assert len(claims.questions) == 5
    assert {claim.id for claim in claims.claims if claim.origin == "code"} == {"C5", "C7", "C8", "C14"}


TWO = "margin: {laptop: 1.0, other: 0.5}"
ERRORS = {
    "kind": ("kind: noninferiority", "kind: better", "claim 1 .C1., part 1, kind: .*'superiority', .*, not 'better'"),
    "metric": ("metric: unrest", "metric: rest", "C15., part 1: metric 'rest' is unknown for a superiority; allowed"),
    "metric of a count": ("metric: failures", "metric: test_acc", "C4., part 2: metric 'test_acc' .* are failures"),
    "column": ("        column: ratio\n", "", "C14., part 1: needs column"),
    "table": ("table: bench", "table: speed", "C4., part 3, table: .*'theory' or 'bench', not 'speed'"),
    "count": ("{shampoo optimizer.state_dtype=bfloat16: 1}", "{a: 1, b: -1}", "C5., part 1: .* must be one arm"),
    "preset": ("    preset: cnn\n", "", "C1.: lacks preset"),
    "no other margin": (TWO, "margin: {laptop: 1.0}", "C1., premise: margin {'laptop': 1.0} must be a number"),
    "negative margin": (TWO, "margin: -1", "C1., premise, margin, other: .*greater than or equal to 0, not -1"),
    "signs": ("{rf_rmsprop: 1, sgd: -1}", "{rf_rmsprop: 1}", "with both signs"),
    "unknown key": ("preset: cnn", "presets: cnn", "claim 1 .C1.: key 'presets' is unknown; allowed are id, short"),
    "key of a tag's name": ("preset: cnn", "part: cnn", "claim 1 .C1.: key 'part' is unknown; allowed are id, short"),
    "no mapping": ("where: {loss", "where: 3 # {loss", "C1., where: input should be a valid dictionary, not 3"),
    "missing key": ("text: SGD is", "texts: SGD is", "C1., premise: lacks text"),
    "origin": ("origin: paper", "origin: rumour", "C1., origin: .*'paper', 'code' or 'ours', not 'rumour'"),
    "truth for a number": ("seeds: 15", "seeds: true", "C1., seeds: input should be a valid integer, not True"),
    "ids": ("id: C2", "id: C1", "ids must differ"),
    "questions": ("claims: [C2, C3]", "claims: [C2]", "questions must name every claim once"),
    "yaml": ("\nclaims:", "\nclaims: [", "not readable yaml"),
}


@pytest.mark.parametrize(("old", "new", "message"), ERRORS.values(), ids=ERRORS)
def test_claims_file_errors_name_the_place(tmp_path: Path, old: str, new: str, message: str) -> None:
    """Each is one line that says where, what, and what is allowed."""
    broken = tmp_path / "claims.yaml"
    assert old in CLAIMS.read_text()
    broken.write_text(CLAIMS.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=message) as caught:
        load_claims(broken)
    assert "\n" not in str(caught.value)
    assert str(broken) in str(caught.value)
