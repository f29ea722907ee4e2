"""The report: what was asked, what was found and how sure that is, computed from the tables and the claims alone.

`report` writes pages, a study each, and `publish` what the repository holds of it: words, verdicts and few figures.
"""

import os
import re
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from rootfree.analysis import answers, figures, overview, sections
from rootfree.analysis.checks import MADE_BY
from rootfree.analysis.claims import Claims, load_claims
from rootfree.analysis.grouping import studies
from rootfree.analysis.page import render, safe_name
from rootfree.analysis.searches import read_searches
from rootfree.analysis.sections import FEW, bounds, spread
from rootfree.analysis.statistics import Interval, t_interval
from rootfree.analysis.style import Drawing, label, save_png
from rootfree.analysis.tables import Study, read
from rootfree.analysis.targets import profile, to_target
from rootfree.analysis.verdicts import Judgement, scorecard, table

TITLE = "Can the square root go?"
ASKED = "What does dropping the square root of adaptive methods do to accuracy, cost and precision?"
MARK = "<!-- results -->\n"
COMPARED = (sections.results, sections.paired, sections.tuning)
DESCRIBED = (sections.second_moment, sections.settings, sections.runs)


class Evidence(NamedTuple):
    """Everything that a report is made of."""

    claims: Claims
    studies: list[Study]
    judgements: list[Judgement]
    side: dict[str, pd.DataFrame]  # `theory` and `bench`, as far as there are any
    published: list[Study] | None  # to compare with, for a report of one's own runs


class Written(NamedTuple):
    """Where the first page is, and of a report of one's own runs the tables that are worth printing."""

    page: Path
    tables: list[tuple[str, pd.DataFrame]]  # with their captions


def gather(directory: Path, claims_file: Path, published: Path | None = None) -> Evidence:
    """Read tables and claims, and judge.

    Args:
        directory: Folder with `runs.csv` and `curves.csv`, and perhaps `search/`, `theory.csv`, `bench.csv`.
        claims_file: The claims, see `experiments/claims.yaml`.
        published: Folder of published tables, where what `directory` lacks is looked up.

    Raises:
        ValueError: There is nothing to report, or an input cannot be understood.
    """
    claims = load_claims(claims_file)
    runs, curves = read(directory)
    own = published is not None and published.resolve() != directory.resolve() and (published / "runs.csv").is_file()
    known = read(published) if own and published else None
    folders = [directory, *([published] if own and published else [])]
    tables = [search for folder in folders for search in read_searches(folder / "search")]
    searches = known[0] if known else None
    wanted = claims.wanted()
    root = next((folder for folder in claims_file.resolve().parents if (folder / "configs").is_dir()), None)
    found = studies(runs, curves, searches=searches, tables=tables, wanted=wanted, root=root)
    if not found:
        raise ValueError(f"nothing to report: {directory / 'runs.csv'} holds only runs of searches ({len(runs)})")
    asked = list(wanted)  # a reader meets the studies in the order of the claims
    found.sort(key=lambda study: asked.index(study.preset) if study.preset in asked else len(asked))
    side = {name: pd.read_csv(file) for folder in reversed(folders)
            for name in MADE_BY if (file := folder / f"{name}.csv").is_file()}  # fmt: skip
    judgements = scorecard(claims, found, side, tables)
    if known:  # one's own runs decide what they decide, and nothing else is told
        judgements = [one for one in judgements if one.study and one.verdict != "no data"]
    return Evidence(claims, found, judgements, side, studies(*known, wanted=wanted, root=root) if known else None)


def report(directory: Path, claims_file: Path, into: Path | None = None, published: Path | None = None) -> Written:
    """Write `index.html` and `studies/<slug>.html`, each a page that needs nothing else.

    Args:
        directory: Folder of tables, see `gather`.
        claims_file: The claims.
        into: Folder of the report, made if missing; default: `directory`.
        published: Folder of published tables, to compare with and to look up what `directory` lacks.

    Raises:
        ValueError: There is nothing to report, or an input cannot be understood.
    """
    evidence = gather(directory, claims_file, published)
    claims, found, judgements = evidence.claims, evidence.studies, evidence.judgements
    into = into or directory
    folder = into / "studies"
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{safe_name(study.slug)}.html" for study in found]
    for old in set(folder.glob("*.html")) - set(files):  # else a page outlives its study
        old.unlink()
    asked = [[one for one in judgements if one.study is study] for study in found]
    page = into / "index.html"
    with ProcessPoolExecutor(min(os.cpu_count() or 1, len(found))) as pool:
        written = pool.map(_write_study, found, asked, repeat(claims), files)
        page.write_text(_index(evidence, files), encoding="utf-8")
        list(written)  # an error of any page is one of the report
    own = zip(found, asked, strict=True) if evidence.published is not None else ()
    return Written(page, [told for study, these in own for told in _told(study, these, evidence)])


def publish(directory: Path, claims_file: Path, readme: Path) -> None:
    """Rewrite what follows from the tables of `directory`: its verdicts, words and figures, and a README's block.

    The words stand between two lines `<!-- results -->` of `directory/README.md` and of `readme`. The figures are those
    that the two files name, `figures/<name>.png`.

    Raises:
        ValueError: A file lacks the two lines, or names a figure that there is not.
    """
    evidence = gather(directory, claims_file)
    findings = directory / "README.md"
    rows = answers.forest(evidence.claims, evidence.judgements)
    values = {"groups": _groups(evidence, {}), "summaries": answers.summaries(evidence.claims, evidence.judgements)}
    folder = Path(os.path.relpath(directory, readme.parent)).as_posix()
    times = profile(to_target(evidence.studies, evidence.claims))
    overall = (overview.forest(rows), overview.forest(rows, wide=False), overview.profile(times))
    drawn = {drawing.name: drawing for drawing in overall}
    values |= {"caption": drawn["forest"].caption, "folder": folder, "asked": ASKED, "lines": _answer(evidence)}
    table(evidence.judgements).to_csv(directory / "verdicts.csv", index=False, float_format="%.6g")
    _refresh(findings, render("findings.md", **values))
    _refresh(readme, render("front.md", **values))
    words = findings.read_text(encoding="utf-8") + readme.read_text(encoding="utf-8")
    named = re.findall(r"figures/([\w.-]+)\.png", words)
    (directory / "figures").mkdir(exist_ok=True)
    for old in (directory / "figures").iterdir():
        if old.stem not in named:
            old.unlink()
    for name in dict.fromkeys(named):
        drawing = drawn.get(name) or _find(name, evidence)
        if drawing is None:
            raise ValueError(f"there is no figure {name}, which {findings} or {readme} names")
        save_png(drawing, directory / "figures" / f"{name}.png")


def compare(reproduced: Study, published: Study | None) -> tuple[str, pd.DataFrame]:
    """Whether the test accuracies of a study are consistent with those of a published one, for each arm."""
    ours = reproduced.runs.set_index("run_id")
    theirs = published.runs.set_index("run_id")["test_acc"] if published else pd.Series(name="test_acc")
    rows, alike = [], published is not None and reproduced.hardware == published.hardware
    for arm in reproduced.arms:
        row = {"arm": label(arm), "difference": "-", "95% interval": "-", "consistent?": "not published"}
        if published is not None and arm in published.arms:
            here, there = (t_interval(study.finished(arm, "test_acc")) for study in (reproduced, published))
            mine = ours.loc[ours["arm"] == arm, "test_acc"]
            both = pd.concat([mine, theirs], axis=1, join="inner").to_numpy(dtype=float)
            same, apart = int(np.equal(*np.nan_to_num(both, nan=-1).T).sum()), difference(here, there)
            enough, within = min(here.n, there.n) > 2, "yes" if apart.low <= 0 <= apart.high else "no"
            row["difference"] = f"{apart.mean:+.2f}" if here.n and there.n else "-"
            row["95% interval"] = bounds(apart, "+")
            row["consistent?"] = "yes" if same == len(mine) else within if enough else FEW
            if alike and len(both):
                row["identical"] = f"{same} of {len(both)}"
        rows.append(row)
    caption = "Consistent with the published numbers? Difference of the mean test accuracies, in points."
    if published is not None and not alike:
        caption += f" Published on {published.hardware}: on another processor runs are not expected to be identical."
    return caption, pd.DataFrame(rows).fillna("-")


def difference(first: Interval, second: Interval) -> Interval:
    """The difference of two independent means with its 95% interval, for unequal variances (Welch 1947)."""
    parts = [one.sd**2 / one.n if one.n > 1 else np.nan for one in (first, second)]
    mean, total = first.mean - second.mean, sum(parts)
    if not total > 0:  # both do not vary, or there are too few to tell
        return Interval(min(first.n, second.n), mean, np.nan, mean, mean)
    freedom = total**2 / sum(part**2 / (one.n - 1) for part, one in zip(parts, (first, second), strict=True))
    half = float(stdtrit(freedom, 0.975) * total**0.5)
    return Interval(min(first.n, second.n), mean, total**0.5, mean - half, mean + half)


def _write_study(study: Study, asked: Sequence[Judgement], claims: Claims, file: Path) -> None:
    """One page, in a process of its own where there are several."""
    pictures = [*figures.draw(study, claims)]
    searches = [one for one in pictures if one.name.startswith("isolation-")]
    values = {
        "study": study,
        "title": study.title,
        "home": TITLE,
        "asked": [(one, answers.parts(one)) for one in asked],
        "origins": answers.ORIGINS,
        "said": sections.context(study, claims),
        "steady": sections.steady(study),
        "target": sections.time_to_target(study, claims),
        "tables": {make.__name__: make(study, claims) for make in COMPARED}
        | {make.__name__: make(study) for make in DESCRIBED},
        "pictures": [one for one in pictures if one not in searches],
        "searches": searches,
    }
    file.write_text(render("study.html", **values), encoding="utf-8")


def _index(evidence: Evidence, files: Sequence[Path]) -> str:
    """The first page: the answer, the verdicts, and the way to the studies."""
    pages = {study.slug: f"studies/{file.name}" for study, file in zip(evidence.studies, files, strict=True)}
    rows = answers.forest(evidence.claims, evidence.judgements)
    own = evidence.published is not None
    side = {} if own else evidence.side  # of the published report
    times = profile(to_target(evidence.studies, evidence.claims))
    values = {
        "title": TITLE,
        "asked": ASKED,
        "smoke": all(study.is_smoke for study in evidence.studies),
        "lines": [] if own else _answer(evidence),
        "forests": [] if rows.empty else [overview.forest(rows, wide) for wide in (True, False)],
        "studies": sections.overview(evidence.studies, pages),
        "groups": _groups(evidence, pages),
        "profile": overview.profile(times) if (times["studies"] > 1).any() else None,
        "theory": sections.theory(side["theory"]) if "theory" in side else None,
        "bench": sections.bench(side["bench"]) if "bench" in side else None,
    }
    return render("index.html", **values)


def _answer(evidence: Evidence) -> list[str]:
    """What was found in a few lines of Markdown, and when to use a method without the root and when to leave it."""
    both = evidence.claims, evidence.judgements
    words = render("answer.md", duels=answers.duels(*both), summaries=answers.summaries(*both))
    return [" ".join(line.split()) for line in words.split("\n\n") if line.strip()]


def _groups(evidence: Evidence, pages: dict[str, str]) -> list[tuple[str, pd.DataFrame]]:
    """Each question with the verdicts on its claims."""
    groups = []
    for question in evidence.claims.questions:
        if these := answers.asked(question, evidence.judgements):
            groups.append((question.title, answers.verdicts(these, pages)))
    return groups


def _told(study: Study, judgements: Sequence[Judgement], evidence: Evidence) -> list[tuple[str, pd.DataFrame]]:
    """What a terminal shows of a study."""
    rows = []
    for arm in figures.in_order(study, evidence.claims):
        test = t_interval(study.finished(arm, "test_acc"))
        rows.append({"arm": label(arm), "n": str(test.n), "test acc. (%)": spread(test), "95% interval": bounds(test)})
    smoke = " Smoke runs: they show that the machinery works, and decide nothing." if study.is_smoke else ""
    told = [(f"{study.title}. Mean ± sd over seeds, {study.hardware}.{smoke}", pd.DataFrame(rows))]
    claims = [{"claim": one.claim.id, "asked": one.claim.short, "verdict": one.verdict} for one in judgements]
    if claims and not study.is_smoke:
        told.append(("What this study decides; the numbers are on its page.", pd.DataFrame(claims)))
    known = {(other.id, other.preset): other for other in evidence.published or []}  # presets may share a setting
    return [*told, compare(study, known.get((study.id, study.preset)))]


def _find(name: str, evidence: Evidence) -> Drawing | None:
    """The drawing that is called `<slug of a study>-<name of its figure>`."""
    for study in evidence.studies:
        if name.startswith(f"{safe_name(study.slug)}-"):
            return next(figures.draw(study, evidence.claims, name.removeprefix(f"{safe_name(study.slug)}-")), None)
    return None


def _refresh(file: Path, words: str) -> None:
    parts = file.read_text(encoding="utf-8").split(MARK)
    if len(parts) != 3:
        raise ValueError(f"{file} must hold the line {MARK.strip()} twice, around what is to be refreshed")
    file.write_text(MARK.join([parts[0], f"\n{words.strip()}\n\n", parts[2]]), encoding="utf-8")
