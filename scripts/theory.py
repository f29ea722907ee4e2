"""Check the paper's exact statements in float64, and its empirical ones on noisy quadratics; write results/theory.csv.

One row is one measurement, with what the claim predicts and whether the two agree. The checks, their equations and the
rule of agreement stand in rootfree/theory/. Takes about half a minute on one core; equal bytes on the same machine.
"""

import argparse
import csv
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from rootfree.theory import CHECKS, Measured

COLUMNS = ("claim", "check", "setting", "quantity", "value", "error", "expected", "agrees", "n")
RESULTS = Path(__file__).parents[1] / "results" / "theory.csv"


def cells(row: Measured) -> list[str]:
    """The columns of a row as text."""
    error = "" if row.error is None else f"{row.error:.6g}"
    agrees = "" if row.agrees is None else str(row.agrees).lower()
    words = [row.claim, row.check, row.setting, row.quantity]
    return [*words, f"{row.value:.6g}", error, row.expected, agrees, str(row.n)]


def measure(checks: Sequence[Callable[[], list[Measured]]], console: Console) -> list[Measured]:
    """Run the checks, one after the other, and show which one is under way."""
    rows: list[Measured] = []
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=len(checks))
        for check in checks:
            progress.update(task, description=check.__name__)
            rows += check()
            progress.advance(task)
    return sorted(rows, key=lambda row: (row.claim[0], int(row.claim[1:]), row.check))


def printed(rows: list[Measured]) -> Table:
    """The rows that state something, for a terminal."""
    table = Table(box=SIMPLE)
    table.add_column("claim")
    table.add_column("measured", overflow="fold")
    for name in ("value", "expected", "agrees"):
        table.add_column(name, no_wrap=True)
    for row in rows:
        if row.expected:
            value = f"{row.value:.4g}" + ("" if row.error is None else f" ± {row.error:.2g}")
            agrees = "yes" if row.agrees else "[bold red]no[/]"
            table.add_row(row.claim, escape(f"{row.setting}: {row.quantity}"), value, row.expected, agrees)
    return table


def main() -> None:
    """Parse the command line, measure, print what is stated, and write the table."""
    description, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(description=description, epilog=details)
    names = {check.__name__: check for check in CHECKS}
    parser.add_argument(
        "checks", nargs="*", metavar="CHECK", help=f"print only these, write nothing: {', '.join(names)}"
    )
    parser.add_argument("--into", type=Path, default=RESULTS, metavar="FILE", help="default: results/theory.csv")
    args = parser.parse_args()
    if unknown := set(args.checks) - set(names):
        sys.exit(f"theory: no check is called {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    torch.set_num_threads(1)  # enough for small tensors, and sums keep their order
    started, console = time.perf_counter(), Console()
    rows = measure([names[name] for name in args.checks] or CHECKS, console)
    console.print(printed(rows))
    stated = [row for row in rows if row.agrees is not None]
    console.print(
        f"theory: {sum(row.agrees is True for row in stated)} of {len(stated)} rows that state something agree, "
        f"{len(rows) - len(stated)} only measure; {time.perf_counter() - started:.0f} s",
        soft_wrap=True,
    )
    if not args.checks:
        args.into.parent.mkdir(parents=True, exist_ok=True)
        with args.into.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *map(cells, rows)])
        console.print(f"theory: {args.into}", soft_wrap=True)


if __name__ == "__main__":
    main()
