"""The figures of the whole report: every claim with its estimate, and who reaches a target soonest."""

from textwrap import shorten
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rootfree.analysis.style import GREY, INK, STYLE, WIDTH, Drawing, color_of, finish, label, panel

FAR = (1, 3, 10, 30)  # percentage points at the ticks of the forest
# Shape, colour and filling of a verdict: told apart without colours, too.
VERDICTS = {
    "supported": ("o", "#0072B2", "full"),
    "refuted": ("X", "#D55E00", "full"),
    "undecided": ("D", GREY, "none"),
    "premise not met": ("s", GREY, "none"),
    "no data": ("_", GREY, "none"),
}


def forest(rows: pd.DataFrame, wide: bool = True) -> Drawing:
    """Every verdict with its estimate and intervals, grouped by question.

    Args:
        rows: A row per claim and place, with the columns `question`, `title`, `place`, `verdict`, `note`, and for what
            is measured in percentage points `estimate`, `low`, `high`, `low_searches`, `high_searches`, `margin`.
        wide: As wide as a README; else for a phone, with the words above the intervals.
    """
    with mpl.rc_context(STYLE):
        heights: list[tuple[float, Any]] = []  # where a row, or a question's title, stands
        y, step = 0.0, 1.0 if wide else 1.75
        for question, group in rows.groupby("question", sort=False):
            heights.append((y + 0.35, question))
            y += 1.15
            for row in group.itertuples():
                heights.append((y, row))
                y += step
            y += 0.35
        foot = 0.9 if wide else 1.25  # inches below the panel, for the legend
        inches = 0.1 + foot + 0.235 * y
        figure = Figure(figsize=(8.6 if wide else WIDTH, inches))
        left = 0.5 if wide else 0.03  # the words stand left of the panel, or in it
        axes = figure.add_axes((left, foot / inches, 0.97 - left, 1 - (foot + 0.05) / inches))
        axes.set_xscale("asinh", linear_width=1.5)  # margins of one point and differences of thirty are both seen
        edges = rows[["low", "high"]].abs().to_numpy().ravel()
        limit = 1.15 * min(FAR[-1], np.max(edges[np.isfinite(edges)], initial=3))
        side = axes.get_yaxis_transform()
        for height, row in heights:
            if isinstance(row, str):
                axes.text(-1.02 if wide else 0, height, row, transform=side, weight="bold", va="center")
                continue
            marker, color, filled = VERDICTS[row.verdict]
            place = height if wide else height + 0.8
            mark: dict[str, Any] = {"marker": marker, "color": color, "fillstyle": filled, "mew": 1.5, "clip_on": False}
            words = f"{row.title}  ({row.place})" if row.place else row.title
            axes.text(-0.99 if wide else 0, height, words, transform=side, va="center", fontsize=8 if wide else 8.5)
            if not np.isfinite(row.estimate):
                axes.plot(0.03, place, transform=side, **mark)
                axes.text(0.07, place, shorten(row.note, 56), transform=side, va="center", fontsize=7.5)
                continue
            axes.fill_between([-row.margin, row.margin], place - 0.42, place + 0.42, color=GREY, alpha=0.18, lw=0)
            axes.plot([0, 0], [place - 0.42, place + 0.42], color=INK, lw=0.8)
            for low, high, lw in ((row.low_searches, row.high_searches, 1), (row.low, row.high, 2.6)):
                if np.isfinite([low, high]).all():
                    axes.plot(np.clip([low, high], -limit, limit), [place] * 2, color=color, lw=lw)
                    for edge, beyond, shape in ((-limit, low < -limit, "<"), (limit, high > limit, ">")):
                        if beyond:  # it goes on outside
                            axes.plot(edge, place, shape, color=color, ms=5, clip_on=False)
            if abs(row.estimate) < limit:
                axes.plot(row.estimate, place, **mark)
            else:
                axes.plot(0.9 * limit * np.sign(row.estimate), place, **mark)
                axes.text(0.65 * limit * np.sign(row.estimate), place, f"{row.estimate:+.0f}", va="center", ha="center")
        shown = [verdict for verdict in VERDICTS if (rows["verdict"] == verdict).any()]
        for verdict in shown:
            marker, color, filled = VERDICTS[verdict]
            axes.plot([], [], marker, color=color, fillstyle=filled, mew=1.5, label=verdict)
        axes.set(xlim=(-limit, limit), ylim=(y, -0.3), yticks=[], xlabel="percentage points in the claim's favour")
        ticks = [sign * value for sign in (-1, 1) for value in FAR if value < limit]
        axes.set_xticks([0, *ticks], ["0", *(f"{tick:+g}" for tick in ticks)], fontsize=8)
        axes.grid(visible=wide)
        axes.spines["left"].set_visible(False)
        figure.legend(loc="lower right" if wide else "lower center", ncols=len(shown) if wide else 2, fontsize=8)
    text = "Every claim where it was tested. Symbol and thick line: the estimate with its 95% interval over seeds. "
    text += "Thin line: over seeds and searches. Grey band: the margin. A row without a line rests on exact checks."
    return Drawing("forest" if wide else "forest-narrow", figure, text)


def profile(table: pd.DataFrame) -> Drawing:
    """In what share of studies an arm reaches the target within a factor of the fastest; see `targets.profile`."""
    shown = table[table["studies"] > 1]  # one study is no profile
    last = 1.1 * shown["tau"].replace(np.inf, np.nan).max()
    with mpl.rc_context(STYLE):
        figure, axes = panel(3)
        for name, curve in shown.groupby("arm", sort=False):
            arm, finite = str(name), curve[np.isfinite(curve["tau"])]
            tau, share = [1, *finite["tau"], last], [0, *finite["share"], finite["share"].max()]
            text = f"{label(arm)}, {curve['studies'].iloc[0]} studies"
            axes.step(tau, np.nan_to_num(share), where="post", color=color_of(arm), lw=1.6, label=text)
        axes.set_ylim(-0.03, 1.03)
        finish(figure, axes, "", "factor of the steps that the fastest arm takes", "share of studies")
    text = (
        "Share of studies in which an arm reaches the target within a factor of the steps of the fastest. Target: what "
    )
    text += "the better baseline ends with on validation data. Arms of at least two studies."
    return Drawing("profile", figure, text)
