"""The tables of hyper-parameter searches: which draw won, and what a smaller budget would have found.

A table has a row per run, in the order of the search. The first row of a draw holds the score that all draws have; with
successive halving the better ones come again with more epochs, and the finalists with seeds of their own.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

# In what a search may differ from the runs that have its settings, beside data set, model and loss.
SETTING = ["epochs", "schedule", "batch_size", "config.dataset.train_size", "config.model.stem_stride"]
EMPTY: Any = {"keep_default_na": False, "na_values": [""]}  # how tables are read: data may be called NA, or null
FINALISTS = 3  # draws that are run again, with other seeds, before the winner is named
SETTLED = ("finished", "diverged", "failed")  # failed: as often as is allowed


@dataclass(frozen=True)
class Search:
    """One search: its file's name without ending, and its table."""

    name: str
    runs: pd.DataFrame

    @property
    def keys(self) -> list[str]:
        """What was drawn."""
        return [column for column in self.runs if column.startswith("optimizer.")]

    @cached_property
    def draws(self) -> pd.DataFrame:
        """The first run of each draw."""
        return self.runs.drop_duplicates("draw")

    @property
    def epochs(self) -> int:
        """Epochs of the final runs; 0 where an old table does not tell."""
        return int(self.runs["epochs"].max())

    def ranked(self, epochs: int) -> pd.DataFrame:
        """The draws that ended a run of that length, best first; a run that did not finish is below all that did."""
        first_seed = self.runs["seed"].iloc[0]
        chosen = self.runs["epochs"].eq(epochs) & self.runs["seed"].eq(first_seed) & self.runs["status"].isin(SETTLED)
        rows = self.runs[chosen]
        order = pd.DataFrame({"finished": rows["status"] == "finished", "score": scores(rows), "draw": rows["draw"]})
        return rows.loc[order.sort_values(["finished", "score", "draw"], ascending=[False, False, True]).index]

    @property
    def finalists(self) -> pd.DataFrame:
        """The best draws at full length; one that did not finish is none of them."""
        ranked = self.ranked(self.epochs)
        return ranked[ranked["status"] == "finished"].head(FINALISTS)

    def confirmations(self, draw: int) -> pd.DataFrame:
        """A finalist's runs with other seeds than the one that chose it."""
        again = self.runs["seed"].ne(self.runs["seed"].iloc[0]) & self.runs["status"].isin(SETTLED)
        return self.runs[self.runs["draw"].eq(draw) & self.runs["epochs"].eq(self.epochs) & again]

    @cached_property
    def winner(self) -> pd.Series | None:
        """The finalist with the best mean over its confirmations (in an old table, which has none, the best draw)."""
        finalists = self.finalists
        if finalists.empty:
            return None
        means = [scores(self.confirmations(draw)).mean() for draw in finalists["draw"]]
        if self.runs["seed"].nunique() == 1:
            return finalists.iloc[0]
        return None if np.isnan(means).any() else finalists.iloc[int(np.argmax(means))]

    def chose(self, optimizer: dict[str, Any]) -> bool:
        """Whether an optimizer's settings (`config.optimizer.lr`: value) are those of the winner."""
        return self.winner is not None and all(_value(optimizer, key) == self.winner[key] for key in self.keys)


def scores(runs: pd.DataFrame) -> pd.Series:
    """Validation accuracies; a run that did not finish has none of it."""
    return runs["val_acc"].where(runs["status"] == "finished", 0.0).astype(float)


def best_of(values: Sequence[float] | np.ndarray, k: int) -> float:
    """The expected best of k of these draws, exactly: its mean over all choices of k of them; NaN for k > n.

    Dodge et al. (2019), "Show Your Work", choose with replacement, as if the draws were the whole distribution, which
    is biased downwards for k near n; without, the best of all n is the best that was found.
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    n = ordered.size
    if not 1 <= k <= n:
        return float("nan")
    # the i-th smallest is the best of those choices that take the other k - 1 from the i below it (i from 0)
    return float(sum(value * (comb(i, k - 1) / comb(n, k)) for i, value in enumerate(ordered)))


def chance_ahead(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray, k: int) -> float:
    """The chance that the best of k of the draws `a` is above the best of k of `b`, ties shared; NaN for k > n."""
    if not 1 <= k <= min(len(a), len(b)):
        return float("nan")
    (best_a, chance_a), (best_b, chance_b) = (
        (np.sort(np.asarray(values, dtype=float)), [comb(i, k - 1) / comb(len(values), k) for i in range(len(values))])
        for values in (a, b)
    )
    ahead = (np.sign(best_a[:, None] - best_b) + 1) / 2
    return float(np.asarray(chance_a) @ ahead @ np.asarray(chance_b))


def other_draws(search: Search, repeats: int, rng: np.random.Generator) -> np.ndarray:
    """What a search would have found had it drawn others: points of validation accuracy below the best that it found.

    Its draws are drawn again with replacement, `repeats` times; of each sample the best by its first seed is taken.
    """
    found = 100 * scores(search.draws).to_numpy()
    return found[rng.integers(found.size, size=(repeats, found.size))].max(axis=1) - found.max()


def search_name(dataset: str, model: str, optimizer: str, loss: str) -> str:
    """What the files of a search begin with: the cross entropy, which is usual, is not named."""
    parts = [re.sub(r"[^\w.-]", "_", dataset), model, optimizer, *([] if loss == "cross_entropy" else [loss])]
    return "-".join(parts)


def read_search(file: Path) -> Search:
    """Read a table; those of old have a run per draw, and tell neither epochs nor seed."""
    runs = pd.read_csv(file, dtype={"run_id": str, "status": str, "val_acc": float}, **EMPTY)
    return Search(file.stem, runs.assign(**{key: 0 for key in ("epochs", "seed") if key not in runs}))


def read_searches(folder: Path) -> list[Search]:
    """Read all tables of a folder, if it is there.

    Raises:
        ValueError: a table cannot be read; the message names it.
    """
    found = []
    for file in sorted(folder.glob("*.csv")):
        try:
            found.append(read_search(file))
            found[-1].runs[["draw", "status", "val_acc", "run_id"]]
        except (ValueError, KeyError) as error:
            raise ValueError(f"{file} is not the table of a search: {error}") from error
    return found


def behind(searches: Sequence[Search], run: dict[str, Any]) -> tuple[str, str, Search] | None:
    """The search that a run (a row of `runs.csv`) has its settings from, if any: tuned model and optimizer, and table.

    The settings are its winner's. Those are the run's own model and optimizer, or such as its settings are taken from.
    """
    name = re.escape(search_name(run["dataset"], "*", "*", run["loss"])).replace(r"\*", r"(\w+)")
    fitting = []
    for search in searches:
        named = re.fullmatch(rf"{name}(-halving)?(-[0-9a-f]{{12}})?", search.name)
        if named and search.chose(run):
            model, optimizer = named[1], named[2]
            own = model == run["model"], optimizer == run["optimizer"]
            fitting.append((*own, search.epochs == run["epochs"], len(search.draws), model, optimizer, search))
    return max(fitting, key=lambda found: found[:4])[4:] if fitting else None


def elsewhere(
    arm: str, run: Mapping[str, Any], model: str, owner: str, search: Search, known: pd.DataFrame
) -> list[str]:
    """Whose the search behind an arm's settings was, if another's, and in what its runs differed from the arm's."""
    optimizer, *own = arm.split()
    notes = [f"{owner}'s"] if owner != optimizer else []
    notes += [f"on {model}"] if model != run["model"] else []
    winner = known[known["run_id"] == search.winner["run_id"]] if search.winner is not None else known.iloc[:0]
    its: dict[str, Any] = {"epochs": search.epochs or run["epochs"]}
    its |= {key: winner.iloc[0][key] for key in SETTING if len(winner) and key in known}
    for key, value in its.items():
        here = run.get(key)  # the searches may have columns that these runs lack
        if value != here and not (pd.isna(value) and pd.isna(here)):
            shown = "none" if pd.isna(value) else f"{value:g}" if isinstance(value, float) else value
            notes.append(f"at {key.rpartition('.')[2].replace('_', ' ')} {shown}")
    return notes + [f"without {word.removeprefix('optimizer.')}" for word in own]


def _value(run: dict[str, Any], key: str) -> Any:
    """The value of `optimizer.lr` or `optimizer.betas.1` in a row of `runs.csv`, where lists are JSON."""
    if (column := f"config.{key}") in run:
        return run[column]
    parent, _, place = key.rpartition(".")
    value = run.get(f"config.{parent}")
    return json.loads(value)[int(place)] if isinstance(value, str) else None
