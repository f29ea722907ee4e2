"""The figures of a study, one panel each: narrow enough to be read on a phone, the same look per arm everywhere.

Each function draws one figure and returns it with its caption. Text in an SVG stays text. What is not data is drawn
in `INK`, so that a page can put its own text colour there and show the figure in the dark.
"""

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rootfree.analysis.claims import Claims, differences
from rootfree.analysis.searches import best_of, scores
from rootfree.analysis.statistics import Interval, t_interval
from rootfree.analysis.tables import Study

INK = "#24292f"
# Okabe and Ito's colours, with grey for black and without yellow: those two vanish on a dark or a white page.
OKABE_ITO = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C"]
MARKERS = "osD^vP"
ROOT_FREE = ("rf_", "if_")
WIDTH = 4.3  # inches
STYLE: dict[Any, Any] = {
    **dict.fromkeys(
        ["text.color", "axes.labelcolor", "axes.edgecolor", "grid.color", "xtick.color", "ytick.color"], INK
    ),
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.grid": True,
    "grid.alpha": 0.15,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "rootfree",
}


class Look(NamedTuple):
    """How an arm is drawn; the shape changes where the colours start again."""

    color: str
    marker: str
    dashes: str


class Drawing(NamedTuple):
    """A finished figure with its caption."""

    name: str
    figure: Figure
    caption: str


def looks(arms: list[str]) -> dict[str, Look]:
    """A look for each arm, by its place among all arms of a report; root-free arms are dashed."""
    found = {}
    for place, arm in enumerate(sorted(arms)):
        turn, color = divmod(place, len(OKABE_ITO))
        found[arm] = Look(OKABE_ITO[color], MARKERS[turn % len(MARKERS)], "--" if arm.startswith(ROOT_FREE) else "-")
    return found


def draw(study: Study, claims: Claims, look: dict[str, Look]) -> list[Drawing]:
    """All figures of a study that its data can fill."""
    accuracies = {arm: study.finished(arm, "test_acc").to_numpy() for arm in study.arms}
    gaps = {arm: study.finished(arm, "gap_acc").to_numpy() for arm in study.arms}
    with mpl.rc_context(STYLE):
        drawings = [
            _strip(study, look, "accuracy", "test accuracy (%)", accuracies),
            _strip(study, look, "gap", "generalisation gap (points)", gaps),
        ]
        for baseline in [arm for arm in claims.baselines if arm in study.arms and len(study.arms) > 1]:
            others = [arm for arm in study.arms if arm != baseline]
            paired = {arm: differences(study, {arm: 1, baseline: -1}, "test_acc") for arm in others}
            if any(data.size for data in paired.values()):
                label = f"test accuracy minus {baseline}'s, same seed (points)"
                drawings.append(_strip(study, look, f"minus-{baseline}", label, paired))
        if not study.curves.empty:
            drawings.append(_curves(study, look, "val_acc", "validation accuracy (%)"))
            drawings.append(_curves(study, look, "train_loss", "training loss, clean subset"))
        if any(study.finished(arm, "gap_acc").size for arm in study.arms):
            drawings.append(_scatter(study, look))
        if study.searches:
            drawings.append(_best_of(study, look))
    return drawings


def save(figure: Figure, stem: Path) -> str:
    """Write `stem.png` and `stem.svg` with bytes that depend on nothing but the data; return the SVG's text."""
    with mpl.rc_context(STYLE):
        figure.savefig(stem.with_suffix(".png"), dpi=160, facecolor="white", metadata={"Software": None})
        figure.set_layout_engine("none")  # found for the one, kept for the other
        figure.savefig(stem.with_suffix(".svg"), transparent=True, metadata={"Date": None, "Creator": None})
    return stem.with_suffix(".svg").read_text(encoding="utf-8")


def _strip(study: Study, look: dict[str, Look], name: str, label: str, values: dict[str, np.ndarray]) -> Drawing:
    """Every seed as a point, and beside the points their mean with its 95% interval."""
    arms = list(values)
    figure = Figure(figsize=(WIDTH, 0.9 + 0.52 * len(arms)), layout="constrained")
    axes = figure.add_subplot()
    beside = axes.get_yaxis_transform()
    for row, (arm, data) in enumerate(values.items()):
        style = look[arm]
        axes.plot(data, np.full(data.size, row - 0.14), style.marker, color=style.color, alpha=0.65, ms=4.5, mew=0)
        interval = t_interval(data)
        if interval.n > 1:
            axes.plot([interval.low, interval.high], [row + 0.16] * 2, style.dashes, color=style.color, lw=1.6)
        axes.plot(interval.mean, row + 0.16, "|", color=style.color, ms=11, mew=2.4)
        axes.text(1.02, row, _number(interval, study.diverged(arm)), transform=beside, va="center", fontsize=8)
    points = np.concatenate(list(values.values()))
    if name.startswith("minus"):
        axes.axvline(0, color=INK, lw=0.8)
        points = np.append(points, 0)
    if points.size:  # two seeds have an interval so wide that it would hide all others: it may leave the frame
        pad = max(np.ptp(points) * 0.6, 0.5)
        axes.set_xlim(points.min() - pad, points.max() + pad)
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.set_yticks(range(len(arms)), [arm.replace(" ", "\n") for arm in arms])
    axes.tick_params(left=False)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(label)
    _title(figure, study)
    what = "pair of runs" if name.startswith("minus") else "seed"
    text = f"Every point is one {what}; beside them the mean with its 95% t interval (cut where it leaves the frame)."
    counts = _counts(study, {arm: data.size for arm, data in values.items()})
    return Drawing(name, figure, f"{label[0].upper()}{label[1:]}. {text} {counts}")


def _curves(study: Study, look: dict[str, Look], metric: str, label: str) -> Drawing:
    """Mean over the seeds that finished, a band of one standard deviation, and thin lines for diverged runs."""
    sizes = {arm: study.finished(arm, metric).size for arm in study.arms}
    figure = Figure(figsize=(WIDTH, 3), layout="constrained")
    axes = figure.add_subplot()
    for arm in study.arms:
        curves, style = study.curves[study.curves["arm"] == arm], look[arm]
        by_epoch = curves[curves["status"] == "finished"].groupby("epoch")[metric]
        mean, sd = by_epoch.mean(), by_epoch.std().fillna(0)
        axes.plot(mean.index, mean, style.dashes, color=style.color, lw=1.6, label=f"{arm}, n = {sizes[arm]}")
        axes.fill_between(mean.index, mean - sd, mean + sd, color=style.color, alpha=0.15, lw=0)
        for _, run in curves[curves["status"] == "diverged"].groupby("run_id"):
            alive = run.dropna(subset=[metric])
            axes.plot(alive["epoch"], alive[metric], style.dashes, color=style.color, lw=0.7)
            axes.plot(alive["epoch"].tail(1), alive[metric].tail(1), "x", color=style.color, ms=6)
    # The frame is set by what comes after the first quarter, where the arms differ; the start would flatten it.
    late = study.curves["epoch"] > study.curves["epoch"].max() / 4
    finished = study.curves.loc[late & (study.curves["status"] == "finished"), metric].dropna()
    if not finished.empty:
        pad = 0.05 * float(np.ptp(finished)) or 0.5
        axes.set_ylim(finished.min() - pad, finished.max() + pad)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    _legend(figure, axes.get_legend_handles_labels()[1])
    _title(figure, study)
    text = f"{label[0].upper()}{label[1:]} after each epoch: mean over seeds with a band of one standard deviation."
    if any(map(study.diverged, study.arms)):
        text += " A thin line that ends in a cross, or leaves the frame, is a diverged run."
    return Drawing(metric.replace("_", "-"), figure, f"{text} {_counts(study, sizes)}")


def _scatter(study: Study, look: dict[str, Look]) -> Drawing:
    """The generalisation gap of every run against its test accuracy, and the means of the arms."""
    sizes = {arm: study.finished(arm, "gap_acc").size for arm in study.arms}
    figure = Figure(figsize=(WIDTH, 3), layout="constrained")
    axes = figure.add_subplot()
    for arm in study.arms:
        runs = pd.concat([study.finished(arm, "test_acc"), study.finished(arm, "gap_acc")], axis=1).dropna()
        style = look[arm]
        axes.plot(runs["test_acc"], runs["gap_acc"], style.marker, color=style.color, alpha=0.45, ms=4.5, mew=0)
        (mean,) = axes.plot(
            runs["test_acc"].mean(), runs["gap_acc"].mean(), style.marker, color=style.color, ms=9, mew=1.8
        )
        mean.set(fillstyle="none" if arm.startswith(ROOT_FREE) else "full", label=f"{arm}, n = {sizes[arm]}")
    axes.set_xlabel("test accuracy (%)")
    axes.set_ylabel("generalisation gap (points)")
    _legend(figure, axes.get_legend_handles_labels()[1])
    _title(figure, study)
    text = "Generalisation gap against test accuracy: small points are runs, large ones means, open for root-free arms."
    return Drawing("gap-accuracy", figure, f"{text} {_counts(study, sizes)}")


def _best_of(study: Study, look: dict[str, Look]) -> Drawing:
    """The expected best of k draws of each arm's search, for all k."""
    figure = Figure(figsize=(WIDTH, 3), layout="constrained")
    axes = figure.add_subplot()
    for arm, search in study.searches.items():
        found, style = 100 * scores(search.draws), look[arm]
        sizes = np.arange(1, found.size + 1)
        best = [best_of(found, k) for k in sizes]
        axes.plot(sizes, best, style.dashes, color=style.color, lw=1.6, label=f"{arm}, n = {found.size}")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("draws")
    axes.set_ylabel("expected best validation acc. (%)")
    _legend(figure, axes.get_legend_handles_labels()[1])
    _title(figure, study)
    text = (
        "Expected best validation accuracy (%) of k draws. The mean over all choices of k from the n draws of a search"
    )
    return Drawing("best-of", figure, f"{text}, one seed each; a draw that diverged counts as 0. {study.hardware}.")


def _title(figure: Figure, study: Study) -> None:
    figure.suptitle(study.title, x=0.01, ha="left", fontsize=9)


def _number(interval: Interval, diverged: int) -> str:
    spread = f" ± {interval.sd:.2f}" if interval.n > 1 else ""
    mean = f"{interval.mean:.2f}{spread}" if interval.n else "-"
    return f"{mean}\nn = {interval.n}" + (f", {diverged} diverged" if diverged else "")


def _legend(figure: Figure, labels: list[str]) -> None:
    """A legend below the panel, in two columns where they fit, and a figure as much taller."""
    columns = 2 if max(map(len, labels)) <= 25 else 1
    figure.set_figheight(3.1 + 0.17 * -(-len(labels) // columns))
    figure.legend(loc="outside lower center", ncols=columns, fontsize=8, columnspacing=1, handlelength=2.2)


def _counts(study: Study, sizes: dict[str, int]) -> str:
    """The n of a caption, with the runs that are missing from it, and the hardware."""
    usual = Counter(sizes.values()).most_common(1)[0][0]
    other = [f"{n} of {arm}" for arm, n in sizes.items() if n != usual]
    text = f"n = {usual} per arm{', but ' + ', '.join(other) if other else ''}"
    lost = [f"{study.diverged(arm)} of {arm}" for arm in sizes if study.diverged(arm)]
    return f"{text}{'; diverged: ' + ', '.join(lost) if lost else ''}. {study.hardware}."
