"""The search: what is drawn, who wins, and one real search with draws that fail, kill their process, and are shared."""

import hashlib
import itertools
import json
import os
import re
import secrets
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import tiny
from forked import Forked
from omegaconf import OmegaConf
from test_configs import as_run
from test_trainer import wait_for

from rootfree.analysis.searches import Search, behind, best_of, read_search, read_searches, search_name
from rootfree.run.signals import Interrupted
from rootfree.search import HaltonSweeper
from rootfree.search_table import Range, at_edge, draw, read_space, rungs, shares
from rootfree.settings import RunConfig, SettingsError
from rootfree.sweep import Run

ROOT = Path(__file__).parents[1]
SPACES = sorted((ROOT / "experiments" / "search").glob("*.yaml"))
LR = {"optimizer.lr": Range(low=0.01, high=1.0)}


@pytest.mark.parametrize("file", SPACES, ids=lambda f: f.stem)
def test_draws_of_every_space(file: Path) -> None:
    space = read_space(file)
    rows = draw(space, 64, seed=3)
    assert rows[:24] == draw(space, 24, seed=3)  # equal budgets are prefixes
    assert rows != draw(space, 64, seed=4)
    table = pd.DataFrame(rows)
    assert not table.duplicated().any()
    for row in rows:
        found = shares(space, row)
        assert all(-0.03 <= share <= 1.03 for share in found.values()), found  # numbers are rounded
    for key, entry in space.items():
        drawn = 1 - table[key] if entry.one_minus else table[key]
        drawn = drawn * table[entry.times] if entry.times else drawn
        middle = np.log(drawn / entry.low) / np.log(entry.high / entry.low)
        counts, _ = np.histogram(middle.clip(0, 1), bins=8, range=(0, 1))
        assert counts.min() >= 4, "evenly spread over the logarithm"


def test_one_minus_and_times_by_hand() -> None:
    space = {**LR, "optimizer.beta2": Range(low=1e-4, high=1e-2, one_minus=True)}
    space["optimizer.weight_decay"] = Range(low=1e-6, high=1e-4, times="optimizer.lr")
    best = {"optimizer.lr": 0.1, "optimizer.beta2": 0.999, "optimizer.weight_decay": 1e-4}
    assert list(shares(space, best).values()) == pytest.approx([0.5, 0.5, 0.5])


@pytest.mark.parametrize(
    ("lr", "flagged"), [(0.0105, True), (0.013, False), (0.1, False), (0.78, False), (0.81, True), (1.0, True)]
)
def test_a_winner_at_the_edge_is_flagged(lr: float, flagged: bool) -> None:
    assert at_edge(shares(LR, {"optimizer.lr": lr})) == (["optimizer.lr"] if flagged else [])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"low": 1.0, "high": 0.1}, "must have low < high, not 1 and 0.1"),
        ({"low": 0.0, "high": 0.1}, "damping.low = 0.0 is not allowed: input should be greater than 0"),
        ({"low": 0.1, "high": 1.0, "hihg": 1.0}, "damping.hihg = 1.0 is not allowed: extra inputs"),
        ({"low": 0.1, "high": 1.0, "times": "optimizer.lr"}, "must stand above it"),
    ],
)
def test_a_wrong_space_is_named(tmp_path: Path, entry: dict[str, Any], message: str) -> None:
    file = tmp_path / "x.yaml"
    OmegaConf.save(OmegaConf.create({"damping": entry}), file)  # a key without a dot is its own parent
    with pytest.raises(ValueError, match=message) as caught:
        read_space(file)
    assert "damping" in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("budget", "epochs", "expected"),
    [
        (16, 12, [(16, 3), (8, 6), (4, 12)]),
        (24, 15, [(24, 4), (12, 8), (6, 15)]),
        (5, 4, [(5, 1), (3, 2), (2, 4)]),
        (1, 4, [(1, 1), (1, 2), (1, 4)]),
    ],
)
def test_halving_trains_few_for_long(budget: int, epochs: int, expected: list[tuple[int, int]]) -> None:
    assert rungs(budget, epochs, halving=True) == expected
    assert rungs(budget, epochs, halving=False) == [(budget, epochs)]


def test_best_of_k_is_the_mean_over_all_choices() -> None:
    values = [0.2, 0.9, 0.5, 0.5, 0.0, 0.7, 0.1]
    for k in range(1, 8):
        assert best_of(values, k) == pytest.approx(np.mean([max(c) for c in itertools.combinations(values, k)]))
    assert best_of(values, 1) == pytest.approx(np.mean(values))
    assert best_of(values, 7) == 0.9
    assert np.isnan(best_of(values, 8))
    assert np.isnan(best_of([], 1))


def table(*rows: tuple[int, int, int, float | None]) -> Search:
    """A table of (draw, epochs, seed, val. accuracy); None diverged. The learning rate is 0.1 x (draw + 1)."""
    runs = pd.DataFrame(rows, columns=["draw", "epochs", "seed", "val_acc"]).astype({"val_acc": float})
    return Search("d-m-sgd", runs.assign(status=runs["val_acc"].notna().map({True: "finished", False: "diverged"}),
                                         **{"optimizer.lr": 0.1 * (runs["draw"] + 1)}))  # fmt: skip


def test_the_winner_is_the_finalist_with_the_best_other_seeds() -> None:
    draws = [(0, 4, 100, 0.5), (1, 4, 100, 0.8), (2, 4, 100, None), (3, 4, 100, 0.7), (4, 4, 100, 0.6)]
    again = [(1, 4, s, 0.5) for s in (101, 102)] + [(3, 4, s, 0.6) for s in (101, 102)]
    assert list(table(*draws).ranked(4)["draw"]) == [1, 3, 4, 0, 2]
    lucky = table(*draws, *again, (4, 4, 101, 0.9), (4, 4, 102, None))  # a seed that diverges counts as 0
    assert list(lucky.finalists["draw"]) == [1, 3, 4]
    assert lucky.winner is not None
    assert lucky.winner["draw"] == 3
    assert table(*draws, *again).winner is None, "the third finalist was not run again"
    assert table((0, 4, 100, None)).winner is None


def test_with_halving_only_the_last_length_names_finalists() -> None:
    halved = table((0, 1, 100, 0.9), (1, 1, 100, 0.8), (2, 1, 100, 0.1), (0, 2, 100, 0.5), (1, 2, 100, 0.6),
                   (1, 4, 100, 0.7), (1, 4, 101, 0.65))  # fmt: skip
    assert list(halved.finalists["draw"]) == [1]
    assert list(halved.draws["val_acc"]) == [0.9, 0.8, 0.1]
    assert halved.epochs == 4


def test_an_arm_finds_the_search_that_chose_its_settings() -> None:
    run = {"dataset": "d", "model": "m", "optimizer": "sgd", "loss": "cross_entropy", "epochs": 4}
    first = table((0, 4, 0, 0.5), (1, 4, 0, 0.8))
    longer = Search("d-m-sgd-0123456789ab", table((0, 9, 0, 0.5), (1, 9, 0, 0.8)).runs)
    others = [Search(name, first.runs) for name in ("d-m-sgd_bf16", "d-m-sgd-rescaled_mse-0123456789ab", "d-m-adamw")]
    assert behind([longer, first, *others], run | {"config.optimizer.lr": 0.2}) == ("m", "sgd", first)
    assert behind([longer, *others], run | {"config.optimizer.lr": 0.2}) == ("m", "sgd", longer)
    twin = run | {"optimizer": "twin", "config.optimizer.lr": 0.2}
    assert behind([longer], twin) == ("m", "sgd", longer), "settings that were taken over"
    wider = run | {"model": "m_wide", "config.optimizer.lr": 0.2}
    assert behind([longer, *others], wider) == ("m", "sgd", longer), "a check of transfer"
    assert behind([longer, first, *others], run | {"config.optimizer.lr": 0.1}) is None, "no winner"
    betas = Search("d-m-sgd", first.runs.rename(columns={"optimizer.lr": "optimizer.betas.1"}))
    assert behind([betas], run | {"config.optimizer.betas": "[0.9, 0.2]"}) == ("m", "sgd", betas)


def test_published_tables_are_read() -> None:
    """And tuned numbers are those of the draw that their source names, which won its search."""
    found = {search.name: search for search in read_searches(ROOT / "results" / "search")}
    assert {"cluttered_digits-resnet8-sgd", "cluttered_digits-vit_mini-adamw"} <= found.keys()
    assert all(search.winner is not None for search in found.values())
    told = 0
    for file in (ROOT / "configs" / "tuned").glob("*.yaml"):
        source = re.search(r"table (\S+)\.csv, draw (\d+)", file.read_text())
        if search := found.get(source[1] if source else file.stem):  # the first generation has the tuned files' names
            chosen: Any = OmegaConf.to_container(OmegaConf.load(file))
            assert search.winner["optimizer.lr"] == chosen["optimizer"]["lr"]
            assert source is None or search.winner["draw"] == int(source[2])
            told += 1
    assert told > 20


def test_names_are_files() -> None:
    assert search_name("my photos/2", "resnet8", "sgd", "cross_entropy") == "my_photos_2-resnet8-sgd"
    assert search_name("cifar100", "resnet50", "sgd", "rescaled_mse") == "cifar100-resnet50-sgd-rescaled_mse"


class Fake(HaltonSweeper):
    """A search without training: `score` maps settings to an accuracy; None diverges, an error fails."""

    def __init__(self, folder: Path, score: Callable[[dict[str, str]], float | None], **settings: Any) -> None:
        super().__init__(**{"budget": 16, "halving": False, "seed": 0, "replace": False, **settings})
        self.folder, self.score, self.trained = folder, score, 0
        self.config = as_run("record.max_attempts=2").settings

    def compose(self, overrides: list[str]) -> RunConfig:
        run = as_run(*overrides)
        return replace(run, folders=[self.folder, *run.folders])

    def list_runs(self, rows: Sequence[list[str]]) -> list[Run]:
        ids = [hashlib.sha256(json.dumps(sorted(row)).encode()).hexdigest()[:12] for row in rows]
        return [Run(row, self.folder / "out" / name, name, None) for row, name in zip(rows, ids, strict=True)]

    def train(self, runs: Sequence[Run]) -> None:
        for run in runs:
            if not run.ended:
                run.folder.mkdir(parents=True, exist_ok=True)
                self.train_one(run.folder, dict(word.split("=", 1) for word in run.overrides))

    def train_one(self, folder: Path, settings: dict[str, str]) -> None:
        failed = folder / "failure.json"
        attempts = json.loads(failed.read_text())["attempts"] if failed.exists() else 0
        if attempts == 2:
            return
        try:
            accuracy = self.score(settings)
        except RuntimeError as error:
            failed.write_text(json.dumps({"status": "failed", "message": str(error), "attempts": attempts + 1}))
            return
        self.trained += 1
        status = "finished" if accuracy is not None else "diverged"
        summary = {"status": status, "val_acc": accuracy, "finished_at": "2026-01-02T00:00:00+00:00"}
        (folder / "summary.json").write_text(json.dumps(summary))


def near(best: float) -> Callable[[dict[str, str]], float | None]:
    """The nearer the learning rate is to `best`, the better; above 0.4 it diverges."""

    def score(run: dict[str, str]) -> float | None:
        lr = float(run["optimizer.lr"])
        return None if lr > 0.4 else 0.9 - abs(np.log(lr / best)) / 10 + int(run["seed"]) % 100 * 1e-4

    return score


def searched(folder: Path, budget: int, score: Any, halving: bool = False, *words: str) -> tuple[Path, Search, Fake]:
    """A whole search with fake runs: its table's file, its content, and the sweeper."""
    sweeper, before = Fake(folder, score, budget=budget, halving=halving), set(folder.glob("search/*.csv"))
    sweeper.sweep(["optimizer=sgd", "trainer.epochs=8", f"outputs={folder / 'out'}", *words])
    after = set(folder.glob("search/*.csv"))
    (file,) = after - before or after
    return file, read_search(file), sweeper


def test_every_draw_has_the_same_rule_and_only_what_is_missing_is_trained(tmp_path: Path) -> None:
    file, done, sweeper = searched(tmp_path, 8, near(0.1))
    assert sweeper.trained == len(done.runs) == 8 + 9
    assert set(done.draws["status"]) == {"finished", "diverged"}
    text, winner = file.read_text(), tmp_path / "tuned" / "cluttered_digits-resnet8-sgd.yaml"
    tuned = winner.read_text()
    assert re.search(r"best of 8 draws \(seed 0, \d diverged\), 17 runs of 136 epochs together, 2026-01-02", tuned)

    shutil.rmtree(tmp_path / "out")  # the table remembers
    _, same, sweeper = searched(tmp_path, 8, near(0.1))
    assert sweeper.trained == 0
    assert (file.read_text(), winner.read_text()) == (text, tuned)
    pd.testing.assert_frame_equal(same.runs, done.runs)

    larger, more, sweeper = searched(tmp_path, 12, near(0.1))
    assert larger == file, "a larger budget goes on in the same table"
    again = len(set(more.finalists["draw"]) - set(done.finalists["draw"]))
    assert sweeper.trained == 4 + 3 * again
    with pytest.raises(SettingsError, match=r"has 12 draws: ask for hydra\.sweeper\.budget=12 or more"):
        searched(tmp_path, 8, near(0.1))

    other, _, _ = searched(tmp_path, 8, near(0.1), False, "trainer.clean_size=100")
    assert other != file, "other settings have a table of their own"
    assert "best of 12 draws" in winner.read_text(), "numbers of another table are not replaced"


def test_a_grid_of_optimizers_has_a_search_for_each(tmp_path: Path) -> None:
    sweeper = Fake(tmp_path, near(0.1), budget=2)
    sweeper.sweep(["optimizer=sgd,rf_rmsprop", "trainer.epochs=8", f"outputs={tmp_path / 'out'}"])
    names = [file.stem for file in sorted((tmp_path / "tuned").iterdir())]
    assert names == ["cluttered_digits-resnet8-rf_rmsprop", "cluttered_digits-resnet8-sgd"]
    assert sweeper.trained == 2 * (2 + 6)


def test_halving_spends_less_on_the_worse(tmp_path: Path) -> None:
    file, done, sweeper = searched(tmp_path, 16, near(0.1), True)
    assert "-halving-" in file.name
    first = done.runs[done.runs["seed"] == 100]
    assert list(first.groupby("epochs").size().items()) == [(2, 16), (4, 8), (8, 4)]
    assert sweeper.trained == 16 + 8 + 4 + 9
    assert done.winner is not None
    assert abs(np.log(done.winner["optimizer.lr"] / 0.1)) == np.abs(np.log(done.draws["optimizer.lr"] / 0.1)).min()


def test_failed_draws_are_named_and_in_the_end_count_as_the_worst(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def score(run: dict[str, str]) -> float | None:
        if 0.2 < float(run["optimizer.lr"]) < 0.3:
            raise RuntimeError("doomed")
        return near(0.1)(run)

    with pytest.raises(SystemExit) as end:
        searched(tmp_path, 4, score)
    assert end.value.code == 1
    assert re.search(r"draw 0, seed 100, run \w{12}: doomed", capsys.readouterr().err)
    assert not (tmp_path / "tuned").exists()
    _, done, _ = searched(tmp_path, 4, score)  # as often as is allowed
    assert done.draws["status"].iloc[0] == "failed"
    assert "draw 0 counts as the worst" in capsys.readouterr().out
    assert "1 diverged, 1 failed" in (tmp_path / "tuned" / "cluttered_digits-resnet8-sgd.yaml").read_text()
    with pytest.raises(SettingsError, match="no draw finished"):
        searched(tmp_path / "hopeless", 4, lambda run: None)


def test_the_edge_is_told_and_written_and_numbers_from_elsewhere_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tuned" / "cluttered_digits-resnet8-sgd.yaml"
    file.parent.mkdir()
    file.write_text("# source: a paper\n")
    searched(tmp_path, 24, near(0.001))
    assert file.read_text() == "# source: a paper\n"
    assert "its numbers are from elsewhere. hydra.sweeper.replace=true" in capsys.readouterr().out
    file.unlink()
    searched(tmp_path, 24, near(0.001))
    assert "# at the edge of its range: optimizer.lr\n" in file.read_text()
    assert "at the edge, consider a wider range" in capsys.readouterr().out
    assert str(tmp_path) not in file.read_text()


@pytest.mark.parametrize(
    ("words", "table", "tuned"),
    [
        (["dataset=cifar10_jpeg"], "cifar10-jpeg", "cifar10_jpeg"),
        (["dataset=image_folder", "dataset.root=/photos", "dataset.name='my photos'"], "my_photos", "my_photos"),
    ],
    ids=["a choice whose yaml names the data otherwise", "a folder whose name has a space"],
)
def test_tuned_numbers_follow_the_choice_of_data_and_the_hint_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], table: str, tuned: str
) -> None:
    file, _, _ = searched(tmp_path, 2, near(0.1), False, *words)
    assert file.name.startswith(f"{table}-resnet8-sgd-"), "a table has the name that records have"
    assert [file.name for file in (tmp_path / "tuned").iterdir()] == [f"{tuned}-resnet8-sgd.yaml"]
    if hint := re.search(r"to use them: '(.+)'", capsys.readouterr().out):
        run = as_run(*words, hint[1], f"hydra.searchpath=[file://{tmp_path}]")
        assert run.tuned == f"{tuned}-resnet8-sgd"
        assert run.file_of("tuned") == tmp_path / "tuned" / f"{tuned}-resnet8-sgd.yaml"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("seed=3", "seed=3: a search sets seed itself"),
        ("tuned=none", "a search sets tuned itself"),
        ("optimizer.lr=0.1", "optimizer.lr is drawn"),
        ("optimizer=if_shampoo_bf16", "no search space for if_shampoo_bf16 on resnet8"),
    ],
    ids=["seed", "tuned", "what is drawn", "no space"],
)
def test_what_a_search_cannot_do_is_refused(tmp_path: Path, word: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        searched(tmp_path, 2, near(0.1), False, word)


def test_a_search_that_is_stopped_keeps_what_ended(tmp_path: Path) -> None:
    """And no further draw is begun, and none counts as failed."""
    scored: list[Any] = []

    def score(run: dict[str, str]) -> float | None:
        scored.append(run)
        if len(scored) == 3:
            raise Interrupted("SIGINT")
        return near(0.1)(run)

    with pytest.raises(Interrupted):
        searched(tmp_path, 8, score)
    (file,) = tmp_path.glob("search/*.csv")
    assert list(read_search(file).runs["status"].notna()) == [True, True, *[False] * 6]
    _, done, sweeper = searched(tmp_path, 8, near(0.1))
    assert sweeper.trained == len(done.runs) - 2


DOOMED = """
import os, signal, torch

class Doomed(torch.optim.SGD):
    def step(self, closure=None):
        lr = str(self.param_groups[0]["lr"]) if self.state else None  # from the second step on
        if lr in os.environ.get("RAISES", "").split():
            raise RuntimeError("doomed")
        if lr in os.environ.get("KILLS", "").split():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(closure)
"""


class Command:
    """The search on the photos, in a folder of its own."""

    def __init__(self, photos: Path, folder: Path) -> None:
        (folder / "doomed.py").write_text(DOOMED)
        (folder / "mine").mkdir()
        self.folder, self.photos = folder, photos

    def start(self, *words: str, **doom: str) -> Forked:
        own = [f"--config-dir={self.folder / 'mine'}", "-m", "hydra/sweeper=halton", "optimizer=sgd"]
        settings = [*tiny(self.photos), "trainer.epochs=1", "schedule=constant", f"outputs='{self.folder / 'out put'}'"]
        if not any("+experiments" in word for word in words):
            settings.append("optimizer._target_=doomed.Doomed")
        output = self.folder / secrets.token_hex(4)
        return Forked("train", *own, *settings, *words, output=output, PYTHONPATH=f"{self.folder}:{ROOT}", **doom)

    def run(self, *words: str, **doom: str) -> tuple[int, str]:
        with self.start(*words, **doom) as process:
            return process.wait(), process.output.read_text()

    @property
    def ended(self) -> dict[str, int]:
        """The runs that ended, and when."""
        return {f.parent.name: f.stat().st_mtime_ns for f in (self.folder / "out put").glob("*/summary.json")}

    def table(self) -> Search:
        (file,) = (self.folder / "mine" / "search").glob("*.csv")
        return read_search(file)


def test_a_search_loses_nothing_and_does_nothing_twice(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    command = Command(photos, tmp_path)
    lrs = [str(row["optimizer.lr"]) for row in draw(read_space(ROOT / "experiments" / "search" / "sgd.yaml"), 4, 0)]
    budget, two = "hydra.sweeper.budget=4", ["hydra/launcher=local", "hydra.launcher.n_jobs=2"]

    # a draw that raises and one that kills its process: the search ends, and the same command goes on
    code, printed = command.run(budget, *two, RAISES=lrs[0], KILLS=lrs[1])
    assert code == 1, printed
    assert "draw 0, seed 100, run" in printed
    assert "the launcher failed" in printed
    assert "the same command runs what is missing" in printed
    assert list(command.table().runs["draw"]) == [0, 1, 2, 3], "written before the first run"
    assert not (tmp_path / "mine" / "tuned").exists()
    first = command.ended
    assert len(first) <= 2

    # two commands at once share what is missing; no run is trained again
    pair = [command.start(budget), command.start(budget)]
    for process in pair:
        with process:
            assert process.wait() == 0, process.output.read_text()
    second, done = command.ended, command.table()
    assert len(second) == len(done.runs) == 4 + 9
    assert first.items() <= second.items()
    assert set(done.runs["run_id"]) == set(second)
    assert sorted(done.runs["seed"].unique()) == [100, 101, 102, 103]
    summaries = [json.loads(f.read_text()) for f in (tmp_path / "out put").glob("*/summary.json")]
    assert all(s["test_acc"] is None and s["purpose"] == "search" for s in summaries)
    text = (tmp_path / "mine" / "tuned" / "photos-resnet8-sgd.yaml").read_text()
    assert done.winner is not None
    assert OmegaConf.create(text).optimizer.lr == done.winner["optimizer.lr"]
    again = done.confirmations(done.winner["draw"])["val_acc"]
    assert f"val accuracy {again.mean():.4f} ± {again.std():.4f}, mean and sd of 3 seeds" in text
    assert "best of 4 draws (seed 0), 13 runs" in text
    assert "trainer.epochs=1" in text
    assert str(photos) not in text
    assert str(tmp_path) not in text

    code, printed = command.run(budget)
    assert code == 0, printed
    assert command.ended == second, "nothing is trained twice"


def test_a_wrong_setting_ends_a_search_in_a_line(photos: Path, tmp_path: Path) -> None:
    code, printed = Command(photos, tmp_path).run("trainer.epoch=3")
    assert code == 2
    assert printed.startswith("error: trainer.epoch = 3 is no argument of")
    assert printed.count("\n") == 1
    assert not list((tmp_path / "mine").iterdir())


def test_a_search_in_a_preset_halved_and_interrupted_by_ctrl_c(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    command = Command(photos, tmp_path)
    sweeper = ["hydra.sweeper.budget=2", "hydra.sweeper.halving=true", "hydra/launcher=local"]
    plan = "2 draws x 100 epochs, 1 draws x 200 epochs, 1 draws x 400 epochs, 3 runs of the best x 400 epochs"
    with command.start(*sweeper, "+experiments/cnn=laptop", "trainer.epochs=400") as process:
        wait_for(lambda: list((tmp_path / "out put").glob("*/checkpoint.pt")))
        assert plan in process.output.read_text()
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.wait() == 75, process.output.read_text()
        assert "Traceback" not in process.output.read_text()
        failures = list((tmp_path / "out put").glob("*/failure.json"))
        assert {json.loads(file.read_text())["status"] for file in failures} == {"interrupted"}
        wait_for(lambda: not alive(process.pid))  # no process is left


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
