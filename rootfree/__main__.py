"""The command `rootfree`: train, search, and what reads the files of runs. The latter loads neither torch nor Hydra."""

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

CLAIMS = Path(__file__).parent / "configs" / "experiments" / "claims.yaml"


def main() -> None:
    """Run a command line; what cannot be done ends it with a line and exit code 1, a wrong setting with 2."""
    options, rest = parser().parse_known_args()
    if rest and options.command is not train:
        parser().error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        options.command(options, rest)
    except ModuleNotFoundError as error:
        if str(error.name).startswith("rootfree"):
            raise
        sys.exit(f"rootfree {options.name}: {error.name} is not installed: pip install 'rootfree[suite]'")
    except (ValueError, OSError) as error:
        sys.exit(f"{options.name}: {error}")


def parser() -> argparse.ArgumentParser:
    """Return what each command takes."""
    whole = argparse.ArgumentParser(prog="rootfree", description="Experiments with root-free optimizers.")
    commands = whole.add_subparsers(dest="name", required=True, metavar="COMMAND")

    def add(name: str, command: Any, meaning: str, **options: Any) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=meaning, description=f"{meaning[0].upper()}{meaning[1:]}.", **options)
        made.set_defaults(command=command)
        return made

    for name, meaning in {
        "train": "train one run, or with -m or a preset many; as python -m rootfree.train",
        "search": "tune: as rootfree train -m hydra/sweeper=halton",
    }.items():
        add(name, train, meaning, add_help=False, prefix_chars="\0")  # all words are Hydra's

    one = add("status", status, "say how the runs of a folder stand, while they are trained or after")
    one.add_argument("outputs", type=Path, nargs="?", default=Path("outputs"), help="folder of the runs (outputs)")
    one.add_argument("--preset", help="only the runs of this preset, for instance cnn")

    one = add("collect", collect, "gather the runs that ended into runs.csv and curves.csv")
    one.add_argument("outputs", type=Path, help="folder that holds the run folders")
    one.add_argument("--into", type=Path, required=True, metavar="DIR", help="folder of the tables, made if missing")
    one.add_argument(
        "--merge", action="store_true", help="keep the rows that DIR has; where both have a run, DIR's row stays"
    )

    one = add("report", report, "write pages from the tables of a folder, and print what they say")
    one.add_argument("directory", type=Path, help="folder with runs.csv and curves.csv")
    one.add_argument("--into", type=Path, metavar="DIR", help="folder of the pages (default: the directory)")
    one.add_argument("--outputs", type=Path, help="collect these run folders into the directory first")
    one.add_argument("--published", type=Path, metavar="DIR", help="published tables to compare with")
    one.add_argument("--claims", type=Path, default=CLAIMS, help="the claims (default: the project's own)")
    one.add_argument(
        "--readme", type=Path, metavar="FILE",
        help="no pages: rewrite verdicts.csv, README.md and figures/ of the directory, and the results in this file",
    )  # fmt: skip

    one = add("restore", restore, "rebuild run folders from published tables, so that they are not trained again")
    one.add_argument("results", type=Path, help="folder of runs.csv and curves.csv")
    one.add_argument("outputs", type=Path, help="folder of run folders; one that is there stays as it is")
    return whole


def train(options: argparse.Namespace, words: list[str]) -> None:
    """Hand the words to Hydra, which reads those of the process."""
    from rootfree import train

    if options.name == "search" and not {"-h", "--help"} & set(words):
        words = ["-m", *words, "hydra/sweeper=halton"]  # flags come first
    sys.argv = [f"rootfree {options.name}", *words]
    train.main()


def collect(options: argparse.Namespace, _: list[str]) -> None:
    """Collect, and say what was found."""
    from rootfree.analysis.collect import collect

    collected = collect(options.outputs, options.into, merge=options.merge)
    print(f"{collected.read} runs read, {collected.rows} in {options.into / 'runs.csv'}")
    if collected.differences:
        print(f"{len(collected.differences)} runs differ from the row that {options.into} has, which stays:")
        print("\n".join(f"  {line}" for line in collected.differences))


def restore(options: argparse.Namespace, _: list[str]) -> None:
    """Restore, and say what was done."""
    from rootfree.analysis.collect import restore

    print(f"{restore(options.results, options.outputs)} run folders made beneath {options.outputs}")


def report(options: argparse.Namespace, _: list[str]) -> None:
    """Write, and print the tables."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    from rootfree.analysis.collect import collect
    from rootfree.analysis.report import publish, report

    if options.outputs:
        collect(options.outputs, options.directory)
    if options.readme:
        return publish(options.directory, options.claims, options.readme)
    written = report(options.directory, options.claims, options.into, options.published)
    console = Console(markup=False, emoji=False, highlight=False)
    for caption, frame in written.tables:
        printed = Table(caption=caption, caption_justify="left", box=SIMPLE, pad_edge=False)
        for name in frame:
            printed.add_column(name, no_wrap=name == frame.columns[0])
        for row in frame.itertuples(index=False):
            printed.add_row(*map(str, row))
        console.print(printed)
    console.print(f"report: {written.page}", soft_wrap=True)


def status(options: argparse.Namespace, _: list[str]) -> None:
    """Look at the files of the runs alone, and print a table by preset and arm."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    from rootfree.run.files import read_json
    from rootfree.run.status import ENDED, failure_of, status_of

    # a run that has begun has a config, and one that was rebuilt from tables a summary alone
    folders = {file.parent for name in ("config.yaml", "summary.json") for file in options.outputs.glob(f"*/{name}")}
    if not folders:
        raise ValueError(f"there is no run beneath {options.outputs}")
    counts: dict[tuple[str, str, str], Counter[str]] = {}
    failures = []
    for folder in sorted(folders):
        found = status_of(folder)
        run = (read_json(folder / "summary.json") if found in ENDED else None) or named(folder)
        key = (f"{run['preset'] or '-'} {run['scale'] or '-'}", run["model"], run["arm"])
        if options.preset in (None, run["preset"] or "-"):
            counts.setdefault(key, Counter())[found] += 1
            if found == "failed":
                failures.append(f"{folder.name} {key[2]}: {failure_of(folder)['message']}")
    console = Console(markup=False, emoji=False)  # names and messages are shown as they are
    rows = [(*key, _counted(count)) for key, count in sorted(counts.items())]
    rows.append(("all", "", "", _counted(sum(counts.values(), Counter()))))
    table = Table(box=SIMPLE, pad_edge=False)
    for heading, cells in zip(("preset, scale", "model", "arm", "runs"), zip(*rows, strict=True), strict=True):
        parts = "\n".join(cells).split("\n" if heading == "runs" else None)
        # on a narrow terminal lines break at blanks, and the arm has what the others leave
        width = min(30, max(map(len, [heading, *parts]))) if console.width < 100 and heading != "arm" else None
        table.add_column(heading, width=width, overflow="fold")
    for number, row in enumerate(rows, start=1):
        table.add_row(*row, end_section=number == len(rows) - 1)
    console.print(table)
    for line in failures:
        console.print(line, style="red", highlight=False, soft_wrap=True)


def _counted(counts: Counter[str]) -> str:
    from rootfree.run.status import STATUSES

    return "\n".join(f"{counts[name]} {name}" for name in STATUSES if counts[name])


def named(folder: Path) -> dict[str, Any]:
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
