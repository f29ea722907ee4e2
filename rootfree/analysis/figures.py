"""The figures of a study, one panel each: its results, how they were reached, what settings do.

Each function draws one figure and returns it with its caption; `draw` calls those whose data exist.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from textwrap import fill
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rootfree.analysis.claims import Claims
from rootfree.analysis.comparisons import differences
from rootfree.analysis.searches import Search, scores
from rootfree.analysis.statistics import Interval, t_interval
from rootfree.analysis.style import (
    GREY,
    INK,
    STYLE,
    WIDTH,
    Drawing,
    Look,
    finish,
    label,
    logarithmic,
    looks,
    panel,
    title,
)
from rootfree.analysis.tables import Study

CROWD = 10  # curves in one panel
ROWS = 12  # arms in a figure of results
SLICES = 5  # of a setting's range, whose best draws are joined
# Columns of `curves.csv`: the axis, and what it means.
SPREAD = "Mean over seeds with a band of one standard deviation."
OUTCOMES = {"val_acc": ("validation accuracy (%)", SPREAD), "train_loss": ("training loss, clean subset", SPREAD)}
QUANTILES = ["effective_lr_q05", "effective_lr_q50", "effective_lr_q95"]
DYNAMICS = {
    "share_frozen": ("share of frozen coordinates", f"Second moments, or factors' entries, at their start. {SPREAD}"),
    "share_above_damping": ("share above damping", f"Coordinates whose second moment exceeds damping. {SPREAD}"),
    "cosine_sgd": ("cosine to momentum SGD", f"Between the last update of the epoch and momentum SGD's. {SPREAD}"),
    "effective_lr": (
        "effective learning rate",
        "The rate over the denominator: median coordinate with a band from the 5% to the 95% quantile, geometric means "
        "over seeds; for methods with a diagonal second moment.",
    ),
}
Looks = Mapping[str, Look]


def draw(study: Study, claims: Claims, only: str = "") -> Iterator[Drawing]:
    """All figures of a study that its data can fill, in the order of their use; or the one of a name."""
    look, curves = looks(study), study.curves
    main = [arm for arm in study.arms if not _is_untuned(study, arm)]
    ordered = [arm for arm in in_order(study, claims) if arm in main]
    makers: dict[str, Any] = {"accuracy": partial(_strip, study, look, ordered)}
    for baseline in [arm for arm in claims.baselines if arm in main and len(main) > 1]:
        makers[f"minus-{baseline}"] = partial(_strip, study, look, ordered, baseline)
    for metric in [] if curves.empty else [*OUTCOMES, *DYNAMICS]:
        if QUANTILES[1] in curves if metric == "effective_lr" else constant(study, metric) is None:
            makers[metric.replace("_", "-")] = partial(_curves, study, look, main, metric)
    for key in swept(study):
        makers[f"sweep-{key.replace('_', '-')}"] = partial(_sweep, study, look, key)
    for arm, search in study.searches.items():
        makers[f"isolation-{label(arm)}"] = partial(_isolation, study, look, arm, search)
    with mpl.rc_context(STYLE):
        for name, make in makers.items():
            if only in ("", name) and (found := make()):
                yield Drawing(name, *found)


def constant(study: Study, metric: str) -> float | None:
    """The value that a metric has in every run at every epoch, if it is one; NaN where it was never measured."""
    values = study.curves[metric].astype(float) if metric in study.curves else pd.Series(dtype=float)
    return None if values.max() - values.min() > 1e-3 else float(values.mean())


def swept(study: Study) -> list[str]:
    """Settings of which some optimizer has arms with at least three values."""
    values: dict[tuple[str, str], set[float]] = {}
    for arm in study.arms:
        for key, value in _numbers(arm).items():
            values.setdefault((arm.split()[0], key), set()).add(value)
    return sorted({key for (_, key), found in values.items() if len(found) > 2})


def in_order(study: Study, claims: Claims) -> list[str]:
    """The arms of a study as its tables list them: those that a claim compares first, each part by accuracy."""
    compared = {study.arm(arm) for claim in claims.claims if claim.concerns(study) for arm in claim.arms}
    accuracy = {arm: study.finished(arm, "test_acc").mean() for arm in study.arms}
    return sorted(study.arms, key=lambda arm: (arm not in compared, -np.nan_to_num(accuracy[arm], nan=-1), arm))


def _numbers(arm: str) -> dict[str, float]:
    """The numbers among the settings that an arm's name tells."""
    found = {}
    for word in arm.split()[1:]:
        key, _, value = word.partition("=")
        try:
            found[key.removeprefix("optimizer.")] = float(value)
        except ValueError:
            continue
    return found


def _untuned(arm: str) -> str:
    return f"{arm} tuned=none"


def _is_untuned(study: Study, arm: str) -> bool:
    """Whether an arm is the untuned form of another of the study."""
    return arm.endswith(" tuned=none") and arm.removesuffix(" tuned=none") in study.arms


def _strip(study: Study, look: Looks, arms: Sequence[str], baseline: str = "") -> tuple[Figure, str] | None:
    """Test accuracies, or differences from a baseline's: every seed, their mean, its interval; the best arm on top."""
    arms, axis, what = [arm for arm in arms if arm != baseline], "test accuracy (%)", "seed"
    values = {arm: study.finished(arm, "test_acc").to_numpy() for arm in study.arms}
    if baseline:
        axis, what = f"test accuracy minus {baseline}'s, same seed (points)", "pair of runs"
        values = {arm: differences(study, {arm: 1, baseline: -1}, "test_acc") for arm in arms}
        if not any(data.size for data in values.values()):
            return None
    shown = sorted(arms[:ROWS], key=lambda arm: -np.mean(values[arm]) if values[arm].size else np.inf)
    # a word of up to 30 letters is whole, and no name takes all the room
    names = [fill(label(arm), 20 if max(map(len, label(arm).split())) <= 20 else 30) for arm in shown]
    heights = np.array([max(1, 0.31 * (name.count("\n") + 1)) for name in names])  # a long name needs more than a row
    rows = heights.cumsum() - heights / 2
    figure, axes = panel(1 + 0.48 * heights.sum())
    beside = axes.get_yaxis_transform()
    for row, arm in zip(rows, shown, strict=True):
        style, data, interval = look[arm], values[arm], t_interval(values[arm])
        axes.plot(data, np.full(data.size, row - 0.14), style.marker, color=style.color, alpha=0.65, ms=4.5, mew=0)
        if interval.n > 2:
            axes.plot([interval.low, interval.high], [row + 0.16] * 2, style.dashes, color=style.color, lw=1.6)
        axes.plot(interval.mean, row + 0.16, "|", color=style.color, ms=11, mew=2.4)
        if (untuned := values.get(_untuned(arm), np.empty(0))).size:
            axes.plot(untuned.mean(), row + 0.16, "o", color=style.color, fillstyle="none", ms=6, mew=1.2)
        axes.text(1.02, row, _number(interval, study.diverged(arm)), transform=beside, va="center", fontsize=8)
    means = {arm: study.finished(arm, "test_acc").mean() for arm in shown}
    best = np.nanmax([*means.values(), 0])
    points = np.concatenate([np.empty(0), *(values[arm] for arm in shown if means[arm] >= best / 2)])
    if baseline:
        axes.axvline(0, color=INK, lw=0.8)
        points = np.append(points, 0)
    if points.size:  # few seeds have an interval so wide that it would hide all others: it may leave the frame
        pad = max(np.ptp(points) * 0.3, 0.5)
        axes.set_xlim(points.min() - pad, points.max() + pad)
    low, high = axes.get_xlim()
    marks = {label(arm): values[arm] for arm in shown}
    marks |= {
        f"{label(arm)}, untuned": values[_untuned(arm)].mean(keepdims=True) for arm in shown if _untuned(arm) in values
    }
    lost = [name for name, data in marks.items() if data.size and not ((data > low) & (data < high)).any()]
    axes.set_ylim(heights.sum(), 0)
    axes.set_yticks(rows, names, fontsize=8)
    axes.tick_params(left=False)
    axes.grid(axis="y", visible=False)
    text = f"{axis[0].upper()}{axis[1:]}. A point is one {what}; below, the mean with its 95% t interval from 3 on."
    text += " Hollow: the mean with untuned defaults." if any(_untuned(arm) in values for arm in shown) else ""
    text += f" {len(arms) - len(shown)} more arms are in the table." if len(arms) > len(shown) else ""
    text += f" Out of the frame: {'; '.join(lost)}." if lost else ""
    sizes = {arm: values[arm].size for arm in shown}
    return finish(figure, axes, study.title, axis), f"{text} {_counts(study, sizes)}"


def _chosen(study: Study, arms: Sequence[str], trained: bool = True) -> tuple[list[str], str]:
    """The arms that one panel has room for, and a sentence on the others."""
    best = sorted(arms, key=study.validated, reverse=True)
    lost = [arm for arm in best if trained and study.validated(arm) < study.validated(best[0]) / 2]
    shown = [arm for arm in best if arm not in lost][:CROWD]
    text = f" Not drawn, below half of the best accuracy: {', '.join(map(label, lost))}." if lost else ""
    if len(best) > len(shown) + len(lost):
        text = f" Of {len(best)} arms the {CROWD} with the best validation accuracy.{text}"
    return sorted(shown), text


def _curves(study: Study, look: Looks, arms: Sequence[str], metric: str) -> tuple[Figure, str] | None:
    """A metric over the epochs: the mean over the seeds that finished with a band, thin lines for diverged runs."""
    axis, meaning = OUTCOMES.get(metric) or DYNAMICS[metric]
    arms, note = _chosen(study, arms, trained=metric in OUTCOMES)
    columns = QUANTILES if metric == "effective_lr" else [metric]
    table = study.curves[study.curves["arm"].isin(arms)].dropna(subset=columns)
    if metric == "effective_lr":
        table = table[(table[columns] > 0).all(axis=1)]
    if table["epoch"].nunique() < 2:  # a point is no curve
        return None
    figure, axes = panel(3)
    sizes = {}
    for name, curves in table.groupby("arm"):
        arm, style, finished = str(name), look[str(name)], curves[curves["status"] == "finished"]
        sizes[arm] = finished["run_id"].nunique()
        if metric == "effective_lr":
            low, middle, high = (np.exp(np.log(finished[c]).groupby(finished["epoch"]).mean()) for c in columns)
        else:
            middle, sd = (finished.groupby("epoch")[metric].agg(how).fillna(0) for how in ("mean", "std"))
            low, high = middle - sd, middle + sd
        marks = {"marker": style.marker, "ms": 3.5, "mew": 0, "markevery": max(1, len(middle) // 6)}
        text = f"{label(arm)}, n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{sizes[arm]}"
        axes.plot(middle.index, middle, style.dashes, color=style.color, lw=1.6, label=text, **marks)
        axes.fill_between(middle.index, low, high, color=style.color, alpha=0.15, lw=0)
        for _, run in curves[curves["status"] == "diverged"].groupby("run_id"):
            axes.plot(run["epoch"], run[columns[-1]], style.dashes, color=style.color, lw=0.7)
            axes.plot(run["epoch"].tail(1), run[columns[-1]].tail(1), "x", color=style.color, ms=6)
    late = table[(table["epoch"] > table["epoch"].max() / 4) & (table["status"] == "finished")]
    if metric in OUTCOMES and not late.empty:  # the arms differ after the first quarter; the start would flatten that
        pad = 0.05 * float(np.ptp(late[metric])) or 0.5
        axes.set_ylim(late[metric].min() - pad, late[metric].max() + pad)
    elif metric == "effective_lr":
        logarithmic(axes.yaxis)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    text = f"{axis[0].upper()}{axis[1:]} after each epoch. {meaning}{note}"
    text += " A thin line that ends in a cross is a diverged run." if any(map(study.diverged, sizes)) else ""
    return finish(figure, axes, study.title, "epoch", axis), f"{text} {_counts(study, sizes)}"


def _sweep(study: Study, look: Looks, key: str) -> tuple[Figure, str]:
    """Test accuracy against one setting; where others vary, too, the best of them on validation data."""
    figure, axes = panel(3)
    shown, other, positive = {}, False, True
    complement = key.startswith("beta")  # what matters about 0.99 and 0.999 is 1 minus it
    for optimizer in sorted({arm.split()[0] for arm in study.arms if key in _numbers(arm)}):
        arms = [arm for arm in study.arms if arm.split()[0] == optimizer and key in _numbers(arm)]
        places: dict[float, list[str]] = {}
        for arm in arms:
            value = _numbers(arm)[key]
            places.setdefault(1 - value if complement else value, []).append(arm)
        other |= any(len(group) > 1 for group in places.values())
        positive &= min(places) > 0
        style = look[min(arms)]
        best = {value: max(group, key=study.validated) for value, group in sorted(places.items())}
        for value, arm in best.items():
            data = study.finished(arm, "test_acc")
            axes.plot([value] * data.size, data, style.marker, color=style.color, alpha=0.5, ms=4.5, mew=0)
            shown[arm] = data.size
        means = [study.finished(arm, "test_acc").mean() for arm in best.values()]
        axes.plot(list(best), means, style.dashes, color=style.color, lw=1.6, label=label(optimizer))
    if positive and max(axes.dataLim.intervalx) > 20 * min(axes.dataLim.intervalx):
        logarithmic(axes.xaxis)
    axis = f"1 - {key}" if complement else {"power": "exponent of the denominator"}.get(key, key)
    text = f"Test accuracy against {key}. Points are seeds, lines join the means."
    text += " Other settings: the best on validation data at each value." if other else ""
    return finish(figure, axes, study.title, axis, "test accuracy (%)"), f"{text} {_counts(study, shown)}"


def _isolation(study: Study, look: Looks, arm: str, search: Search) -> tuple[Figure, str]:
    """What one setting does at the best of all others: the best draw of every slice of its range, a panel each."""
    style, draws = look[arm], search.draws
    rows = -(-len(search.keys) // 2)
    figure = Figure(figsize=(WIDTH, 0.5 + 1.55 * rows), layout="constrained")
    found = 100 * scores(draws)
    for place, key in enumerate(search.keys):
        axes = figure.add_subplot(rows, min(2, len(search.keys)), place + 1)
        name = key.removeprefix("optimizer.")
        values = 1 - draws[key] if (complement := name.startswith("beta")) else draws[key]
        axes.plot(values, found, ".", color=GREY, ms=4, mew=0)
        scaled = np.log(values) if (values > 0).all() else values
        best = found.groupby(pd.cut(scaled, SLICES), observed=True).idxmax()
        axes.plot(values[best], found[best], style.dashes, color=style.color, marker=style.marker, lw=1.4, ms=5)
        axes.plot(values[found.idxmax()], found.max(), "o", color=INK, fillstyle="none", ms=10, clip_on=False)
        axes.set_ylim(max(found[best].min() - 3, 0), None)
        if (values > 0).all():
            logarithmic(axes.xaxis)
        axes.set_xlabel(f"1 - {name}" if complement else name)
        if place % 2 == 0:
            axes.set_ylabel("val acc. (%)")
    title(figure, f"{label(arm)}: {study.setting}")
    text = f"What each setting of {label(arm)} does at the best of the others, by validation accuracy (%). Joined: the "
    text += f"best draw in each of {SLICES} slices of a setting's range; grey: all {len(draws)} draws, one seed each, "
    return figure, f"{text}0 where diverged; the ring: the best of all. {study.hardware}."


def _number(interval: Interval, diverged: int) -> str:
    spread = f" ± {interval.sd:.2f}" if interval.n > 1 else ""
    mean = f"{interval.mean:.2f}{spread}" if interval.n else "-"
    return f"{mean}\nn = {interval.n}" + (f", {diverged} diverged" if diverged else "")


def _counts(study: Study, sizes: Mapping[str, int]) -> str:
    """The n of a caption, with the runs that are missing from it, and the hardware."""
    usual = Counter(sizes.values()).most_common(1)[0][0] if sizes else 0
    other = [f"{n} of {label(arm)}" for arm, n in sizes.items() if n != usual]
    text = f"n = {usual} per arm{', but ' + ', '.join(other) if other else ''}"
    lost = [f"{study.diverged(arm)} of {label(arm)}" for arm in sizes if study.diverged(arm)]
    return f"{text}{'; diverged: ' + ', '.join(lost) if lost else ''}. {study.hardware}."
