"""The analysis on hand-made runs: tables and report; the verdicts are in test_claims.py."""

import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rootfree.analysis.claims import load_claims
from rootfree.analysis.collect import collect, restore
from rootfree.analysis.figures import draw
from rootfree.analysis.report import compare, report
from rootfree.analysis.searches import read_searches
from rootfree.analysis.style import COLORS, looks
from rootfree.analysis.tables import read, studies
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


def test_report_is_stable_and_complete(tmp_path: Path) -> None:
    """Every arm, a stranger's included, is in every part; the bytes depend on the tables alone; nothing is fetched."""
    arms: dict[str, Values] = ARMS | {
        "rf_rmsprop": [89.0, None, 89.4, 88.8, 88.9],
        "my_opt x=1": [80.0] * 5,
    }
    write_study(tmp_path / "outputs", arms)
    collect(tmp_path / "outputs", tmp_path)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "stale.svg").touch()
    written = report(tmp_path, CLAIMS)
    files = [written.page, tmp_path / "report.md", *sorted((tmp_path / "figures").iterdir())]
    before = {path: path.read_bytes() for path in files}
    assert report(tmp_path, CLAIMS) == written
    assert {path: path.read_bytes() for path in [*files[:2], *sorted((tmp_path / "figures").iterdir())]} == before
    assert not (tmp_path / "figures" / "stale.svg").exists()
    page, text = files[0].read_text(), files[1].read_text()
    for arm in arms:
        assert page.count(arm) > 5
        assert text.count(arm) > 5
        assert arm in [row[0] for row in written.tables[0].rows]
    accuracy = next(
        path for path in files if path.name.endswith("-accuracy.svg") and "gap" not in path.name
    ).read_text()
    assert all(word in accuracy for arm in arms for word in arm.split())
    assert not re.search(r'id="[mp][0-9a-f]{10}"', accuracy), "a hash of coordinates has another last bit elsewhere"
    assert "inconclusive" in page
    assert "1 diverged" in page
    assert "diverged in" not in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert "<script" not in page
    targets = {f"#{name}" for name in re.findall(r'<a id="([^"]+)"></a>', text)}
    assert all(link in targets or (tmp_path / link).exists() for link in re.findall(r"\]\(([^)]*)\)", text))
    assert str(tmp_path) not in page + text


def test_the_summary_counts_every_verdict_of_the_scorecard() -> None:
    """What is published: as many of each verdict as the card has rows, a claim that has two of them named as such."""
    text = (ROOT / "results" / "report.md").read_text()
    rows = re.findall(
        r"^\| ([CP]\d+) \|.*\| \[([a-z ]+)\]\(#why-[^|]*\|$", text.partition("<details>")[0], re.MULTILINE
    )
    found = re.search(r"^Found: (\d+) verdicts, (.*?)\.", text, re.MULTILINE)
    assert found
    assert int(found[1]) == len(rows)
    for number, verdict, claims in re.findall(r"(\d+) ([a-z ]+) \(([^)]*)\)", found[2]):
        told = [claim.split(" ")[0] for claim in claims.split(", ") for _ in range(1 + claim.endswith("twice"))]
        assert sorted(told) == sorted(claim for claim, given in rows if given == verdict)
        assert int(number) == len(told)


def test_report_shows_what_tuning_cost_and_what_less_would_have_found(tmp_path: Path) -> None:
    """The search whose winner an arm's settings are, in a table and a figure; another search and no search are told."""
    write_study(tmp_path / "outputs", ARMS)
    write_study(tmp_path / "outputs", {"lion": [80.0]}, lr=0.7)
    collect(tmp_path / "outputs", tmp_path)
    header = "draw,optimizer.lr,epochs,seed,status,val_acc,run_id\n"
    draws = "0,0.1,2,100,finished,0.8,a\n1,0.2,2,100,diverged,,b\n2,0.3,2,100,finished,0.6,c\n"
    again = "0,0.1,2,101,finished,0.7,d\n2,0.3,2,101,finished,0.6,e\n"
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "digits-resnet8-sgd-0123456789ab.csv").write_text(header + draws + again)
    (tmp_path / "search" / "digits-resnet8-adamw.csv").write_text(header + draws.replace("0.1", "0.11"))
    report(tmp_path, CLAIMS)
    text = bare(tmp_path / "report.md")
    assert "| sgd | 5 | 3 | 10 | 46.67 | 73.33 | - | - | - |" in text
    assert "| adamw | 5 (sgd's) | - | - | - | - | - | - | - |" in text
    assert "| lion | none | - | - | - | - | - | - | - |" in text
    assert "-best-of.png" in text
    assert "conditional on the settings" in text
    assert "model and tuned settings" in text
    pages = [tmp_path / "report.md", tmp_path / "report.html"]
    before = [page.read_bytes() for page in pages]
    report(tmp_path, CLAIMS)
    assert [page.read_bytes() for page in pages] == before
    (tmp_path / "search" / "broken.csv").write_text("draw,status\n0,finished\n")
    with pytest.raises(ValueError, match=r"broken.csv is not the table of a search"):
        report(tmp_path, CLAIMS)


def test_report_needs_final_runs(tmp_path: Path) -> None:
    """Only searches: a message; only smoke: a report that says so; no tables: a message."""
    with pytest.raises(ValueError, match="does not exist"):
        report(tmp_path, CLAIMS)
    write_study(tmp_path / "outputs", {"sgd": [88.0]}, purpose="search")
    collect(tmp_path / "outputs", tmp_path)
    with pytest.raises(ValueError, match="1 search run and no other"):
        report(tmp_path, CLAIMS)
    write_study(tmp_path / "outputs", {"sgd": [None]}, purpose="smoke", scale="smoke", suffix="-smoke")
    collect(tmp_path / "outputs", tmp_path)
    assert "not evidence" in report(tmp_path, CLAIMS).page.read_text()


def test_studies_of_one_title_say_in_what_they_differ(tmp_path: Path) -> None:
    write_study(tmp_path / "outputs", {"sgd": [80.0]})
    write_study(tmp_path / "outputs", {"sgd": [70.0]}, suffix="-cosine", schedule="cosine", study="88e1234")
    write_study(tmp_path / "outputs", {"sgd": [60.0]}, suffix="-long", epochs=4, study="99e1234")
    collect(tmp_path / "outputs", tmp_path)
    settings = [study.setting.partition(", ")[2] for study in studies(*read(tmp_path))]
    assert settings == ["2 epochs, schedule constant", "2 epochs, schedule cosine", "4 epochs"]


def test_optimizers_of_one_study_differ_in_colour(tmp_path: Path) -> None:
    """Also where there are more optimizers than colours; each keeps its own everywhere, and its arms shades of it."""
    names = [f"opt{number:02}" for number in range(len(COLORS) + 3)]
    for number in range(4):
        arms: dict[str, Values] = {name: [80.0] for name in [*names[number : number + len(COLORS) - 1], "opt13"]}
        write_study(tmp_path / "outputs", arms, study=f"{number}7e1234", suffix=f"-{number}", preset=f"p{number}")
    collect(tmp_path / "outputs", tmp_path)
    found = studies(*read(tmp_path))
    look = looks(found)
    for study in found:
        assert len({look[arm].color for arm in study.arms}) == len(study.arms) == len(COLORS)


def test_reproduced_against_published(tmp_path: Path) -> None:
    """Run by run where ids are shared, else mean against mean."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    write_study(theirs / "outputs", {"my_opt": [70.0]}, preset="precision")  # the same setting, asked for otherwise
    write_study(ours / "outputs", {"sgd": [88.0, 89.0], "adamw": [87.0], "lion": [80.0], "rf_rmsprop": [None]})
    write_study(theirs / "outputs", {"sgd": [88.0, 89.5], "rf_rmsprop": [None]})
    write_study(theirs / "outputs", {"adamw": [86.5]}, suffix="-elsewhere")
    for folder in (ours, theirs):
        collect(folder / "outputs", folder)
    (compared,) = compare(studies(*read(ours)), studies(*read(theirs)))
    rows = {row[0]: row[-1] for row in compared.rows}
    assert rows["sgd"] == "1 run identical, 1 different: sgd-1 89.00, published 89.50"
    assert rows["adamw"] == "means differ by +0.50 points"
    assert rows["lion"] == "not published"
    assert rows["rf_rmsprop"] == "1 run identical, 0 different"


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


def bare(file: Path) -> str:
    """The text of a Markdown file without the links within a report and their targets."""
    return re.sub(r'\[([^\]]*)\]\([^)]*#[^)]*\)|<a id="[^"]*"></a>', r"\1", file.read_text())


def test_long_names_fit_into_a_figure(tmp_path: Path) -> None:
    """An arm with many settings of its own is told in full, within the picture and beside no other's name."""
    settings = {"beta2": 0.988, "damping": 0.0001026, "lr": 0.003285, "weight_decay": 0.003502}
    long = " ".join(["rf_rmsprop", *(f"optimizer.{key}={value}" for key, value in settings.items())])
    write_study(tmp_path / "outputs", {long: [88.0, 89.0], f"{long}1": [88.0, 89.0], "sgd": [87.0, 88.0]})
    collect(tmp_path / "outputs", tmp_path)
    (study,) = studies(*read(tmp_path))
    for drawing in draw(study, load_claims(CLAIMS), looks([study])):
        drawing.figure.draw_without_rendering()
        frames = [legend.get_window_extent() for legend in drawing.figure.legends]
        assert all(frame.x0 >= 0 and frame.x1 <= drawing.figure.bbox.width for frame in frames)
        if drawing.name == "accuracy":
            boxes = [text.get_window_extent() for text in drawing.figure.axes[0].get_yticklabels()]
            assert not any(first.overlaps(second) for first, second in itertools.pairwise(boxes))


def test_scripts_end_to_end(tmp_path: Path) -> None:
    """The commands print where the page is, fail in one line, and load no torch."""
    write_study(tmp_path / "outputs", ARMS)
    write_study(tmp_path / "outputs", {"lion": [70.0, 71.0]}, preset="vit", study="88e1234")

    def run(script: str, *args: Path | str) -> subprocess.CompletedProcess[str]:
        code = f"import runpy, sys; sys.argv[0] = '{script}'; runpy.run_path('scripts/{script}', run_name='__main__')"
        code += "; assert not {'torch', 'hydra', 'scipy.stats'} & set(sys.modules)"
        return subprocess.run([sys.executable, "-c", code, *map(str, args)], cwd=ROOT, capture_output=True, text=True)

    collected = run("collect.py", tmp_path / "outputs", "--into", tmp_path / "tables")
    assert collected.returncode == 0, collected.stderr
    assert "17 runs read" in collected.stdout
    reported = run("report.py", tmp_path / "tables")
    assert reported.returncode == 0, reported.stderr
    assert str(tmp_path / "tables" / "report.html") in reported.stdout
    readme = tmp_path / "README.md"
    readme.write_text("# x\n<!-- results -->\noutdated\n<!-- results -->\nrest\n")
    assert run("report.py", tmp_path / "tables", "--readme", readme).returncode == 0
    shown = readme.read_text()
    linked = re.findall(r"\]\(tables/report.md#([^)]+)\)", shown)
    shown = bare(readme)
    assert shown.startswith("# x\n<!-- results -->\n")
    assert shown.endswith("<!-- results -->\nrest\n")
    assert "outdated" not in shown
    assert all(f"| {arm} | 5 |" in shown for arm in ARMS)
    assert "| lion |" not in shown, "a front page shows the study behind the first claim"
    (figure,) = re.findall(r"!\[.*\]\((tables/figures/.*-accuracy.png)\)", shown)
    assert (tmp_path / figure).exists()
    text = (tmp_path / "tables" / "report.md").read_text()
    targets = set(re.findall(r'<a id="([^"]+)"></a>', text))
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= targets
    assert linked
    assert set(linked) <= targets, "every verdict of the README leads to its numbers"
    nothing = run("collect.py", tmp_path / "nothing", "--into", tmp_path / "tables")
    assert nothing.returncode == 1
    assert nothing.stderr.startswith("collect: no run has ended beneath")
    assert nothing.stderr.count("\n") == 1


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
    count = restore(ROOT / "results", tmp_path / "outputs")
    collect(tmp_path / "outputs", tmp_path / "again")
    published, again = (
        pd.read_csv(folder / "runs.csv", dtype=str) for folder in (ROOT / "results", tmp_path / "again")
    )
    assert count == len(published)
    pd.testing.assert_frame_equal(
        published.dropna(axis=1, how="all"), again[published.dropna(axis=1, how="all").columns]
    )


def test_status_of_a_folder_of_all_kinds(tmp_path: Path) -> None:
    folders = [write_run(tmp_path, f"run{i}", arm="sgd", seed=i) for i in range(4)]
    for folder in folders:
        (folder / "config.yaml").write_text(
            "preset: cnn\nscale: laptop\nmodel:\n  a: 1\nnames:\n  model: resnet8\n  arm: sgd\n"
        )
    (folders[0] / "summary.json").unlink()
    (folders[1] / "summary.json").unlink()
    (folders[1] / "failure.json").write_text(json.dumps({"status": "failed", "message": "out of luck", "attempts": 1}))
    command = [sys.executable, "scripts/status.py", str(tmp_path)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env={"COLUMNS": "120"}).stdout
    assert [line.split() for line in said.splitlines() if "resnet8" in line] == [
        ["cnn", "laptop", "resnet8", "sgd", "2", "1", "1"]
    ]
    assert said.split()[:7] == ["preset", "scale", "model", "arm", "finished", "interrupted", "failed"]
    assert "run1 sgd: out of luck" in said
    nothing = subprocess.run([*command[:2], str(tmp_path / "none")], cwd=ROOT, capture_output=True, text=True)
    assert nothing.returncode == 1
    assert "there is no run beneath" in nothing.stderr


PROBE = """
<script>
window.problems = [];
window.addEventListener('error', event => problems.push(String(event.message)), true);
addEventListener('load', () => {
  for (const details of document.querySelectorAll('details')) details.open = true;
  const width = document.documentElement.clientWidth;
  for (const image of document.images) if (!image.complete || !image.naturalWidth) problems.push('image ' + image.src);
  for (const svg of document.querySelectorAll('figure svg')) if (!svg.getBBox().width) problems.push('empty figure');
  for (const element of document.querySelectorAll('body *')) {
    const box = element.getBoundingClientRect();
    if (!element.closest('svg') && box.width && box.right > width + 1) {
      problems.push(element.tagName + ' is too wide: ' + element.textContent.slice(0, 60));
    }
  }
  for (const link of document.querySelectorAll('a[href^="#"]')) {
    if (!document.getElementById(link.getAttribute('href').slice(1))) problems.push('no target ' + link.href);
  }
  document.title = 'width ' + width + ': ' + JSON.stringify(problems);
});
</script>
"""


def write_page(folder: Path) -> None:
    """A report of two studies, with what makes pages wide."""
    arms: dict[str, Values] = ARMS | {
        "a_user's_own_optimizer_with_a_name_that_is_long optimizer.lr=0.00012345": [80.0] * 5
    }
    write_study(folder / "outputs", arms)
    write_study(
        folder / "outputs", {"sgd": [70.0, None], "if_shampoo": [71.0, None]}, study="b", suffix="-b", preset="vit"
    )
    collect(folder / "outputs", folder)
    for name in ("bench", "theory"):
        if (ROOT / "results" / f"{name}.csv").exists():
            shutil.copy(ROOT / "results" / f"{name}.csv", folder)
    report(folder, CLAIMS)


@pytest.mark.parametrize("published", [False, True], ids=["made here", "published"])
@pytest.mark.parametrize("width", [390, 1280])
def test_page_in_a_browser(tmp_path: Path, width: int, published: bool) -> None:
    """Nothing is too wide, every figure has content, every link a target, and the console stays empty."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if browser is None:
        pytest.skip("there is no Chromium here")
    made = ROOT / "results" if published else tmp_path
    if not published:
        write_page(tmp_path)
    page = (made / "report.html").read_text()
    (tmp_path / "probe.html").write_text(page.replace("<style>", f"{PROBE}<style>", 1))
    # a window is never narrower than 500 pixels, a frame is
    frame = f'<iframe src="probe.html" style="width:{width}px;height:900px;border:0"></iframe><script>addEventListener('
    frame += "'load', () => document.title = frames[0].document.title)</script>"
    (tmp_path / "frame.html").write_text(f"<!doctype html><title>not loaded</title>{frame}")
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--allow-file-access-from-files",
        "--dump-dom",
    ]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--window-size=1400,1000"]
    done = subprocess.run([*command, f"file://{tmp_path}/frame.html"], capture_output=True, text=True, timeout=120)
    found = re.search(r"<title>(.*?)</title>", done.stdout, flags=re.S)
    assert found, done.stderr
    assert found[1] == f"width {width}: []"
    assert "CONSOLE" not in done.stderr


def test_report_shows_sweeps_dynamics_costs_and_theory(tmp_path: Path) -> None:
    """Each where its data exist: swept settings, untuned arms, what an optimizer did, tables beside the runs."""
    dynamics = {"share_frozen": 0.5, "share_above_damping": 0.2, "cosine_sgd": 0.9, "optimizer_ms": 2.5}
    dynamics |= {f"effective_lr_q{q}": value for q, value in (("05", 0.1), ("50", 1.0), ("95", 9.0))}
    arms: dict[str, Values] = {f"rf_rmsprop optimizer.power={power}": [80.0, 81.0] for power in (0.0, 0.5, 1.0)}
    write_study(tmp_path / "outputs", arms | {"sgd": [80.0, None], "sgd tuned=none": [70.0, 71.0]})
    for file in tmp_path.glob("outputs/*/metrics.jsonl"):
        lines = [json.loads(line) | dynamics for line in file.read_text().splitlines()]
        file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    collect(tmp_path / "outputs", tmp_path)
    header = "method,peer,parameters,ms,peer_ms,state_mb,peer_state_mb,peak_mb,peer_peak_mb,device,threads\n"
    (tmp_path / "bench.csv").write_text(f"{header}RFRMSProp,torch AdamW,net,2,1,4,5,,,cpu,2\n")
    rows = "C11,scaling,s,k,0.5,0.1,1,true,8\nC11,scaling,t,k,0.25,,,,1\nC12,order,s,k,2,,< 1,false,8\n"
    (tmp_path / "theory.csv").write_text(f"claim,check,setting,quantity,value,error,expected,agrees,n\n{rows}")
    report(tmp_path, CLAIMS)
    text = bare(tmp_path / "report.md")
    names = {path.stem.rpartition("77e1234-")[2] for path in (tmp_path / "figures").iterdir()}
    assert {"sweep-power", "share-frozen", "share-above-damping", "cosine-sgd", "effective-lr"} <= names
    assert {"bench-net-ms", "bench-net-state-mb", "scorecard"} <= names
    assert "| sgd, untuned defaults | 2 |" in text
    assert "optimizer (ms/step)" in text
    assert "## Is the released root-free CNN run SGD?" in text
    assert "| sgd | 1 | 0.001 | 0.02 | 50.0 | 20.0 | 0.900 | 80.00 |" in text, "20 steps with beta2 = 0.999"
    assert "| C11 | scaling | 1 of 1 | 1 |" in text
    assert "| net | torch AdamW | 1 | 5 | - | 1 | cpu, 2 threads |" in text
    assert "| C12 | order | 0 of 1 | 0 |" in text
