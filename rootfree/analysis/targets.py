"""How soon an arm is as good as the best baseline in the end: steps and time to target, within and over studies.

After AlgoPerf (Dahl et al. 2023, "Benchmarking Neural Network Training Algorithms"), whose performance profiles are
those of Dolan and More (2002). A target is a validation accuracy; `claims.yaml` fixes those of the published studies.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from rootfree.analysis.claims import Claims
from rootfree.analysis.tables import Study


def target(study: Study, claims: Claims) -> float:
    """The validation accuracy (%) to be reached: what is fixed for runs of this setting, else what these runs give.

    That is the median at the end of training of the baseline whose median is best; NaN where no baseline was run.
    """
    ends = [study.finished(arm, "val_acc").median() for arm in claims.baselines if study.size(arm)]
    return claims.targets.get(study.id, max(ends, default=float("nan")))


def to_target(studies: Sequence[Study], claims: Claims) -> pd.DataFrame:
    """The first epoch of every run that reaches its study's target.

    Returns:
        A row per run of every study with a target: study (its slug), setting (the hash that its runs share), target (in
        %), arm, seed, run_id, and epoch, step and seconds since the start of training, NaN where it never gets there.
    """
    found = []
    for study in studies:
        goal = target(study, claims)
        if np.isnan(goal) or study.curves.empty:
            continue
        there = study.curves[study.curves["val_acc"] >= goal].sort_values("epoch").drop_duplicates("run_id")
        times = there[["run_id", "epoch", "step", "seconds"]]
        runs = study.runs[["arm", "seed", "run_id"]].merge(times, on="run_id", how="left")
        runs = runs.assign(study=study.slug, setting=study.id, target=goal)
        found.append(runs)
    columns = ["study", "setting", "target", "arm", "seed", "run_id", "epoch", "step", "seconds"]
    return pd.concat(found, ignore_index=True)[columns] if found else pd.DataFrame(columns=columns)


def profile(table: pd.DataFrame) -> pd.DataFrame:
    """Performance profiles: in what share of studies an arm reaches the target within tau times the first arm's steps.

    Studies of one setting share runs: of each setting the one counts that has most arms by their plain names. An arm's
    time is the median over its runs, infinite where most never reach the target.

    Args:
        table: From `to_target`.

    Returns:
        A row per arm and tau at which its share grows: arm, tau, share, and studies, in how many it was run. An arm
        that reaches no target has none.
    """
    plain = table[~table["arm"].str.contains(" ")]
    sizes = plain.groupby(["setting", "study"])["arm"].agg(["nunique", "size"]).sort_values(["nunique", "size"])
    chosen = sizes.reset_index().drop_duplicates("setting", keep="last")["study"]
    counted = plain[plain["study"].isin(chosen)].fillna({"step": np.inf})
    times = counted.pivot_table("step", "study", "arm", aggfunc="median")
    ratios = times.div(times.min(axis=1), axis=0).where(times < np.inf)
    rows = []
    for arm, studies in times.notna().sum().items():
        taus = sorted(ratios[arm].dropna())
        rows += [(arm, tau, (place + 1) / studies, studies) for place, tau in enumerate(taus)]
    return pd.DataFrame(rows, columns=["arm", "tau", "share", "studies"]).drop_duplicates(["arm", "tau"], keep="last")
