"""How figures look: one colour per optimizer everywhere, dashes without the root, text that a page can recolour.

Text in an SVG stays text. What is not data is drawn in `INK`, so that a page can put its own text colour there and show
the figure in the dark.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from rootfree.analysis.tables import Study

INK = "#24292f"
# Okabe and Ito's colours, with grey for black and without yellow (they vanish on some page), and four more.
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C", "#7B5EA7", "#8C510A", "#999933"]
COLORS += ["#B03A5B"]
MARKERS = "osD^vP"
WIDTH = 4.3  # inches: one panel is narrow enough to be read on a phone
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
    "font.sans-serif": ["DejaVu Sans"],  # every text of an SVG repeats the whole list
    "svg.hashsalt": "rootfree",
}


class Look(NamedTuple):
    """How an arm is drawn: its optimizer's colour, paler for further settings, which also have shapes of their own."""

    color: str
    marker: str
    dashes: str

    @property
    def root_free(self) -> bool:
        """Whether the arm is drawn as one without the root."""
        return self.dashes == "--"


class Drawing(NamedTuple):
    """A finished figure with its caption."""

    name: str
    figure: Figure
    caption: str


def looks(studies: Sequence[Study]) -> dict[str, Look]:
    """A look for each arm of a report."""
    arms: dict[str, dict[str, bool]] = {}  # optimizer -> arm -> whether it is root-free
    beside: dict[str, Counter[str]] = {}  # optimizer -> those of its studies, and the pairs of runs
    sizes: Counter[str] = Counter()
    for study in studies:
        here: Counter[str] = Counter()
        for arm in study.arms:
            arms.setdefault(arm.split()[0], {})[arm] = study.root_free(arm)
            here[arm.split()[0]] += study.size(arm)
        sizes += here
        for optimizer, runs in here.items():
            beside.setdefault(optimizer, Counter()).update({other: min(runs, here[other]) for other in here})
    found = {}
    places: dict[str, int] = {}  # optimizer -> place of its colour
    # those with most runs choose first, a colour that is not in their figures, or with as few runs as may be
    for optimizer in sorted(arms, key=lambda name: (-sizes[name], name)):
        members = arms[optimizer]
        used, seen = Counter(places.values()), [0] * len(COLORS)
        for other, place in places.items():
            seen[place] += beside[optimizer][other]
        color = min(range(len(COLORS)), key=lambda place: (seen[place], used[place], place))
        turn, places[optimizer] = used[color], color
        pale = np.linspace(0, 0.6, len(members)) if len(members) > 1 else [0.0]
        for number, ((arm, free), white) in enumerate(zip(sorted(members.items()), pale, strict=True)):
            mixed = to_hex(np.array(to_rgb(COLORS[color])) * (1 - white) + white)
            found[arm] = Look(mixed, MARKERS[(turn + number) % len(MARKERS)], "--" if free else "-")
    return found


def label(arm: str) -> str:
    """An arm's name as far as a figure has room."""
    words = []
    for word in arm.split():
        key, _, value = word.removeprefix("optimizer.").partition("=")
        try:
            words.append(f"{key}={float(value):.5g}")
        except ValueError:
            words.append("untuned" if word == "tuned=none" else word.removeprefix("optimizer.").removeprefix("tuned="))
    return " ".join(words)


def panel(height: float) -> tuple[Figure, Any]:
    """A figure of one panel."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def title(figure: Figure, text: str) -> None:
    """A title at the left."""
    figure.suptitle(fill(text, 62), x=0.01, ha="left", fontsize=9)  # as wide as the figure


def legend(figure: Figure, axes: Any) -> None:
    """A legend below the panel, in two columns where they fit, and the figure as much taller."""
    handles, labels = axes.get_legend_handles_labels()
    columns = 2 if max(map(len, labels), default=0) <= 25 else 1
    labels = [fill(text, 60) for text in labels]  # as wide as the figure
    lines = sum(text.count("\n") + 1 for text in labels)
    figure.set_figheight(figure.get_figheight() + 0.1 + 0.17 * -(-lines // columns))
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, fontsize=8, columnspacing=1, handlelength=2.2
    )


def save(figure: Figure, stem: Path) -> str:
    """Write `stem.png` and `stem.svg` with bytes that depend on nothing but the data; return the SVG's text."""
    with mpl.rc_context(STYLE):
        figure.savefig(stem.with_suffix(".png"), dpi=160, facecolor="white", metadata={"Software": None})
        figure.set_layout_engine("none")  # found for the one, kept for the other
        figure.savefig(stem.with_suffix(".svg"), transparent=True, metadata={"Date": None, "Creator": None})
    # a hundredth of a point is more than anyone sees; matplotlib names clip paths and markers by a hash of coordinates,
    # whose last bit is the processor's own
    text = re.sub(
        r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", stem.with_suffix(".svg").read_text(encoding="utf-8")
    )
    # nor are the names of groups, the indents and the metadata of any use, and they are a third of a file
    text = re.sub(r"\n\s+", "\n", re.sub(r'<metadata>.*?</metadata>|(?<=<g) id="[^"]*"', "", text, flags=re.S))
    for place, name in enumerate(dict.fromkeys(re.findall(r'id="([mp][0-9a-f]{10})"', text))):
        text = re.sub(rf"\b{name}\b", f"{name[0]}{place}", text)
    stem.with_suffix(".svg").write_text(text, encoding="utf-8")
    return text
