"""The verdicts on hand-made tables: tests, claims, guards, families, and their error rates by simulation."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rootfree.analysis.checks import Check, evaluate
from rootfree.analysis.claims import Claim, Claims, Part, Placebo, load_claims
from rootfree.analysis.statistics import (
    count,
    detectable,
    equivalence,
    exact,
    holm,
    noninferiority,
    ordering,
    share_interval,
    superiority,
    t_interval,
)
from rootfree.analysis.tables import Study, studies
from rootfree.analysis.verdicts import judge, record, scorecard

ROOT = Path(__file__).parents[1]
CLAIMS = ROOT / "experiments" / "claims.yaml"
COLUMNS = {"loss": "cross_entropy", "schedule": "multistep", "batch_size": 64, "model": "resnet8"}
Values = list[float | None]  # per seed; None is a run that diverged
ARMS: dict[str, Values] = {
    "sgd": [88.9, 89.1, 89.3, 88.7, 89.0],
    "adamw": [86.8, 87.1, 87.2, 86.9, 87.0],
    "rf_rmsprop": [89.0, 89.0, 89.4, 88.8, 88.9],
}


def table(arms: dict[str, Values], **columns: Any) -> Study:
    """A study without files; None is a run that diverged."""
    rows = [
        {"arm": arm, "seed": seed, "status": "finished" if value else "diverged", "test_acc": value or np.nan}
        for arm, values in arms.items()
        for seed, value in enumerate(values)
    ]
    frame = pd.DataFrame(rows, columns=["arm", "seed", "status", "test_acc", "val_acc"])
    frame = frame.assign(
        **{"preset": "cnn", "scale": "laptop", "dataset": "digits", "optimizer": frame["arm"].str.split().str[0]}
        | COLUMNS
        | columns
    )
    return Study(frame, pd.DataFrame(), {}, {})


def part(kind: str, margin: float = 1.0, text: str = "a against b", **rest: Any) -> Part:
    """A comparison of the arms a and b."""
    return Part(
        text, kind, **({"difference": {"a": 1.0, "b": -1.0}} | rest), margins={"other": margin}, reason="reason"
    )


def verdict(kind: str, a: Values, b: Values, margin: float = 1.0, **rest: Any) -> str:
    """The verdict on a claim about two arms."""
    claim = Claim("X", "statement", "source", ["cnn"], [part(kind, margin)])
    placebo = Placebo("placebo", "b") if rest else None
    return judge(claim, table({"a": a, "b": b} | rest), placebo).verdict


def test_interval_is_the_textbook_one() -> None:
    """scipy.stats gives the same numbers; one value has no bounds, none has no mean."""
    from scipy import stats

    data = [1.0, 2.5, 3.0, 4.5]
    expected = stats.t.interval(0.95, 3, loc=np.mean(data), scale=stats.sem(data))
    assert t_interval(data)[3:] == pytest.approx(expected, rel=1e-12)
    assert t_interval([2.0])[:2] == (1, 2.0)
    assert t_interval([2.0])[3:] == (-np.inf, np.inf)
    assert t_interval([]).n == 0
    assert np.isnan(t_interval([]).mean)
    assert stats.ttest_1samp(data, 0).pvalue < 0.05
    assert superiority(data, 0).verdict == "supported"


def test_detectable_difference_shrinks_with_seeds_and_grows_with_spread() -> None:
    """At the difference called detectable, a t test has about the promised power."""
    data = np.array([-1.0, 1.0] * 5)
    limit = detectable(data, 0.025, 0.2)
    assert limit < detectable(data[:4], 0.025, 0.2)
    assert limit == pytest.approx(detectable(2 * data, 0.025, 0.2) / 2)
    draws = np.random.default_rng(0).normal(limit, data.std(ddof=1), size=(2000, data.size))
    assert np.mean([t_interval(draw).low > 0 for draw in draws]) == pytest.approx(0.8, abs=0.04)


@pytest.mark.parametrize(
    ("kind", "differences", "expected"),
    [
        (superiority, [2.0, 2.2, 1.8, 2.1], "supported"),
        (superiority, [-2.0, -2.2, -1.8, -2.1], "refuted"),
        (superiority, [0.3, 0.4, 0.35, 0.3], "refuted"),  # surely positive, but surely less than what matters
        (superiority, [3.0, -2.0], "underpowered"),
        (superiority, [0.6, 1.4, 0.4, 1.0, -0.3, 0.9, 0.8, 1.3, -0.4, 1.2, -0.5, 1.4], "supported"),
        (superiority, [0.0, 0.0, 0.0], "refuted"),  # ties
        (noninferiority, [0.1, -0.2, 0.0, 0.1], "supported"),
        (noninferiority, [-2.0, -2.2, -1.8], "refuted"),
        (noninferiority, [0.0, 0.0, 0.0], "supported"),
        (noninferiority, [-1.4, -0.6, -1.2, -0.8, -1.0, -1.0], "inconclusive"),
        (noninferiority, [-4.0, 4.0, 1.0], "underpowered"),
        (noninferiority, [0.0], "underpowered"),  # one row
        (equivalence, [0.1, -0.2, 0.0, 0.1], "supported"),
        (equivalence, [2.0, 2.1, 1.9], "refuted"),
        (equivalence, [-2.0, -2.1, -1.9], "refuted"),
        (equivalence, [0.6, 1.4, 0.8, 1.2, 1.0, 1.0], "inconclusive"),
        (equivalence, [], "no data"),
    ],
)
def test_verdicts_of_the_tests(kind: Any, differences: list[float], expected: str) -> None:
    """Clear yes, clear no, ties, zero variance, one row, none, at a margin of 1."""
    assert kind(differences, 1.0).verdict == expected


def test_margin_zero_asks_for_the_sign() -> None:
    """Small but sure is enough, and what is undecided needs more seeds."""
    assert superiority([0.3, 0.4, 0.35], 0).verdict == "supported"
    assert superiority([-0.3, -0.4, -0.35], 0).verdict == "refuted"
    assert superiority([-0.3, 0.4, 0.1], 0).verdict == "underpowered"


def test_pairs_are_formed_by_seed() -> None:
    """Seeds that vary together cancel; a seed that one arm lacks is left out; an arm that was not run gives no data."""
    together: Values = [80.0, 85.0, 90.0, 95.0]
    ahead: Values = [82.0, 87.1, 92.0, 96.9]
    assert verdict("superiority", ahead, together) == "supported"
    assert verdict("superiority", ahead[::-1], together) == "underpowered"
    assert verdict("superiority", [*ahead, 10.0, 10.0], together) == "supported"
    assert verdict("superiority", ahead, []) == "no data"


def test_divergence_withholds_support() -> None:
    """Not for the arm that diverged more often, whatever its surviving runs say; for its rival, support stands."""
    good: Values = [89.0, 89.1, 88.9, 89.0]
    worse: Values = [85.0, 85.2, 84.9, 85.1]
    assert verdict("superiority", [*good, None], [*worse, 85.0]) == "inconclusive"
    assert verdict("noninferiority", [*good, None], [*good, 89.0]) == "inconclusive"
    assert verdict("equivalence", [*good, 89.0], [*good, None]) == "inconclusive"
    assert verdict("superiority", [*good, 89.0], [*worse, None]) == "supported"
    assert verdict("superiority", [*good, None], [*worse, None]) == "supported"
    assert verdict("superiority", [None, None], [85.0, 85.2]) == "inconclusive"
    assert verdict("superiority", [*worse, None], [*good, 89.0]) == "refuted"


def test_placebo_sets_the_noise_floor() -> None:
    """A lead is not supported where the placebo is as far away from the method that it equals."""
    ahead: Values = [90.1, 90.0, 90.2, 90.1]
    base: Values = [88.9, 89.0, 89.1, 89.0]
    assert verdict("superiority", ahead, base, placebo=[89.0, 89.1, 89.0, 88.9]) == "supported"
    assert verdict("superiority", ahead, base, placebo=[90.4, 90.3, 90.5, 90.4]) == "inconclusive"


def test_first_claim_with_its_premise() -> None:
    """C1 takes the weakest of its parts, and asks nothing where SGD does not lead."""
    claims = load_claims(CLAIMS)
    first = claims.claims[0]

    def decide(**changes: list[Any]) -> str:
        return judge(first, table(ARMS | changes), claims.placebo).verdict

    assert decide() == "supported"
    assert decide(adamw=ARMS["sgd"]) == "premise not met"
    assert decide(adamw=[80.0, 95.0, 88.0, 92.0, 70.0]) == "underpowered"  # the premise itself is open
    assert decide(rf_rmsprop=ARMS["adamw"]) == "refuted"
    assert decide(rf_rmsprop=[]) == "no data"
    assert first.parts[0].margin("laptop") == 1.0
    assert first.parts[0].margin("paper") == 0.5
    judgements = scorecard(claims, [table(ARMS), table(ARMS, preset=None)])
    ids = [j.claim.id for j in judgements]
    assert list(dict.fromkeys(ids)) == [*(f"C{n}" for n in range(1, 17)), *(f"P{n}" for n in range(1, 6))]
    assert [j.verdict for j in judgements] == ["supported", *["no data"] * 20]


def test_lower_is_better_for_a_gap() -> None:
    """Positive weights name the favoured arm whatever the metric."""
    claim = Claim("X", "statement", "source", ["cnn"], [part("superiority", 0.5, metric="gap_acc")])
    study = table({"a": [1.0, 1.1, 0.9], "b": [3.0, 3.2, 2.9]})
    runs = study.runs.rename(columns={"test_acc": "gap_acc"})
    assert judge(claim, Study(runs, study.curves, {}, {})).verdict == "supported"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "kind: noninferiority",
            "kind: better",
            "claim 1 .C1., part 1: kind 'better' is unknown; allowed are superiority",
        ),
        ("metric: unrest", "metric: rest", "claim 15 .C15., part 1: metric 'rest' is unknown"),
        ("metric: failures", "metric: test_acc", "claim 5 .C5., part 1: metric 'test_acc' is unknown; allowed are div"),
        ("        column: ratio\n", "", "C14., part 1: needs column"),
        ("table: bench", "table: speed", "C4., part 3: table 'speed' is unknown; allowed are theory, bench"),
        ("{shampoo optimizer.state_dtype=bfloat16: 1}", "{a: 1, b: -1}", "C5., part 1: difference must be one arm"),
        ("    preset: cnn\n", "", "C1.: lacks preset"),
        ("margin: {laptop: 1.0, other: 0.5}", "margin: {laptop: 1.0}", "margin must be a number"),
        ("{rf_rmsprop: 1, sgd: -1}", "{rf_rmsprop: 1}", "with both signs"),
        ("preset: cnn", "presets: cnn", "key 'presets' is unknown"),
        ("id: C2", "id: C1", "ids must differ"),
        ("claims:", "claims: [", "not readable yaml"),
    ],
)
def test_claims_file_errors_name_the_place(tmp_path: Path, old: str, new: str, message: str) -> None:
    """Each is one line that says where and what."""
    broken = tmp_path / "claims.yaml"
    broken.write_text(CLAIMS.read_text().replace(old, new, 1 if old != "claims:" else -1))
    with pytest.raises(ValueError, match=message) as caught:
        load_claims(broken)
    assert "\n" not in str(caught.value)
    assert str(broken) in str(caught.value)


def test_p_values_are_those_of_scipy_and_decide_as_the_intervals_do() -> None:
    """Raw p at most 5% exactly where an interval decides."""
    from scipy import stats

    data = [1.0, 2.5, 3.0, 4.5]
    assert superiority(data, 0).p == pytest.approx(stats.ttest_1samp(data, 0).pvalue)
    below, above = (stats.ttest_1samp(data, m, alternative=side).pvalue for m, side in ((-4, "greater"), (4, "less")))
    assert equivalence(data, 4).p == pytest.approx(max(below, above))
    rng = np.random.default_rng(1)
    for kind in (superiority, noninferiority, equivalence):
        for _ in range(300):
            outcome = kind(rng.normal(rng.uniform(-2, 2), 1, rng.integers(2, 8)), 1.0)
            assert (outcome.p <= 0.05) == (outcome.verdict in ("supported", "refuted"))
    assert superiority([1.0], 0).p == 1
    assert superiority([1.0, 1.0], 0).p == 0
    assert np.isnan(superiority([], 0).p)


def test_order_and_count_are_exact() -> None:
    """As scipy's binomial test and Clopper and Pearson's interval; five pairs can decide no order."""
    from scipy import stats

    for wins, losses in ((6, 0), (9, 1), (2, 9), (0, 0), (5, 0), (3, 4)):
        outcome = ordering(wins, losses, 0.75)
        if wins + losses:
            greater, less = (
                stats.binomtest(wins, wins + losses, alternative=side).pvalue for side in ("greater", "less")
            )
            assert outcome.p == pytest.approx(min(1, 2 * min(greater, less)))
    assert [ordering(*pairs, 0.75).verdict for pairs in ((6, 0), (5, 0), (0, 6), (0, 0))] == [
        "supported",
        "underpowered",
        "refuted",
        "no data",
    ]
    assert share_interval(2, 9)[3:] == pytest.approx(stats.binomtest(2, 9).proportion_ci())
    assert [count(events, 15, 0.25, above=False).verdict for events in (0, 3, 10)] == [
        "supported",
        "inconclusive",
        "refuted",
    ]
    assert count(0, 3, 0.25, above=False).verdict == "underpowered"
    assert [count(events, 6, 0.5, above=True).verdict for events in (6, 4, 0)] == [
        "supported",
        "inconclusive",
        "refuted",
    ]
    assert count(5, 5, 0.5, above=True).verdict == "underpowered"
    assert count(0, 0, 0.5, above=True).verdict == "no data"
    assert [exact(k, 3).verdict for k in (3, 2, 0)] == ["supported", "refuted", "refuted"]
    assert [exact(k, 3, measured=True).verdict for k in (3, 2, 0)] == ["supported", "inconclusive", "refuted"]


def test_holm_by_hand() -> None:
    """0.01 x 3, 0.03 x 2, then never less than what came before; what was not tested does not count."""
    adjusted, levels = holm([0.03, 0.01, 0.04])
    assert adjusted == pytest.approx([0.06, 0.03, 0.06])
    assert levels == pytest.approx([0.05 / 2, 0.05 / 3, 0.05])
    adjusted, levels = holm([0.03, np.nan, 0.6])
    assert adjusted == pytest.approx([0.06, np.nan, 0.6], nan_ok=True)
    assert levels == pytest.approx([0.025, np.nan, 0.05], nan_ok=True)
    assert holm([])[0].size == 0


def test_holm_takes_a_verdict_back_in_its_family_alone() -> None:
    """A p of 4% decides by itself, not beside another test on the same data at the same scale; elsewhere it does."""
    weak: Values = [1.3, 0.3, 1.1, 0.5, 0.15]
    assert 0.025 < superiority([value or 0.0 for value in weak], 0).p < 0.05
    study = {"a": [80 + (value or 0) for value in weak], "b": [80.0] * 5, "c": [79.0, 82, 78, 81, 80]}
    one = Claim("X", "statement", "source", ["cnn"], [part("superiority", 0)])
    other = Claim("Y", "statement", "source", ["cnn"], [part("superiority", 0, difference={"b": 1.0, "c": -1.0})])
    assert judge(one, table(study)).verdict == "supported"
    cards = scorecard(Claims([one, other], [], None), [table(study), table(study, dataset="letters", preset="vit")])
    assert [card.verdict for card in cards] == ["underpowered", "underpowered"]
    finding = cards[0].findings[0]
    assert finding.outcome.verdict == "supported"
    assert finding.adjusted == pytest.approx(2 * finding.outcome.p)
    apart = [Claim("Y", "statement", "source", ["vit"], other.parts)]
    cards = scorecard(Claims([one, *apart], [], None), [table(study), table(study, dataset="letters", preset="vit")])
    assert [card.verdict for card in cards] == ["supported", "underpowered"]


def test_what_would_be_seen_depends_on_the_level_that_holm_leaves() -> None:
    """Alone these pairs could have shown the margin; as one of eight tests they could not, and that is what is said."""
    weak: dict[str, Values] = {"a": [81.1, 80.1, 80.2, 80.9, 79.95], "b": [80.0] * 5}
    one = Claim("X", "statement", "source", ["cnn"], [part("superiority")])
    alone = judge(one, table(weak))
    assert alone.verdict == "inconclusive"
    claims = [Claim(f"X{n}", "statement", "source", ["cnn"], one.parts) for n in range(8)]
    first, *_, last = scorecard(Claims(claims, [], None), [table(weak)])
    assert first.findings[0].outcome.detectable > 1 > last.findings[0].outcome.detectable
    assert [first.verdict, last.verdict] == ["underpowered", "inconclusive"]


def test_one_verdict_for_each_scale_and_data_set() -> None:
    """The study with most pairs counts, among equals the weakest; others stand beside it, out of its family."""
    claim = Claim("X", "statement", "source", ["cnn"], [part("superiority", 0)])
    clear: dict[str, Values] = {"a": [82.0, 82.1, 82.2, 81.9], "b": [80.0, 80.2, 80.1, 80.0]}
    unclear: dict[str, Values] = {"a": [82.0, 79.1, 80.2, 80.9], "b": [80.0, 80.2, 80.1, 80.0]}
    few: dict[str, Values] = {arm: values[:3] for arm, values in clear.items()}
    pool = [table(clear, study="1"), table(unclear, study="2"), table(few, study="3"), table(few, dataset="letters")]
    cards = scorecard(Claims([claim], [], None), pool)
    assert [card.counts for card in cards] == [False, True, False, True]
    assert [card.pairs for card in cards] == [4, 4, 3, 3]
    twice, alone = cards[0].findings[0], cards[2].findings[0]
    assert twice.adjusted == pytest.approx(2 * twice.outcome.p)
    assert alone.adjusted == pytest.approx(alone.outcome.p)


def test_a_table_can_weaken_what_runs_support() -> None:
    """A claim in parts is as good as the weakest, whether it rests on runs or on a table."""
    check = Check("text", "theory", {"claim": "X"}, "reason")
    claim = Claim("X", "statement", "source", ["cnn"], [part("superiority", 0), check])
    study = table({"a": [82.0, 82.1, 82.2, 81.9], "b": [80.0, 80.2, 80.1, 80.0]})
    for agrees, verdict in ((True, "supported"), (False, "refuted")):
        tables = {"theory": pd.DataFrame({"claim": ["X"], "agrees": [agrees]})}
        assert [j.verdict for j in scorecard(Claims([claim], [], None), [study], tables)] == [verdict]


def test_orders_count_runs_that_diverged() -> None:
    """Such a run loses its pair, two of them tie; the means leave the pair out and say so."""
    a: Values = [90.0, 91.0, 92.0, 90.5, 91.5, 90.0, None]
    b: Values = [89.0, 90.0, None, 89.5, None, 88.0, None]
    assert record(table({"a": a, "b": b}), "a", "b", "test_acc") == (6, 0, 1)
    assert verdict("ordering", a, b, 0.75) == "supported"
    assert verdict("ordering", b, a, 0.75) == "refuted"
    claim = Claim("X", "statement", "source", ["cnn"], [part("superiority", 0)])
    finding = judge(claim, table({"a": a, "b": b})).findings[0]
    assert finding.outcome.interval.n == 4
    assert finding.left_out == "1 of a, 3 of b"


def test_counts_and_equal_weights() -> None:
    """Shares of one arm's runs, whether they diverged or a root failed; final weights that are equal or not."""
    runs = {"a": [None] * 7, "b": [80.0] * 7}
    above = part("count", 0.5, difference={"a": 1.0}, metric="diverged")
    below = part("count", 0.5, difference={"b": -1.0}, metric="failures")
    claim = Claim("X", "statement", "source", ["cnn"], [above, below])
    assert judge(claim, table(runs)).verdict == "supported"
    assert judge(claim, table(runs, failed_roots=2)).verdict == "refuted"
    same = Claim("X", "statement", "source", ["cnn"], [part("exact", 0, metric="weights")])
    assert judge(same, table(runs, weights="12ab")).verdict == "supported"
    study = table(runs)
    assert judge(same, Study(study.runs.assign(weights=study.runs["arm"]), study.curves, {}, {})).verdict == "refuted"
    assert judge(same, study).verdict == "no data"


def test_arms_are_choices_of_the_config() -> None:
    """By value, not by spelling; where a rate is free, the best on validation; `a | b` is the first there is."""
    study = table({"rf optimizer.lr=1 optimizer.init=0.0": [80.0], "rf optimizer.lr=2 optimizer.init=0.0": [81.0]})
    runs = study.runs.assign(
        **{"config.optimizer.lr": [1.0, 2.0], "config.optimizer.init": 0.0, "val_acc": [90.0, 70.0]}
    )
    study = Study(runs, study.curves, {}, {})
    assert study.arm("rf optimizer.init=0") == "rf optimizer.lr=1 optimizer.init=0.0"
    assert study.arm("rf optimizer.init=0 optimizer.lr=2.0") == "rf optimizer.lr=2 optimizer.init=0.0"
    assert study.arm("none | rf optimizer.init=0") == "rf optimizer.lr=1 optimizer.init=0.0"
    assert study.arm("rf optimizer.init=1") == "rf optimizer.init=1"
    assert study.arm("rf") == "rf"


def test_presets_share_runs() -> None:
    """A run is made once: a preset that came later finds it under the first one's name, if it is what it asks for."""

    def run(run_id: str, preset: str, arm: str, seed: int, lr: float, init: float) -> dict[str, Any]:
        settings = {"config.optimizer.lr": lr, "config.optimizer.init": init}
        base = {"purpose": "final", "scale": "laptop", "dataset": "d", "model": "m", "loss": "l", "epochs": 1}
        return base | settings | {"run_id": run_id, "preset": preset, "arm": arm, "seed": seed, "optimizer": "rf"} | {
            "status": "finished", "test_acc": 80.0, "val_acc": 80.0, "finished_at": "2026-01-01T00:00:00Z", "study": "s"
        }  # fmt: skip

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


def test_checks_read_tables() -> None:
    """Rows that agree, ratios within bounds, ratios that rise, in the order that is asked for; and what is missing."""
    theory = pd.DataFrame({"claim": ["C1", "C1", "C2", "C3"], "setting": "s", "agrees": [True, "", False, ""]})
    bench = pd.DataFrame(
        {
            "method": ["M", "M", "D", "D", "D"],
            "parameters": ["wide", "narrow", "narrow", "narrow", "wide"],
            "ms": [9.0, 4.0, 2.0, 2.0, 3.0],
            "device": "cpu",
        }
    )
    tables = {"theory": theory, "bench": bench}

    def say(**changes: Any) -> tuple[int, int]:
        return evaluate(Check("text", reason="r", **({"table": "bench", "rows": {"method": "M"}} | changes)), tables)[
            :2
        ]

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
    assert evaluate(Check("text", "theory", {}, "r"), {})[2] == "there is no theory.csv: make theory"


def test_claims_name_what_exists() -> None:
    """Every preset has a file, every arm an optimizer; C3 says what is missing; a part of its own has a reason."""
    claims = load_claims(CLAIMS)
    named = {word for file in ROOT.glob("experiments/*/*.yaml") for word in file.read_text().splitlines()}
    for claim in claims.claims:
        for preset in claim.presets:
            assert claim.missing or f"preset: {preset}" in named, (claim.id, preset)
        for option in [option for arm in claim.arms for option in arm.split(" | ")]:
            assert (ROOT / "configs" / "optimizer" / f"{option.split()[0]}.yaml").exists(), (claim.id, option)
    assert [claim.id for claim in claims.claims if claim.missing] == ["C3"]


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 5, 10])
def test_error_rates_are_nominal(n: int) -> None:
    """On normal data: coverage of the interval, and how often each test errs where its hypothesis is just true."""
    rng, repeats = np.random.default_rng(n), 20_000
    data = rng.normal(0, 1, (repeats, n))
    tolerance = 4 * (0.05 * 0.95 / repeats) ** 0.5

    def rate(test: Any, shift: float, margin: float, said: str) -> float:
        return float(np.mean([test(row, margin).verdict == said for row in data + shift]))

    assert np.mean([t_interval(row).low < 0 < t_interval(row).high for row in data]) == pytest.approx(
        0.95, abs=tolerance
    )
    assert rate(superiority, 0.0, 0.0, "supported") == pytest.approx(0.025, abs=tolerance)
    assert rate(superiority, 0.0, 0.0, "refuted") == pytest.approx(0.025, abs=tolerance)
    assert rate(superiority, 1.0, 1.0, "refuted") == pytest.approx(0.025, abs=tolerance)
    assert rate(noninferiority, -1.0, 1.0, "supported") == pytest.approx(0.025, abs=tolerance)
    assert rate(noninferiority, -1.0, 1.0, "refuted") == pytest.approx(0.025, abs=tolerance)
    for edge in (-1.0, 1.0):
        assert rate(equivalence, edge, 1.0, "supported") <= 0.05 + tolerance
        assert rate(equivalence, edge, 1.0, "refuted") == pytest.approx(0.05, abs=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 5, 10])
def test_a_family_errs_as_often_as_one_test(n: int) -> None:
    """Six claims without any effect, on arms that share runs: some verdict is wrong in at most 5% of studies."""
    rng, repeats = np.random.default_rng(n), 600
    claims = [
        Claim(f"{a}{b}", "s", "s", ["cnn"], [part("superiority", 0, difference={a: 1.0, b: -1.0})])
        for a, b in ("ab", "ac", "ad", "bc", "bd", "cd")
    ]
    wrong = alone = 0
    for _ in range(repeats):
        cards = scorecard(Claims(claims, [], None), [table({arm: list(rng.normal(80, 1, n)) for arm in "abcd"})])
        wrong += any(card.verdict in ("supported", "refuted") for card in cards)
        alone += any(card.findings[0].outcome.verdict in ("supported", "refuted") for card in cards)
    assert wrong / repeats <= 0.05 + 3 * (0.05 * 0.95 / repeats) ** 0.5
    assert alone / repeats > 0.1  # what Holm is for
