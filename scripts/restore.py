"""Rebuild run folders from published tables, so that on a new machine what is published is not trained again."""

import argparse
import sys
from pathlib import Path

from rootfree.analysis.collect import restore


def main() -> None:
    """Parse the command line, restore, and say what was done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="folder of runs.csv and curves.csv")
    parser.add_argument("outputs", type=Path, help="folder of run folders; one that is there stays as it is")
    options = parser.parse_args()
    try:
        print(f"{restore(options.results, options.outputs)} run folders made beneath {options.outputs}")
    except (ValueError, OSError) as error:
        sys.exit(f"restore: {error}")


if __name__ == "__main__":
    main()
