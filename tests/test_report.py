"""The report on hand-made runs: its pages, its words, its figures, and a browser that looks at them."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from test_analysis import ARMS, CLAIMS, ROOT, Values, write_run, write_study

from rootfree.analysis.claims import load_claims
from rootfree.analysis.collect import collect
from rootfree.analysis.figures import ROWS, draw
from rootfree.analysis.grouping import studies
from rootfree.analysis.overview import forest
from rootfree.analysis.page import safe_name
from rootfree.analysis.report import MARK, compare, publish, report
from rootfree.analysis.statistics import Interval
from rootfree.analysis.style import color_of, inline, looks
from rootfree.analysis.tables import Study, read

LARGEST = 1_500_000  # bytes of a page
HOSTILE = [
    "kaggle/cats",
    "n" * 300,
    r"a $\frac{$ b",
    "[/usr/lib] <b>&amp;</b> | *x* `y`",
    "Straße 猫",
    "</script><img src=x onerror=alert(1)>",
    "it's {0} ${x} 100%",
    "null",
]


def made(folder: Path, arms: dict[str, Values], **changes: object) -> Study:
    """The study of some arms, by way of run folders and tables."""
    write_study(folder / "outputs", arms, **changes)
    collect(folder / "outputs", folder)
    return studies(*read(folder))[0]


def pages(folder: Path) -> dict[str, str]:
    """What a report wrote, by file."""
    files = [folder / "index.html", *sorted((folder / "studies").glob("*.html"))]
    return {str(file.relative_to(folder)): file.read_text(encoding="utf-8") for file in files}


def test_pages_are_whole_and_need_nothing_else(tmp_path: Path) -> None:
    """Every arm, a stranger's included, is in every part; the bytes depend on the tables alone; nothing is fetched."""
    arms: dict[str, Values] = ARMS | {"rf_rmsprop": [89.0, None, 89.4, 88.8, 88.9], "my_opt x=1": [80.0] * 5}
    made(tmp_path, arms)
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "stale.html").touch()
    report(tmp_path, CLAIMS)
    before = pages(tmp_path)
    report(tmp_path, CLAIMS)
    assert pages(tmp_path) == before
    assert [*before] == ["index.html", "studies/cnn-laptop-digits-resnet8-77e1234.html"]
    index, study = before.values()
    assert all(study.count(arm) > 5 for arm in arms)
    assert "1 of 5 runs of rf_rmsprop" in study
    assert "On CNNs: at a constant rate, too?" in index
    assert "On CNNs: at a constant rate, too?" in study
    for page in (index, study):
        assert len(page.encode()) < LARGEST
        assert "http" not in page.replace("http://www.w3.org", "")
        assert "<script" not in page
        assert str(tmp_path) not in page
    with pytest.raises(ValueError, match="does not exist"):
        report(tmp_path / "nothing", CLAIMS)


def test_a_report_needs_final_runs(tmp_path: Path) -> None:
    """Only searches: a message; only smoke: a report that says so."""
    write_study(tmp_path / "outputs", {"sgd": [88.0]}, purpose="search")
    collect(tmp_path / "outputs", tmp_path)
    with pytest.raises(ValueError, match="only runs of searches"):
        report(tmp_path, CLAIMS)
    write_study(tmp_path / "outputs", {"sgd": [None]}, purpose="smoke", scale="smoke", suffix="-smoke")
    collect(tmp_path / "outputs", tmp_path)
    report(tmp_path, CLAIMS)
    assert all("not evidence of anything" in " ".join(page.split()) for page in pages(tmp_path).values())


def test_names_of_any_kind_are_shown_as_they_are(tmp_path: Path) -> None:
    """Whatever users call arms, data sets and errors: collect, report and status end well, and none is markup."""
    outputs = tmp_path / "outputs"
    for number, name in enumerate(HOSTILE):
        for seed, arm in itertools.product(range(3), (f"sgd tuned={name}", "adamw")):
            told = {"dataset": name, "command": f"python -m rootfree.train tuned={name}", "study": f"{number}7e1234"}
            run_id, accuracy = f"{number}-{seed}-{arm.split()[0]}", 0.8 + seed / 9
            write_run(outputs, run_id, arm=arm, seed=seed, test_acc=accuracy, **told)
    failed = write_run(tmp_path / "failed", "run0")
    (failed / "summary.json").unlink()
    (failed / "config.yaml").write_text(f"names:\n  model: '{HOSTILE[3]}'\n  arm: sgd\n")
    (failed / "failure.json").write_text(json.dumps({"status": "failed", "message": HOSTILE[3], "attempts": 1}))
    collect(outputs, tmp_path)
    report(tmp_path, CLAIMS, published=tmp_path / "none")
    found = pages(tmp_path)
    assert len(found) == 1 + len(HOSTILE)
    text = "".join(found.values())
    assert all(markup not in text for markup in ("<b>&amp;</b>", "<img src=x", "</script>"))
    assert text.count("&lt;img src=x onerror=alert(1)&gt;") > 5
    assert "[/usr/lib]" in text
    command = [sys.executable, "-m", "rootfree", "status", tmp_path / "failed"]
    wide = os.environ | {"COLUMNS": "200"}
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=wide).stdout
    assert said.count(HOSTILE[3]) == 2


@pytest.mark.parametrize(
    "text", HOSTILE, ids=["slash", "long", "dollar", "brackets", "umlaut", "tags", "quote", "null"]
)
def test_names_of_files_are_safe_and_differ(text: str) -> None:
    name = safe_name(text)
    assert re.fullmatch(r"[a-z0-9-]{1,80}", name)
    assert len({safe_name(text), safe_name(text + "猫"), safe_name(text + "x" * 200)}) == 3


def test_an_optimizer_has_one_colour_in_every_report(tmp_path: Path) -> None:
    """By its name alone; a variant has a paler one, and arms of one study differ in colour or shape."""
    arms: dict[str, Values] = {"lion": [80.0], "rf_rmsprop": [81.0], "rf_rmsprop_bf16": [82.0], "lion x=1": [83.0]}
    study = made(tmp_path, arms)
    look = looks(study)
    assert look["lion"].color == color_of("lion")
    assert look["rf_rmsprop"].color == color_of("rf_rmsprop") != color_of("rf_rmsprop_bf16")
    assert len({(one.color, one.marker) for one in look.values()}) == len(arms)


@pytest.mark.filterwarnings("error:constrained_layout not applied")
def test_figures_of_results_are_short_sorted_and_complete(tmp_path: Path) -> None:
    """At most twelve rows, the best on top, untuned arms in their arm's row; long names fit; no constant is drawn."""
    long = "rf_rmsprop optimizer.beta2=0.988 optimizer.damping=0.0001026 optimizer.lr=0.003285"
    arms: dict[str, Values] = {long: [88.0, 89.0, 88.0], f"{long}1": [88.0, 89.0, 88.5], "sgd": [87.0, 88.0, 89.5]}
    arms |= {f"opt{number:02}": [70.0 + number, 71.0 + number] for number in range(ROWS)}
    arms["n" * 200] = [86.0, 87.0]
    study = made(tmp_path, arms | {"sgd tuned=none": [80.0, 81.0]})
    for file in tmp_path.glob("outputs/*/metrics.jsonl"):
        lines = [json.loads(line) | {"share_frozen": 0.5, "cosine_sgd": epoch / 9} for epoch, line in
                 enumerate(file.read_text().splitlines())]  # fmt: skip
        file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    collect(tmp_path / "outputs", tmp_path)
    study = studies(*read(tmp_path))[0]
    names = []
    for drawing in draw(study, load_claims(CLAIMS)):
        names.append(drawing.name)
        drawing.figure.draw_without_rendering()
        frames = [legend.get_window_extent() for legend in drawing.figure.legends]
        assert all(frame.x0 >= 0 and frame.x1 <= drawing.figure.bbox.width for frame in frames)
        if drawing.name == "accuracy":
            labels = drawing.figure.axes[0].get_yticklabels()
            boxes = [text.get_window_extent() for text in labels]
            assert not any(first.overlaps(second) for first, second in itertools.pairwise(boxes))
            assert len(labels) == ROWS
            assert not any("untuned" in text.get_text() for text in labels)
            assert labels[0].get_text().endswith("lr=0.0032851"), "the best is on top"
            assert "lr=0.0032851<" in inline(drawing), "places are rounded, numbers that are read are not"
            assert "Hollow: the mean with untuned defaults. 4 more arms" in drawing.caption
    assert "cosine-sgd" in names
    assert "share-frozen" not in names
    report(tmp_path, CLAIMS)
    assert "The share of frozen coordinates is 0.5 in every run at every epoch." in pages(tmp_path).popitem()[1]


def test_captions_name_what_a_frame_leaves_out_and_nothing_of_it_is_drawn(tmp_path: Path) -> None:
    arms: dict[str, Values] = {"adamw": [88.0, 89.0, 88.0], "sgd": [87.0, 88.0, 87.0], "lion": [10.0, 11.0, 10.0]}
    study = made(tmp_path, arms | {"sgd tuned=none": [50.0, 51.0, 50.0]})
    study.runs["val_acc"] = study.runs["test_acc"]
    found = {drawing.name: drawing for drawing in draw(study, load_claims(CLAIMS))}
    assert "Out of the frame: lion; sgd, untuned." in found["accuracy"].caption
    curves = [
        drawing for drawing in found.values() if "Not drawn, below half of the best accuracy: lion" in drawing.caption
    ]
    assert curves
    for drawing in curves:
        axes = drawing.figure.axes[0]
        assert len(axes.collections) == len(axes.lines) == 2  # a band each


@pytest.mark.parametrize("wide", [True, False], ids=["wide", "narrow"])
def test_no_text_of_the_forest_is_cut_or_covered(wide: bool) -> None:
    """Each stays in the frame, the published ones and longer ones, and the number of a far estimate beside its mark."""
    claims = load_claims(CLAIMS)
    edges = {"low": -1.0, "high": 90.0, "low_searches": -99.0, "high_searches": 99.0, "margin": 1.0}
    told = {"question": "Q", "note": "a note " * 20, "verdict": "supported"} | edges
    names = [(claim.short, name) for claim in claims.claims for name in ("imagenette-112px", "n" * 300, "")]
    rows = [told | {"title": title, "dataset": name, "estimate": value} for (title, name), value in
            zip(names, itertools.cycle([77.0, -77.0, 2.0, np.nan]))]  # fmt: skip
    figure = forest(pd.DataFrame(rows), wide).figure
    figure.draw_without_rendering()
    texts = figure.findobj(Text)
    boxes = [text.get_window_extent() for text in texts if text.get_text()]
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.width for box in boxes)
    far = [text.get_window_extent() for text in texts if text.get_text() in ("+77", "-77")]
    marks = [line for line in figure.axes[0].lines if line.get_marker() == "o" and len(line.get_xdata()) > 1]
    centres = np.concatenate([line.get_transform().transform(line.get_xydata()) for line in marks])
    assert far
    assert not any(box.padded(4).contains(*centre) for box in far for centre in centres)


def test_the_page_of_a_study_shows_what_its_data_hold(tmp_path: Path) -> None:
    """Swept settings, what an optimizer did, what tuning cost; on the first page costs and theory."""
    dynamics = {"share_frozen": 0.5, "share_above_damping": 0.2, "cosine_sgd": 0.9, "optimizer_ms": 2.5}
    dynamics |= {f"effective_lr_q{q}": value for q, value in (("05", 0.1), ("50", 1.0), ("95", 9.0))}
    arms: dict[str, Values] = {f"rf_rmsprop optimizer.power={power}": [80.0, 81.0] for power in (0.0, 0.5, 1.0)}
    write_study(tmp_path / "outputs", arms | {"sgd": [80.0, 81.0, None], "adamw": [79.0, 79.5, 80.0]})
    for number, file in enumerate(sorted(tmp_path.glob("outputs/*/metrics.jsonl"))):
        lines = [json.loads(line) | dynamics | {"cosine_sgd": number / 20} for line in file.read_text().splitlines()]
        file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    collect(tmp_path / "outputs", tmp_path)
    header = "method,peer,parameters,ms,peer_ms,state_mb,peer_state_mb,peak_mb,peer_peak_mb,device,threads\n"
    (tmp_path / "bench.csv").write_text(f"{header}RFRMSProp,torch AdamW,net,2,1,4,5,,,cpu,2\n")
    rows = "C11,scaling,s,k,0.5,0.1,1,true,8\nC11,scaling,t,k,0.25,,,,1\nC12,order,s,k,2,,< 1,false,8\n"
    (tmp_path / "theory.csv").write_text(f"claim,check,setting,quantity,value,error,expected,agrees,n\n{rows}")
    (tmp_path / "search").mkdir()
    draws = "0,0.1,2,100,finished,0.8,a\n1,0.2,2,100,diverged,,b\n2,0.3,2,100,finished,0.6,c\n"
    again = "0,0.1,2,101,finished,0.7,d\n2,0.3,2,101,finished,0.6,e\n"
    (tmp_path / "search" / "digits-resnet8-sgd-0123456789ab.csv").write_text(
        f"draw,optimizer.lr,epochs,seed,status,val_acc,run_id\n{draws}{again}"
    )
    report(tmp_path, CLAIMS)
    index, study = pages(tmp_path).values()
    shown = set(re.findall(r'<figure id="([^"]+)"', index + study))
    assert {"sweep-power", "cosine-sgd", "effective-lr", "isolation-sgd", "accuracy"} <= shown
    assert {"forest", "forest-narrow"} <= shown

    def cells(page: str) -> list[dict[str, str]]:
        rows = re.findall(r"<tr[^>]*>(?:<td.*?)</tr>", page)
        return [dict(re.findall(r'data-name="([^"]+)"[^>]*><span>(?:<a[^>]*>)?([^<]*)', row)) for row in rows]

    (tuning,) = (row for row in cells(study) if "best of 1" in row and row["arm"] == "sgd")
    assert tuning | {"search runs": "5", "draws": "3 of 2 epochs", "best of 1": "46.67", "best of 2": "73.33"} == tuning
    assert {"claim": "C11", "check": "scaling", "rows that agree": "1 of 1", "further rows": "1"} in cells(index)
    assert any(row.get("method") == "torch AdamW" and row["state_mb"] == "5" for row in cells(index))
    (tmp_path / "search" / "broken.csv").write_text("draw,status\n0,finished\n")
    with pytest.raises(ValueError, match=r"broken.csv is not the table of a search"):
        report(tmp_path, CLAIMS)


def test_own_runs_against_published_ones(tmp_path: Path) -> None:
    """Consistent where the interval of the difference holds 0 or all runs are identical; too few are called that."""
    ours: dict[str, Values] = {
        "sgd": [88.0, 89.0, 90.0],
        "adamw": [87.0, 87.1, 87.2],
        "lion": [80.0],
        "rmsprop": [80.0] * 2,
    }
    theirs = ours | {"sgd": [88.0, 89.5, 91.0], "adamw": [86.0, 86.1, 86.2], "rmsprop": [80.0] * 2}
    del theirs["lion"]
    here = made(tmp_path / "ours", ours)
    there = made(tmp_path / "theirs", theirs)
    rows = {row["arm"]: row for row in compare(here, there)[1].to_dict("records")}
    assert (rows["sgd"]["difference"], rows["sgd"]["consistent?"], rows["sgd"]["identical"]) == (
        "-0.50",
        "yes",
        "1 of 3",
    )
    assert (rows["adamw"]["difference"], rows["adamw"]["consistent?"]) == ("+1.00", "no")
    assert rows["lion"]["consistent?"] == "not published"
    assert (rows["rmsprop"]["95% interval"], rows["rmsprop"]["consistent?"]) == ("too few runs", "yes")
    elsewhere = compare(here, made(tmp_path / "elsewhere", theirs, device="cpu: B, 1 thread"))
    assert "not expected to be identical" in elsewhere[0]
    assert "identical" not in elsewhere[1]
    one, other = (
        made(tmp_path / maker, theirs, device=f"cpu: {maker} (AVX2, portable), 1 thread(s)")
        for maker in ("EPYC", "Xeon")
    )
    assert compare(one, other)[1]["identical"].tolist() == ["3 of 3", "2 of 2", "3 of 3"]


def test_commands_print_what_a_study_decides_and_change_nothing_published(tmp_path: Path) -> None:
    """The commands load no torch, keep to 80 columns, look searches up where they are, and fail in one line."""
    arm = "rf_rmsprop optimizer.beta2=0.99951171875 optimizer.power=0.5"
    write_study(tmp_path / "outputs", ARMS | {arm: [88.0, 89.0]})
    published = tmp_path / "published"
    write_study(tmp_path / "theirs", ARMS)
    collect(tmp_path / "theirs", published)
    (published / "search").mkdir()
    (published / "search" / "digits-resnet8-sgd-0123456789ab.csv").write_text(
        "draw,optimizer.lr,epochs,seed,status,val_acc,run_id\n0,0.1,2,100,finished,0.8,a\n"
    )
    before = {file: file.read_bytes() for file in published.rglob("*.csv")}

    def run(command: str, *args: Path | str) -> subprocess.CompletedProcess[str]:
        code = f"import sys; from rootfree.__main__ import main; sys.argv.insert(1, '{command}'); main()"
        code += "; assert not {'torch', 'hydra', 'scipy.stats'} & set(sys.modules)"
        return subprocess.run([sys.executable, "-c", code, *map(str, args)], cwd=ROOT, capture_output=True, text=True)

    reported = run("report", tmp_path / "own", "--outputs", tmp_path / "outputs", "--published", published)
    assert reported.returncode == 0, reported.stderr
    assert str(tmp_path / "own" / "index.html") in reported.stdout
    tables = reported.stdout.rpartition("report: ")[0]
    assert all(len(line) <= 80 for line in tables.splitlines())
    assert "rf_rmsprop beta2=0.99951 power=0.5" in tables, "a name is shortened, not wrapped"
    assert "C8" in tables
    assert "no data" not in tables
    assert "C14" not in tables, "what tables decide is no news of one's own runs"
    assert "5 of 5" in tables
    index, study = pages(tmp_path / "own").values()
    assert 'data-name="search runs"><span>1<' in study, "the search behind the settings of sgd is published"
    assert "no data" not in index
    assert {file: file.read_bytes() for file in published.rglob("*.csv")} == before
    nothing = run("collect", tmp_path / "nothing", "--into", tmp_path / "tables")
    assert nothing.returncode == 1
    assert nothing.stderr.startswith("collect: no run has ended beneath")
    assert nothing.stderr.count("\n") == 1


def test_what_is_published_follows_from_the_tables(tmp_path: Path) -> None:
    """Verdicts, words between the marks, and the figures that the words name, no others; a second time the same."""
    made(tmp_path / "results", ARMS)
    readme, findings = tmp_path / "README.md", tmp_path / "results" / "README.md"
    readme.write_text(f"# x\n{MARK}outdated\n{MARK}rest\n")
    findings.write_text(f"# y\n{MARK}{MARK}\n![a](figures/cnn-laptop-digits-resnet8-77e1234-accuracy.png)\n")
    (tmp_path / "results" / "figures").mkdir()
    (tmp_path / "results" / "figures" / "stale.png").touch()
    publish(tmp_path / "results", CLAIMS, readme)
    files = [readme, findings, *sorted((tmp_path / "results").glob("figures/*")), tmp_path / "results" / "verdicts.csv"]
    before = {file: file.read_bytes() for file in files}
    publish(tmp_path / "results", CLAIMS, readme)
    assert {file: file.read_bytes() for file in files} == before
    named = {"cnn-laptop-digits-resnet8-77e1234-accuracy", "forest", "forest-narrow"}
    assert {file.stem for file in files if file.suffix == ".png"} == named
    text = readme.read_text()
    assert text.startswith(f"# x\n{MARK}")
    assert text.endswith(f"{MARK}rest\n")
    assert "outdated" not in text
    linked = set(re.findall(r"\]\(results/README.md#([^)]+)\)", text))
    assert linked
    assert linked <= set(re.findall(r'<a id="([^"]+)"></a>', findings.read_text()))
    verdicts = pd.read_csv(tmp_path / "results" / "verdicts.csv")
    told = dict(re.findall(r"^\| ([CP]\d+) \|.*?\| (premise not met|supported|refuted|undecided|no data) \|",
                           findings.read_text(), re.MULTILINE))  # fmt: skip
    assert told == dict(zip(verdicts["claim"], verdicts["verdict"], strict=True))
    findings.write_text(f"{MARK}{MARK}figures/nowhere.png")
    with pytest.raises(ValueError, match="no figure nowhere"):
        publish(tmp_path / "results", CLAIMS, readme)
    findings.write_text("no marks")
    with pytest.raises(ValueError, match=r"must hold the line <!-- results --> twice"):
        publish(tmp_path / "results", CLAIMS, readme)


def test_the_published_answer_is_short_and_plain() -> None:
    """At most eight lines of at most 25 words, with when to use a root-free method and when to leave it."""
    lines = re.findall(r"^- (.*)$", (ROOT / "results" / "README.md").read_text().split(MARK)[1], re.MULTILINE)
    assert 3 < len(lines) <= 8
    assert max(len(line.split()) for line in lines) <= 25
    assert any(line.startswith("**Use it") for line in lines)
    assert any(line.startswith("**Leave it") for line in lines)


def test_what_git_holds_is_small() -> None:
    """Tables, words and at most ten pictures: what a page of the repository shows."""
    pictures = [*(ROOT / "results").rglob("*.png")]
    assert 0 < len(pictures) <= 10
    assert sum(picture.stat().st_size for picture in pictures) <= 2_000_000
    assert not [*(ROOT / "results").rglob("*.html"), *(ROOT / "results").rglob("*.svg")]


@pytest.mark.parametrize(
    ("code", "reported"), [(0, True), (1, True), (75, False)], ids=["all ended", "a run failed", "was stopped"]
)
@pytest.mark.parametrize("target", ["sweep", "reproduce-cnn"])
def test_make_reports_what_ended_and_exits_as_the_training_did(
    tmp_path: Path, target: str, code: int, reported: bool
) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/log\ncase "$*" in *rootfree.train*) exit {code};; esac\n')
    python.chmod(0o755)
    made = subprocess.run(["make", "-o", "setup", target, f"PY={python}"], cwd=ROOT, capture_output=True, text=True)
    assert (made.returncode == 0) == (code == 0)
    assert ("-m rootfree report" in (tmp_path / "log").read_text()) == reported


PROBE = """
<script>
window.problems = [];
window.addEventListener('error', event => problems.push(String(event.message)), true);
addEventListener('load', () => {
  for (const details of document.querySelectorAll('details')) details.open = true;
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width) problems.push('the page scrolls sideways');
  for (const image of document.images) if (!image.complete || !image.naturalWidth) problems.push('image ' + image.src);
  let shown = 0;
  for (const svg of document.querySelectorAll('figure svg')) {
    if (svg.getClientRects().length) { shown++; if (!svg.getBBox().width) problems.push('empty figure'); }
  }
  if (document.querySelector('figure') && !shown) problems.push('no figure is shown');
  for (const element of document.querySelectorAll('body *')) {
    const box = element.getBoundingClientRect();
    if (!element.closest('svg') && box.width && box.right > width + 1) {
      problems.push(element.tagName + ' is too wide: ' + element.textContent.slice(0, 60));
    }
  }
  for (const link of document.querySelectorAll('a[href^="#"]')) {
    if (!document.getElementById(link.getAttribute('href').slice(1))) problems.push('no target ' + link.href);
  }
  const ids = [...document.querySelectorAll('main [id]')].filter(e => !e.closest('svg')).map(element => element.id);
  if (new Set(ids).size < ids.length) problems.push('two elements of one name');
  document.title = location.pathname.split('/').pop() + ' at width ' + width + ': ' + JSON.stringify(problems);
});
</script>
"""
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync --hide-scrollbars --allow-file-access-from-files"


@pytest.fixture(scope="module")
def wide_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two studies, with what makes pages wide."""
    folder = tmp_path_factory.mktemp("report")
    long = "a_user's_own_optimizer_with_a_name_that_is_long optimizer.lr=0.00012345"
    write_study(folder / "outputs", ARMS | {long: [80.0] * 5})
    arms: dict[str, Values] = {"sgd": [70.0, None], "if_shampoo": [71.0, None]}
    write_study(folder / "outputs", arms, study="b", suffix="-b", preset="vit", dataset="n" * 90)
    collect(folder / "outputs", folder)
    for name in ("bench", "theory"):
        shutil.copy(ROOT / "results" / f"{name}.csv", folder)
    report(folder, CLAIMS)
    return folder


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")
def test_pages_in_a_browser(tmp_path: Path, wide_report: Path) -> None:
    """On a phone and on a screen nothing is too wide, every figure has content, and the console stays empty."""
    files = [wide_report / "index.html", *sorted((wide_report / "studies").glob("*.html"))]
    frames, expected = "", []
    for file, width in itertools.product(files, (390, 1280)):
        (tmp_path / file.name).write_text(file.read_text().replace("<style>", f"{PROBE}<style>", 1))
        # a window is never narrower than 500 pixels, a frame is
        frames += f'<iframe src="{file.name}" style="width:{width}px;height:900px;border:0"></iframe>'
        expected.append(f"{file.name} at width {width}: []")
    script = "addEventListener('load', () => document.title = Array.from(frames, one => one.document.title).join('; '))"
    (tmp_path / "frame.html").write_text(f"<!doctype html><title>not loaded</title>{frames}<script>{script}</script>")
    command = [str(BROWSER), *FLAGS.split(), "--dump-dom", "--enable-logging=stderr", "--window-size=1400,1000"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", f"file://{tmp_path}/frame.html"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r"<title>(.*?)</title>", done.stdout, flags=re.DOTALL)
    assert found, done.stderr
    assert found[1].split("; ") == expected
    assert len(expected) == 6
    assert "CONSOLE" not in done.stderr


def test_every_link_between_pages_has_a_target(wide_report: Path) -> None:
    for file in wide_report.rglob("*.html"):
        for link, name in re.findall(r'href="([^"#]+\.html)(?:#([^"]*))?"', file.read_text()):
            target = file.parent / link
            assert target.is_file()
            assert not name or f'id="{name}"' in target.read_text()


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")
def test_page_in_print(tmp_path: Path, wide_report: Path) -> None:
    """The first page can be printed: a PDF with pages, and nothing on the console."""
    command = [str(BROWSER), *FLAGS.split(), "--enable-logging=stderr", f"--print-to-pdf={tmp_path / 'page.pdf'}"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", f"file://{wide_report}/index.html"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (tmp_path / "page.pdf").read_bytes().count(b"/Type /Page") > 1, done.stderr
    assert "CONSOLE" not in done.stderr


def test_welch() -> None:
    """The interval of two means with unequal spreads, against scipy's."""
    from scipy.stats import ttest_ind_from_stats

    from rootfree.analysis.report import difference

    first, second = Interval(5, 90.0, 1.0, 0, 0), Interval(15, 89.0, 0.3, 0, 0)
    found = difference(first, second)
    p = ttest_ind_from_stats(90.0, 1.0, 5, 89.0, 0.3, 15, equal_var=False).pvalue
    assert (found.low > 0) == (p < 0.05)
    edge = Interval(5, 89.0 + found.mean - found.low, 1.0, 0, 0)  # a difference as large as half the interval
    assert ttest_ind_from_stats(edge.mean, 1.0, 5, 89.0, 0.3, 15, equal_var=False).pvalue == pytest.approx(0.05)
