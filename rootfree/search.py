"""A search as a Hydra sweeper: the same number of quasi-random draws for every method, scored on validation images.

The rule is one for all optimizers. `budget` points are drawn from a scrambled Halton sequence over the optimizer's
space, so that a smaller budget is the beginning of a larger one. Every draw is trained with the study's own number of
epochs; with `halving` all are trained for a quarter of it, the better half for half of it, and the best quarter for all
of it. The best 3 are trained again with 3 other seeds, and the best mean validation accuracy of those is the winner,
whose numbers become a file in `tuned/`. Nothing here ever sees test.

The table of the runs is there before the first is trained. Runs that ended are not run again, so the same command goes
on after an interruption, a larger budget adds draws, and commands that run at the same time share the work.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Gt

from rootfree.run.identity import LOCATIONS
from rootfree.run.status import ENDED, failure_of
from rootfree.settings import CONFIGS, RunConfig, SettingsError, check_value
from rootfree.sweep import ResumableSweeper, Run, grid, print_plan

if TYPE_CHECKING:
    from rootfree.search_table import SearchTable, Trial

# Seeds of training that no study uses: the runs that decide about test are not those that chose the settings.
SEED = 100
# Without the draw's own: being the best of many is a reason for its score with that seed to be too high.
CONFIRMING = (101, 102, 103)
# What a search sets itself.
OWN = {"tuned": "none", "trainer.evaluate_test": "false", "preset": "null", "scale": "null"}
INSTALLED = (
    CONFIGS.parent == Path(__file__).resolve().parent
)  # not in a checkout: the package's own files are left alone
PRIVATE = ("outputs", "device", "threads", "wandb", "record", "hydra")  # settings that say where things lie or run


class HaltonSweeper(ResumableSweeper):
    """A search for each optimizer of a command line.

    Args:
        budget: number of draws.
        halving: train all draws for a quarter of the epochs, the better half for half, the best quarter for all.
        seed: of the draws, not of the runs.
        replace: let the winner replace tuned numbers that came from elsewhere.
        params: a preset's grid, which a search does without.
    """

    def __init__(
        self, budget: int, halving: bool, seed: int, replace: bool, params: dict[str, str] | None = None
    ) -> None:
        super().__init__()
        check_value("hydra.sweeper.budget", budget, Annotated[int, Gt(0)])
        self.budget, self.halving, self.seed, self.replace = budget, halving, seed, replace

    def complete(self, arguments: list[str]) -> None:
        """Search; a grid of optimizers, models or data sets has a search for each of its cells.

        Raises:
            SettingsError: a setting cannot work, or an optimizer has no space.
        """
        for word in arguments:
            if (key := word.lstrip("+~").partition("=")[0]) in (*OWN, "seed"):
                raise SettingsError(f"{word}: a search sets {key} itself")
        for words in grid({}, arguments):
            if not any(word.startswith("outputs=") for word in words):
                words.append("outputs=outputs/search")
            self._search([*words, *(f"{key}={value}" for key, value in OWN.items())])

    def _search(self, words: list[str]) -> None:
        from rootfree import search_table  # with pandas, which a run does without
        from rootfree.analysis.searches import FINALISTS

        config = self.compose(words)
        epochs = int(config.settings.trainer.epochs)
        if self.halving and epochs < 4:
            raise SettingsError(f"hydra.sweeper.halving needs trainer.epochs of 4 or more, not {epochs}")
        try:
            space = search_table.space_of(config)
        except ValueError as error:
            raise SettingsError(str(error)) from error
        for word in words:
            if (key := word.lstrip("+").partition("=")[0]) in space:
                raise SettingsError(f"{word}: {key} is drawn, see the space of {config.choices['optimizer']}")
        stages = search_table.rungs(self.budget, epochs, self.halving)
        table = search_table.SearchTable(config, space, self.budget, self.seed, self.halving)
        table.name_file(self._runs(words, [table.row(0, epochs, SEED)])[0].folder.name, folder_of(config))
        again = min(FINALISTS, stages[-1][0]) * len(CONFIRMING)
        cost = ", ".join(f"{count} draws x {length} epochs" for count, length in stages)
        print(f"{table.file}: {cost}, {again} runs of the best x {epochs} epochs", flush=True)
        if self.config.plan:
            print_plan(self._runs(words, [table.row(place, stages[0][1], SEED) for place in range(self.budget)]))
            return
        standing = list(range(self.budget))
        for count, length in stages:
            self._train_rows(words, table, [table.row(place, length, SEED) for place in standing[:count]])
            standing = table.ranked(length)
        finalists = table.finalists()
        self._train_rows(words, table, [table.row(p, epochs, seed) for p in finalists for seed in CONFIRMING])
        folder = folder_of(config, "tuned")
        search_table.write_winner(table, folder, _public(words, config), self.replace)
        if INSTALLED:
            print(f"runs take its numbers with --config-dir={folder.parent}")

    def _runs(self, words: list[str], rows: Sequence["Trial"]) -> list[Run]:
        """Check the settings of rows of the table, and name their runs."""
        drawn = [[f"{key}={value!r}" for key, value in row.items() if key.startswith("optimizer.")] for row in rows]
        ends = [[f"trainer.epochs={row['epochs']}", f"seed={row['seed']}"] for row in rows]
        return self.list_runs([[*words, *draw, *end] for draw, end in zip(drawn, ends, strict=True)])

    def _train_rows(self, words: list[str], table: "SearchTable", rows: Sequence["Trial"]) -> None:
        """Train the rows that have not ended, and take into the table how they did, whoever trained them."""
        runs = self._runs(words, rows)
        for row, run in zip(rows, runs, strict=True):
            row["run_id"] = run.folder.name
        table.add(rows)
        try:
            self.train([run for row, run in zip(rows, runs, strict=True) if not row["status"]])
        finally:
            for row, run in zip(rows, runs, strict=True):
                table.look(row, run.folder)
            table.write()
        missing = []
        for row, run in zip(rows, runs, strict=True):
            failure = failure_of(run.folder)
            if not row["status"] and failure["attempts"] >= self.config.record.get("max_attempts", 3):
                row["status"] = "failed"
                print(f"draw {row['draw']} counts as the worst: {failure['message']}", flush=True)
            elif row["status"] not in (*ENDED, "failed"):
                missing.append(f"draw {row['draw']}, seed {row['seed']}, run {row['run_id']}: {failure['message']}")
        table.write()
        if missing:
            print("missing:", *missing, "the same command runs what is missing", sep="\n", file=sys.stderr)
            sys.exit(1)


def folder_of(config: RunConfig, kind: str = "search") -> Path:
    """Return where a search writes its table ("search") or winner ("tuned"): beneath --config-dir, if one was given."""
    own = [folder for folder in config.folders if folder.resolve() != CONFIGS]
    if INSTALLED and not own:
        own = [Path(config.settings.outputs).expanduser()]
    if own:
        return own[0] / kind
    return CONFIGS.parent / "results" / "search" if kind == "search" else CONFIGS / "tuned"


def _public(words: list[str], config: RunConfig) -> list[str]:
    """The study's settings without those that say where things lie or run, and without what every search sets."""
    split: list[tuple[Any, ...]] = [(word, *word.lstrip("+~").partition("=")[0].split(".")) for word in words]
    chosen = (f"optimizer={config.choices['optimizer']}", *(f"{key}={value}" for key, value in OWN.items()))
    return [word for word, *key in split if key[0] not in PRIVATE and key[-1] not in LOCATIONS and word not in chosen]
