"""What a step costs: time and memory of every method that `make bench` measured, a figure per quantity and network."""

import re
from collections.abc import Iterator, Mapping

import matplotlib as mpl
import pandas as pd

from rootfree.analysis.style import STYLE, Drawing, Look, panel, title

QUANTITIES = {"ms": "time of a step (ms)", "state_mb": "state of the optimizer (MB)"}
BESIDE = ("torch", "fused", "foreach", "compiled")  # words of a method's name that do not tell an optimizer from others


def both_sides(table: pd.DataFrame) -> pd.DataFrame:
    """A row per method, network and comparison: a comparison measures a method and its peer."""
    own = ["ms", "state_mb", "peak_mb"]
    peers = table.drop(columns=["method", *own], errors="ignore")
    peers = peers.rename(columns={"peer": "method"} | {f"peer_{key}": key for key in own})
    columns = ["method", "parameters", *own, "device", "threads"]
    return pd.concat([table, peers]).reindex(columns=columns).dropna(subset=["method", "ms"])


def draw(table: pd.DataFrame, look: Mapping[str, Look]) -> Iterator[Drawing]:
    """Time and memory per method on each network, on log scales."""
    rows = both_sides(table)
    with mpl.rc_context(STYLE):
        for network, group in rows.groupby("parameters", sort=False):
            for column, words in QUANTITIES.items():
                found = group.groupby("method")[column].agg(["median", "min", "max", "size"]).dropna()
                found = found.sort_values("median", kind="stable")  # ties in one order on every processor
                if found.empty:
                    continue
                figure, axes = panel(0.8 + 0.24 * len(found))
                for place, (method, row) in enumerate(found.iterrows()):
                    style = look.get(_arm(str(method), look), Look("#8C8C8C", "o", "-"))
                    axes.plot([row["min"], row["max"]], [place] * 2, "-", color=style.color, lw=1.6, alpha=0.6)
                    fill = "none" if style.root_free or _root_free(str(method)) else "full"
                    axes.plot(row["median"], place, "o", color=style.color, ms=6, fillstyle=fill, mew=1.6)
                axes.set_xscale("log")
                axes.set_yticks(range(len(found)), [str(method) for method in found.index], fontsize=8)
                axes.tick_params(left=False)
                axes.grid(axis="y", visible=False)
                axes.set_xlabel(words)
                title(figure, f"{network}: {words}")
                text = (
                    f"{words[0].upper()}{words[1:]} on the parameters of {network}. Median, and range where a method "
                )
                text += f"was measured more than once (n = {int(found['size'].min())} to {int(found['size'].max())}); "
                text += "open without the root, grey where no arm of this report has the method. "
                devices = "; ".join(sorted(set(group["device"].dropna().astype(str))))
                yield Drawing(f"bench-{network}-{column.replace('_', '-')}", figure, f"{text}{devices}.")


def _arm(method: str, look: Mapping[str, Look]) -> str:
    """The arm that a method of the benchmark is: `RFRMSProp bfloat16` is `rf_rmsprop_bf16`."""
    words = [word for word in method.lower().replace("bfloat16", "bf16").split() if word not in BESIDE]
    flat = re.sub(r"[^a-z0-9]", "", "".join(words))
    names = [arm for arm in look if " " not in arm]
    return next((arm for arm in names if arm.replace("_", "") == flat), "")


def _root_free(method: str) -> bool:
    return method.startswith(("RF", "IF"))
