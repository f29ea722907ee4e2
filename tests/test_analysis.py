"""The analysis on hand-made runs: tables and report; the verdicts are in test_claims.py."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rootfree.analysis.collect import collect, restore
from rootfree.analysis.grouping import studies
from rootfree.analysis.searches import read_searches
from rootfree.analysis.tables import read
from rootfree.run.status import headline, status_of

ROOT = Path(__file__).parents[1]
CLAIMS = ROOT / "experiments" / "claims.yaml"
Values = list[float | None]  # per seed; None is a run that diverged
ARMS: dict[str, Values] = {
    "sgd": [88.9, 89.1, 89.3, 88.7, 89.0],
    "adamw": [86.8, 87.1, 87.2, 86.9, 87.0],
    "rf_rmsprop": [89.0, 89.0, 89.4, 88.8, 88.9],
}


def write_run(outputs: Path, run_id: str, **changes: Any) -> Path:
    """A run folder as training leaves it; `changes` replace keys of the summary, `lr` is the optimizer's."""
    lr = changes.pop("lr", 0.1)
    arm, accuracy = changes.get("arm", "sgd"), changes.get("test_acc", 0.885)
    base: dict[str, Any] = {
        "run_id": run_id, "status": "finished", "purpose": "final", "preset": "cnn", "scale": "laptop",
        "dataset": "digits", "model": "resnet8", "loss": "cross_entropy", "optimizer": arm.split()[0],
        "schedule": "constant", "arm": arm, "seed": 0, "study": "77e1234", "epochs": 2, "steps": 20, "batch_size": 64,
        "seconds": 25.125, "images_per_second": 2400.5, "train_acc": 0.95, "val_acc": 0.88, "test_acc": accuracy,
        "train_loss": 0.15, "val_loss": 0.33, "test_loss": 0.1 + 0.2,
        "gap_acc": None if accuracy is None else 0.95 - accuracy, "gap_loss": 0.2,
        "parameters": 78042, "state_bytes": 312168, "commit": "1234567", "dirty": False,
        "versions": {"torch": "2.14.1"}, "device": "cpu: A, 1 thread", "finished_at": "2026-01-02T00:00:00+00:00",
        "command": f"python -m rootfree.train optimizer={arm}",
        "config": {"optimizer": {"_target_": "x.Y", "lr": lr, "betas": [0.9, 0.999]}, "seed": 0},
    }  # fmt: skip
    folder = outputs / run_id
    folder.mkdir(parents=True, exist_ok=True)
    epochs = [
        {"epoch": epoch, "step": 10 * epoch, "lr": lr, "loss": 1 / epoch, "train_acc": 0.9, "train_loss": 0.3 / epoch}
        | {"val_acc": 0.4 * epoch, "val_loss": 0.5, "gap_acc": 0.05, "images_per_second": 2400.5, "seconds": 12.5}
        for epoch in (1, 2)
    ]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(epoch)}\n" for epoch in epochs))
    (folder / "summary.json").write_text(json.dumps(base | changes))
    return folder


def write_study(outputs: Path, arms: dict[str, Values], **changes: Any) -> None:
    """A run per arm and accuracy; None is a run that diverged."""
    for arm, accuracies in arms.items():
        for seed, accuracy in enumerate(accuracies):
            outcome = {"status": "finished" if accuracy else "diverged", "test_acc": accuracy and accuracy / 100}
            run_id = f"{arm.replace(' ', '-')}-{seed}{changes.get('suffix', '')}"
            rest = {key: value for key, value in changes.items() if key != "suffix"}
            write_run(outputs, run_id, arm=arm, seed=seed, **outcome, **rest)


def test_collect_is_sorted_exact_and_stable(tmp_path: Path) -> None:
    """Ids that look like numbers stay text, floats keep their last digit, and nothing changes the second time."""
    outputs, into = tmp_path / "outputs", tmp_path / "tables"
    for run_id in ("b", "12e45", "a"):
        write_run(outputs, run_id)
    (outputs / "unfinished").mkdir()
    assert collect(outputs, into).rows == 3
    text = (into / "runs.csv").read_text()
    header = text.splitlines()[0].split(",")
    assert header[:6] == ["run_id", "purpose", "preset", "scale", "dataset", "model"]
    assert {"schema_version", "config.optimizer.lr", "versions.torch"} <= set(header)
    assert [line.split(",")[0] for line in text.splitlines()[1:]] == [
        "12e45",
        "a",
        "b",
    ]
    assert "0.30000000000000004" in text
    runs, curves = read(into)
    assert list(runs["run_id"]) == ["12e45", "a", "b"]
    assert list(runs["study"]) == ["77e1234"] * 3
    assert list(curves["run_id"]) == ["12e45"] * 2 + ["a"] * 2 + ["b"] * 2
    assert list(curves["epoch"]) == [1, 2] * 3
    assert runs["test_acc"].iloc[0] == 88.5
    assert runs["test_loss"].iloc[0] == 0.1 + 0.2
    before = {path.name: path.read_bytes() for path in into.iterdir()}
    collect(outputs, into)
    collect(outputs, into, merge=True)
    assert {path.name: path.read_bytes() for path in into.iterdir()} == before


def test_merge_keeps_what_is_published(tmp_path: Path) -> None:
    """Rows from elsewhere stay, as does the published row of a shared id; other numbers are told, other timings not."""
    there, here, into = tmp_path / "there", tmp_path / "here", tmp_path / "results"
    for run_id in ("a", "c", "d"):
        write_run(there, run_id)
    collect(there, into)
    write_run(here, "b", device="cpu: B, 1 thread")
    write_run(here, "c", test_acc=0.75, device="cpu: B, 1 thread")
    write_run(here, "d", seconds=1.0, device="cpu: B, 1 thread")
    (here / "b" / "metrics.jsonl").write_text('{"epoch": 1, "frozen_share": 0.5}\n')  # a column nobody had before
    result = collect(here, into, merge=True)
    assert (result.read, result.rows, len(result.differences)) == (3, 4, 1)
    assert "test_acc 0.885 -> 0.75" in result.differences[0]
    assert "cpu: A, 1 thread -> cpu: B" in result.differences[0]
    runs, curves = read(into)
    assert list(runs["run_id"]) == ["a", "b", "c", "d"]
    assert list(runs["test_acc"]) == [88.5] * 4
    assert list(curves["run_id"]) == ["a", "a", "b", "c", "c", "d", "d"]
    assert curves["frozen_share"].sum() == 0.5
    assert collect(here, into).rows == 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("summary.json", '{"run_id": "a", "sta', "summary.json is not a readable summary"),
        ("summary.json", '{"run_id": "a"}', "summary.json lacks purpose, preset"),
        ("summary.json", "[]", "summary.json lacks"),
        ("metrics.jsonl", '{"epoch": 1}\n{"epo', "metrics.jsonl, line 2, is not"),
        ("metrics.jsonl", '{"step": 1}\n', "metrics.jsonl, line 1, is not"),
    ],
)
def test_broken_files_are_named_and_write_nothing(tmp_path: Path, name: str, content: str, message: str) -> None:
    """A file that cannot be read ends it before the tables are touched."""
    (write_run(tmp_path / "outputs", "a") / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        collect(tmp_path / "outputs", tmp_path / "tables")
    assert not (tmp_path / "tables").exists()


def test_studies_choose_runs(tmp_path: Path) -> None:
    """Searches are budget, smoke needs to be alone, and of one arm the setting that finished last counts."""
    outputs = tmp_path / "outputs"
    write_study(outputs, ARMS)
    write_study(outputs, {"sgd": [70.0, 71.0]}, suffix="-old", lr=0.5, finished_at="2026-01-01T12:00:00+00:00")
    write_study(outputs, {"adamw optimizer.lr=1e-3": [None] * 3}, suffix="-search", purpose="search", study="other")
    write_study(outputs, {"sgd": [60.0]}, suffix="-smoke", purpose="smoke", scale="smoke", study="smoke")
    write_study(outputs, {"lion": [77.0]}, suffix="-adhoc", preset=None, scale=None, study="adhoc")
    collect(outputs, tmp_path)
    first, second = studies(*read(tmp_path))
    assert first.arms == ["adamw", "rf_rmsprop", "sgd"]
    assert first.left_out == {"sgd": 2}
    assert list(first.finished("sgd", "test_acc")) == pytest.approx(ARMS["sgd"])
    assert first.budgets == {"adamw": "3"}
    whole = read(tmp_path)
    runs = whole[0][whole[0]["purpose"] != "search"]
    assert studies(runs, whole[1])[0].budgets == {}
    assert studies(runs, whole[1], searches=whole[0])[0].budgets == {"adamw": "3"}  # known from published tables
    assert second.arms == ["lion"]
    assert second.preset is None
    assert second.scale is None
    runs, curves = read(tmp_path)
    (smoke,) = studies(runs[runs["study"] == "smoke"], curves)
    assert smoke.is_smoke


def test_studies_of_one_title_say_in_what_they_differ(tmp_path: Path) -> None:
    write_study(tmp_path / "outputs", {"sgd": [80.0]})
    write_study(tmp_path / "outputs", {"sgd": [70.0]}, suffix="-cosine", schedule="cosine", study="88e1234")
    write_study(tmp_path / "outputs", {"sgd": [60.0]}, suffix="-long", epochs=4, study="99e1234")
    collect(tmp_path / "outputs", tmp_path)
    settings = [study.setting.partition(", ")[2] for study in studies(*read(tmp_path))]
    assert settings == ["2 epochs, schedule constant", "2 epochs, schedule cosine", "4 epochs"]


def test_a_search_in_another_setting_is_told_and_not_drawn(tmp_path: Path) -> None:
    """Where the winner's run is known, what differs from an arm's runs is said beside the budget."""
    outputs, optimizer = tmp_path / "outputs", {"_target_": "x.Y", "lr": 0.1, "betas": [0.9, 0.999]}
    part = {"config": {"optimizer": optimizer, "dataset": {"train_size": 500, "flip": True, "fingerprint": "f"}}}
    whole = {"config": {"optimizer": optimizer, "dataset": {"train_size": None, "flip": True, "fingerprint": "g"}}}
    write_study(outputs, {"sgd": [80.0, 81.0]}, **part)
    write_study(outputs, {"sgd": [90.0, 91.0]}, preset="whole", study="99e1234", suffix="-whole", **whole)
    write_run(outputs, "a", purpose="search", preset=None, scale=None, study="55e1234", **part)
    collect(outputs, tmp_path)
    (tmp_path / "search").mkdir()
    table = (
        "draw,optimizer.lr,epochs,seed,status,val_acc,run_id\n0,0.1,2,100,finished,0.8,a\n0,0.1,2,101,finished,0.7,b\n"
    )
    (tmp_path / "search" / "digits-resnet8-sgd-0123456789ab.csv").write_text(table)
    small, large = studies(*read(tmp_path), tables=read_searches(tmp_path / "search"))
    assert (small.budgets["sgd"], large.budgets["sgd"]) == ("2", "2 (at train size 500)")
    assert [*small.searches] == ["sgd"]
    assert not large.searches
    runs, curves = read(tmp_path)
    older = runs[runs["preset"] == "whole"].drop(columns="config.dataset.train_size")
    (again,) = studies(older, curves, searches=runs, tables=read_searches(tmp_path / "search"))
    assert again.budgets == large.budgets


def test_restored_folders_are_collected_to_the_same_bytes_and_not_trained_again(tmp_path: Path) -> None:
    there, back = tmp_path / "outputs", tmp_path / "back"
    for seed, (arm, accuracy) in enumerate([("sgd", 0.885), ("adamw optimizer.eps=1e-10", None), ("rf_rmsprop", 0.9)]):
        write_run(there, f"run{seed}", arm=arm, test_acc=accuracy, seed=seed, versions={"python": "3.10"})
    write_run(there, "run3", status="diverged", test_acc=None, scale=None, earlier_code=[{"until_step": 3}])
    collect(there, tmp_path / "first")
    write_run(back, "run0", train_acc=0.5)  # what is there stays
    assert restore(tmp_path / "first", back) == 3
    write_run(back, "run0", arm="sgd", test_acc=0.885, versions={"python": "3.10"})
    collect(back, tmp_path / "second")
    for name in ("runs.csv", "curves.csv"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    assert {status_of(folder) for folder in back.iterdir()} == {"finished", "diverged"}
    assert headline(back / "run3").startswith("diverged: val 88.00%")


def test_the_published_runs_can_be_restored(tmp_path: Path) -> None:
    """One of every arm of every study."""
    runs, curves = (pd.read_csv(ROOT / "results" / name, dtype=str) for name in ("runs.csv", "curves.csv"))
    runs = runs.drop_duplicates(["study", "preset", "arm"]).dropna(axis=1, how="all").reset_index(drop=True)
    runs.to_csv(tmp_path / "runs.csv", index=False)
    curves[curves["run_id"].isin(runs["run_id"])].to_csv(tmp_path / "curves.csv", index=False)
    assert restore(tmp_path, tmp_path / "outputs") == len(runs) > 200
    collect(tmp_path / "outputs", tmp_path / "again")
    again = pd.read_csv(tmp_path / "again" / "runs.csv", dtype=str)
    pd.testing.assert_frame_equal(runs, again[runs.columns])


def test_status_of_a_folder_of_all_kinds(tmp_path: Path) -> None:
    folders = [write_run(tmp_path, f"run{i}", arm="sgd", seed=i) for i in range(4)]
    for folder in folders:
        (folder / "config.yaml").write_text(
            "preset: cnn\nscale: laptop\nmodel:\n  a: 1\nnames:\n  model: resnet8\n  arm: sgd\n"
        )
    (folders[0] / "summary.json").unlink()
    (folders[1] / "summary.json").unlink()
    (folders[1] / "failure.json").write_text(json.dumps({"status": "failed", "message": "out of luck", "attempts": 1}))
    long = ["rf_rmsprop_bf16_stochastic", "optimizer.weight_decay=0.0001"]
    write_run(tmp_path, "restored", arm=" ".join(long), preset="precision_released")  # a summary is all it has
    command = [sys.executable, "-m", "rootfree", "status", str(tmp_path)]
    said = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, env=os.environ | {"COLUMNS": "80"}
    ).stdout
    assert {*long, "precision_released"} <= {*said.split()}, "no word is broken on a narrow terminal"
    assert said.split()[:5] == ["preset,", "scale", "model", "arm", "runs"]
    row, rest = said[said.index("cnn") : said.index("precision_released")], said[said.index("all") :]
    assert row.split() == ["cnn", "laptop", "resnet8", "sgd", "2", "finished", "1", "interrupted", "1", "failed"]
    assert rest.split()[:7] == ["all", "3", "finished", "1", "interrupted", "1", "failed"]
    assert "run1 sgd: out of luck" in said
    nothing = subprocess.run([*command[:4], str(tmp_path / "none")], cwd=ROOT, capture_output=True, text=True)
    assert nothing.returncode == 1
    assert "there is no run beneath" in nothing.stderr
