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
        rows: A row per claim and place, with the columns `question`, `title`, `dataset`, `verdict`, `note`, and for
            what is measured in percentage points `estimate`, `low`, `high`, `low_searches`, `high_searches`, `margin`.
        wide: As wide as a README; else for a phone, with the words above the intervals.
    """
    step, foot = (1.0, 0.9) if wide else (1.75, 1.25)  # height of a row; inches below the panel, for the legend
    turn = rows["question"].ne(rows["question"].shift()).cumsum()
    rows = rows.replace([-np.inf, np.inf], np.nan).assign(y=step * np.arange(len(rows)) + 1.5 * turn - 0.35)
    rows = rows.assign(
        place=rows["y"] + (0 if wide else 0.8), color=rows["verdict"].map(lambda said: VERDICTS[said][1])
    )
    limit = 1.15 * min(FAR[-1], max(3, rows[["low", "high"]].abs().max(axis=None)))
    measured = rows.dropna(subset="estimate")
    bottom = step * len(rows) + 1.5 * turn.max()
    inches = 0.1 + foot + 0.235 * bottom
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.6 if wide else WIDTH, inches))
        left = 0.5 if wide else 0.03  # the words stand left of the panel, or in it
        axes = figure.add_axes((left, foot / inches, 0.97 - left, 1 - (foot + 0.05) / inches))
        axes.set_xscale("asinh", linear_width=1.5)  # margins of one point and differences of thirty are both seen
        side = axes.get_yaxis_transform()
        for question, y in rows.groupby("question", sort=False)["y"].first().items():
            axes.text(-1.02 if wide else 0, y - 0.8, question, transform=side, weight="bold", va="center")
        for row in rows.itertuples():
            words = shorten(f"{row.title} ({row.dataset})" if row.dataset else row.title, 68)  # what there is room for
            axes.text(-0.99 if wide else 0, row.y, words, transform=side, va="center", fontsize=8)
            if np.isnan(row.estimate):
                axes.text(0.07, row.place, shorten(row.note, 56), transform=side, va="center", fontsize=7.5)
            elif abs(row.estimate) > limit:
                sign = int(np.sign(row.estimate))
                axes.annotate(
                    f"{row.estimate:+.0f}", (0.9 * limit * sign, row.place), xytext=(-9 * sign, 0),
                    textcoords="offset points", va="center", ha="right" if sign > 0 else "left",
                )  # fmt: skip
        axes.barh(measured["place"], 2 * measured["margin"], 0.84, -measured["margin"], color=GREY, alpha=0.18, lw=0)
        axes.vlines(0 * measured["place"], measured["place"] - 0.42, measured["place"] + 0.42, INK, lw=0.8)
        for low, high, lw in (("low_searches", "high_searches", 1), ("low", "high", 2.6)):
            known = measured.dropna(subset=[low, high])
            left, right = (known[end].clip(-limit, limit) for end in (low, high))
            axes.hlines(known["place"], left, right, known["color"], lw=lw, capstyle="projecting")
            for edge, beyond, shape in ((-limit, known[low] < -limit, "<"), (limit, known[high] > limit, ">")):
                for place, color in known.loc[beyond, ["place", "color"]].itertuples(index=False):  # it goes on outside
                    axes.plot(edge, place, shape, color=color, ms=5, clip_on=False)
        for verdict, (marker, color, filled) in VERDICTS.items():
            mark: dict[str, Any] = {"marker": marker, "color": color, "fillstyle": filled, "mew": 1.5, "ls": ""}
            if filled == "full":  # a rim, else the line of the interval fills the notches of a cross
                mark |= {"mec": "white", "mew": 0.8, "ms": 8}
            told = rows[rows["verdict"] == verdict]
            known, rest = told.dropna(subset="estimate"), told[told["estimate"].isna()]
            inside = known["estimate"].where(known["estimate"].abs() < limit, 0.9 * limit * np.sign(known["estimate"]))
            axes.plot(inside, known["place"], **mark, clip_on=False, label=verdict if len(told) else None)
            axes.plot(np.full(len(rest), 0.03), rest["place"], **mark, clip_on=False, transform=side)
        axes.set(xlim=(-limit, limit), ylim=(bottom, -0.3), yticks=[], xlabel="percentage points in the claim's favour")
        ticks = [sign * value for sign in (-1, 1) for value in FAR if value < limit]
        axes.set_xticks([0, *ticks], ["0", *(f"{tick:+g}" for tick in ticks)], fontsize=8)
        axes.grid(visible=wide)
        axes.spines["left"].set_visible(False)
        columns = rows["verdict"].nunique() if wide else 2
        figure.legend(loc="lower right" if wide else "lower center", ncols=columns, fontsize=8)
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
