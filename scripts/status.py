"""Say how the runs of a folder stand, from their files alone, while they are trained or after."""

import argparse
import sys
from collections import Counter
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from rootfree.run.files import read_json
from rootfree.run.status import ENDED, STATUSES, failure_of, status_of


def main() -> None:
    """Parse the command line, look, and print a table by preset and arm."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("outputs", type=Path, nargs="?", default=Path("outputs"), help="folder of the runs (outputs)")
    parser.add_argument("--preset", help="only the runs of this preset, for instance cnn")
    options = parser.parse_args()
    folders = [file.parent for file in options.outputs.glob("*/config.yaml")]
    if not folders:
        sys.exit(f"status: there is no run beneath {options.outputs}")
    counts: dict[tuple[str, str, str, str], Counter[str]] = {}
    failures = []
    for folder in folders:
        status = status_of(folder)
        run = (read_json(folder / "summary.json") if status in ENDED else None) or named(folder)
        key = (run["preset"] or "-", run["scale"] or "-", run["model"], run["arm"])
        if options.preset in (None, key[0]):
            counts.setdefault(key, Counter())[status] += 1
            if status == "failed":
                failures.append(f"{folder.name} {key[3]}: {failure_of(folder)['message']}")
    console = Console(markup=False, emoji=False)  # names and messages are shown as they are
    total: Counter[str] = sum(counts.values(), Counter())
    shown = [status for status in STATUSES if total[status]]
    table = Table(box=SIMPLE, pad_edge=False)
    for heading in ("preset", "scale", "model", "arm", *shown):
        table.add_column(heading, justify="right" if heading in shown else "left", overflow="fold")
    for key, count in sorted(counts.items()):
        table.add_row(*key, *(str(count[status] or "") for status in shown))
    table.add_section()
    table.add_row("all", "", "", "", *(str(total[status]) for status in shown))
    console.print(table)
    for line in failures:
        console.print(line, style="red", highlight=False, soft_wrap=True)


def named(folder: Path) -> dict[str, str | None]:
    """Return what a run that has not ended is, from its config: five plain lines, for which no parser is needed."""
    wanted = ("preset", "scale", "model", "arm")
    found: dict[str, str | None] = {}
    for line in (folder / "config.yaml").read_text().splitlines():
        key, _, value = line.strip().partition(": ")
        if key in wanted and value:
            found[key] = None if value == "null" else value.strip("'\"")
    return {key: found.get(key) for key in wanted}


if __name__ == "__main__":
    main()
