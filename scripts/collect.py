"""Gather the runs that ended into runs.csv and curves.csv."""

import argparse
import sys
from pathlib import Path

from rootfree.analysis.collect import collect


def main() -> None:
    """Parse the command line, collect, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("outputs", type=Path, help="folder that holds the run folders")
    parser.add_argument("--into", type=Path, required=True, metavar="DIR", help="folder of the tables, made if missing")
    parser.add_argument(
        "--merge", action="store_true", help="keep the rows that DIR has; where both have a run, DIR's row stays"
    )
    args = parser.parse_args()
    try:
        collected = collect(args.outputs, args.into, merge=args.merge)
    except (ValueError, OSError) as error:
        sys.exit(f"collect: {error}")
    print(f"{collected.read} runs read, {collected.rows} in {args.into / 'runs.csv'}")
    if collected.differences:
        print(f"{len(collected.differences)} runs differ from the row that {args.into} has, which stays:")
        print("\n".join(f"  {line}" for line in collected.differences))


if __name__ == "__main__":
    main()
