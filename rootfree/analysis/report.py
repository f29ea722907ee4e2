"""The report: what was asked, what was found and how sure that is, computed from the tables and the claims alone."""

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from rootfree.analysis import costs, sections
from rootfree.analysis.checks import MADE_BY, Check
from rootfree.analysis.claims import load_claims
from rootfree.analysis.figures import draw, verdicts
from rootfree.analysis.page import Block, Details, Heading, Picture, Table, Text, anchor, html, markdown, plain
from rootfree.analysis.searches import read_searches
from rootfree.analysis.sections import plural, spread
from rootfree.analysis.statistics import t_interval
from rootfree.analysis.style import Drawing, looks, save
from rootfree.analysis.tables import Study, read, studies
from rootfree.analysis.verdicts import Judgement, scorecard

ORDER = ["supported", "refuted", "premise not met", "undecided", "no data"]
TITLE = "Can the square root go?"


class Written(NamedTuple):
    """Where the page is, the tables that are worth printing, and the blocks that a front page shows."""

    page: Path
    tables: list[Table]
    front: list[Block]


def report(directory: Path, claims_file: Path, published: Path | None = None) -> Written:
    """Write `report.md`, `report.html` and `figures/` beside the tables of `directory`.

    Args:
        directory: Folder with `runs.csv` and `curves.csv`.
        claims_file: The claims, see `experiments/claims.yaml`.
        published: Folder of published tables to compare with; ignored if it has none or is `directory`.

    Raises:
        ValueError: There is nothing to report, or an input cannot be understood.
    """
    claims = load_claims(claims_file)
    runs, curves = read(directory)
    known = None
    if published and published.resolve() != directory.resolve() and (published / "runs.csv").is_file():
        known = read(published)
    folders = [directory / "search", *([published / "search"] if known and published else [])]
    tables = [search for folder in folders for search in read_searches(folder)]
    searches = known[0] if known else None
    found = studies(runs, curves, searches=searches, tables=tables, wanted=claims.wanted(), root=claims_file.parents[1])
    if not found:
        raise ValueError(
            f"nothing to report: {directory / 'runs.csv'} holds {plural(len(runs), 'search run')} and no other"
        )
    asked_in_turn = list(claims.wanted())  # a reader meets the studies in the order of the claims
    found.sort(
        key=lambda study: asked_in_turn.index(study.preset) if study.preset in asked_in_turn else len(asked_in_turn)
    )
    side = _side_tables(directory, published)
    judgements = scorecard(claims, found, side, tables)
    look = looks(found)
    figures = directory / "figures"
    figures.mkdir(exist_ok=True)
    for old in [*figures.glob("*.png"), *figures.glob("*.svg")]:  # else a figure outlives the study it shows
        old.unlink()

    def picture(prefix: str, drawing: Drawing) -> Picture:
        name = f"{prefix}-{drawing.name}" if prefix else drawing.name
        return Picture(Path(figures.name) / name, save(drawing.figure, figures / name), drawing.caption)

    opening = _opening(judgements, found, [*side], picture("", verdicts(judgements)))
    blocks: list[Block] = [Heading(1, TITLE), *opening]
    for question in claims.questions:
        blocks += sections.answer(question, judgements, found)
    briefs: list[Table] = []
    faces: list[list[Block]] = []  # what a front page shows of each study
    for study in found:
        asked = [judgement for judgement in judgements if judgement.study is study]
        blocks.append(Heading(2, study.title, anchor(study.slug)))
        results = sections.arms(study)
        briefs.append(_brief(study, results))
        blocks += [*sections.findings(study, asked, claims), results]
        pictures = [picture(study.slug, drawing) for drawing in draw(study, claims, look)]
        blocks += pictures
        faces.append([briefs[-1], pictures[0]])
        blocks += [*sections.paired(study, claims), *sections.second_moment(study), *sections.tuning(study)]
        blocks.append(sections.runs(study))
    if "bench" in side:
        blocks.append(Heading(2, "Time and memory", "bench"))
        blocks += [
            *(picture("", drawing) for drawing in costs.draw(side["bench"], look)),
            *sections.bench(side["bench"]),
        ]
    if "theory" in side:
        blocks += sections.theory(side["theory"])
    blocks += _reading()
    (directory / "report.md").write_text(markdown(blocks), encoding="utf-8")
    page = directory / "report.html"
    page.write_text(html(blocks, TITLE), encoding="utf-8")

    printed = [*briefs, _verdicts(judgements)]
    if known:
        printed += compare(found, studies(*known))
    # a front page has room for one study: of those that decide the first claim the one with most runs
    asked_first = [study.preset in claims.claims[0].preset for study in found]
    leading = max(range(len(found)), key=lambda place: (asked_first[place], len(found[place].runs)))
    front = [block for block in opening if not isinstance(block, Heading | Details)]
    return Written(page, printed, [*front, *faces[leading]])


def refresh(file: Path, written: Written) -> None:
    """Put the front blocks between the two `<!-- results -->` lines of a Markdown file, with links from its folder.

    Raises:
        ValueError: The file does not have the two lines.
    """
    mark = "<!-- results -->\n"
    before, *between, after = file.read_text(encoding="utf-8").split(mark)
    if len(between) != 1:
        raise ValueError(f"{file} must hold the line {mark.strip()} twice, around what is to be refreshed")
    folder = Path(os.path.relpath(written.page.parent, file.parent))
    moved = [
        replace(block, stem=folder / block.stem) if isinstance(block, Picture) else block for block in written.front
    ]
    shown = markdown(moved).replace("](#", f"]({folder.as_posix()}/{written.page.stem}.md#")
    file.write_text(f"{before}{mark}\n{shown}\n{mark}{after}", encoding="utf-8")


def compare(reproduced: list[Study], published: list[Study]) -> list[Table]:
    """Reproduced against published test accuracy: run by run where ids are shared, else by the means of an arm."""
    tables = []
    known = {(study.id, study.preset): study for study in published}  # presets may share what their runs share
    for study in reproduced:
        other = known.get((study.id, study.preset))
        rows = []
        for arm in study.arms:
            here = t_interval(study.finished(arm, "test_acc"))
            if other is None or arm not in other.arms:
                rows.append([arm, spread(here), "-", "not published"])
                continue
            there = t_interval(other.finished(arm, "test_acc"))
            mine = study.runs[study.runs["arm"] == arm].set_index("run_id")["test_acc"]
            both = other.runs.set_index("run_id")["test_acc"].to_frame("theirs").join(mine.rename("ours"), how="inner")
            same = (both["ours"] == both["theirs"]) | both.isna().all(axis=1)
            said = f"{plural(int(same.sum()), 'run')} identical, {int((~same).sum())} different"
            apart = [f"{run} {ours:.2f}, published {theirs:.2f}" for run, theirs, ours in both[~same].itertuples()]
            said += f": {'; '.join(apart)}" if apart else ""
            if both.empty:
                said = f"means differ by {here.mean - there.mean:+.2f} points"
            rows.append([arm, spread(here), spread(there), said])
        where = f" ({study.hardware}; published: {other.hardware})" if other else ""
        caption = f"{study.title}: reproduced against published test accuracy in %, mean ± sd over seeds{where}."
        tables.append(Table(["arm", "reproduced", "published", "comparison"], rows, caption))
    return tables


def _opening(judgements: list[Judgement], found: list[Study], tables: list[str], drawn: Picture) -> list[Block]:
    """What was asked, the scorecard, and what was found in three sentences."""
    claims = list({judgement.claim.id: judgement.claim for judgement in judgements}.values())
    asked = f"Asked: what does dropping the square root of adaptive methods do? {plural(len(claims), 'claim')} of the "
    asked += "paper and of this suite, each with what decides it, its margin and its number of seeds in "
    asked += "`experiments/claims.yaml`."
    blocks: list[Block] = [Text(asked)]
    if all(study.is_smoke for study in found):
        blocks.append(
            Text("These are smoke runs: they show that the machinery works and are not evidence of anything.")
        )
    rows: list[list[str]] = []
    reasons: list[list[str]] = []
    places: list[str] = []
    for judgement in judgements:
        claim, where = judgement.claim, _where(judgement)
        if judgement.study:
            where = f"[{where}](#{anchor(judgement.study.slug)})"
        elif claim.checked and (table := claim.checked[0].table) in tables:
            where = f"[{where}](#{table})"
        n = str(judgement.pairs) if judgement.study else "-"
        places.append(anchor("why", claim.id, *([judgement.study.slug] if judgement.study else [])))
        verdict = judgement.verdict if judgement.counts else f"beside it: {judgement.verdict}"
        reasons.append([claim.id, where, verdict, sections.why(judgement), sections.tuned(judgement)])
        if judgement.counts:
            rows.append([claim.id, claim.statement, where, n, f"[{verdict}](#{places[-1]})"])
    sources: dict[str, list[str]] = {}
    for claim in claims:
        sources.setdefault(claim.source, []).append(claim.id)
    listed = "; ".join(f"{', '.join(ids)}: {source}" for source, ids in sources.items())
    caption = (
        "Claims are in our words; one verdict for each scale and data set. n: the least number of pairs of runs "
        "with equal seeds, or of runs, that a comparison rests on. A verdict leads to the numbers behind it."
    )
    card = Table(["claim", "statement", "where", "n", "verdict"], rows, caption)
    caption = "Search runs: the tuning budget of each arm. Beside it: other settings at the same scale and on the same "
    caption += f"data set, with fewer pairs or no weaker a verdict. Sources: {listed}."
    why = Table(["claim", "where", "verdict", "why", "search runs"], reasons, caption, places)
    summary: list[Block] = [Text(" ".join(_sentences(judgements, found))), Heading(2, "Scorecard"), drawn, card]
    return [*blocks, *summary, Details("The numbers behind the verdicts", [why])]


def _sentences(judgements: list[Judgement], found: list[Study]) -> list[str]:
    """What was found, on which evidence, and how sure that is."""
    judgements = [judgement for judgement in judgements if judgement.counts]
    groups = [(verdict, [j.claim.id for j in judgements if j.verdict == verdict]) for verdict in ORDER]
    tally = [f"{len(ids)} {verdict} ({', '.join(_named(ids))})" for verdict, ids in groups if ids]
    runs = {run: status for study in found for run, status in study.runs[["run_id", "status"]].to_numpy()}
    diverged = sum(status == "diverged" for status in runs.values())
    scales = " and ".join(sorted({study.scale or "ad hoc" for study in found}))
    evidence = f"Evidence: {plural(len(runs), 'run')}, {diverged or 'none'} of them diverged, in "
    evidence += f"{plural(len(found), 'study', 'studies')} at {scales} scale"
    evidence += (
        ", and tables of exact checks and timings."
        if any(isinstance(f.part, Check) and f.verdict != "no data" for j in judgements for f in j.findings)
        else "."
    )
    compared = [finding for j in judgements for finding in j.findings if finding.arms and finding.n]
    sure = "How sure: "
    if pairs := [finding.n for finding in compared]:
        least, most = min(pairs), max(pairs)
        sure += f"verdicts on runs rest on {least if least == most else f'{least} to {most}'} seeds"
        planned = [finding for finding in compared if finding.n < finding.planned]
        sure += f", {len(planned)} of {plural(len(compared), 'comparison')} on fewer than planned" if planned else ""
        sure += "; "
    sure += "each holds for its scale, data set, model and tuned settings, and for no other."
    return [f"Found: {plural(len(judgements), 'verdict')}, {', '.join(tally)}.", evidence, sure]


def _named(ids: list[str]) -> list[str]:
    """Each claim once, with how many of the verdicts are on it."""
    times = {1: "", 2: " twice"}
    return [f"{claim}{times.get(n, f' {n} times')}" for claim, n in Counter(ids).items()]


def _brief(study: Study, table: Table) -> Table:
    """The table of results as far as a terminal is wide."""
    rows = [[plain(cell) for cell in row[:6]] for row in table.rows]
    return Table(table.header[:6], rows, f"{study.title}. Mean ± sd over seeds, {study.hardware}.")


def _where(judgement: Judgement) -> str:
    """Scale, model and data set of a verdict, and the tables it rests on."""
    words = [f"{judgement.study.scale}-scale: {judgement.study.setting}"] if judgement.study else []
    tables = dict.fromkeys(finding.part.table for finding in judgement.findings if isinstance(finding.part, Check))
    return " and ".join([*words, *(f"{table}.csv" for table in tables)]) or "-"


def _side_tables(*directories: Path | None) -> dict[str, pd.DataFrame]:
    """`theory.csv` and `bench.csv` of the first folder that has them."""
    found: dict[str, pd.DataFrame] = {}
    for folder in [directory for directory in directories if directory]:
        for name in MADE_BY:
            if name not in found and (file := folder / f"{name}.csv").is_file():
                found[name] = pd.read_csv(file)
    return found


def _verdicts(judgements: list[Judgement]) -> Table:
    """The scorecard as far as a terminal is wide."""
    rows = [[j.claim.id, _where(j), j.verdict] for j in judgements if j.counts]
    return Table(["claim", "where", "verdict"], rows, "The numbers behind the verdicts are on the page.")


def _reading() -> list[Block]:
    """How to read it."""
    return [
        Heading(2, "How to read this"),
        Text(
            "One seed fixes initialisation, order of the data and augmentation, so arms are compared at equal seeds. "
            "Its interval lies above the bound that a part asks about, below it, or across it: an arm that is to be "
            "ahead is held against the margin, one that is not to be behind against minus the margin, and two that are to be "
            "equal against both. A claim is supported by the largest p of its parts, and refuted by the smallest times "
            "their number; the claims tested at one scale and on one data set share one step of Holm. What is neither "
            "supported nor refuted at 5% is undecided, and says why."
        ),
        Text(
            "Diverged runs are counted beside every mean and enter none; no claim is supported for an arm that "
            "diverged more often than its rival. Test accuracy is measured once, after the last epoch; searches see "
            "validation data alone. Every verdict is conditional on the settings that were found for each arm: a "
            "larger search, or another space, may find others."
        ),
    ]
