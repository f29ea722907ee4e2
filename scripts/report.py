"""Write a report: pages from the tables of a folder, or what the repository holds of it; print what the pages say."""

import argparse
import sys
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from rootfree.analysis.collect import collect
from rootfree.analysis.report import publish, report

CLAIMS = Path(__file__).parents[1] / "experiments" / "claims.yaml"


def main() -> None:
    """Parse the command line, write, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, help="folder with runs.csv and curves.csv")
    parser.add_argument("--into", type=Path, metavar="DIR", help="folder of the pages (default: the directory)")
    parser.add_argument("--outputs", type=Path, help="collect these run folders into the directory first")
    parser.add_argument("--published", type=Path, metavar="DIR", help="published tables to compare with")
    parser.add_argument("--claims", type=Path, default=CLAIMS, help="the claims (default: experiments/claims.yaml)")
    parser.add_argument(
        "--readme", type=Path, metavar="FILE",
        help="no pages: rewrite verdicts.csv, README.md and figures/ of the directory, and the results in this file",
    )  # fmt: skip
    args = parser.parse_args()
    try:
        if args.outputs:
            collect(args.outputs, args.directory)
        if args.readme:
            return publish(args.directory, args.claims, args.readme)
        written = report(args.directory, args.claims, args.into, args.published)
    except (ValueError, OSError) as error:
        sys.exit(f"report: {error}")
    console = Console(markup=False, emoji=False, highlight=False)
    for caption, frame in written.tables:
        printed = Table(caption=caption, caption_justify="left", box=SIMPLE, pad_edge=False)
        for name in frame:
            printed.add_column(name, no_wrap=name == frame.columns[0])
        for row in frame.itertuples(index=False):
            printed.add_row(*map(str, row))
        console.print(printed)
    console.print(f"report: {written.page}", soft_wrap=True)


if __name__ == "__main__":
    main()
