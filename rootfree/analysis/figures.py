"""The figures of a study, one panel each: results, how they were reached, and what settings do to them.

Each function draws one figure and returns it with its caption; `draw` calls those whose data exist.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from textwrap import fill
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rootfree.analysis.claims import Claims
from rootfree.analysis.searches import Search, best_of, scores
from rootfree.analysis.statistics import Interval, t_interval
from rootfree.analysis.style import INK, STYLE, WIDTH, Drawing, Look, label, legend, panel, title
from rootfree.analysis.tables import Study
from rootfree.analysis.verdicts import Judgement, differences

CROWD = 10  # curves in one panel
# What an optimizer did: column of `curves.csv`, words, axis, and what it means.
DYNAMICS = [
    ("share_frozen", "share of frozen coordinates", "linear", "Second moments, or factors' entries, at their start."),
    ("share_above_damping", "share above damping", "linear", "Coordinates whose second moment exceeds damping."),
    ("cosine_sgd", "cosine to momentum SGD", "linear", "Between the last update of the epoch and momentum SGD's."),
]
# Shape, colour and filling of a verdict: told apart without colours, too.
VERDICTS = {
    "supported": ("o", "#0072B2", "full"),
    "refuted": ("X", "#D55E00", "full"),
    "undecided": ("D", "#0072B2", "none"),
    "premise not met": ("s", "#8C8C8C", "none"),
    "no data": ("_", "#8C8C8C", "none"),
}
Looks = dict[str, Look]


def verdicts(judgements: Sequence[Judgement]) -> Drawing:
    """Every claim's verdicts, a column for each data set, and one for tables."""
    with mpl.rc_context(STYLE):
        claims = list(dict.fromkeys(judgement.claim.id for judgement in judgements))
        places = list(dict.fromkeys(_place(judgement) for judgement in judgements if _place(judgement)))
        figure, axes = panel(1.7 + 0.19 * len(claims))
        marks: dict[str, list[tuple[int, int]]] = {}
        for judgement in judgements:
            if judgement.counts and (place := _place(judgement)):
                cell = (places.index(place), claims.index(judgement.claim.id))
                marks.setdefault(judgement.verdict, []).append(cell)
        for verdict, (marker, color, filled) in VERDICTS.items():
            if verdict in marks:
                x_y = np.array(marks[verdict]).T
                axes.plot(*x_y, marker, color=color, fillstyle=filled, ms=6, mew=1.4, label=verdict)
        axes.set_yticks(range(len(claims)), claims, fontsize=8)
        axes.set_xticks(range(len(places)), places, fontsize=7, rotation=90)
        axes.xaxis.tick_top()
        axes.tick_params(left=False, top=False)
        axes.set_ylim(len(claims) - 0.4, -0.6)
        axes.set_xlim(-0.6, len(places) - 0.4)
        axes.spines[["left", "bottom"]].set_visible(False)
        legend(figure, axes)
        text = "Verdicts. A column for each scale and data set, and for what exact checks and timings decide alone. "
        return Drawing("scorecard", figure, f"{text}An empty row: nothing was run that decides it.")


def _place(judgement: Judgement) -> str:
    """Where a verdict was reached; nothing where there are no data at all."""
    if judgement.place:
        scale, dataset = judgement.place
        return f"{dataset}\n({scale} scale)"
    return "" if judgement.verdict == "no data" else "checks and\ntimings"


def draw(study: Study, claims: Claims, look: Looks) -> Iterator[Drawing]:
    """All figures of a study that its data can fill, the test accuracy first."""
    with mpl.rc_context(STYLE):
        accuracies = {arm: study.finished(arm, "test_acc").to_numpy() for arm in study.arms}
        gaps = {arm: study.finished(arm, "gap_acc").to_numpy() for arm in study.arms}
        yield _strip(study, look, "accuracy", "test accuracy (%)", accuracies)
        yield _strip(study, look, "gap", "generalisation gap (points)", gaps)
        for baseline in [arm for arm in claims.baselines if arm in study.arms and len(study.arms) > 1]:
            others = [arm for arm in study.arms if arm != baseline]
            paired = {arm: differences(study, {arm: 1, baseline: -1}, "test_acc") for arm in others}
            if any(data.size for data in paired.values()):
                axis = f"test accuracy minus {baseline}'s, same seed (points)"
                yield _strip(study, look, f"minus-{baseline}", axis, paired)
        if any(data.size for data in gaps.values()):
            yield _scatter(study, look)
        if not study.curves.empty:
            yield _curves(study, look, "val_acc", "validation accuracy (%)")
            yield _curves(study, look, "train_loss", "training loss, clean subset")
            for metric, words, scale, meaning in DYNAMICS:
                if study.curves.get(metric, pd.Series(dtype=float)).abs().max() > 0:  # all zero is no picture
                    yield _curves(study, look, metric, words, scale, meaning)
            if study.curves.get("effective_lr_q50", pd.Series(dtype=float)).notna().any():
                yield _effective_lr(study, look)
        for key in swept(study):
            yield _sweep(study, look, key)
        if study.searches:
            yield _best_of(study, look)
        for arm, search in study.searches.items():
            yield _sensitivity(study, look, arm, search)


def swept(study: Study) -> list[str]:
    """Settings of which some optimizer has arms with at least three values."""
    values: dict[tuple[str, str], set[float]] = {}
    for arm in study.arms:
        for key, value in _numbers(arm).items():
            values.setdefault((arm.split()[0], key), set()).add(value)
    return sorted({key for (_, key), found in values.items() if len(found) > 2})


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


def _strip(study: Study, look: Looks, name: str, axis: str, values: dict[str, np.ndarray]) -> Drawing:
    """Every seed as a point, and beside the points their mean with its 95% interval."""
    names = [fill(label(arm), 20, break_long_words=False) for arm in values]
    heights = np.array([max(1, 0.31 * (name.count("\n") + 1)) for name in names])  # a long name needs more than a row
    rows = heights.cumsum() - heights / 2
    figure, axes = panel(0.9 + 0.52 * heights.sum())
    beside = axes.get_yaxis_transform()
    for row, (arm, data) in zip(rows, values.items(), strict=True):
        style = look[arm]
        axes.plot(data, np.full(data.size, row - 0.14), style.marker, color=style.color, alpha=0.65, ms=4.5, mew=0)
        interval = t_interval(data)
        if interval.n > 1:
            axes.plot([interval.low, interval.high], [row + 0.16] * 2, style.dashes, color=style.color, lw=1.6)
        axes.plot(interval.mean, row + 0.16, "|", color=style.color, ms=11, mew=2.4)
        axes.text(1.02, row, _number(interval, study.diverged(arm)), transform=beside, va="center", fontsize=8)
    trained, note = _trained(study, values)
    tuned = [arm for arm in trained if "tuned=none" not in arm.split()]
    note += " Untuned defaults may leave the frame." if tuned and len(tuned) < len(trained) else ""
    points = np.concatenate([values[arm] for arm in tuned or trained])
    if name.startswith("minus"):
        axes.axvline(0, color=INK, lw=0.8)
        points = np.append(points, 0)
    if points.size:  # two seeds have an interval so wide that it would hide all others: it may leave the frame
        pad = max(np.ptp(points) * 0.6, 0.5)
        axes.set_xlim(points.min() - pad, points.max() + pad)
    axes.set_ylim(heights.sum(), 0)
    axes.set_yticks(rows, names, fontsize=8)
    axes.tick_params(left=False)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(axis)
    title(figure, study.title)
    what = "pair of runs" if name.startswith("minus") else "seed"
    text = f"Every point is one {what}; beside them the mean with its 95% t interval (cut where it leaves the frame)."
    text += note
    counts = _counts(study, {arm: data.size for arm, data in values.items()})
    return Drawing(name, figure, f"{axis[0].upper()}{axis[1:]}. {text} {counts}")


def _marks(style: Look, curve: pd.Series) -> dict[str, Any]:
    """A few markers on a curve, which tell arms of one optimizer apart."""
    return {"marker": style.marker, "ms": 3.5, "mew": 0, "markevery": max(1, len(curve) // 6)}


def _trained(study: Study, arms: Iterable[str]) -> tuple[list[str], str]:
    """The arms that learned anything, and a sentence on the others, which would leave no room for differences."""
    means = {arm: study.finished(arm, "test_acc").mean() for arm in arms}
    best = np.nanmax([*means.values(), 0])
    lost = [arm for arm, mean in means.items() if mean < best / 2]
    text = f" Out of the frame, below half of the best accuracy: {', '.join(map(label, lost))}." if lost else ""
    return [arm for arm in means if arm not in lost], text


def _scatter(study: Study, look: Looks) -> Drawing:
    """The generalisation gap of every run against its test accuracy, and the means of the arms."""
    arms, note = _shown(study)
    arms, lost = _trained(study, arms)
    figure, axes = panel(3)
    for arm in arms:
        runs = pd.concat([study.finished(arm, "test_acc"), study.finished(arm, "gap_acc")], axis=1).dropna()
        style = look[arm]
        axes.plot(runs["test_acc"], runs["gap_acc"], style.marker, color=style.color, alpha=0.45, ms=4.5, mew=0)
        (mean,) = axes.plot(
            runs["test_acc"].mean(), runs["gap_acc"].mean(), style.marker, color=style.color, ms=9, mew=1.8
        )
        mean.set(fillstyle="none" if style.root_free else "full", label=f"{label(arm)}, n = {len(runs)}")
    axes.set_xlabel("test accuracy (%)")
    axes.set_ylabel("generalisation gap (points)")
    legend(figure, axes)
    title(figure, study.title)
    text = "Generalisation gap against test accuracy: small points are runs, large ones means, open for root-free arms."
    sizes = {arm: study.finished(arm, "gap_acc").size for arm in arms}
    return Drawing("gap-accuracy", figure, f"{text}{note}{lost} {_counts(study, sizes)}")


def _shown(study: Study) -> tuple[list[str], str]:
    """The arms whose curves fit into one panel, and a sentence where not all do."""
    if len(study.arms) <= CROWD:
        return study.arms, ""
    best = sorted(study.arms, key=study.validated, reverse=True)[:CROWD]
    return sorted(best), f" Of {len(study.arms)} arms those {CROWD} with the best validation accuracy."


def _curves(study: Study, look: Looks, metric: str, axis: str, scale: str = "linear", meaning: str = "") -> Drawing:
    """Mean over the seeds that finished, a band of one standard deviation, and thin lines for diverged runs."""
    arms, note = _shown(study)
    table = study.curves[study.curves["arm"].isin(arms)].dropna(subset=metric)
    measured = set(table["arm"].unique())
    arms = [arm for arm in arms if arm in measured]
    figure, axes = panel(3)
    for arm in arms:
        curves, style = table[table["arm"] == arm], look[arm]
        finished = curves[curves["status"] == "finished"]
        by_epoch = finished.groupby("epoch")[metric]
        mean, sd = by_epoch.mean(), by_epoch.std().fillna(0)
        name = f"{label(arm)}, n = {finished['run_id'].nunique()}"
        axes.plot(mean.index, mean, style.dashes, color=style.color, lw=1.6, label=name, **_marks(style, mean))
        axes.fill_between(mean.index, mean - sd, mean + sd, color=style.color, alpha=0.15, lw=0)
        for _, run in curves[curves["status"] == "diverged"].groupby("run_id"):
            axes.plot(run["epoch"], run[metric], style.dashes, color=style.color, lw=0.7)
            axes.plot(run["epoch"].tail(1), run[metric].tail(1), "x", color=style.color, ms=6)
    axes.set_yscale(scale)
    if not meaning:
        # The frame is set by what comes after the first quarter, where the arms differ; the start would flatten it.
        trained, lost = _trained(study, arms)
        note += lost
        later = (table["epoch"] > table["epoch"].max() / 4) & (table["status"] == "finished")
        late = table.loc[later & table["arm"].isin(trained), metric]
        if not late.empty:
            pad = 0.05 * float(np.ptp(late)) or 0.5
            axes.set_ylim(late.min() - pad, late.max() + pad)
    elif metric.startswith("share"):
        axes.set_ylim(-0.03, 1.03)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel(axis)
    legend(figure, axes)
    title(figure, study.title)
    text = f"{axis[0].upper()}{axis[1:]} after each epoch. {meaning + ' ' if meaning else ''}"
    text += f"Mean over seeds with a band of one standard deviation.{note}"
    if any(map(study.diverged, arms)):
        text += " A thin line that ends in a cross, or leaves the frame, is a diverged run."
    sizes = {arm: int((table["arm"].eq(arm) & table["status"].eq("finished")).groupby(table["run_id"]).any().sum())
             for arm in arms}  # fmt: skip
    return Drawing(metric.replace("_", "-"), figure, f"{text} {_counts(study, sizes)}")


def _effective_lr(study: Study, look: Looks) -> Drawing:
    """Median and 5 to 95% of the coordinates' effective learning rate, averaged over seeds on a log scale."""
    arms, note = _shown(study)
    columns = ["effective_lr_q05", "effective_lr_q50", "effective_lr_q95"]
    table = study.curves[study.curves["arm"].isin(arms) & (study.curves["status"] == "finished")].dropna(subset=columns)
    table = table[(table[columns] > 0).all(axis=1)]
    figure, axes = panel(3)
    sizes = {}
    for arm, curves in table.groupby("arm"):
        style = look[str(arm)]
        low, middle, high = (np.exp(np.log(curves[c]).groupby(curves["epoch"]).mean()) for c in columns)
        sizes[str(arm)] = curves["run_id"].nunique()
        name = f"{label(str(arm))}, n = {sizes[str(arm)]}"
        axes.plot(middle.index, middle, style.dashes, color=style.color, lw=1.6, label=name, **_marks(style, middle))
        axes.fill_between(middle.index, low, high, color=style.color, alpha=0.15, lw=0)
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel("effective learning rate")
    legend(figure, axes)
    title(figure, study.title)
    text = "Effective learning rate, lr over the denominator. Median coordinate with a band from the 5% to the 95% "
    text += f"quantile, geometric means over seeds; for methods with a diagonal second moment.{note}"
    return Drawing("effective-lr", figure, f"{text} {_counts(study, sizes)}")


def _sweep(study: Study, look: Looks, key: str) -> Drawing:
    """Test accuracy against one setting; where others vary, too, the best of them on validation data."""
    figure, axes = panel(3)
    shown, other, positive = {}, False, True
    complement = key.startswith("beta")  # what matters about 0.99 and 0.999 is 1 minus it
    optimizers = sorted({arm.split()[0] for arm in study.arms if key in _numbers(arm)})
    for optimizer in optimizers:
        arms = [arm for arm in study.arms if arm.split()[0] == optimizer and key in _numbers(arm)]
        places: dict[float, list[str]] = {}
        for arm in arms:
            value = _numbers(arm)[key]
            places.setdefault(1 - value if complement else value, []).append(arm)
        other |= any(len(group) > 1 for group in places.values())
        positive &= min(places) > 0
        style = look[min(arms)]
        best = {value: max(group, key=study.validated) for value, group in sorted(places.items())}
        intervals = [t_interval(study.finished(arm, "test_acc")) for arm in best.values()]
        for value, arm in best.items():
            data = study.finished(arm, "test_acc")
            axes.plot([value] * data.size, data, style.marker, color=style.color, alpha=0.5, ms=4.5, mew=0)
            shown[arm] = data.size
        means = [interval.mean for interval in intervals]
        axes.plot(list(best), means, style.dashes, color=style.color, lw=1.6, label=label(optimizer))
    if positive and max(axes.dataLim.intervalx) > 20 * min(axes.dataLim.intervalx):
        axes.set_xscale("log")
    axes.set_xlabel(f"1 - {key}" if complement else {"power": "exponent of the denominator"}.get(key, key))
    axes.set_ylabel("test accuracy (%)")
    legend(figure, axes)
    title(figure, study.title)
    text = f"Test accuracy against {key}. Points are seeds, lines join the means."
    text += " Other settings: the best on validation data at each value." if other else ""
    return Drawing(f"sweep-{key.replace('_', '-')}", figure, f"{text} {_counts(study, shown)}")


def _best_of(study: Study, look: Looks) -> Drawing:
    """The expected best of k draws of each arm's search, for all k."""
    figure, axes = panel(3)
    for arm, search in study.searches.items():
        found, style = 100 * scores(search.draws), look[arm]
        sizes = np.arange(1, found.size + 1)
        best = [best_of(found, k) for k in sizes]
        axes.plot(sizes, best, style.dashes, color=style.color, lw=1.6, label=f"{label(arm)}, n = {found.size}")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("draws")
    axes.set_ylabel("expected best validation acc. (%)")
    legend(figure, axes)
    title(figure, study.title)
    text = (
        "Expected best validation accuracy (%) of k draws. The mean over all choices of k from the n draws of a search"
    )
    return Drawing("best-of", figure, f"{text}, one seed each; a draw that diverged counts as 0. {study.hardware}.")


def _sensitivity(study: Study, look: Looks, arm: str, search: Search) -> Drawing:
    """Validation accuracy of every draw against each setting that was drawn, one panel per setting."""
    keys, draws, style = search.keys, search.draws, look[arm]
    rows = -(-len(keys) // 2)
    figure = Figure(figsize=(WIDTH, 0.5 + 1.55 * rows), layout="constrained")
    found = 100 * scores(draws)
    winner = draws["draw"] == (-1 if search.winner is None else search.winner["draw"])
    for place, key in enumerate(keys):
        axes = figure.add_subplot(rows, min(2, len(keys)), place + 1)
        name = key.removeprefix("optimizer.")
        complement = name.startswith("beta")
        values = 1 - draws[key] if complement else draws[key]
        axes.plot(values, found, style.marker, color=style.color, alpha=0.65, ms=4.5, mew=0)
        axes.plot(values[winner], found[winner], "o", color=INK, fillstyle="none", ms=9, clip_on=False)
        if (values > 0).all():
            axes.set_xscale("log")
            axes.minorticks_off()
        axes.set_xlabel(f"1 - {name}" if complement else name)
        if place % 2 == 0:
            axes.set_ylabel("val acc. (%)")
    title(figure, f"{label(arm)}: {study.setting}")
    text = f"Sensitivity of {label(arm)} to its settings. Validation accuracy (%) of every draw of its search against"
    text += f" each setting; the ring is the winner. n = {len(draws)} draws, one seed each, 0 where diverged."
    return Drawing(f"sensitivity-{label(arm)}".replace(" ", "-"), figure, f"{text} {study.hardware}.")


def _number(interval: Interval, diverged: int) -> str:
    spread = f" ± {interval.sd:.2f}" if interval.n > 1 else ""
    mean = f"{interval.mean:.2f}{spread}" if interval.n else "-"
    return f"{mean}\nn = {interval.n}" + (f", {diverged} diverged" if diverged else "")


def _counts(study: Study, sizes: dict[str, int]) -> str:
    """The n of a caption, with the runs that are missing from it, and the hardware."""
    usual = Counter(sizes.values()).most_common(1)[0][0] if sizes else 0
    other = [f"{n} of {label(arm)}" for arm, n in sizes.items() if n != usual]
    text = f"n = {usual} per arm{', but ' + ', '.join(other) if other else ''}"
    lost = [f"{study.diverged(arm)} of {label(arm)}" for arm in sizes if study.diverged(arm)]
    return f"{text}{'; diverged: ' + ', '.join(lost) if lost else ''}. {study.hardware}."
