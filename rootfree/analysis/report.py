"""The report: what was asked, what was found and how sure that is, computed from the tables and the claims alone."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from rootfree.analysis.claims import Claims, Finding, Judgement, differences, load_claims, scorecard
from rootfree.analysis.figures import Look, draw, looks, save
from rootfree.analysis.page import Block, Details, Heading, Picture, Table, Text, html, markdown
from rootfree.analysis.statistics import POWER, Interval, t_interval
from rootfree.analysis.tables import Study, read, studies

TITLE = "Can the square root go?"
UNIT = {"test_acc": "points", "gap_acc": "points", "test_loss": "nats", "gap_loss": "nats"}


class Written(NamedTuple):
    """Where the page is, and the tables that are worth printing."""

    page: Path
    tables: list[Table]


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
    found = studies(runs, curves)
    if not found:
        raise ValueError(f"{directory / 'runs.csv'} has {len(runs)} search runs and no other: nothing to report yet")
    judgements = scorecard(claims, found)
    look = looks(sorted({arm for study in found for arm in study.arms}))
    figures = directory / "figures"
    figures.mkdir(exist_ok=True)
    for old in [*figures.glob("*.png"), *figures.glob("*.svg")]:  # else a figure outlives the study it shows
        old.unlink()

    blocks: list[Block] = [Heading(1, TITLE), *_opening(judgements, found)]
    printed = []
    for study in found:
        mine = [judgement for judgement in judgements if judgement.study is study]
        table = _arms(study)
        blocks += [Heading(2, study.title), *_findings(study, mine, claims), table]
        blocks += _pictures(study, claims, look, figures)
        blocks += [*_paired(study, claims), _runs(study)]
        printed.append(table)
    blocks += _reading()
    (directory / "report.md").write_text(markdown(blocks), encoding="utf-8")
    page = directory / "report.html"
    page.write_text(html(blocks, TITLE), encoding="utf-8")
    if published and published.resolve() != directory.resolve() and (published / "runs.csv").is_file():
        printed.append(compare(found, studies(*read(published))))
    return Written(page, printed)


def compare(reproduced: list[Study], published: list[Study]) -> Table:
    """Reproduced against published test accuracy, per study and arm: run by run where ids are shared, else by means."""
    rows = []
    theirs = {study.runs["study"].iloc[0]: study for study in published}
    for study in reproduced:
        other = theirs.get(study.runs["study"].iloc[0])
        for arm in study.arms:
            here = t_interval(study.finished(arm, "test_acc"))
            row = [study.title, arm, _spread(here)]
            if other is None or arm not in other.arms:
                rows.append([*row, "-", "not published"])
                continue
            there = t_interval(other.finished(arm, "test_acc"))
            both = study.runs[study.runs["arm"] == arm].merge(other.runs, on="run_id", suffixes=("", "_published"))
            same = int(
                (
                    (both["test_acc"] == both["test_acc_published"])
                    | both[["test_acc", "test_acc_published"]].isna().all(axis=1)
                ).sum()
            )
            said = (
                f"{same} runs identical, {len(both) - same} different"
                if len(both)
                else f"means differ by {here.mean - there.mean:+.2f} points"
            )
            rows.append([*row, _spread(there), said])
    return Table(
        ["study", "arm", "reproduced", "published", "comparison"],
        rows,
        "Test accuracy in percent, mean ± sd over seeds.",
    )


def _opening(judgements: list[Judgement], found: list[Study]) -> list[Block]:
    """What was asked, the scorecard, and what was found in three sentences."""
    decided = [judgement for judgement in judgements if judgement.study]
    tally = ", ".join(
        f"{sum(j.verdict == verdict for j in decided)} {verdict}"
        for verdict in dict.fromkeys(j.verdict for j in decided)
    )
    scales = sorted({study.scale or "ad hoc" for study in found})
    ended, diverged = (
        sum(len(study.runs) for study in found),
        sum(study.diverged(arm) for study in found for arm in study.arms),
    )
    text = f"{len({j.claim.id for j in judgements})} claims are asked; the runs here give {len(decided)} verdicts{f': {tally}' if tally else ''}. "
    text += f"They rest on {_plural(ended, 'run')} in {_plural(len(found), 'study', 'studies')} at {' and '.join(scales)} scale"
    text += f", of which {diverged} diverged. " if diverged else ", none of which diverged. "
    text += "A verdict holds for its scale, data set and model, and for no other."
    blocks: list[Block] = [Text(text)]
    if all(_smoke(study) for study in found):
        blocks.append(
            Text("These are smoke runs: they show that the machinery works and are not evidence of anything.")
        )
    rows = []
    for judgement in judgements:
        where = (
            f"{judgement.study.scale}-scale, {judgement.study.title}"
            if judgement.study
            else f"preset {judgement.claim.preset} was not run"
        )
        rows.append([judgement.claim.id, judgement.claim.statement, where, judgement.verdict, _why(judgement)])
    caption = (
        f"Claims are in our words; sources: {'; '.join(f'{j.claim.id} {j.claim.source}' for j in _first(judgements))}."
    )
    return [*blocks, Heading(2, "Scorecard"), Table(["claim", "statement", "where", "verdict", "why"], rows, caption)]


def _findings(study: Study, judgements: list[Judgement], claims: Claims) -> list[Block]:
    """One paragraph on a study: what was asked, what was found, how sure."""
    sentences = []
    if _smoke(study):
        sentences.append("Smoke runs, not evidence.")
    for judgement in judgements:
        claim = judgement.claim
        sentences.append(
            f"Asked ({claim.id}): {claim.statement} Found at {study.scale} scale: {judgement.verdict}. {_why(judgement)}"
        )
    means = {arm: study.finished(arm, "test_acc").mean() for arm in study.arms if study.finished(arm, "test_acc").size}
    if means:
        best = max(means, key=lambda arm: means[arm])
        sentences.append(
            f"The highest mean test accuracy is {best}'s, {_spread(t_interval(study.finished(best, 'test_acc')))} %."
        )
    if (
        claims.placebo
        and (floor := differences(study, {claims.placebo.arm: 1, claims.placebo.of: -1}, "test_acc")).size
    ):
        rms = float(np.sqrt(np.mean(floor**2)))
        sentences.append(
            f"Noise floor: {claims.placebo.arm} is {claims.placebo.of} up to rounding, and yet at equal seeds the two are {rms:.2f} points "
            f"apart (root mean square), on average {_difference(t_interval(floor), 'points')}."
        )
    lost = [f"{study.diverged(arm)} of {study.size(arm)} runs of {arm}" for arm in study.arms if study.diverged(arm)]
    if lost:
        sentences.append(f"Diverged: {', '.join(lost)}.")
    if study.left_out:
        older = ", ".join(f"{count} of {arm}" for arm, count in study.left_out.items())
        sentences.append(f"Left out, because later runs replaced their settings: {older}.")
    return [Text(" ".join(sentences)), Text(_facts(study))]


def _arms(study: Study) -> Table:
    """The table of results."""
    header = [
        "arm",
        "n",
        "diverged",
        "test acc. (%)",
        "95% interval",
        "train acc. (%)",
        "gap (points)",
        "seconds",
        "search runs",
    ]
    rows = []
    for arm in study.arms:
        test, train, gap, seconds = (
            t_interval(study.finished(arm, key)) for key in ("test_acc", "train_acc", "gap_acc", "seconds")
        )
        row = [
            arm,
            str(study.size(arm)),
            str(study.diverged(arm)),
            _spread(test),
            _bounds(test),
            _spread(train),
            _spread(gap),
        ]
        rows.append([*row, f"{seconds.mean:.0f}" if seconds.n else "-", str(study.budgets[arm] or "none")])
    caption = (
        f"{study.title}. Mean ± standard deviation over the seeds that finished; train accuracy on clean images in eval mode, gap = train minus test; "
        f"seconds per run on {study.hardware}; search runs = tuning budget of the arm on this data set and model."
    )
    return Table(header, rows, caption)


def _pictures(study: Study, claims: Claims, look: dict[str, Look], folder: Path) -> list[Picture]:
    pictures = []
    for drawing in draw(study, claims, look):
        stem = folder / f"{study.slug}-{drawing.name}"
        pictures.append(Picture(Path(folder.name) / stem.name, save(drawing.figure, stem), drawing.caption))
    return pictures


def _paired(study: Study, claims: Claims) -> list[Block]:
    """Every arm against every baseline, paired by seed."""
    rows = []
    for baseline in [arm for arm in claims.baselines if arm in study.arms]:
        for arm in [arm for arm in study.arms if arm != baseline]:
            accuracy = t_interval(differences(study, {arm: 1, baseline: -1}, "test_acc"))
            # `differences` points to the better side; the reader of a gap wants arm minus baseline
            gap = t_interval(-differences(study, {arm: 1, baseline: -1}, "gap_acc"))
            rows.append(
                [
                    f"{arm} - {baseline}",
                    str(accuracy.n),
                    _spread(accuracy, "+"),
                    _bounds(accuracy),
                    _spread(gap, "+"),
                    _bounds(gap),
                ]
            )
    if not rows:
        return []
    header = ["difference", "pairs", "test acc. (points)", "95% interval", "gap (points)", "95% interval "]
    note = "Differences at equal seeds, mean ± sd over pairs that both finished; intervals are not adjusted for their number."
    if claims.placebo and claims.placebo.arm in study.arms:
        note += f" {claims.placebo.arm} - {claims.placebo.of} is the noise floor."
    return [Heading(3, "Differences paired by seed"), Table(header, rows, f"{note} {study.title}; {study.hardware}.")]


def _runs(study: Study) -> Details:
    """Every run with its command, and the settings of every arm."""
    rows = [
        [
            run.run_id,
            run.arm,
            str(run.seed),
            run.status,
            "-" if pd.isna(run.test_acc) else f"{run.test_acc:.2f}",
            f"`{run.command}`",
        ]
        for run in study.runs.itertuples()
    ]
    prefix = "config.optimizer."
    hyper = [
        column
        for column in study.runs
        if column.startswith(prefix) and not column.startswith(f"{prefix}_p") and column != f"{prefix}_convert_"
    ]
    settings = []
    for arm, row in study.runs.groupby("arm", sort=True)[hyper].first().iterrows():
        settings.append(
            [str(arm), ", ".join(f"{key.removeprefix(prefix)}={_plain(value)}" for key, value in row.dropna().items())]
        )
    code = sorted(
        {f"{run.commit}{' with local changes' if str(run.dirty) == 'True' else ''}" for run in study.runs.itertuples()}
    )
    return Details(
        f"All {_plural(len(study.runs), 'run')}, their commands and settings",
        [
            Table(["arm", "optimizer settings"], settings, "The numbers each arm was run with."),
            Table(
                ["run", "arm", "seed", "status", "test acc. (%)", "command"],
                rows,
                f"Code: {', '.join(code)}. {study.hardware}.",
            ),
        ],
    )


def _reading() -> list[Block]:
    """How to read it."""
    return [
        Heading(2, "How to read this"),
        Text(
            "One seed fixes initialisation, order of the data and augmentation, so arms are compared at equal seeds. A claim of superiority is supported if "
            "the 95% t interval of the paired difference lies above zero and refuted if it lies below the margin; not being worse: above or below minus "
            "the margin; equivalence: the 90% interval inside or outside the margin. Otherwise it is underpowered if these seeds would have missed a "
            f"difference as large as the margin more often than one time in {1 / (1 - POWER):.0f}, and inconclusive if not. Margins were fixed before the runs."
        ),
        Text(
            "Diverged runs are counted beside every mean and enter none; no claim is supported for an arm that diverged more often than its rival. Test "
            "accuracy is measured once, after the last epoch. Searches see validation data only."
        ),
    ]


def _why(judgement: Judgement) -> str:
    """The numbers behind a verdict, in words."""
    if judgement.study is None:
        return "No run."
    unit = UNIT[judgement.claim.metric]
    sentences = [_reason(finding, unit) for finding in judgement.findings]
    if judgement.premise:
        sentences.insert(0, f"Premise: {_reason(judgement.premise, unit)}")
    return " ".join(sentences)


def _reason(finding: Finding, unit: str) -> str:
    outcome = finding.outcome
    text = f"{finding.part.text}: {outcome.verdict}"
    if outcome.interval.n:
        level = 90 if finding.part.kind == "equivalence" else 95
        text += f", {_difference(outcome.interval, unit, level)}, margin {finding.margin:g}"
        if outcome.verdict in ("underpowered", "inconclusive") and np.isfinite(outcome.detectable):
            text += f"; {outcome.detectable:.2f} {unit} would be seen"
    return f"{text}{f' ({finding.note})' if finding.note else ''}."


def _facts(study: Study) -> str:
    """The conditions shared by all runs of a study."""
    first = study.runs.iloc[0]
    sizes = ", ".join(f"{arm} {study.size(arm)}" for arm in study.arms)
    return (
        f"Runs: {sizes}. Data {first['dataset']}, model {first['model']}, loss {first['loss']}, schedule {first['schedule']}, {first['epochs']} epochs, "
        f"batch size {first['batch_size']}, {study.scale or 'ad hoc'} scale. Hardware: {study.hardware}. Study `{first['study']}`."
    )


def _smoke(study: Study) -> bool:
    return study.scale == "smoke" or bool((study.runs["purpose"] == "smoke").all())


def _first(judgements: list[Judgement]) -> list[Judgement]:
    """One judgement per claim."""
    return list({judgement.claim.id: judgement for judgement in reversed(judgements)}.values())[::-1]


def _spread(interval: Interval, sign: str = "") -> str:
    if not interval.n:
        return "-"
    return f"{interval.mean:{sign}.2f}" + (f" ± {interval.sd:.2f}" if interval.n > 1 else "")


def _bounds(interval: Interval) -> str:
    return f"{interval.low:.2f} to {interval.high:.2f}" if interval.n > 1 else "-"


def _difference(interval: Interval, unit: str, level: int = 95) -> str:
    bounds = f"{level}% {interval.low:+.2f} to {interval.high:+.2f}, " if interval.n > 1 else ""
    return f"{interval.mean:+.2f} {unit} ({bounds}n = {interval.n})"


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _plural(count: int, one: str, many: str | None = None) -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"
