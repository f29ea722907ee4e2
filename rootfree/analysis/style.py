"""How figures look: an optimizer has one colour in every report, dashes without the root, text that a page recolours.

What is not data is drawn in `INK`, so that a page can put its own text colour there and show the figure in the dark.
Names are shown as they are: nothing in them is mathematics.
"""

import base64
import colorsys
import io
import re
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple
from zlib import crc32

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from PIL import Image

from rootfree.analysis.tables import Study

INK = "#24292f"
GREY = "#8C8C8C"
# Okabe and Ito's colours and four more. What begins with one of these names has its colour, paler.
COLORS = {
    "rf_rmsprop": "#0072B2",
    "rf_rmsprop_rooted": "#009E73",
    "rf_rmsprop_placebo": "#56B4E9",
    "rmsprop": "#44AA99",
    "sgd": "#5B5B5B",
    "adamw": "#D55E00",
    "rf_adamw": "#CC79A7",
    "sign_momentum": "#999933",
    "shampoo": "#7B5EA7",
    "shampoo_grafted": "#B39DDB",
    "if_shampoo": "#E69F00",
    "rf_shampoo": "#8C510A",
}
MARKERS = "osD^vP"
WIDTH = 4.3  # inches: one panel is narrow enough to be read on a phone
HEAVY = 120_000  # bytes of an SVG above which a PNG is smaller and as readable
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
    "text.parse_math": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


class Look(NamedTuple):
    """How an arm is drawn: its optimizer's colour, paler for further settings, which also have shapes of their own."""

    color: str
    marker: str
    dashes: str


class Drawing(NamedTuple):
    """A finished figure with its caption."""

    name: str
    figure: Figure
    caption: str


def color_of(optimizer: str) -> str:
    """The colour of an optimizer, wherever it is drawn: that of its family, or one that its name alone decides."""
    share = crc32(optimizer.encode()) / 2**32
    families = [name for name in COLORS if optimizer == name or optimizer.startswith(f"{name}_")]
    if not families:
        return to_hex(colorsys.hls_to_rgb(share, 0.42, 0.6))
    family = max(families, key=len)
    return COLORS[family].lower() if optimizer == family else _paler(COLORS[family], 0.25 + 0.3 * share)


def looks(study: Study) -> dict[str, Look]:
    """A look for each arm of a study."""
    found: dict[str, Look] = {}
    members: dict[str, list[str]] = {}
    for arm in study.arms:
        members.setdefault(arm.split()[0], []).append(arm)
    for turn, (optimizer, arms) in enumerate(members.items()):
        for number, (arm, white) in enumerate(zip(arms, np.linspace(0, 0.6, max(len(arms), 2)), strict=False)):
            dashes = "--" if study.root_free(arm) else "-"
            found[arm] = Look(_paler(color_of(optimizer), white), MARKERS[(turn + number) % len(MARKERS)], dashes)
    return found


def _paler(color: str, white: float) -> str:
    red, green, blue = (part * (1 - white) + white for part in to_rgb(color))
    return to_hex((red, green, blue))


def label(arm: str) -> str:
    """An arm's name as far as a figure or a terminal has room."""
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


def logarithmic(axis: Any) -> None:
    """Make an axis logarithmic, with plain numbers at its ticks."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_locator(LogLocator(numticks=6))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def finish(figure: Figure, axes: Any, over: str, x: str, y: str = "") -> Figure:
    """Name the axes and the figure; where curves have labels, a legend below them, and the figure as much taller."""
    axes.set(xlabel=x, ylabel=y)
    title(figure, over)
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        columns = 2 if max(map(len, labels)) <= 25 else 1
        labels = [fill(text, 52) for text in labels]  # as wide as the figure
        lines = sum(text.count("\n") + 1 for text in labels)
        figure.set_figheight(figure.get_figheight() + 0.1 + 0.17 * -(-lines // columns))
        shape = {"ncols": columns, "fontsize": 8, "columnspacing": 1, "handlelength": 2.2}
        figure.legend(handles, labels, loc="outside lower center", **shape)
    return figure


def inline(drawing: Drawing) -> str:
    """The figure as an element of a page: an SVG in the page's text colour, or a PNG where that is smaller."""
    # names of clip paths and markers are hashes of this salt and coordinates: no two figures of a page share one
    with mpl.rc_context(STYLE | {"svg.hashsalt": drawing.name}):
        buffer = io.StringIO()
        nothing = dict.fromkeys(["Date", "Creator", "Format", "Type"])
        FigureCanvasSVG(drawing.figure).print_svg(buffer, metadata=nothing)  # `savefig` would draw it twice
        text = buffer.getvalue()
        if len(text) > HEAVY:
            picture = io.BytesIO()
            drawing.figure.savefig(picture, format="png", dpi=160, facecolor="white")
            return f'<img alt="" src="data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()}">'
    # a hundredth of a point is more than anyone sees, but numbers that are read stay whole; names of groups and
    # indents are a third of a file
    text = re.sub(r"<[^>]+>", lambda tag: re.sub(r"\d+\.\d{3,}", _rounded, tag[0]), text[text.index("<svg") :])
    text = re.sub(r'(?<=<g) id="[^"]*"|\n\s*(?=<)', "", text)
    return text.replace(INK, "currentColor").replace("<svg ", '<svg role="img" ', 1)


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}"


def save_png(drawing: Drawing, file: Path) -> None:
    """Write the figure as a PNG whose bytes depend on nothing but the data, of 256 colours: a third of the size."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        drawing.figure.savefig(buffer, format="png", dpi=160, facecolor="white")
    Image.open(buffer).convert("RGB").quantize(dither=Image.Dither.NONE).save(file, optimize=True)
