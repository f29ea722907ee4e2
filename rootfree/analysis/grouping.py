"""Which runs make a study: those of one preset that share all settings but optimizer and seed."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rootfree.analysis.searches import Search, behind, elsewhere
from rootfree.analysis.tables import Study, fits
from rootfree.analysis.tuned import retired, settings


def studies(
    runs: pd.DataFrame,
    curves: pd.DataFrame,
    searches: pd.DataFrame | None = None,
    tables: Sequence[Search] = (),
    wanted: Mapping[str, Sequence[str]] = {},
    root: Path | None = None,
) -> list[Study]:
    """Group runs into studies. Searches count as tuning budget only, smoke runs only where there is nothing else.

    Args:
        runs: Rows of `runs.csv`.
        curves: Rows of `curves.csv`.
        searches: Rows of another `runs.csv` whose searches count, too: what a reproduction builds on.
        tables: The tables of searches.
        wanted: Arms that a preset's study has even where another preset asked for those runs first.
        root: Folder of `configs`, which say what settings stand for an arm today. Where they do not, or there is none,
            those of the run that ended last do.
    """
    known = runs if searches is None else pd.concat([runs, searches]).drop_duplicates("run_id")
    searched = known[known["purpose"] == "search"].groupby(["dataset", "model", "optimizer"]).size().to_dict()
    results = runs[runs["purpose"] != "search"]
    smoke = (results["purpose"] == "smoke") | (results["scale"] == "smoke")
    results = results if smoke.all() else results[~smoke]
    results = results.assign(unrest=results["run_id"].map(_unrest(curves)), setting=settings(results))
    results = results.assign(
        **_bits(results), retired=retired(results, root)
    ).copy()  # in one block per type: slices are cheap
    made = []
    for _, alike in results.groupby("study", sort=True):
        for (preset, _), group in alike.groupby(["preset", "scale"], sort=True, dropna=False):
            others = alike[~alike["run_id"].isin(group["run_id"]) & ~alike["retired"]]
            outdated = bool(group["retired"].all())
            own = _current(group if outdated else group[~group["retired"]])
            current = _with_borrowed(own, others, wanted.get(preset, ()))
            budgets: dict[str, str] = {}
            found: dict[str, Search] = {}
            for arm, rows in current.groupby("arm"):
                name, run = str(arm), rows.iloc[0].to_dict()
                spent, notes = searched.get((run["dataset"], run["model"], name), 0), []
                if tuned := behind(tables, run):
                    spent = max(spent, len(tuned[-1].runs))  # the runs of a search may be unpublished
                    notes = elsewhere(name, run, *tuned, known)
                    found |= {} if notes else {name: tuned[-1]}
                if spent:
                    budgets[name] = f"{spent} ({', '.join(notes)})" if notes else str(spent)
            left = group[~group["run_id"].isin(own["run_id"])]
            shown = curves.merge(current[["run_id", "arm", "status"]], on="run_id")
            made.append(Study(current, shown, budgets, retired=left, outdated=outdated, searches=found))
    return sorted(
        (_detailed(study, made) for study in made), key=lambda study: (not study.preset, study.title, study.slug)
    )


def _detailed(study: Study, made: Sequence[Study]) -> Study:
    """Let a study say in what it differs from others with its title."""
    first = study.runs.iloc[0]
    namesakes = [other.runs.iloc[0] for other in made if other.title == study.title]
    columns = ("loss", "schedule", "batch_size")
    told = [key for key in columns if any(other.get(key) != first.get(key) for other in namesakes)]
    return replace(study, detail="".join(f", {key.replace('_', ' ')} {first[key]}" for key in told))


def _bits(results: pd.DataFrame) -> dict[str, Any]:
    """The losses of runs on text in bits per character, by which texts and tables of counts are compared."""
    text = results.get("config.dataset.context", pd.Series(index=results.index)).notna()
    losses = {"test_bits": "test_loss", "gap_bits": "gap_loss"}
    return {name: (results[loss] / np.log(2)).where(text) for name, loss in losses.items() if loss in results}


def _unrest(curves: pd.DataFrame) -> pd.Series:
    """Per run the mean absolute change of validation accuracy between epochs, over the last quarter of its curve."""
    if curves.empty or "val_acc" not in curves:
        return pd.Series(dtype=float)
    run = curves["run_id"]
    change = curves["val_acc"].diff().abs().where(run.eq(run.shift()))
    late = curves["epoch"] > 0.75 * curves.groupby("run_id")["epoch"].transform("max")
    return change[late].groupby(run[late]).mean()


def _current(group: pd.DataFrame) -> pd.DataFrame:
    """Per arm the setting of the run that finished last, and of equal seeds the later run."""
    when = pd.to_datetime(group["finished_at"], utc=True, format="ISO8601")
    ordered = group.assign(when=when).sort_values(["when", "run_id"], na_position="first")
    latest = ordered.groupby("arm")["setting"].transform("last")
    ordered = ordered[ordered["setting"] == latest].drop_duplicates(["arm", "seed"], keep="last")
    return ordered.drop(columns="when").sort_values(["arm", "seed"]).reset_index(drop=True)


def _with_borrowed(own: pd.DataFrame, others: pd.DataFrame, wanted: Sequence[str]) -> pd.DataFrame:
    """A preset's runs with those it shares with others: a run is made once, and names the preset that came first.

    They are runs with the settings of one of its arms, at further seeds; arms that are wanted by their plain name, with
    what settings the preset's own arms share, if there are such; and arms that are wanted with a setting and otherwise
    equal one of its own, as `optimizer.init=1` does the defaults, or which it has none of, and whose plain arm has that
    setting.
    """
    if others.empty:
        return own
    names = dict(zip(own["setting"], own["arm"], strict=True))
    parts = [own, others.assign(arm=others["setting"].map(names)).dropna(subset="arm")]
    for choice in [option for arm in wanted for option in arm.split(" | ")]:
        if choice in set(own["arm"]) or (" " in choice and fits(own, choice).any()):
            continue
        optimizer, *words = choice.split()
        kin, same = others[fits(others, choice)], own[own["optimizer"] == optimizer]
        if not words or same.empty:
            found = _nearest(kin[kin["arm"] == optimizer], own)
        else:
            free = [f"config.{word.partition('=')[0]}" for word in words]
            mine, theirs = (settings(runs.drop(columns=free, errors="ignore")) for runs in (same, kin))
            found = kin[theirs.isin(set(mine))]
        if not found.empty:
            parts.append(_current(found))
    runs = pd.concat(parts).drop_duplicates("run_id").drop_duplicates(["arm", "seed"])
    preset = own[["preset", "scale"]].iloc[0].to_dict()
    return runs.assign(**preset).sort_values(["arm", "seed"]).reset_index(drop=True)


def _nearest(candidates: pd.DataFrame, own: pd.DataFrame) -> pd.DataFrame:
    """The candidates that agree with most of the optimizer settings that are one for all of a preset's own runs."""
    hyper = [column for column in own if column.startswith("config.optimizer.")]
    shared = [column for column in hyper if own[column].nunique(dropna=False) == 1]
    agreeing = (candidates[shared] == own[shared].iloc[0]).sum(axis=1)
    return candidates[agreeing == agreeing.max()]
