"""Write report.md, report.html and figures/ beside the tables of a folder, and print what they say."""

import argparse
import sys
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from rootfree.analysis.collect import collect
from rootfree.analysis.report import refresh, report

CLAIMS = Path(__file__).parents[1] / "experiments" / "claims.yaml"


def main() -> None:
    """Parse the command line, report, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, help="folder with runs.csv and curves.csv; the report is written there")
    parser.add_argument("--outputs", type=Path, help="collect these run folders into the directory first")
    parser.add_argument("--published", type=Path, metavar="DIR", help="published tables to compare with")
    parser.add_argument("--claims", type=Path, default=CLAIMS, help="the claims (default: experiments/claims.yaml)")
    parser.add_argument("--readme", type=Path, metavar="FILE", help="a Markdown file whose results are refreshed, too")
    args = parser.parse_args()
    try:
        if args.outputs:
            collect(args.outputs, args.directory)
        written = report(args.directory, args.claims, published=args.published)
        if args.readme:
            refresh(args.readme, written)
    except (ValueError, OSError) as error:
        sys.exit(f"report: {error}")
    console = Console()
    for table in written.tables:
        printed = Table(caption=table.caption, caption_justify="left", box=SIMPLE)
        for name in table.header:
            printed.add_column(name, overflow="fold")
        for row in table.rows:
            printed.add_row(*row)
        console.print(printed)
    console.print(f"report: {written.page}", soft_wrap=True)


if __name__ == "__main__":
    main()
