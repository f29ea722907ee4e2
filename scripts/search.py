"""Search an optimizer's hyper-parameters: draw, train each draw, score on validation images, write the winner down.

Every optimizer gets the same number of draws from a scrambled Halton sequence over its space in experiments/search/,
at the final number of epochs. Draws never see test. The table of draws is written before the first run; the same
command goes on where an interrupted search stopped. The winner becomes a file in configs/tuned/.
"""

import argparse
import json
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf
from rich.progress import track
from scipy.stats import qmc

ROOT = Path(__file__).resolve().parent.parent
EDGE = 0.05  # a winner within this share of the (log) range from its end is flagged


def draw(space: dict[str, dict[str, Any]], budget: int, seed: int) -> pd.DataFrame:
    """Draw `budget` points, one column per key; a smaller budget is a prefix of a larger one."""
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


def near_edge(space: dict[str, dict[str, Any]], best: pd.Series) -> list[str]:
    """Name the keys whose winning value lies at an end of its range."""
    flagged = []
    for key, spec in space.items():
        drawn = 1 - best[key] if spec.get("one_minus") else best[key]
        drawn = drawn * best[spec["times"]] if "times" in spec else drawn
        share = np.log(drawn / spec["low"]) / np.log(spec["high"] / spec["low"])
        if not EDGE <= share <= 1 - EDGE:
            flagged.append(key)
    return flagged


def train(choices: list[str], point: dict[str, Any], outputs: Path) -> dict[str, Any]:
    """Train one draw in a process of its own and return its summary; a finished one is only read."""
    overrides = [f"{key}={value!r}" for key, value in point.items()]
    command = [sys.executable, "-m", "rootfree.train", *choices, *overrides, "trainer.evaluate_test=false"]
    done = subprocess.run([*command, f"outputs={outputs}"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    run_id = next(word for word in done.stdout.split() if (outputs / word / "summary.json").exists())
    summary: dict[str, Any] = json.loads((outputs / run_id / "summary.json").read_text())
    return summary


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("optimizer", help="a space in experiments/search/")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE",
                        help="the study's other settings: dataset=... model=... trainer.epochs=...")  # fmt: skip
    parser.add_argument("--budget", type=int, default=16, help="number of draws (default 16)")
    parser.add_argument("--jobs", type=int, default=1, help="draws trained at a time (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws, not of the runs (default 0)")
    parser.add_argument("--outputs", type=Path, default=Path("outputs/search"), help="folder of the draws' runs")
    options = parser.parse_args()

    chosen = dict(word.split("=", 1) for word in options.set)
    model = chosen.get("model", "resnet8")
    loss = chosen.get("loss", "cross_entropy")
    suffix = "" if loss == "cross_entropy" else f"-{loss}"
    # a space of the model's and the loss's own goes before the model's, and that before the optimizer's
    spaces = ROOT / "experiments" / "search"
    names = (f"{model}-{options.optimizer}{suffix}", f"{model}-{options.optimizer}", options.optimizer)
    space_file = next((spaces / f"{n}.yaml" for n in names if (spaces / f"{n}.yaml").exists()), None)
    if space_file is None:
        parser.error(f"no search space for {options.optimizer!r}: there are "
                     f"{', '.join(sorted(f.stem for f in spaces.glob('*.yaml')))}")  # fmt: skip
    space: Any = OmegaConf.to_container(OmegaConf.load(space_file))
    name = f"{chosen.get('dataset', 'cluttered_digits')}-{model}-{options.optimizer}{suffix}"

    table = draw(space, options.budget, options.seed)
    file = ROOT / "results" / "search" / f"{name}.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(file, index_label="draw")
    choices = [f"optimizer={options.optimizer}", "tuned=none", *options.set]
    outputs = options.outputs.resolve()
    points = [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]
    pool = ThreadPoolExecutor(options.jobs)
    jobs = [pool.submit(train, choices, point, outputs) for point in points]
    try:
        summaries = [job.result() for job in track(jobs, f"search {name}")]
    finally:  # after Ctrl-C or a failure no further draw begins
        pool.shutdown(cancel_futures=True)

    table["status"] = [summary["status"] for summary in summaries]
    table["val_acc"] = [summary["val_acc"] if summary["status"] == "finished" else 0.0 for summary in summaries]
    table["run_id"] = [summary["run_id"] for summary in summaries]
    table.to_csv(file, index_label="draw")
    top = int(table["val_acc"].idxmax())
    best, winner = table.loc[top], summaries[top]
    flagged = near_edge(space, best)
    write_tuned(
        name,
        [*space, *chosen],
        winner,
        f"{options.budget} draws, seed {options.seed}, {' '.join(options.set)}",
        flagged,
    )
    print(f"{name}: best of {options.budget} has val {best['val_acc']:.2%}")
    print(f"wrote configs/tuned/{name}.yaml and {file.relative_to(ROOT)}")
    if flagged:
        print(f"at the edge of its range: {', '.join(flagged)}; consider a wider one")


def write_tuned(name: str, keys: list[str], winner: dict[str, Any], budget: str, flagged: list[str]) -> None:
    """Write the winner's optimizer settings as a config that follows the choice of data set, model and optimizer."""
    leaves = [key.split(".")[1] for key in keys if key.startswith("optimizer.")]
    tuned = {leaf: winner["config"]["optimizer"][leaf] for leaf in dict.fromkeys(leaves)}
    lines = [
        "# @package _global_",
        f"# source: scripts/search.py, {budget}",
        f"# run {winner['run_id']}, val accuracy {winner['val_acc']:.4f} (one seed)",
        *([f"# at the edge of its search range: {', '.join(flagged)}"] if flagged else []),
        OmegaConf.to_yaml({"optimizer": tuned}),
    ]
    (ROOT / "configs" / "tuned" / f"{name}.yaml").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
