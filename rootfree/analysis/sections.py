"""What the report says about one study: findings in words, the tables, and every run behind them."""

import numpy as np
import pandas as pd

from rootfree.analysis.checks import Check
from rootfree.analysis.claims import UNITS, Claims, Question
from rootfree.analysis.costs import both_sides
from rootfree.analysis.page import Block, Details, Heading, Table, Text, anchor
from rootfree.analysis.searches import best_of, scores
from rootfree.analysis.statistics import Interval, t_interval
from rootfree.analysis.tables import Study
from rootfree.analysis.verdicts import Finding, Judgement, differences, wins_losses_ties

BUDGETS = (1, 2, 4, 8, 16)  # numbers of draws whose expected best is shown


def findings(study: Study, judgements: list[Judgement], claims: Claims) -> list[Block]:
    """What was asked, what was found and how sure that is, and under which conditions."""
    blocks: list[Block] = []
    if study.is_smoke:
        blocks.append(Text("Smoke runs: they show that the machinery works and are not evidence of anything."))
    for judgement in judgements:
        asked = f"Asked ({judgement.claim.id}): {judgement.claim.statement}"
        beside = "" if judgement.counts else ", beside the study with more pairs that decides it"
        blocks.append(Text(f"{asked}\nFound at {study.scale} scale: {judgement.verdict}{beside}.\n{why(judgement)}"))

    sentences = []
    means = {arm: t_interval(study.finished(arm, "test_acc")) for arm in study.arms}
    ran = [arm for arm in study.arms if means[arm].n]
    if ran:
        best = max(ran, key=lambda arm: means[arm].mean)
        sentences.append(
            f"The highest mean test accuracy is that of {best}: {spread(means[best])} % (n = {means[best].n})."
        )
    if claims.placebo:
        arm, other = claims.placebo.arm, claims.placebo.of
        floor = differences(study, {arm: 1, other: -1}, "test_acc")
        if floor.size:
            apart = f"at equal seeds they are {np.sqrt(np.mean(floor**2)):.2f} points apart (root mean square)"
            average = _difference(t_interval(floor), "points")
            sentences.append(f"Noise floor: {arm} is {other} up to rounding, yet {apart}, on average {average}.")
    lost = [f"{study.diverged(arm)} of {study.size(arm)} runs of {arm}" for arm in study.arms if study.diverged(arm)]
    sentences.append(f"Diverged: {', '.join(lost) or 'no run'}.")
    if study.left_out:
        older = ", ".join(f"{count} of {arm}" for arm, count in study.left_out.items())
        sentences.append(f"Left out, because later runs replaced their settings: {older}.")

    first = study.runs.iloc[0]
    shared = ", ".join(
        f"{key} {first[key]}" for key in ("dataset", "model", "loss", "schedule", "epochs", "batch_size")
    )
    shared = f"{shared.replace('_size', ' size')}, {study.scale or 'ad hoc'} scale"
    return [
        *blocks,
        Text(" ".join(sentences)),
        Text(f"Shared by all runs: {shared}; {study.hardware}; study `{first['study']}`."),
    ]


def answer(question: Question, judgements: list[Judgement], studies: list[Study]) -> list[Block]:
    """What several claims say on one question, and what the second moments of the studies behind them did."""
    said = []
    for one in judgements:
        if one.claim.id in question.claims and one.counts:
            where = f", {one.study.setting}" if one.study else ""
            said.append(Text(f"{one.claim.id}{where}: {one.claim.statement} {one.verdict.capitalize()}.\n{why(one)}"))
    shown = [table for study in studies if study.preset in question.presets for table in second_moment(study)[1:]]
    return [Heading(2, question.title, anchor(question.title)), *said, *shown]


def arms(study: Study) -> Table:
    """The results of every arm."""
    costs = {"optimizer (ms/step)": _per_step(study, "optimizer_ms"), "data (ms/step)": _per_step(study, "data_ms")}
    costs = {name: values for name, values in costs.items() if values}
    header = ["arm", "n", "diverged", "test acc. (%)", "95% interval", "gap (points)", "train acc. (%)"]
    header += ["search runs", "seconds", "state (MB)", *costs]
    rows = []
    for arm in study.arms:
        metrics = ("test_acc", "gap_acc", "train_acc", "seconds")
        test, gap, train, seconds = (t_interval(study.finished(arm, metric)) for metric in metrics)
        state = study.column(arm, "state_bytes").astype(float).median() / 1e6
        failed = study.column(arm, "failed_roots").astype(float).sum()
        lost = f"{study.diverged(arm)}" + (f" ({failed:.0f} failed roots)" if failed else "")
        row = [named(arm), f"[{test.n}](#{place(study, arm)})", lost, spread(test), _bounds(test)]
        row += [spread(gap), spread(train), study.budgets.get(arm, "none")]
        row += [f"{seconds.mean:.0f}" if seconds.n else "-", "-" if np.isnan(state) else f"{state:.3g}"]
        rows.append([*row, *(f"{values[arm]:.2f}" if arm in values else "-" for values in costs.values())])
    caption = (
        f"{study.title}. Mean ± standard deviation over the n seeds that finished; n leads to their runs. Train "
        "accuracy is on clean images in eval mode, the gap is train minus test. Search runs: those of the search that "
        "found the arm's settings, in brackets whose it was and in what its runs differed. Seconds per run, and times "
        f"per step, on {study.hardware}."
    )
    return Table(header, rows, caption)


def named(arm: str) -> str:
    """An arm as a table calls it."""
    return arm.replace(" tuned=none", ", untuned defaults").replace(" tuned=", " ").replace(" optimizer.", " ")


def place(study: Study, *what: str) -> str:
    """Where the page has an arm's runs, or one run."""
    return anchor("runs", study.slug, *what)


def _per_step(study: Study, column: str) -> dict[str, float]:
    """The median over epochs and runs of each arm, where it was measured."""
    if column not in study.curves:
        return {}
    return {str(arm): float(value) for arm, value in study.curves.groupby("arm")[column].median().dropna().items()}


def paired(study: Study, claims: Claims) -> list[Block]:
    """Every arm against every baseline at equal seeds."""
    rows = []
    for baseline in [arm for arm in claims.baselines if arm in study.arms]:
        for arm in [arm for arm in study.arms if arm != baseline]:
            accuracy = t_interval(differences(study, {arm: 1, baseline: -1}, "test_acc"))
            # oriented by `differences` so that positive is better; here it is plainly arm minus baseline
            gap = t_interval(-differences(study, {arm: 1, baseline: -1}, "gap_acc"))
            wins = "-".join(map(str, wins_losses_ties(study, arm, baseline, "test_acc")))
            row = [f"{named(arm)} - {baseline}", f"[{accuracy.n}](#{place(study, arm)})", wins]
            rows.append([*row, spread(accuracy, "+"), _bounds(accuracy, "+"), spread(gap, "+"), _bounds(gap, "+")])
    if not rows:
        return []
    header = ["difference", "pairs", "won-lost-tied", "test acc. (points)", "95% interval", "gap (points)"]
    note = "Mean ± sd over the pairs of which both runs finished; intervals are not adjusted for their number. In won-"
    note += "lost-tied a run that diverged loses to one that did not."
    if claims.placebo and claims.placebo.arm in study.arms:
        note += f" {claims.placebo.arm} - {claims.placebo.of} is the noise floor."
    table = Table([*header, "95% interval (gap)"], rows, f"{note} {study.title}; {study.hardware}.")
    return [Heading(3, "Differences at equal seeds"), table]


def second_moment(study: Study) -> list[Block]:
    """How far every arm's second moment came from its start, and how near its steps are to those of momentum SGD."""
    columns = {"share_frozen": "frozen (%)", "share_above_damping": "above damping (%)", "cosine_sgd": "cosine to SGD"}
    columns = {column: words for column, words in columns.items() if column in study.curves}
    finished = study.curves[study.curves["status"] == "finished"]
    last = finished.sort_values("epoch", kind="stable").drop_duplicates("run_id", keep="last")
    rows = []
    for arm in study.arms:
        ends = last[last["arm"] == arm]
        values = {column: ends[column].astype(float).mean() for column in columns}
        weight, steps = study.forgets(arm), study.column(arm, "steps").astype(float).max()
        row = [
            named(arm),
            f"[{len(ends)}](#{place(study, arm)})",
            *("-" if np.isnan(value) else f"{value:.3g}" for value in (weight, weight * steps)),
        ]
        shown = {c: f"{value:.3f}" if c == "cosine_sgd" else f"{100 * value:.1f}" for c, value in values.items()}
        row += ["-" if np.isnan(values[column]) else shown[column] for column in columns]
        rows.append([*row, spread(t_interval(study.finished(arm, "test_acc")))])
    if not rows or not columns:
        return []
    header = ["arm", "n", "1 - beta2", "(1 - beta2) x steps", *columns.values(), "test acc. (%)"]
    caption = (
        "After the last step, means over the n runs that finished; test accuracy with its sd. A moving average forgets "
        "its start once (1 - beta2) x steps is well above 1. Frozen: coordinates whose second moment still has its "
        "initial value; for a matrix method, entries of its factors. Cosine: between the last update and that of "
        "momentum SGD on the same gradients. "
        f"{study.title}; {study.hardware}."
    )
    return [Heading(3, "What the second moment did"), Table(header, rows, caption)]


def tuning(study: Study) -> list[Block]:
    """What the settings of every arm cost to find, and what fewer draws would have found."""
    rows = []
    for arm in study.arms:
        row = [arm, study.budgets.get(arm, "none")]
        if (search := study.searches.get(arm)) is None:
            rows.append([*row, "-", "-", *["-"] * len(BUDGETS)])
            continue
        row += [str(len(search.draws)), str(int(search.runs["epochs"].sum()) or "not recorded")]
        found = [best_of(100 * scores(search.draws), k) for k in BUDGETS]
        rows.append([*row, *("-" if np.isnan(best) else f"{best:.2f}" for best in found)])
    if not study.searches:
        return []
    header = ["arm", "search runs", "draws", "epochs in all", *(f"best of {k}" for k in BUDGETS)]
    short = {arm: int(s.draws["epochs"].iloc[0]) for arm, s in study.searches.items() if s.name.count("-halving")}
    caption = (
        "Expected best validation accuracy (%) of so many draws, one seed each: the mean over all choices of that many "
        "from the draws of the search (after Dodge et al. 2019); a draw that diverged counts as 0. Draws and "
        "epochs are those of a search made as this study was; what was found elsewhere, as the "
        "brackets say, is shown there."
    )
    if short:
        caption += f" With successive halving, draws are compared after {_listed(short)} epochs."
    return [
        Heading(3, "Tuning"),
        Text("Every difference above is one between methods as tuned here, and conditional on the settings found."),
        Table(header, rows, f"{caption} {study.title}."),
    ]


def runs(study: Study) -> Details:
    """Every run with its command, and the settings of every arm."""
    prefix = "config.optimizer."
    hyper = [name for name in study.runs if name.startswith(prefix) and not name.startswith(f"{prefix}_")]
    settings = []
    for arm, row in study.runs.groupby("arm", sort=True)[hyper].first().iterrows():
        values = [f"{name.removeprefix(prefix)}={_plain(value)}" for name, value in row.dropna().items()]
        settings.append([str(arm), ", ".join(values) or "defaults"])
    rows, anchors, code, linked = [], [], set(), set()
    for run in study.runs.to_dict("records"):
        accuracy = "-" if pd.isna(run["test_acc"]) else f"{run['test_acc']:.2f}"
        arm = run["arm"]
        rows.append([run["run_id"], f"[{arm}](#{place(study, arm, 'settings')})", str(run["seed"]), run["status"]])
        rows[-1] += [accuracy, f"`{run['command']}`"]
        anchors.append("" if arm in linked else place(study, arm))  # an arm's runs stand together: the first is linked
        linked.add(arm)
        code.add(f"{run['commit']}{' with local changes' if str(run['dirty']) == 'True' else ''}")
    made = f"Code: {', '.join(sorted(code))}. {study.hardware}."
    places = [place(study, row[0], "settings") for row in settings]
    return Details(
        f"All {plural(len(rows), 'run')} of this study, their commands and settings",
        [
            Table(["arm", "optimizer settings"], settings, "What every run of an arm was given.", places),
            Table(["run", "arm", "seed", "status", "test acc. (%)", "command"], rows, made, anchors),
        ],
    )


def theory(table: pd.DataFrame) -> list[Block]:
    """What was computed exactly or on quadratics: how many rows agree per check, and every row."""
    table = table.astype(object).fillna("").astype(str)
    summary, folded = [], []
    for (claim, check), rows in table.groupby(["claim", "check"], sort=False):
        said = rows["agrees"].str.lower()
        states = int(said.isin(["true", "false"]).sum())
        agree = f"{(said == 'true').sum()} of {states}" if states else "only measured"
        where = anchor("theory", claim, check)
        summary.append([f"{claim}", f"[{str(check).replace('_', ' ')}](#{where})", agree, str(len(rows) - states)])
        lines = []
        for row in rows.to_dict("records"):
            error = f" ± {float(row['error']):.2g}" if row["error"] else ""
            value = f"{float(row['value']):.4g}{error}" if row["value"] else "-"
            verdict = {"true": "yes", "false": "no"}.get(row["agrees"].lower(), "")
            lines.append([row["setting"], row["quantity"], value, row["expected"] or "-", verdict or "-", row["n"]])
        header = ["setting", "quantity", "value", "expected", "agrees", "n"]
        name = f"{claim}: {str(check).replace('_', ' ')}"
        shown = Table(header, lines, "Value ± standard error over n.", [where, *[""] * (len(lines) - 1)])
        folded.append(Details(f"{name}, {plural(len(lines), 'row')}", [shown]))
    caption = "Exact and Monte-Carlo checks in float64, and noisy quadratics: `make theory`. Rows without a prediction "
    caption += "are there for comparison."
    head = ["claim", "check", "rows that agree", "further rows"]
    return [Heading(2, "Theory", "theory"), Table(head, summary, caption), *folded]


def bench(table: pd.DataFrame) -> list[Block]:
    """Time and memory of one optimizer step, each method on each network."""
    both = both_sides(table)
    rows = []
    for keys, group in both.groupby(["parameters", "method", "device", "threads"], sort=False, dropna=False):
        numbers = group[["ms", "state_mb", "peak_mb"]].astype(float).median()
        cells = ["-" if np.isnan(value) else f"{value:.3g}" for value in numbers]
        rows.append([str(keys[0]), str(keys[1]), *cells, str(len(group)), f"{keys[2]}, {keys[3]} threads"])
    header = ["network", "method", "ms per step", "state (MB)", "peak (MB)", "n", "hardware"]
    caption = (
        "`make bench`: median over the n comparisons that a method takes part in, on random gradients. The state is "
    )
    caption += "what an optimizer keeps, the peak what a step takes beside parameters and gradients."
    return [Details(f"Time and memory of {plural(len(rows), 'case')}", [Table(header, rows, caption)])]


def why(judgement: Judgement) -> str:
    """The numbers behind a verdict, a line for each part."""
    if not judgement.study and not judgement.claim.checked:
        return judgement.reason
    lines = [_reason(finding) for finding in judgement.findings]
    if judgement.premise:
        lines.insert(0, f"Premise: {_reason(judgement.premise)}")
    if judgement.reason:
        lines.insert(0, judgement.reason)
    return "\n".join(lines)


def tuned(judgement: Judgement) -> str:
    """What was spent on tuning each arm that a judgement compares."""
    if not judgement.study:
        return "-"
    findings = [*([judgement.premise] if judgement.premise else []), *judgement.findings]
    arms = dict.fromkeys(found for finding in findings for found in finding.arms.values())
    return ", ".join(f"{arm} {judgement.study.budgets.get(arm, 'none')}" for arm in arms) or "-"


def spread(interval: Interval, sign: str = "") -> str:
    """Mean ± standard deviation."""
    if not interval.n:
        return "-"
    return f"{interval.mean:{sign}.2f}" + (f" ± {interval.sd:.2f}" if interval.n > 1 else "")


def plural(count: int, one: str, many: str | None = None) -> str:
    """A count with its noun."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def _reason(finding: Finding) -> str:
    """One part in words, as in: A is ahead of B: supported, +1.54 points (95% +1.33 to +1.74, n = 5), margin 1."""
    part, interval = finding.part, Interval(finding.n, finding.estimate, finding.sd, finding.low, finding.high)
    text = f"{part.text}: {finding.verdict}"
    if isinstance(part, Check):
        return f"{text} ({finding.note})."
    if interval.n and part.kind in ("ordering", "count"):
        share = f"95% {interval.low:.2f} to {interval.high:.2f}, n = {interval.n}"
        text += f", share {interval.mean:.2f} ({share}), margin {finding.margin:g}"
    elif interval.n and part.kind != "exact":
        level = 90 if part.kind == "equivalence" else 95
        text += f", {_difference(interval, UNITS[part.metric], level)}, margin {finding.margin:g}"
    if interval.n and not np.isnan(finding.adjusted):
        text += f", p {_p(finding.p)}, of the claim after Holm {_p(finding.adjusted)}"
    if finding.note:
        text += f"; {finding.note}"
    return f"{text}{_preliminary(finding)}."


def _preliminary(finding: Finding) -> str:
    return f"; preliminary, {finding.n} of {finding.planned} planned" if 0 < finding.n < finding.planned else ""


def _p(value: float) -> str:
    return "below 0.001" if value < 0.001 else f"{value:.3f}"


def _difference(interval: Interval, unit: str, level: int = 95) -> str:
    bounds = f"{level}% {_bounds(interval, '+')}, " if interval.n > 1 else ""
    return f"{interval.mean:+.2f} {unit} ({bounds}n = {interval.n})"


def _bounds(interval: Interval, sign: str = "") -> str:
    return f"{interval.low:{sign}.2f} to {interval.high:{sign}.2f}" if interval.n > 1 else "-"


def _listed(values: dict[str, int]) -> str:
    return ", ".join(f"{value} ({arm})" for arm, value in values.items())


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
