"""Search an optimizer's hyper-parameters: draw, train each draw, score on validation images, write the winner down.

The rule is one for all optimizers. `--budget` points are drawn from a scrambled Halton sequence over the space in
experiments/search/, so that a smaller budget is the beginning of a larger one. Every draw is trained with the study's
own number of epochs; with --halving all are trained for a quarter of it, the better half for half of it, and the best
quarter for all of it. The best 3 are trained again with 3 other seeds, and the best mean validation accuracy of those
is the winner, whose numbers become a file in configs/tuned/. Nothing here ever sees test.

The table in results/search/ is there before the first run and grows with each that ends. Runs that ended are not run
again, so the same command goes on after an interruption, a larger budget adds draws, and commands that run at the same
time share the work.
"""

import argparse
import math
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pandas as pd
from filelock import FileLock
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from rootfree.analysis.searches import FINALISTS, Search, read_search, scores, search_name
from rootfree.folder import ENDED, failure_of, read, status_of
from rootfree.stop import REQUEUE
from rootfree.workers import STOPPED, Reply, Worker, Workers

ROOT = Path(__file__).resolve().parent.parent
EDGE = 0.05  # a winner within this share of the (log) range from its end is flagged
# Seeds of training that no study uses: the runs that decide about test are not those that chose the settings.
SEED = 100
# Without the draw's own: being the best of many is a reason for its score with that seed to be too high.
CONFIRMING = (101, 102, 103)
OWN = ("optimizer", "tuned", "seed", "trainer.evaluate_test", "preset", "scale", "plan")  # what a search sets itself

Space = dict[str, dict[str, Any]]
Row = dict[str, Any]


# What is drawn


def read_space(file: Path) -> Space:
    """Read a search space and check it.

    Raises:
        ValueError: naming the file, the key and what is wrong.
    """
    space: Any = OmegaConf.to_container(OmegaConf.load(file))
    for place, (key, spec) in enumerate(space.items()):
        known = isinstance(spec, dict) and spec.keys() <= {"low", "high", "one_minus", "times"}
        if not known or not 0 < spec.get("low", 0) < spec.get("high", 0):
            raise ValueError(f"{file}: {key} must be {{low: ..., high: ...}} with 0 < low < high, perhaps one_minus "
                             f"or times, not {spec}")  # fmt: skip
        if "times" in spec and spec["times"] not in list(space)[:place]:
            raise ValueError(f"{file}: {key} times {spec['times']}, which must stand above it")
    return space


def draw(space: Space, budget: int, seed: int) -> pd.DataFrame:
    """Draw `budget` points, one column per key; a smaller budget is a prefix of a larger one."""
    from scipy.stats import qmc  # takes a second, which the workers do without

    unit = qmc.Halton(len(space), scramble=True, rng=np.random.default_rng(seed)).random(budget)
    table = pd.DataFrame(index=range(budget))
    for column, (key, spec) in enumerate(space.items()):
        value = spec["low"] * (spec["high"] / spec["low"]) ** unit[:, column]
        value = value / table[spec["times"]] if "times" in spec else value
        digits = 4
        if spec.get("one_minus"):  # the nearer to 1, the more digits it takes to tell values apart
            value, digits = 1 - value, max(4, 1 + math.ceil(-math.log10(spec["low"])))
        table[key] = [float(f"{number:.{digits}g}") for number in value]
    return table


def places(space: Space, best: dict[str, Any]) -> dict[str, float]:
    """Return where in its (log) range each winning value lies: 0 is the low end, 1 the high end."""
    found = {}
    for key, spec in space.items():
        drawn = 1 - best[key] if spec.get("one_minus") else best[key]
        drawn = drawn * best[spec["times"]] if "times" in spec else drawn
        found[key] = float(np.log(drawn / spec["low"]) / np.log(spec["high"] / spec["low"]))
    return found


def at_edge(found: dict[str, float]) -> list[str]:
    """Name the keys whose winning value lies at an end of its range."""
    return [key for key, share in found.items() if not EDGE <= share <= 1 - EDGE]


def describe(spec: dict[str, Any]) -> str:
    """Say what a range is one of."""
    of = " of 1 - it" if spec.get("one_minus") else f" of it times {spec['times']}" if "times" in spec else ""
    return f"{spec['low']:g} to {spec['high']:g}{of}"


def rungs(budget: int, epochs: int, halving: bool) -> list[tuple[int, int]]:
    """Return how many draws are trained for how many epochs, one stage after the other."""
    parts = (4, 2, 1) if halving else (1,)
    return [(-(-budget * part // parts[0]), -(-epochs // part)) for part in parts]


# The search


class SearchError(Exception):
    """Why the search cannot go on, in one line."""


class Incomplete(Exception):
    """Runs are missing, each with the reason."""


class Study:
    """What is searched for: an optimizer in the setting of a study.

    Args:
        optimizer: name of a config.
        settings: the study's choices, as `rootfree.train` takes them.
        draws_seed: of the draws.

    Raises:
        SearchError: a setting cannot work, or there is no space for this optimizer.
    """

    def __init__(self, optimizer: str, settings: list[str], draws_seed: int, workers: Workers) -> None:
        for word in settings:
            if (key := word.lstrip("+~").partition("=")[0]) in OWN:
                raise SearchError(f"{word}: a search sets {key} itself")
        given = [word for word in settings if word.startswith("outputs=")]
        self.settings = [word for word in settings if word not in given]
        self.outputs = Path((given or ["outputs=outputs/search"])[-1].partition("=")[2]).expanduser().resolve()
        quoted = str(self.outputs).replace("\\", "\\\\").replace("'", r"\'")
        self.words = [*self.settings, f"optimizer={optimizer}", "tuned=none", "trainer.evaluate_test=false"]
        self.words += [f"outputs='{quoted}'", "preset=null", "scale=null"]
        if any(word.startswith("+experiments/") for word in settings):
            self.words.append("hydra.mode=RUN")  # the preset's setting, not its grid
        reply = workers.ask([*self.words, "plan=true"]).result()  # all checks, before anything is written
        if reply.code:
            raise SearchError(reply.reason)
        self.config = compose(self.words)
        choices = self.config.hydra.runtime.choices
        self.epochs = int(self.config.trainer.epochs)
        self.dataset = str(self.config.dataset.get("name", choices.dataset))
        self.own_name = any(word.startswith("dataset.name=") for word in settings)  # a folder of images
        rest = choices.model, optimizer, choices.loss
        self.name = search_name(self.dataset, *rest)
        # tuned numbers follow the choice of data set, whose yaml may call the data otherwise
        self.tuned = self.name if self.own_name else search_name(choices.dataset, *rest)
        # a space of the model's and the loss's own goes before the model's, and that before the optimizer's
        spaces = ROOT / "experiments" / "search"
        names = (f"{choices.model}-{optimizer}-{choices.loss}", f"{choices.model}-{optimizer}", optimizer)
        file = next((spaces / f"{name}.yaml" for name in names if (spaces / f"{name}.yaml").exists()), None)
        if file is None:
            raise SearchError(f"no search space for {optimizer} on {choices.model}: it goes into "
                              f"experiments/search/{optimizer}.yaml or {choices.model}-{optimizer}.yaml")  # fmt: skip
        self.space, self.seed = read_space(file), draws_seed
        for word in settings:
            if (key := word.lstrip("+").partition("=")[0]) in self.space:
                raise SearchError(f"{word}: {key} is drawn, see {file.relative_to(ROOT)}")

    def command(self, row: Row) -> list[str]:
        """Return the words that train a row of the table."""
        drawn = [f"{key}={row[key]!r}" for key in self.space]
        return [*self.words, *drawn, f"trainer.epochs={row['epochs']}", f"seed={row['seed']}"]

    @property
    def public(self) -> list[str]:
        """The settings without those that say where things lie or run."""
        from rootfree.record import PLACES  # with torch, which nothing else here needs

        private = ("outputs", "device", "threads", "wandb", "record", "hydra")
        split = [(word, *word.lstrip("+~").partition("=")[0].split(".")) for word in self.settings]
        return [word for word, *key in split if key[0] not in private and key[-1] not in PLACES]


def compose(words: list[str]) -> DictConfig:
    """Compose the config of a command line, Hydra's own part included."""
    with hydra.initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return hydra.compose("train", words, return_hydra_config=True)


class Table:
    """The table of a search: a row per run, in a file that is whole at any time and loses nothing that it had.

    The file is named after the run of the first draw, and so after all that decides about it: data, model, settings,
    space, seed of the draws. The budget is not a part of that, so a larger one finds its first draws here.
    """

    def __init__(self, study: Study, folder: Path, budget: int, halving: bool, workers: Workers) -> None:
        self.study, self.workers = study, workers
        table = draw(study.space, budget, study.seed)
        self.points: list[Row] = [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]
        self.stages = rungs(budget, study.epochs, halving)
        self.size = sum(count for count, _ in self.stages) + min(FINALISTS, self.stages[-1][0]) * len(CONFIRMING)
        self.rows: dict[tuple[int, int, int], Row] = {}
        first = self.plan([self.row(0, study.epochs, SEED)])[0]["run_id"]
        self.file = folder / f"{study.name}{'-halving' if halving else ''}-{first}.csv"
        if self.file.exists():
            kept = read_search(self.file).runs.replace({np.nan: None})
            if (there := kept["draw"].nunique()) > budget:
                raise SearchError(f"{self.file.name} has {there} draws already: ask for --budget {there} or more")
            for row in kept.to_dict("records"):
                status = row["status"] if row["status"] in ENDED else None  # what failed may be tried again
                place = row["draw"], row["epochs"], row["seed"]
                self.rows[place] = {**self.row(*place), **row, **self.points[row["draw"]], "status": status}

    def row(self, place: int, epochs: int, seed: int) -> Row:
        """Return a draw's row for that length and seed, an empty one if there is none."""
        empty = dict.fromkeys(("status", "val_acc", "run_id", "finished_at"))
        new = {"draw": place, **self.points[place], "epochs": epochs, "seed": seed, **empty}
        return self.rows.get((place, epochs, seed), new)

    def plan(self, rows: list[Row]) -> list[Row]:
        """Check the rows' settings and name their runs, all before the first is trained."""
        asked = {self.workers.ask([*self.study.command(row), "plan=true"]): row for row in rows if not row["run_id"]}
        for future, row in asked.items():
            reply = future.result()
            found = re.search(r"^(?:done|to do)\s+([0-9a-f]{12})\b", reply.printed, re.MULTILINE)
            if reply.code or found is None:
                raise SearchError(f"draw {row['draw']}: {reply.reason}")
            row["run_id"] = found[1]
        return rows

    def add(self, rows: Iterable[Row]) -> list[Row]:
        """Take rows into the table and the file, unless they are there."""
        planned = self.plan(list(rows))
        self.rows |= {(row["draw"], row["epochs"], row["seed"]): row for row in planned}
        self.look(planned)
        self.write()
        return planned

    def look(self, rows: list[Row]) -> list[Row]:
        """Read how the runs of these rows ended, whoever trained them; return those that are new."""
        ended = [row for row in rows if not row["status"] and self.status(row) in ENDED]
        for row in ended:
            summary = read(self.study.outputs / row["run_id"] / "summary.json") or {}
            row |= {key: summary[key] for key in ("status", "val_acc", "finished_at")}
        return ended

    def status(self, row: Row) -> str:
        """Return how a row's run stands, as its folder tells."""
        return status_of(self.study.outputs / row["run_id"])

    def failure(self, row: Row) -> dict[str, Any]:
        """Return how a row's run failed last, if it did."""
        return failure_of(self.study.outputs / row["run_id"])

    def epochs_done(self, row: Row) -> int:
        """Return the epochs behind a row's run."""
        file = self.study.outputs / row["run_id"] / "metrics.jsonl"
        return row["epochs"] if row["status"] else file.read_bytes().count(b"\n") if file.exists() else 0

    def search(self) -> Search:
        """Return the table as the report reads it."""
        columns = ["draw", *self.study.space, "epochs", "seed", "status", "val_acc", "run_id", "finished_at"]
        return Search(self.file.stem, pd.DataFrame([*self.rows.values()], columns=columns).astype({"val_acc": float}))

    def write(self) -> None:
        """Write the file, with what other commands put into it in the meantime."""
        self.study.outputs.mkdir(parents=True, exist_ok=True)
        with FileLock(self.study.outputs / "tables.lock"):
            mine = self.search().runs
            if self.file.exists():
                both = pd.concat([mine, read_search(self.file).runs[mine.columns]], ignore_index=True)
                mine = both.drop_duplicates(["draw", "epochs", "seed"])  # what is ours is newer
            write_atomically(self.file, mine.to_csv(index=False, lineterminator="\n"))


def write_atomically(file: Path, text: str) -> None:
    """Write a file so that, whoever else writes it, there is a whole one at any time."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=file.parent, suffix=".part", delete=False, encoding="utf-8") as part:
        part.write(text)
    Path(part.name).chmod(0o644)
    os.replace(part.name, file)


class View:
    """A bar for the whole search with the time that is left, and a line for each run that ends."""

    def __init__(self, table: Table) -> None:
        self.table, self.console, self.started = table, Console(), time.monotonic()
        columns = [TimeRemainingColumn(), BarColumn(10), TaskProgressColumn(), TextColumn("{task.description}")]
        self.bar = Progress(*columns, console=self.console, disable=not self.console.is_terminal, transient=True)
        finalists = min(FINALISTS, table.stages[-1][0])
        self.total = sum(c * epochs for c, epochs in table.stages) + finalists * len(CONFIRMING) * table.study.epochs
        self.before = self.done = self._count()
        self.task = self.bar.add_task("", total=self.total, completed=self.done)

    def _count(self) -> int:
        return sum(map(self.table.epochs_done, self.table.rows.values()))

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self.console.print(line, highlight=False, soft_wrap=True, markup=False)

    def update(self, ended: list[Row]) -> None:
        """Show where the search is, and what ended since the last look."""
        self.done = self._count()
        count = sum(bool(row["status"]) for row in self.table.rows.values())
        self.bar.update(self.task, completed=self.done, description=f"{count} of {self.table.size} runs")
        spent, made = time.monotonic() - self.started, self.done - self.before
        left = f", ETA {spent / made * max(self.total - self.done, 0):.0f} s" if made else ""
        for row in ended:
            score = f"val {row['val_acc']:.2%}" if row["status"] == "finished" else row["status"]
            run = f"draw {row['draw']}, seed {row['seed']}, {row['epochs']} epochs: {score}"
            self.say(f"{run} ({count} of {self.table.size} runs{left})")


def train(table: Table, rows: list[Row], view: View) -> None:
    """Train the rows that have not ended; those that another process trains are waited for.

    Raises:
        Incomplete: some failed, and may succeed another time; all others ended.
    """
    workers, missing = table.workers, []

    def attempt(row: Row, again: bool = False) -> Future[tuple[int, Reply]]:
        def task(worker: Worker) -> tuple[int, Reply]:
            for _ in range(10 if again else 0):  # another process is at it: look often, try seldom, for it may be gone
                if table.status(row) in ENDED or workers.stopping.wait(0.5):
                    break
            before = table.failure(row)["attempts"]
            done = workers.stopping.is_set() or table.status(row) in ENDED
            return before, Reply(0, "") if done else worker.ask(table.study.command(row))

        return workers.submit(task)

    running = {attempt(row): row for row in rows if not row["status"]}
    while running:
        ended, _ = wait(running, timeout=1, return_when=FIRST_COMPLETED)
        news = table.look(rows)
        for future in ended:
            row, (attempts, reply) = running.pop(future), future.result()
            news += table.look([row])
            status, failure = table.status(row), table.failure(row)
            if row["status"]:
                continue
            if status == "failed" and failure["attempts"] == attempts:  # it was not even tried
                row["status"] = "failed"
                view.say(f"draw {row['draw']} counts as the worst: {reply.reason}")
                news.append(row)
            elif reply.code == 0 or (status == "running" and reply.code == 1):
                running[attempt(row, again=True)] = row
            elif reply.code in STOPPED:  # who told a worker to stop meant the search, whatever reached this process
                raise KeyboardInterrupt
            else:
                missing.append(f"draw {row['draw']}, seed {row['seed']}, run {row['run_id']}: {reply.reason}")
                view.say(f"failed: {missing[-1]}")
        view.update(news)
        if news:
            table.write()
    if missing:
        raise Incomplete("\n".join(missing))


def search(table: Table, view: View) -> Search:
    """Train all stages and the finalists' other seeds, and return the table of an ended search."""
    standing = list(range(len(table.points)))
    for count, epochs in table.stages:
        train(table, table.add(table.row(place, epochs, SEED) for place in standing[:count]), view)
        standing = list(table.search().ranked(epochs)["draw"])
    finalists = table.search().finalists["draw"]
    rows = [table.row(place, table.study.epochs, seed) for place in finalists for seed in CONFIRMING]
    train(table, table.add(rows), view)
    return table.search()


# What is left behind


def tuned(table: Table, done: Search, winner: Row) -> str:
    """Return the winner's settings as a config that follows the choice of data set, model and optimizer."""
    study, again = table.study, scores(done.confirmations(winner["draw"]))
    fixed = [key for word in study.settings if (key := word.lstrip("+").partition("=")[0]).startswith("optimizer.")]
    config: Any = OmegaConf.create({"optimizer": OmegaConf.to_container(study.config.optimizer)})
    for key in study.space:
        OmegaConf.update(config, key, winner[key])
    leaves = dict.fromkeys(key.split(".")[1] for key in [*fixed, *study.space])
    ended = done.runs[done.runs["status"].isin(["finished", "diverged", "failed"])]
    rest = [f"{n} {s}" for s in ("diverged", "failed") if (n := int((done.draws["status"] == s).sum()))]
    edges, halved = at_edge(places(study.space, winner)), ", halved twice" if len(table.stages) > 1 else ""
    lines = [
        "# @package _global_",
        f"# source: scripts/search.py, best of {len(done.draws)} draws{halved} (seed {study.seed}"
        f"{''.join(f', {text}' for text in rest)}), {len(ended)} runs of {ended['epochs'].sum()} epochs together, "
        f"{done.runs['finished_at'].dropna().max()[:10]}; table {table.file.name}, draw {winner['draw']}",
        f"# score: val accuracy {again.mean():.4f} ± {again.std():.4f}, mean and sd of {len(again)} seeds",
        f"# settings: {' '.join(study.public) or 'none, all as in configs/train.yaml'}",
        *([f"# at the edge of its range: {', '.join(edges)}"] if edges else []),
        OmegaConf.to_yaml({"optimizer": {leaf: config.optimizer[leaf] for leaf in leaves}}),
    ]
    return "\n".join(lines)


def conclude(table: Table, done: Search, folder: Path, replace: bool) -> None:
    """Say who won and how near to the edge, and write the winner's config."""
    study = table.study
    if done.winner is None:
        raise SearchError(f"no draw finished: the space does not suit {study.name}")
    winner: Row = done.winner.to_dict()
    text, file = tuned(table, done, winner), folder / f"{study.tuned}.yaml"
    score = scores(done.confirmations(winner["draw"]))
    print(f"{study.name}: draw {winner['draw']} of {len(done.draws)}, val {score.mean():.2%} ± {score.std():.2%} "
          f"({len(score)} seeds)")  # fmt: skip
    shares = places(study.space, winner)
    for key, share in shares.items():
        edge = " <- at the edge, consider a wider range" if key in at_edge(shares) else ""
        print(f"  {key} = {winner[key]}, {share:.0%} of the way through {describe(study.space[key])}{edge}")
    there = file.read_text(encoding="utf-8") if file.exists() else ""
    if there and table.file.name not in there and not replace:
        print(f"{file.name} stays, for its numbers are from elsewhere; --replace writes these in their place:\n{text}")
    elif there != text:
        write_atomically(file, text)
        print(f"wrote {file}")
    if study.own_name:
        print(f"to use them: 'tuned={study.dataset}-${{model}}-${{optimizer}}'")


def positive(text: str) -> int:
    """Parse a number of draws or jobs."""
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


def main() -> None:
    """Run the command line; exit code 2 for a wrong setting, 1 if a run failed, 75 if interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("optimizer", help="a choice of configs/optimizer with a space in experiments/search/")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="the study's other settings, as for training: "
                        "dataset=... model=... trainer.epochs=... or a preset, +experiments/cnn=laptop")  # fmt: skip
    parser.add_argument("--set", nargs="*", default=[], action="extend", metavar="KEY=VALUE", help="the same")
    parser.add_argument("--budget", type=positive, default=16, help="number of draws (default 16)")
    parser.add_argument("--jobs", type=positive, default=1, help="runs at a time (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws, not of the runs (default 0)")
    parser.add_argument("--halving", action="store_true", help="train all draws for a quarter of the epochs, the "
                        "better half for half, the best quarter for all of them")  # fmt: skip
    parser.add_argument("--replace", action="store_true", help="let the winner replace tuned numbers from elsewhere")
    parser.add_argument("--dry-run", action="store_true", help="check all settings and say what would run")
    parser.add_argument("--tables", type=Path, default=ROOT / "results" / "search", help="folder of the tables")
    parser.add_argument("--tuned", type=Path, default=ROOT / "configs" / "tuned", help="folder of the winners")
    options = parser.parse_intermixed_args()
    try:
        with Workers(options.jobs) as workers:
            study = Study(options.optimizer, [*options.settings, *options.set], options.seed, workers)
            if options.halving and study.epochs < 4:
                raise SearchError(f"--halving needs trainer.epochs of 4 or more, not {study.epochs}")
            table = Table(study, options.tables, options.budget, options.halving, workers)
            cost = [f"{count} draws x {epochs} epochs" for count, epochs in table.stages]
            again = table.size - sum(count for count, _ in table.stages)
            print(f"{table.file.name}: {', '.join(cost)}, {again} runs of the best x {study.epochs} epochs", flush=True)
            first = [table.row(place, table.stages[0][1], SEED) for place in range(options.budget)]
            if options.dry_run:
                ended = sum(table.status(row) in ENDED for row in table.plan(first))
                print(f"{len(first)} draws: {ended} done, {len(first) - ended} to do")
                return
            table.add(first)
            view = View(table)
            with view.bar:
                done = search(table, view)
            conclude(table, done, options.tuned, options.replace)
    except (SearchError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Incomplete as error:
        print(f"missing:\n{error}\nthe same command runs what is missing", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from where it is saved", file=sys.stderr)
        sys.exit(REQUEUE)


if __name__ == "__main__":
    main()
