"""The table of a search: what is drawn, how every run of it did, who leads, and what is written down at the end."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf
from pydantic import BaseModel, ConfigDict, PositiveFloat, TypeAdapter, ValidationError
from scipy.stats import qmc

from rootfree.analysis.searches import Search, read_search, scores, search_name
from rootfree.run.files import exclusive, read_json, write_atomically
from rootfree.run.lock import GUARD_SECONDS
from rootfree.run.status import ENDED
from rootfree.settings import CONFIGS, RunConfig, SettingsError

EDGE = 0.05  # a winner within this share of the (log) range from its end is flagged

Trial = dict[str, Any]  # of the table: a run
Place = tuple[int, int, int]  # of a row: draw, epochs, seed of training


class Range(BaseModel):
    """What a setting is drawn from, uniformly on a log scale: itself, 1 - it, or it times another one."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    low: PositiveFloat
    high: PositiveFloat
    one_minus: bool = False
    times: str | None = None

    def __str__(self) -> str:
        of = " of 1 - it" if self.one_minus else f" of it times {self.times}" if self.times else ""
        return f"{self.low:g} to {self.high:g}{of}"


Space = dict[str, Range]


def space_of(config: RunConfig) -> Space:
    """Read the space of a study: of its model and loss, or its model, or its optimizer; one of your own goes first.

    Raises:
        ValueError: there is none, or it is wrong; the message names the file.
    """
    model, optimizer, loss = (config.choices[group] for group in ("model", "optimizer", "loss"))
    names = (f"{model}-{optimizer}-{loss}", f"{model}-{optimizer}", optimizer)
    folders = [folder / "search" for folder in config.folders] + [CONFIGS / "experiments" / "search"]
    files = [folder / f"{name}.yaml" for folder in folders for name in names]
    file = next((file for file in files if file.exists()), None)
    if file is None:
        raise ValueError(f"no search space for {optimizer} on {model}: it goes into "
                         f"experiments/search/{optimizer}.yaml or {model}-{optimizer}.yaml")  # fmt: skip
    return read_space(file)


def read_space(file: Path) -> Space:
    """Read a search space and check it.

    Raises:
        ValueError: naming the file, the key and what is wrong.
    """
    try:
        space = TypeAdapter(Space).validate_python(OmegaConf.to_container(OmegaConf.load(file)))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ValueError(f"{file}: {key} = {first['input']!r} is not allowed: {first['msg'].lower()}") from error
    for place, (key, chosen) in enumerate(space.items()):
        if chosen.low >= chosen.high:
            raise ValueError(f"{file}: {key} must have low < high, not {chosen.low:g} and {chosen.high:g}")
        if chosen.times is not None and chosen.times not in list(space)[:place]:
            raise ValueError(f"{file}: {key} times {chosen.times}, which must stand above it")
    return space


def draw(space: Space, budget: int, seed: int) -> list[Trial]:
    """Draw `budget` points; those of a smaller budget are the first of a larger one's."""
    unit = qmc.Halton(len(space), scramble=True, rng=np.random.default_rng(seed)).random(budget)
    table = pd.DataFrame(index=range(budget))
    for column, (key, chosen) in enumerate(space.items()):
        value = chosen.low * (chosen.high / chosen.low) ** unit[:, column]
        value = value / table[chosen.times] if chosen.times else value
        digits = 4
        if chosen.one_minus:  # the nearer to 1, the more digits it takes to tell values apart
            value, digits = 1 - value, max(4, 1 + math.ceil(-math.log10(chosen.low)))
        table[key] = [float(f"{number:.{digits}g}") for number in value]
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def rungs(budget: int, epochs: int, halving: bool) -> list[tuple[int, int]]:
    """Return how many draws are trained for how many epochs, one stage after the other."""
    parts = (4, 2, 1) if halving else (1,)
    return [(-(-budget * part // parts[0]), -(-epochs // part)) for part in parts]


def shares(space: Space, best: Trial) -> dict[str, float]:
    """Return where in its (log) range each winning value lies: 0 is the low end, 1 the high end."""
    found = {}
    for key, chosen in space.items():
        drawn = 1 - best[key] if chosen.one_minus else best[key]
        drawn = drawn * best[chosen.times] if chosen.times else drawn
        found[key] = float(np.log(drawn / chosen.low) / np.log(chosen.high / chosen.low))
    return found


def at_edge(found: dict[str, float]) -> list[str]:
    """Name the keys whose winning value lies at an end of its range."""
    return [key for key, share in found.items() if not EDGE <= share <= 1 - EDGE]


class SearchTable:
    """A row per run, in a file that is whole at any time and loses nothing that it had.

    The file is named after the run of the first draw, and so after all that decides about it: data, model, settings,
    space, seed of the draws. The budget is no part of that, so a larger one finds its first draws here.

    Args:
        config: the study's, with its optimizer's defaults.
        space: what is drawn.
        budget: number of draws.
        seed: of the draws.
        halving: whether draws are halved.
    """

    def __init__(self, config: RunConfig, space: Space, budget: int, seed: int, halving: bool) -> None:
        self.config, self.space, self.seed, self.halving = config, space, seed, halving
        self.points = draw(space, budget, seed)
        names = [config.choices[group] for group in ("model", "optimizer", "loss")]
        self.dataset = str(config.settings.dataset.get("name", config.choices["dataset"]))
        self.name = search_name(self.dataset, *names)
        self.own_data = any(word.startswith("dataset.name=") for word in config.overrides)  # a folder of images
        # tuned numbers follow the choice of data set, whose yaml may call the data otherwise
        self.tuned_name = self.name if self.own_data else search_name(config.choices["dataset"], *names)
        self.rows: dict[Place, Trial] = {}
        self.file = Path()

    def name_file(self, first: str, folder: Path) -> None:
        """Name the file after the run of the first draw, and read what it has.

        Raises:
            SettingsError: it has more draws than are asked for.
        """
        self.file = folder / f"{self.name}{'-halving' if self.halving else ''}-{first}.csv"
        if not self.file.exists():
            return
        kept = read_search(self.file).runs.replace({np.nan: None})
        if (there := kept["draw"].nunique()) > len(self.points):
            raise SettingsError(f"{self.file.name} has {there} draws: ask for hydra.sweeper.budget={there} or more")
        for row in kept.to_dict("records"):
            status = row["status"] if row["status"] in ENDED else None  # what failed may be tried again
            place = row["draw"], row["epochs"], row["seed"]
            self.rows[place] = {**self.row(*place), **row, **self.points[row["draw"]], "status": status}

    def row(self, place: int, epochs: int, seed: int) -> Trial:
        """Return a draw's row for that length and seed, an empty one if there is none."""
        empty = dict.fromkeys(("status", "val_acc", "run_id", "finished_at"))
        new = {"draw": place, **self.points[place], "epochs": epochs, "seed": seed, **empty}
        return self.rows.get((place, epochs, seed), new)

    def add(self, rows: Iterable[Trial]) -> None:
        """Take rows into the table and the file."""
        self.rows |= {(row["draw"], row["epochs"], row["seed"]): row for row in rows}
        self.write()

    def look(self, row: Trial, folder: Path) -> None:
        """Take over how a row's run ended, if it did."""
        if not row["status"] and (summary := read_json(folder / "summary.json")):
            row |= {key: summary[key] for key in ("status", "val_acc", "finished_at")}

    def search(self) -> Search:
        """Return the table as the report reads it."""
        columns = ["draw", *self.space, "epochs", "seed", "status", "val_acc", "run_id", "finished_at"]
        return Search(self.file.stem, pd.DataFrame([*self.rows.values()], columns=columns).astype({"val_acc": float}))

    def ranked(self, epochs: int) -> list[int]:
        """Return the draws that ended a run of that length, best first."""
        return list(self.search().ranked(epochs)["draw"])

    def finalists(self) -> list[int]:
        """Return the draws that are trained again with other seeds."""
        return list(self.search().finalists["draw"])

    def write(self) -> None:
        """Write the file, with what other commands put into it in the meantime."""
        outputs = Path(self.config.settings.outputs).expanduser()
        for folder in (self.file.parent, outputs):
            folder.mkdir(parents=True, exist_ok=True)
        with exclusive(outputs / "tables.lock", GUARD_SECONDS):
            mine = self.search().runs
            if self.file.exists():
                both = pd.concat([mine, read_search(self.file).runs[mine.columns]], ignore_index=True)
                mine = both.drop_duplicates(["draw", "epochs", "seed"])  # what is ours is newer
            write_atomically(self.file, mine.to_csv(index=False, lineterminator="\n"))


def write_winner(table: SearchTable, folder: Path, settings: list[str], replace: bool) -> None:
    """Say who won and how near to the edge, and write the winner's numbers as a config.

    Args:
        table: of a search that ended.
        folder: of tuned numbers.
        settings: the study's, as words of a command line.
        replace: replace a file whose numbers are from elsewhere.

    Raises:
        SettingsError: no draw finished.
    """
    done = table.search()
    if done.winner is None:
        raise SettingsError(f"no draw finished: the space does not suit {table.name}")
    winner: Trial = done.winner.to_dict()
    score, found = scores(done.confirmations(winner["draw"])), shares(table.space, winner)
    print(f"{table.name}: draw {winner['draw']} of {len(done.draws)}, val {score.mean():.2%} ± {score.std():.2%} "
          f"({len(score)} seeds)")  # fmt: skip
    for key, share in found.items():
        edge = " <- at the edge, consider a wider range" if key in at_edge(found) else ""
        print(f"  {key} = {winner[key]}, {share:.0%} of the way through {table.space[key]}{edge}")
    text, file = _tuned(table, done, winner, settings), folder / f"{table.tuned_name}.yaml"
    there = file.read_text(encoding="utf-8") if file.exists() else ""
    if there and table.file.name not in there and not replace:
        print(
            f"{file.name} stays: its numbers are from elsewhere. hydra.sweeper.replace=true puts these there:\n{text}"
        )
    elif there != text:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(file, text)
        print(f"wrote {file}")
    if table.own_data:
        prefix = search_name(table.dataset, "", "", "cross_entropy").rstrip("-")
        loss = "" if table.config.choices["loss"] == "cross_entropy" else "-${loss}"
        print(f"to use them: 'tuned={prefix}-${{model}}-${{optimizer}}{loss}'")


def _tuned(table: SearchTable, done: Search, winner: Trial, settings: list[str]) -> str:
    """The winner's settings as a config that follows the choice of data set, model and optimizer."""
    again = scores(done.confirmations(winner["draw"]))
    fixed = [key for word in settings if (key := word.lstrip("+").partition("=")[0]).startswith("optimizer.")]
    optimizer: Any = OmegaConf.create({"optimizer": OmegaConf.to_container(table.config.settings.optimizer)})
    for key in table.space:
        OmegaConf.update(optimizer, key, winner[key])
    leaves = dict.fromkeys(key.split(".")[1] for key in [*fixed, *table.space])
    ended = done.runs[done.runs["status"].isin([*ENDED, "failed"])]
    rest = [f", {n} {s}" for s in ("diverged", "failed") if (n := int((done.draws["status"] == s).sum()))]
    edges, halved = at_edge(shares(table.space, winner)), ", halved twice" if table.halving else ""
    lines = [
        "# @package _global_",
        f"# source: our search, best of {len(done.draws)} draws{halved} (seed {table.seed}{''.join(rest)}), "
        f"{len(ended)} runs of {ended['epochs'].sum()} epochs together, "
        f"{done.runs['finished_at'].dropna().max()[:10]}; table {table.file.name}, draw {winner['draw']}",
        f"# score: val accuracy {again.mean():.4f} ± {again.std():.4f}, mean and sd of {len(again)} seeds",
        f"# settings: {' '.join(settings) or 'none, all as in configs/train.yaml'}",
        *([f"# at the edge of its range: {', '.join(edges)}"] if edges else []),
        OmegaConf.to_yaml({"optimizer": {leaf: optimizer.optimizer[leaf] for leaf in leaves}}),
    ]
    return "\n".join(lines)
