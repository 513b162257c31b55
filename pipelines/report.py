"""The report of a run: what its folder holds, as one page that needs nothing else."""

import os
from collections.abc import Sequence
from pathlib import Path

from configs.folder import RunFolder, write_atomic
from pipelines.charts import embed, listed, plain
from pipelines.costs import Priced, pass_table, price
from pipelines.curves import SLIDER, Mark, curve_charts
from pipelines.custody.seal import sealed
from pipelines.data_card import data_card
from pipelines.figures import Piece, read_figures
from pipelines.gate.page import verdict_table
from pipelines.gate.verdicts import Judgement
from pipelines.goodput import sentence
from pipelines.page import Table, render
from pipelines.provenance import chain, protocols
from pipelines.readout import has_value, show, show_interval
from pipelines.scores import cards, metric_table, rival_charts, spread, verdict
from pipelines.through_training import shown_through, weight_charts
from pipelines.time_spent import anomaly_sentence, anomaly_table, time_chart, time_table, timeline_chart
from pipelines.traces import Record, Traces, count_parameters, read_traces, state

SECTIONS = {
    "charts": "Charts",
    "through": "Samples through training",
    "folds": "Folds",
    "metrics": "Metrics",
    "breakdown": "Breakdown",
    "gate": "Against the baseline",
    "time": "Where the time went",
    "cost": "Cost",
    "samples": "Samples",
    "data": "Data",
    "configuration": "Configuration",
    "digests": "Digests",
}


def write_report(folder: RunFolder, output: Path | None = None) -> None:
    """Write report.html from what the stages have left so far, of each fold too; the page says what is missing.

    output: another file for the page, in place of the run's own. Raises DamageError when a stage's record cannot be
    read.
    """
    _write(read_traces(folder), output or folder.report)


def _write(traces: Traces, output: Path) -> None:
    for fold in traces.folds.values():
        if fold.run:
            _write(fold, fold.folder.report)
    told = traces.evaluation.get("digest") if traces.evaluation else None
    write_atomic(output, sealed(build_page(traces, output.resolve().parent), told))


def build_page(traces: Traces, beside: Path) -> str:
    """The whole page; links are relative to the folder `beside` it."""
    scores, history = traces.scores, traces.history
    mark = Mark(traces.fit.step, "best validation", traces.fit.sentence) if traces.fit and traces.fit.step else None
    charts = curve_charts(history.series, history.restarts, scores.units, mark=mark)
    charts += weight_charts(history.weights, charts)
    charts += rival_charts(scores)
    line = history.ledger.timeline()
    clock = [timeline_chart(line), time_chart(traces.account)] if traces.account and line else []
    pieces = read_figures(traces.folder, traces.figures)
    of_pieces = [piece.chart for piece in pieces if piece.chart]
    plots, elements = embed([*charts, *clock, *of_pieces])
    drawn = list(zip(elements, [*charts, *clock, *of_pieces], strict=True))
    priced = priced_of(traces)
    through = shown_through(traces.folder, history.shown)
    return render(
        "report",
        name=traces.folder.path.resolve().name,
        verdict=verdict(scores),
        warnings=list(warnings(traces)),
        cards=cards(scores),
        about=about(traces),
        sections=[(name, title) for name, title in SECTIONS.items() if has_section(name, traces)],
        missing=missing(traces, drawn=bool(charts), through=bool(through)),
        charts=drawn,
        curves=drawn[: len(charts)],
        smoothing=SLIDER if history.series else None,
        clock=drawn[len(charts) : len(charts) + len(clock)],
        times=time_table(traces.account) if traces.account else None,
        anomalies=anomaly_table(history.anomalies) if history.anomalies else None,
        plots=plots,
        folds=fold_table(traces, beside) if traces.folds else None,
        metrics=metric_table(scores),
        protocols=protocols(traces),
        pieces=placed(pieces, elements[len(charts) + len(clock) :]),
        gate=gate_section(traces.gate) if traces.gate else None,
        cost=pass_table(traces.cost) if traces.cost else None,
        price=price(priced) if priced else None,
        through=through,
        samples=traces.samples,
        samples_are=samples_are(traces.samples),
        data=data_card(traces.manifest) if traces.manifest else None,
        configuration=traces.folder.config.read_text(encoding="utf-8") if traces.run else None,
        chain=chain(traces),
    )


def has_section(name: str, traces: Traces) -> bool:
    """Whether a section belongs to this kind of run; what is not there yet is said in it."""
    if name == "folds":
        return bool(traces.folds)
    if name == "time":
        return not traces.folds  # the clock of each fold is in the report of that fold
    if name == "through":
        return bool(traces.history.shown)
    if name == "breakdown":
        return bool(traces.figures)
    return name != "gate" or traces.gate is not None


def placed(pieces: Sequence[Piece], elements: Sequence[str]) -> list[tuple[str | None, Piece]]:
    """Each figure with the element that its chart is drawn in, if it has one."""
    left = iter(elements)
    return [(next(left) if piece.chart else None, piece) for piece in pieces]


def priced_of(traces: Traces) -> Priced | None:
    """The first number of an evaluated run, and what a pass costs; None without either."""
    metric = next((traces.scores.model[quantity] for quantity in traces.scores.headlines), None)
    if metric is None or not has_value(metric) or not traces.cost:
        return None
    return Priced(traces.folder.path.resolve().name, metric, traces.cost)


def missing(traces: Traces, *, drawn: bool, through: bool) -> dict[str, str | None]:
    """For each section without content, what is not there yet and which command makes it."""
    name = "CONFIG.yaml"
    verb = "run" if traces.folds else "train"
    untrained = f"This run has not been trained; `trainworks {verb} {name}` does it."
    evaluate = f"This run has not been evaluated; `trainworks {'run' if traces.folds else 'evaluate'} {name}` does it."
    return {
        "charts": None if drawn else evaluate if traces.folds else untrained,
        "through": None
        if through
        else "They are gone from the folder; its log names the steps at which they were made.",
        "folds": None,
        "time": None if traces.account else untrained if traces.history.begun is None else "The log tells no times.",
        "metrics": None if traces.evaluation else evaluate,
        "breakdown": None,
        "gate": None,
        "cost": None if traces.cost else "The evaluation measured no cost." if traces.evaluation else evaluate,
        "samples": None if traces.samples else "The evaluation wrote no samples." if traces.evaluation else evaluate,
        "data": None if traces.manifest else f"The data is not prepared; `trainworks prepare {name}` does it.",
        "configuration": None if traces.run else "This folder holds no run.yaml.",
        "digests": None,
    }


def samples_are(samples: Sequence[Record]) -> str:
    """What a reader looks at."""
    if samples and "text" in samples[0]:
        return "A prompt is underlined; what follows it was written by the model."
    return (
        "Pictures, as the model drew or judged them."
        if samples and "picture" in samples[0]
        else ("Samples of the test split, and what the model made of them.")
    )


def about(traces: Traces) -> list[tuple[str, str]]:
    """The facts below the headline."""
    history, run = traces.history, traces.run
    pairs = [("State", state(traces))]
    if run:
        pairs.append(("Configuration", f"{run.name} ({plain(run.task.kind)})"))
        whose = " of each fold" if traces.folds else ""
        done = max([history.step, *(fold.history.step for fold in traces.folds.values())])
        pairs.append(("Steps", f"{done:,} of {run.train.steps:,}{whose}"))
    for quantity in traces.scores.headlines if traces.folds else ():
        if told := over_folds(traces, quantity):
            pairs.append((plain(quantity).capitalize(), told))
    if history.position:
        pairs.append(("Samples drawn", f"{history.position:,}"))
    if history.early_stop:
        pairs.append(("Ended early", history.early_stop))
    if traces.checkpoint and traces.checkpoint["step"] != history.step and history.status == "completed":
        pairs.append(("Result", f"the checkpoint of step {traces.checkpoint['step']:,}"))
    if traces.fit:
        pairs.append(("Fit", traces.fit.sentence))
    if (parameters := count_parameters(traces)) is not None:
        pairs.append(("Parameters", f"{parameters:,}"))
    if history.begun is not None:
        pairs.append(("Training", history.span()))
        pairs.append(("Ran on", f"{history.world or '?'} x {history.device or 'unknown device'}"))
        count = len(history.restarts)
        pairs.append(("Restarts", f"{count}, after step {listed(history.restarts)}" if count else "none"))
    if traces.account:
        pairs.append(("Goodput", sentence(traces.account)))
    if history.anomalies:
        pairs.append(("Anomalies", anomaly_sentence(history, run.train.global_batch_samples if run else None)))
    if traces.gate:
        pairs.append(("Gate", f"{traces.gate.word} against {traces.gate.baseline}"))
    return pairs


def warnings(traces: Traces) -> list[str]:
    """What a reader must know before believing the numbers."""
    found = []
    if traces.evaluation and not traces.evaluated:
        whose = "all folds as they are now" if traces.folds else "the checkpoint that is the result"
        found.append(f"the metrics were not taken from {whose}; evaluate again")
    if traces.history.damaged:
        found.append(f"{traces.history.damaged} lines of {traces.folder.events.name} could not be read")
    lost = [name for name, values in traces.history.series.items() if values.lost]
    if lost:
        found.append(f"not a number at some steps: {', '.join(lost)}")
    return found


def over_folds(traces: Traces, quantity: str) -> str | None:
    """Mean ± standard deviation of a number over the folds, and its interval; None unless every fold has a value."""
    found = [fold.scores.model.get(quantity) for fold in traces.folds.values()]
    values = [metric["value"] for metric in found if metric and has_value(metric)]
    if len(values) < len(found):
        return None
    interval = show_interval(traces.scores.model[quantity])
    told = f"{spread(values)} (mean ± standard deviation of {len(values)} folds)"
    return f"{told}; mean, {interval}" if interval else told


def fold_table(traces: Traces, beside: Path) -> Table:
    """What has become of each fold, its first numbers, and the way from the folder `beside` to its own report."""
    quantities = traces.scores.headlines or next(
        (fold.scores.headlines for fold in traces.folds.values() if fold.scores.headlines), []
    )
    rows, links = [], {}
    for row, (name, fold) in enumerate(traces.folds.items()):
        values = [show(fold.scores.model[each]) if each in fold.scores.model else "–" for each in quantities]
        losses = fold.history.series.get("train/loss")
        last = f"{losses.numbers[-1]:.4g}" if losses else "–"
        rows.append((name, [state(fold), f"{fold.history.step:,}", last, *values]))
        if fold.folder.report.exists():
            links[row] = os.path.relpath(fold.folder.report.resolve(), beside.resolve())
    head = [("fold", "REPEAT-FOLD"), ("state", ""), ("steps", ""), ("training loss", "of the last batch logged")]
    caption = "Each fold is a model of its own, trained on the other folds and scored on this one."
    return Table(caption, [*head, *((plain(each), "± one standard error") for each in quantities)], rows, links=links)


def gate_section(judgement: Judgement) -> tuple[str, Table]:
    """The verdict in a line, and metric by metric."""
    counted = [each for each in judgement.verdicts if each.counts and each.word == judgement.word]
    reason = f"; {counted[0].name}: {counted[0].reason}" if counted and judgement.code else ""
    return f"{', '.join(judgement.runs)} against {judgement.baseline}: {judgement.word}{reason}.", verdict_table(
        judgement
    )
