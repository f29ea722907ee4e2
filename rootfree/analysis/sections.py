"""The tables of a report about a study: what was found, what it cost, and every run; and the tables beside the studies.

All are data frames of texts. Where the index is called `id`, it names rows for links.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from rootfree.analysis.claims import Claims
from rootfree.analysis.comparisons import differences, wins_losses_ties
from rootfree.analysis.figures import DYNAMICS, constant, in_order
from rootfree.analysis.page import Link
from rootfree.analysis.searches import best_of, chance_ahead, scores
from rootfree.analysis.statistics import Interval, t_interval
from rootfree.analysis.style import label
from rootfree.analysis.tables import Study
from rootfree.analysis.targets import to_target

BUDGETS = (1, 2, 4, 8, 16)  # numbers of draws whose expected best is shown
SHARED = ("dataset", "model", "loss", "schedule", "epochs", "batch_size")  # by all runs of a study
LUCK = 8  # draws of two searches whose bests are compared
FEW = "too few runs"  # for an interval that says anything
SPACE = "\N{NO-BREAK SPACE}"  # a number is not broken


def results(study: Study, claims: Claims) -> pd.DataFrame:
    """The results of every arm, those that a claim compares first, each part by accuracy."""
    steps = study.curves.groupby("arm")["optimizer_ms"].median() if "optimizer_ms" in study.curves else {}
    rows = []
    for arm in in_order(study, claims):
        metrics = ("test_acc", "test_bits", "gap_acc", "train_acc", "seconds")
        test, bits, gap, train, seconds = (t_interval(study.finished(arm, metric)) for metric in metrics)
        failed = study.column(arm, "failed_roots").astype(float).sum()
        rows.append({
            "arm": label(arm),
            "n": Link(str(test.n), f"#runs-{study.arms.index(arm)}"),
            "diverged": f"{study.diverged(arm)}" + (f" ({failed:.0f} failed roots)" if failed else ""),
            "test acc. (%)": spread(test),
            "95% interval": bounds(test),
            "bits per character": spread(bits, digits=3),
            "gap (points)": spread(gap),
            "train acc. (%)": spread(train),
            "search runs": study.budgets.get(arm, "none"),
            "seconds": number(seconds.mean, ".0f"),
            "state (MB)": number(study.column(arm, "state_bytes").astype(float).median() / 1e6),
            "optimizer (ms/step)": number(steps.get(arm, np.nan), ".2f"),
        })  # fmt: skip
    frame = pd.DataFrame(rows)
    may_be = ("diverged", "bits per character", "optimizer (ms/step)")
    silent = [column for column in may_be if frame[column].isin(["0", "-"]).all()]
    return frame.drop(columns=silent)


def paired(study: Study, claims: Claims) -> pd.DataFrame:
    """Every arm against every baseline at equal seeds."""
    rows = []
    for baseline in [arm for arm in claims.baselines if arm in study.arms]:
        for arm in [arm for arm in in_order(study, claims) if arm != baseline]:
            accuracy = t_interval(differences(study, {arm: 1, baseline: -1}, "test_acc"))
            # oriented by `differences` so that positive is better; here it is plainly arm minus baseline
            gap = t_interval(-differences(study, {arm: 1, baseline: -1}, "gap_acc"))
            row = {"difference": f"{label(arm)} - {baseline}", "pairs": str(accuracy.n)}
            row["won-lost-tied"] = "-".join(map(str, wins_losses_ties(study, arm, baseline, "test_acc")))
            row |= {"test acc. (points)": spread(accuracy, "+"), "95% interval": bounds(accuracy, "+")}
            rows.append(row | {"gap (points)": spread(gap, "+"), "95% interval (gap)": bounds(gap, "+")})
    return pd.DataFrame(rows)


def second_moment(study: Study) -> pd.DataFrame:
    """How far every arm's second moment came from its start, and how near its steps are to those of momentum SGD."""
    names = {"share_frozen": "frozen (%)", "share_above_damping": "above damping (%)", "cosine_sgd": "cosine to SGD"}
    names = {column: words for column, words in names.items() if column in study.curves}
    finished = study.curves[study.curves["status"] == "finished"]
    last = finished.sort_values("epoch", kind="stable").drop_duplicates("run_id", keep="last")
    rows = []
    for arm in study.arms if names else []:
        ends, weight = last[last["arm"] == arm], study.forgets(arm)
        row = {"arm": label(arm), "n": str(len(ends)), "1 - beta2": number(weight)}
        row["(1 - beta2) x steps"] = number(weight * study.column(arm, "steps").astype(float).max())
        for column, words in names.items():
            mean = ends[column].astype(float).mean()
            row[words] = number(mean, ".3f") if column == "cosine_sgd" else number(100 * mean, ".1f")
        rows.append(row)
    return pd.DataFrame(rows)


def steady(study: Study) -> list[str]:
    """A sentence for each figure that would show one line for all arms."""
    values = {words: constant(study, metric) for metric, (words, _) in DYNAMICS.items()}
    return [f"The {words} is {round(value, 3):g} in every run at every epoch." for words, value in values.items()
            if value is not None and not np.isnan(value)]  # fmt: skip


def tuning(study: Study, claims: Claims) -> pd.DataFrame:
    """What the settings of every arm cost to find, what fewer draws would have found, and how luck could change it."""
    rows, drawn = [], {arm: 100 * scores(search.draws) for arm, search in study.searches.items()}
    for arm in study.arms if study.searches else []:
        search = study.searches.get(arm)
        found = [best_of(drawn[arm], k) if search else np.nan for k in BUDGETS]
        length = int(search.draws["epochs"].iloc[0]) if search else 0
        draws = f"{len(search.draws)} of {length} epoch{'' if length == 1 else 's'}" if search else "-"
        row = {"arm": label(arm), "search runs": study.budgets.get(arm, "none"), "draws": draws}
        row["epochs in all"] = str(int(search.runs["epochs"].sum()) or "-") if search else "-"
        row |= {f"best of {k}": number(best, ".2f") for k, best in zip(BUDGETS, found, strict=True)}
        for other in [other for other in claims.baselines if other in drawn]:
            chance = chance_ahead(drawn[arm], drawn[other], LUCK) if search and arm != other else np.nan
            row[f"ahead of {other}"] = number(100 * chance, ".0f")
        rows.append(row)
    return pd.DataFrame(rows)


def settings(study: Study) -> pd.DataFrame:
    """What every arm's optimizer was given."""
    prefix = "config.optimizer."
    hyper = [name for name in study.runs if name.startswith(prefix) and not name.startswith(f"{prefix}_")]
    rows = []
    for arm, row in study.runs.groupby("arm", sort=True)[hyper].first().iterrows():
        given = {name.removeprefix(prefix): value for name, value in row.dropna().items()}
        told = (f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in given.items())
        rows.append({"arm": str(arm), "optimizer settings": ", ".join(told) or "defaults"})
    return pd.DataFrame(rows)


def runs(study: Study) -> pd.DataFrame:
    """Every run with its command; the first of an arm is a place to link to."""
    frame = study.runs[["run_id", "arm", "seed", "status", "test_acc", "command"]]
    first = ~frame["arm"].duplicated()
    ids = [f"runs-{study.arms.index(arm)}" if new else "" for arm, new in zip(frame["arm"], first, strict=True)]
    frame = frame.assign(test_acc=frame["test_acc"].map(lambda value: number(value, ".2f")))
    return frame.rename(columns={"run_id": "run", "test_acc": "test acc. (%)"}).set_index(pd.Index(ids, name="id"))


def time_to_target(study: Study, claims: Claims) -> tuple[str, pd.DataFrame]:
    """The target of a study in words, and how many runs of each arm reached it and when."""
    found = to_target([study], claims)
    rows = []
    for arm, group in found.groupby("arm"):
        row = {"arm": label(str(arm)), "reached": f"{group['epoch'].count()} of {len(group)}"}
        rows.append(row | {key: number(group[key].median(), ".0f") for key in ("epoch", "step", "seconds")})
    return number(found["target"].max(), ".2f"), pd.DataFrame(rows)


def context(study: Study, claims: Claims) -> dict[str, Any]:
    """What a study's page says in sentences: the best arm, the noise floor, what is missing, what all runs share."""
    means = {arm: t_interval(study.finished(arm, "test_acc")) for arm in study.arms}
    best = max((arm for arm in study.arms if means[arm].n), key=lambda arm: means[arm].mean, default=None)
    floor = np.empty(0)
    if claims.placebo:
        floor = differences(study, {claims.placebo.arm: 1, claims.placebo.of: -1}, "test_acc")
    mean, first = t_interval(floor), study.runs.iloc[0]
    dirty = study.runs["dirty"].astype(str).map({"True": " with local changes"}).fillna("")
    root_mean_square = number(float(np.mean(floor**2)) ** 0.5, ".2f") if mean.n else ""
    return {
        "best": (label(best), spread(means[best]), means[best].n) if best else None,
        "placebo": claims.placebo,
        "floor": (root_mean_square, number(mean.mean, "+.2f"), bounds(mean, "+"), mean.n) if mean.n else None,
        "shared": {key.replace("_", " "): first[key] for key in SHARED},
        "luck": LUCK,
        "code": sorted(set(study.runs["commit"].astype(str) + dirty)),
    }


def overview(studies: Sequence[Study], pages: Mapping[str, str]) -> pd.DataFrame:
    """All studies with their best arm."""
    rows = []
    for study in studies:
        means = {arm: t_interval(study.finished(arm, "test_acc")) for arm in study.arms}
        best = max(means, key=lambda arm: np.nan_to_num(means[arm].mean, nan=-1))
        row = {"study": Link(study.title, pages[study.slug]), "arms": str(len(means)), "runs": str(len(study.runs))}
        rows.append(row | {"best arm": label(best), "its test acc. (%)": spread(means[best]), "n": str(means[best].n)})
    return pd.DataFrame(rows)


def theory(table: pd.DataFrame) -> tuple[pd.DataFrame, list[tuple[str, pd.DataFrame]]]:
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
        kept = rows.assign(value=shown, agrees=said.map({"true": "yes", "false": "no"}).fillna("-"))
        folded.append((f"{claim}: {name}", kept[["setting", "quantity", "value", "expected", "agrees", "n"]]))
    return pd.DataFrame(summary), folded


def bench(table: pd.DataFrame) -> pd.DataFrame:
    """Time and memory of one optimizer step, each method on each network; a row measures a method and its peer."""
    keys, own = ["parameters", "method", "device", "threads"], ["ms", "state_mb", "peak_mb"]
    peers = table.drop(columns=["method", *own], errors="ignore")
    peers = peers.rename(columns={"peer": "method"} | {f"peer_{key}": key for key in own})
    both = pd.concat([table, peers]).reindex(columns=keys + own).dropna(subset=["method", "ms"])
    grouped = both.groupby(keys, sort=False, dropna=False)
    frame = grouped[own].median().map(number).assign(n=grouped.size()).reset_index()
    return frame.rename(columns={"parameters": "network", "ms": "ms per step"})


def spread(interval: Interval, sign: str = "", digits: int = 2) -> str:
    """Mean ± standard deviation."""
    if not interval.n:
        return "-"
    deviation = f"{SPACE}±{SPACE}{interval.sd:.{digits}f}" if interval.n > 1 else ""
    return f"{interval.mean:{sign}.{digits}f}{deviation}"


def bounds(interval: Interval, sign: str = "") -> str:
    """The interval's ends; those of two values say nothing and are not told."""
    told = f"{interval.low:{sign}.2f}{SPACE}to{SPACE}{interval.high:{sign}.2f}"
    return told if interval.n > 2 else FEW if interval.n else "-"


def number(value: float, form: str = ".3g") -> str:
    """A number, or a dash where there is none."""
    return "-" if pd.isna(value) else f"{value:{form}}"
