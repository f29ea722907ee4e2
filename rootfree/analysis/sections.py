"""The tables of a report: what a study found, what it cost, and the numbers behind every verdict."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from rootfree.analysis.checks import Check
from rootfree.analysis.claims import UNITS, Claims, Question
from rootfree.analysis.figures import DYNAMICS, VERDICTS, constant, in_order
from rootfree.analysis.page import Link, Table, safe_name
from rootfree.analysis.comparisons import Finding, differences, wins_losses_ties
from rootfree.analysis.searches import best_of, scores
from rootfree.analysis.statistics import Interval, t_interval
from rootfree.analysis.style import label
from rootfree.analysis.tables import Study
from rootfree.analysis.verdicts import Judgement

BUDGETS = (1, 2, 4, 8, 16)  # numbers of draws whose expected best is shown
FEW = "too few runs"  # for an interval that says anything


def results(study: Study, claims: Claims) -> Table:
    """The results of every arm, those that a claim compares first, each part by accuracy."""
    steps = study.curves.groupby("arm")["optimizer_ms"].median() if "optimizer_ms" in study.curves else pd.Series()
    rows = []
    for arm in in_order(study, claims):
        metrics = ("test_acc", "gap_acc", "train_acc", "seconds")
        test, gap, train, seconds = (t_interval(study.finished(arm, metric)) for metric in metrics)
        state = study.column(arm, "state_bytes").astype(float).median() / 1e6
        failed = study.column(arm, "failed_roots").astype(float).sum()
        rows.append({
            "arm": label(arm),
            "n": Link(str(test.n), f"#runs-{study.arms.index(arm)}"),
            "diverged": f"{study.diverged(arm)}" + (f" ({failed:.0f} failed roots)" if failed else ""),
            "test acc. (%)": spread(test),
            "95% interval": bounds(test),
            "gap (points)": spread(gap),
            "train acc. (%)": spread(train),
            "search runs": study.budgets.get(arm, "none"),
            "seconds": number(seconds.mean, ".0f"),
            "state (MB)": number(state),
            "optimizer (ms/step)": number(steps.get(arm, np.nan), ".2f"),
        })  # fmt: skip
    caption = (
        "Mean ± standard deviation over the n seeds that finished; n leads to their runs. Train accuracy is on clean "
        "images in eval mode, the gap is train minus test. Search runs: those of the search that found the arm's "
        "settings, in brackets whose it was and in what its runs differed. Seconds per run, times per step, on "
    )
    frame = pd.DataFrame(rows)
    silent = [column for column in ("diverged", "optimizer (ms/step)") if frame[column].isin(["0", "-"]).all()]
    return Table(frame.drop(columns=silent), f"{caption}{study.hardware}.")


def paired(study: Study, claims: Claims) -> Table | None:
    """Every arm against every baseline at equal seeds."""
    rows = []
    for baseline in [arm for arm in claims.baselines if arm in study.arms]:
        for arm in [arm for arm in in_order(study, claims) if arm != baseline]:
            accuracy = t_interval(differences(study, {arm: 1, baseline: -1}, "test_acc"))
            # oriented by `differences` so that positive is better; here it is plainly arm minus baseline
            gap = t_interval(-differences(study, {arm: 1, baseline: -1}, "gap_acc"))
            rows.append({
                "difference": f"{label(arm)} - {baseline}",
                "pairs": str(accuracy.n),
                "won-lost-tied": "-".join(map(str, wins_losses_ties(study, arm, baseline, "test_acc"))),
                "test acc. (points)": spread(accuracy, "+"),
                "95% interval": bounds(accuracy, "+"),
                "gap (points)": spread(gap, "+"),
                "95% interval (gap)": bounds(gap, "+"),
            })  # fmt: skip
    note = "Mean ± sd over the pairs of which both runs finished; intervals are not adjusted for their number. In won-"
    note += "lost-tied a run that diverged loses to one that did not."
    return Table(pd.DataFrame(rows), note) if rows else None


def second_moment(study: Study) -> Table | None:
    """How far every arm's second moment came from its start, and how near its steps are to those of momentum SGD."""
    names = {"share_frozen": "frozen (%)", "share_above_damping": "above damping (%)", "cosine_sgd": "cosine to SGD"}
    names = {column: words for column, words in names.items() if column in study.curves}
    finished = study.curves[study.curves["status"] == "finished"]
    last = finished.sort_values("epoch", kind="stable").drop_duplicates("run_id", keep="last")
    rows = []
    for arm in study.arms:
        ends = last[last["arm"] == arm]
        values = {column: ends[column].astype(float).mean() for column in names}
        weight, steps = study.forgets(arm), study.column(arm, "steps").astype(float).max()
        shown = {
            names[c]: number(v, ".3f") if c == "cosine_sgd" else number(100 * v, ".1f") for c, v in values.items()
        }
        row = {"arm": label(arm), "n": str(len(ends)), "1 - beta2": number(weight)}
        rows.append(row | {"(1 - beta2) x steps": number(weight * steps), **shown})
    caption = (
        "After the last step, means over the n runs that finished. A moving average forgets its start once "
        "(1 - beta2) x steps is well above 1. Frozen: coordinates whose second moment still has its initial value; for "
        "a matrix method, entries of its factors. Cosine: between the last update and that of momentum SGD."
    )
    return Table(pd.DataFrame(rows), caption) if rows and names else None


def steady(study: Study) -> list[str]:
    """A sentence for each figure that would show one line for all arms."""
    values = {words: constant(study, metric) for metric, (words, _) in DYNAMICS.items()}
    return [f"The {words} is {value:.3g} in every run at every epoch." for words, value in values.items()
            if value is not None and not np.isnan(value)]  # fmt: skip


def tuning(study: Study) -> Table | None:
    """What the settings of every arm cost to find, and what fewer draws would have found."""
    rows = []
    for arm in study.arms:
        search = study.searches.get(arm)
        found = [best_of(100 * scores(search.draws), k) if search else np.nan for k in BUDGETS]
        epochs = int(search.runs["epochs"].sum()) if search else 0
        row = {"arm": label(arm), "search runs": study.budgets.get(arm, "none")}
        row |= {"draws": str(len(search.draws)) if search else "-", "epochs in all": str(epochs or "-")}
        rows.append(row | {f"best of {k}": number(best, ".2f") for k, best in zip(BUDGETS, found, strict=True)})
    short = {arm: int(s.draws["epochs"].iloc[0]) for arm, s in study.searches.items() if s.name.count("-halving")}
    caption = (
        "Expected best validation accuracy (%) of so many draws, one seed each: the mean over all choices of that many "
        "from the draws of the search (after Dodge et al. 2019); a draw that diverged counts as 0. Draws and epochs "
        "are those of a search made as this study was; what was found elsewhere is shown there."
    )
    if short:
        told = ", ".join(f"{epochs} ({label(arm)})" for arm, epochs in short.items())
        caption += f" With successive halving, draws are compared after {told} epochs."
    return Table(pd.DataFrame(rows), caption) if study.searches else None


def settings(study: Study) -> Table:
    """What every arm's optimizer was given."""
    prefix = "config.optimizer."
    hyper = [name for name in study.runs if name.startswith(prefix) and not name.startswith(f"{prefix}_")]
    rows = []
    for arm, row in study.runs.groupby("arm", sort=True)[hyper].first().iterrows():
        given = {name.removeprefix(prefix): value for name, value in row.dropna().items()}
        told = (f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in given.items())
        rows.append({"arm": str(arm), "optimizer settings": ", ".join(told) or "defaults"})
    return Table(pd.DataFrame(rows), "What every run of an arm was given.")


def runs(study: Study) -> Table:
    """Every run with its command; the first of an arm is a place to link to."""
    chosen = study.runs[["run_id", "arm", "seed", "status", "test_acc", "command"]].copy()
    first = ~chosen["arm"].duplicated()
    ids = [f"runs-{study.arms.index(arm)}" if new else "" for arm, new in zip(chosen["arm"], first, strict=True)]
    chosen["test_acc"] = chosen["test_acc"].map(lambda value: number(value, ".2f"))
    dirty = study.runs["dirty"].astype(str).map({"True": " with local changes"}).fillna("")
    code = ", ".join(sorted(set(study.runs["commit"].astype(str) + dirty)))
    chosen = chosen.rename(columns={"run_id": "run", "test_acc": "test acc. (%)"})
    return Table(chosen.set_index(pd.Index(ids, name="id")), f"Code: {code}. {study.hardware}.")


def context(study: Study, claims: Claims) -> dict[str, Any]:
    """What a study's page says in sentences: the best arm, the noise floor, what is missing, what all runs share."""
    means = {arm: t_interval(study.finished(arm, "test_acc")) for arm in study.arms}
    best = max((arm for arm in study.arms if means[arm].n), key=lambda arm: means[arm].mean, default=None)
    floor = np.empty(0)
    if claims.placebo:
        floor = differences(study, {claims.placebo.arm: 1, claims.placebo.of: -1}, "test_acc")
    shared = ("dataset", "model", "loss", "schedule", "epochs", "batch_size")
    return {
        "best": (label(best), spread(means[best]), means[best].n) if best else None,
        "placebo": claims.placebo,
        "floor": (f"{np.sqrt(np.mean(floor**2)):.2f}", estimate(t_interval(floor))) if floor.size else None,
        "lost": [f"{study.diverged(arm)} of {study.size(arm)} runs of {label(arm)}"
                 for arm in study.arms if study.diverged(arm)],
        "left_out": [f"{count} of {label(arm)}" for arm, count in study.left_out.items()],
        "shared": ", ".join(f"{key.replace('_', ' ')} {study.runs[key].iloc[0]}" for key in shared),
        "scale": study.scale or "ad hoc",
    }  # fmt: skip


def answers(judgement: Judgement) -> Table:
    """The parts of a judgement: what was asked, what came out, and how sure that is."""
    rows = []
    for finding in judgement.tested:
        asked = f"{'Premise: ' if finding is judgement.premise else ''}{finding.part.text}"
        row = {"question": asked, "result": result(finding), "verdict": finding.verdict}
        rows.append(row | {"confidence": confidence(finding)})
    adjusted = judgement.findings[0].adjusted
    caption = f"Of the claim after Holm's adjustment: {p_value(adjusted)}." if np.isfinite(adjusted) else ""
    return Table(pd.DataFrame(rows), caption)


SIZES = {  # the interval against the bound that is asked about, in words
    "superiority": {"larger": "by more than", "smaller": "by less than", "unclear": "perhaps by"},
    "noninferiority": {"larger": "not behind by", "smaller": "by more than", "unclear": "perhaps behind by"},
    "equivalence": {"larger": "beyond", "smaller": "within", "unclear": "perhaps beyond"},
}


def result(finding: Finding) -> str:
    """A part's estimate in words, or what a table says."""
    if finding.kind not in SIZES or np.isnan(finding.estimate):
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
        said.append(ends(finding) if finding.n > 2 else FEW)
    if np.isfinite([finding.low_searches, finding.high_searches]).all() and finding.n > 2:
        said.append(f"{finding.low_searches:+.2f} to {finding.high_searches:+.2f} over seeds and searches")
    elif finding.kind == "count":
        said.append(f"95% {finding.low:.2f} to {finding.high:.2f}")
    if np.isfinite(finding.p):
        said.append(p_value(finding.p))
    return "; ".join(said)


def ends(finding: Finding, form: str = "+.2f") -> str:
    """The interval of a part over seeds, with its level."""
    return f"{90 if finding.kind == 'equivalence' else 95}% {finding.low:{form}} to {finding.high:{form}}"


def theory(table: pd.DataFrame) -> tuple[Table, list[tuple[str, Table]]]:
    """What was computed exactly or on quadratics: how many rows agree per check, and every row."""
    table = table.astype(object).fillna("").astype(str)
    summary, folded = [], []
    for (claim, check), rows in table.groupby(["claim", "check"], sort=False):
        said = rows["agrees"].str.lower()
        states, name = int(said.isin(["true", "false"]).sum()), str(check).replace("_", " ")
        agree = f"{(said == 'true').sum()} of {states}" if states else "only measured"
        summary.append({"claim": claim, "check": name, "rows that agree": agree, "further rows": len(rows) - states})
        error = rows["error"].map(lambda cell: f" ± {float(cell):.2g}" if cell else "")
        shown = rows["value"].map(lambda cell: f"{float(cell):.4g}" if cell else "-") + error
        verdict = said.map({"true": "yes", "false": "no"}).fillna("-")
        kept = rows.assign(value=shown, agrees=verdict)[["setting", "quantity", "value", "expected", "agrees", "n"]]
        folded.append((f"{claim}: {name}", Table(kept, "Value ± standard error over n.")))
    caption = "Exact and Monte-Carlo checks in float64, and noisy quadratics: `make theory`. Rows without a prediction "
    return Table(pd.DataFrame(summary), f"{caption}are there for comparison."), folded


def both_sides(table: pd.DataFrame) -> pd.DataFrame:
    """A row of `bench.csv` per method, network and comparison: a comparison measures a method and its peer."""
    own = ["ms", "state_mb", "peak_mb"]
    peers = table.drop(columns=["method", *own], errors="ignore")
    peers = peers.rename(columns={"peer": "method"} | {f"peer_{key}": key for key in own})
    columns = ["method", "parameters", *own, "device", "threads"]
    return pd.concat([table, peers]).reindex(columns=columns).dropna(subset=["method", "ms"])


def bench(both: pd.DataFrame) -> Table:
    """Time and memory of one optimizer step, each method on each network, of a table as of `both_sides`."""
    keys, own = ["parameters", "method", "device", "threads"], ["ms", "state_mb", "peak_mb"]
    grouped = both.groupby(keys, sort=False, dropna=False)
    frame = grouped[own].median().map(number).assign(n=grouped.size()).reset_index()
    frame = frame.rename(columns={"parameters": "network", "ms": "ms per step"})
    caption = "`make bench`: median over the n comparisons that a method takes part in, on random gradients. The state is "
    return Table(frame, f"{caption}what an optimizer keeps, the peak what a step takes beside parameters and gradients.")


def forest_rows(claims: Claims, judgements: Iterable[Judgement]) -> pd.DataFrame:
    """A row per claim and place, as `figures.forest` wants them, in the order of the questions."""
    rows = []
    for question in claims.questions:
        for one in asked(question, judgements):
            finding = main_part(one)
            row: dict[str, Any] = {"question": question.title, "claim": one.claim.id, "title": one.claim.short}
            row |= {"place": one.place[1] if one.place else "", "verdict": one.verdict, "note": finding.note}
            measured = in_points(finding)
            for key in ("estimate", "low", "high", "low_searches", "high_searches", "margin"):
                row[key] = getattr(finding, key) if measured else np.nan
            if one.verdict == "no data":
                row["note"] = "not run"
            rows.append(row)
    return pd.DataFrame(rows)


def asked(question: Question, judgements: Iterable[Judgement]) -> list[Judgement]:
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


def spread(interval: Interval, sign: str = "") -> str:
    """Mean ± standard deviation."""
    if not interval.n:
        return "-"
    return f"{interval.mean:{sign}.2f}" + (f"\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{interval.sd:.2f}" if interval.n > 1 else "")


def bounds(interval: Interval, sign: str = "") -> str:
    """The interval's ends; those of two values say nothing and are not told."""
    told = f"{interval.low:{sign}.2f} to {interval.high:{sign}.2f}".replace(" ", "\N{NO-BREAK SPACE}")
    return told if interval.n > 2 else FEW if interval.n else "-"


def estimate(interval: Interval, unit: str = "points") -> str:
    """A difference with its interval and its n."""
    return f"{interval.mean:+.2f} {unit} (95% {bounds(interval, '+')}, n = {interval.n})"


def number(value: float, form: str = ".3g") -> str:
    """A number, or a dash where there is none."""
    return "-" if pd.isna(value) else f"{value:{form}}"


def p_value(p: float) -> str:
    """A p in words."""
    return "p below 0.001" if p < 0.001 else f"p {p:.3f}"


def plural(count: int, one: str, many: str | None = None) -> str:
    """A count with its noun."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def tables_of(study: Study, claims: Claims) -> Mapping[str, Any]:
    """Everything that a study's page shows, beside its figures and verdicts."""
    return {
        "results": results(study, claims),
        "paired": paired(study, claims),
        "second_moment": second_moment(study),
        "steady": steady(study),
        "tuning": tuning(study),
        "settings": settings(study),
        "runs": runs(study),
    }


def verdict_table(judgements: Iterable[Judgement], pages: Mapping[str, str], origins: Mapping[str, str]) -> Table:
    """What was found on several claims, a row per claim and place; a place leads to its page where there is one."""
    rows = []
    for one in judgements:
        finding, page = main_part(one), pages.get(one.study.slug) if one.study else None
        where = where_of(one)
        rows.append({
            "claim": one.claim.id,
            "question": one.claim.short,
            "whose": origins[one.claim.origin],
            "where": Link(where, f"{page}#{safe_name(one.claim.id)}") if page else where,
            "verdict": one.verdict,
            "result": f"{finding.part.text}: {result(finding)}" if finding.n else "-",
            "confidence": confidence(finding),
            "why": one.reason or "-",
        })  # fmt: skip
    return Table(pd.DataFrame(rows), "")


def where_of(judgement: Judgement) -> str:
    """Scale, model and data set of a verdict, and the tables it rests on."""
    words = [f"{judgement.study.scale}: {judgement.study.setting}"] if judgement.study else []
    tables = dict.fromkeys(f"{part.table}.csv" for part in judgement.claim.checked)
    return " and ".join([*words, *tables]) or "-"


def overview(studies: Iterable[Study], pages: Mapping[str, str]) -> Table:
    """All studies with their best arm."""
    rows = []
    for study in studies:
        means = {arm: t_interval(study.finished(arm, "test_acc")) for arm in study.arms}
        best = max(means, key=lambda arm: np.nan_to_num(means[arm].mean, nan=-1))
        row = {"study": Link(study.title, pages[study.slug]), "arms": str(len(means)), "runs": str(len(study.runs))}
        rows.append(row | {"best arm": label(best), "its test acc. (%)": spread(means[best]), "n": str(means[best].n)})
    return Table(pd.DataFrame(rows), "Mean ± sd over the n seeds of the arm with the highest mean test accuracy.")


def summaries(claims: Claims, judgements: Iterable[Judgement]) -> list[dict[str, Any]]:
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
            counted = {verdict: sum(one.verdict == verdict for one in these) for verdict in VERDICTS}
            tally = ", ".join(f"{count} {verdict}" for verdict, count in counted.items() if count)
            row = {"title": question.title, "asked": tested[0].claim.short, "answer": "; ".join(told)}
            row |= {"premise": next(iter(failing), "")}
            duelled = any(duel["free"] and duel["claim"] in question.claims for duel in duels(claims, judgements))
            rows.append(row | {"short": "; ".join(short), "tally": tally, "duels": duelled})
    return rows


def duels(claims: Claims, judgements: Iterable[Judgement], each: int = 2) -> list[dict[str, Any]]:
    """Who was ahead of whom on test accuracy, for pairs of arms that claims compare by plain names.

    Args:
        claims: All of them.
        judgements: What was found.
        each: How many pairs of a question, at most.
    """
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for question in claims.questions:
        pairs: dict[tuple[str, str, str], dict[str, Any]] = {}
        for one in [one for one in asked(question, judgements) if one.study]:
            for finding in filter(in_points, one.findings):
                arms, weights = [*finding.arms.values()], [*finding.part.difference.values()]
                plain = weights == [1, -1] and finding.part.metric == "test_acc" and not any(" " in arm for arm in arms)
                if not plain or finding.n < 3 or finding.kind == "equivalence":
                    continue
                key = (*arms, str(one.study.runs["model"].iloc[0]))
                free, other = (one.study.root_free(arm) for arm in arms)
                duel = pairs.setdefault(key, dict(zip(("who", "whom", "model"), key, strict=True)) | {
                    "pair": key[:2], "claim": one.claim.id, "free": free and not other, "places": {},
                })  # fmt: skip
                told = {"dataset": one.place[1], "direction": finding.direction, "estimate": f"{finding.estimate:+.1f}"}
                if duel["claim"] == one.claim.id:  # another claim asks of other settings
                    duel["places"].setdefault(one.place[1], told)
        found = dict([*pairs.items()][:each]) | found
    for duel in found.values():
        duel["places"] = [*duel["places"].values()]
        directions = {place["direction"] for place in duel["places"]}
        duel |= {"ahead": directions == {"ahead"}, "behind": "behind" in directions}
    order = [claim for question in claims.questions for claim in question.claims]
    return sorted(found.values(), key=lambda duel: order.index(duel["claim"]))


def time_to_target(runs: pd.DataFrame) -> Table | None:
    """How many runs of each arm of a study reached its target and when; `runs` as of `targets.to_target`."""
    if runs.empty:
        return None
    grouped = runs.groupby("arm", sort=False)
    frame = pd.DataFrame({
        "arm": [label(str(arm)) for arm in grouped.groups],
        "reached": [f"{count} of {size}" for count, size in zip(grouped["epoch"].count(), grouped.size(), strict=True)],
        "epoch": grouped["epoch"].median().map(number).to_numpy(),
        "step": grouped["step"].median().map(lambda step: number(step, ".0f")).to_numpy(),
        "seconds": grouped["seconds"].median().map(lambda seconds: number(seconds, ".0f")).to_numpy(),
    })  # fmt: skip
    caption = f"The first epoch with {runs['target'].iloc[0]:.2f} % validation accuracy, which is what the better of the "
    return Table(frame, f"{caption}baselines ends with. Medians over the runs that reach it.")
