"""The report of a run: what its folder holds, as one page that needs nothing else."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from safetensors import SafetensorError, safe_open

from configs.errors import DamageError
from configs.folder import RunFolder, digest, write_atomic
from configs.load import read
from configs.schema import RunConfig
from configs.stages import read_record, step_folder, steps_in
from pipelines.charts import curve_charts, embed, listed, plain
from pipelines.custody.seal import sealed
from pipelines.goodput import Goodput, sentence
from pipelines.history import History, read_history
from pipelines.page import Table, render
from pipelines.scores import Scores, cards, comparison, metric_table, verdict
from pipelines.time_spent import anomaly_sentence, anomaly_table, time_chart, time_table

Record = Mapping[str, Any]
COUNTS = ("documents", "samples", "tokens", "bytes", "words", "unknown_tokens", "cut_tokens")
"""What a split is measured in, as the manifest names it"""
SECTIONS = {
    "charts": "Charts",
    "metrics": "Metrics",
    "time": "Where the time went",
    "cost": "Cost",
    "samples": "Samples",
    "data": "Data",
    "configuration": "Configuration",
    "digests": "Digests",
}


@dataclass(frozen=True)
class Traces:
    """What the stages left in a run folder; None or empty where a stage has not been."""

    folder: RunFolder
    run: RunConfig | None
    manifest: Record | None
    history: History
    checkpoint: Record | None
    """complete.json of the newest checkpoint"""
    evaluation: Record | None
    samples: list[Record]
    cost: Record | None

    @property
    def scores(self) -> Scores:
        return Scores.of(self.evaluation["metrics"] if self.evaluation else [])

    @cached_property
    def account(self) -> Goodput | None:
        """Where the time of the training went; None where its log does not tell."""
        return self.history.ledger.result()

    @property
    def evaluated(self) -> bool:
        """Whether the metrics are those of the newest checkpoint."""
        return bool(self.evaluation and self.checkpoint and self.evaluation["checkpoint"] == self.checkpoint["digest"])


def write_report(folder: RunFolder) -> None:
    """Write report.html from what the stages have left so far; the page says what is missing.

    Raises DamageError when a stage's record cannot be read.
    """
    traces = read_traces(folder)
    told = traces.evaluation.get("digest") if traces.evaluation else None
    write_atomic(folder.report, sealed(build_page(traces), told))


def read_traces(folder: RunFolder) -> Traces:
    """Everything that the report shows. Raises DamageError."""
    records = (step_folder(folder.train, step) / "complete.json" for step in steps_in(folder.train))
    newest = next((path for path in records if path.exists()), None)
    return Traces(
        folder=folder,
        run=read(folder.config) if folder.config.exists() else None,
        manifest=read_record(folder.manifest) if folder.manifest.exists() else None,
        history=read_history(folder.events),
        checkpoint=read_record(newest) if newest else None,
        evaluation=read_record(folder.metrics) if folder.metrics.exists() else None,
        samples=_read_samples(folder),
        cost=read_record(folder.cost) if folder.cost.exists() else None,
    )


def _read_samples(folder: RunFolder) -> list[Record]:
    if not folder.samples.exists():
        return []
    try:
        return json.loads(folder.samples.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamageError(f"{folder.samples} cannot be read: {error}; remove it and evaluate again") from None


def build_page(traces: Traces) -> str:
    """The whole page."""
    scores, history = traces.scores, traces.history
    charts = curve_charts(history.series, history.restarts, scores.units)
    if bars := comparison(scores):
        charts.append(bars)
    clock = [time_chart(traces.account)] if traces.account else []
    plots, elements = embed([*charts, *clock])
    drawn = list(zip(elements, [*charts, *clock], strict=True))
    protocols = traces.evaluation["protocols"] if traces.evaluation else {}
    return render(
        "report",
        name=traces.folder.path.resolve().name,
        verdict=verdict(scores),
        warnings=list(warnings(traces)),
        cards=cards(scores),
        about=about(traces),
        sections=SECTIONS.items(),
        missing=missing(traces, drawn=bool(charts)),
        charts=drawn,
        curves=drawn[: len(charts)],
        clock=drawn[len(charts) :],
        times=time_table(traces.account) if traces.account else None,
        anomalies=anomaly_table(history.anomalies) if history.anomalies else None,
        plots=plots,
        metrics=metric_table(scores),
        protocols=[(name, list(protocol.items())) for name, protocol in protocols.items()],
        cost=cost_table(traces.cost) if traces.cost else None,
        samples=traces.samples,
        samples_are=samples_are(traces.samples),
        data=data_card(traces.manifest) if traces.manifest else None,
        configuration=traces.folder.config.read_text(encoding="utf-8") if traces.run else None,
        chain=chain(traces),
    )


def missing(traces: Traces, *, drawn: bool) -> dict[str, str | None]:
    """For each section without content, what is not there yet and which command makes it."""
    name = "CONFIG.yaml"
    untrained = f"This run has not been trained; `trainworks train {name}` does it."
    evaluate = f"This run has not been evaluated; `trainworks evaluate {name}` does it."
    return {
        "charts": None if drawn else untrained,
        "time": None if traces.account else untrained if traces.history.begun is None else "The log tells no times.",
        "metrics": None if traces.evaluation else evaluate,
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


def cost_table(cost: Record) -> Table:
    """Parameters and FLOPs of the networks, and the time of a pass for each number of samples in it."""
    latency, rates = cost["latency_ms"], cost["samples_per_s"]
    rows = [
        (size, [f"{time['median']:.3g}", f"{time['p99']:.3g}", f"{rates[size]:,.4g}", f"{time['passes']:,}"])
        for size, time in latency.items()
    ]
    caption = (
        f"{cost['parameters']:,} parameters; {cost['flops_per_sample'] / 1e9:.4g} GFLOPs (2 x multiply-adds) "
        f"to score a sample. Passes in fp32 on {cost['device']}, {cost['threads']} CPU threads, with the sums of the "
        "metrics; timings vary from one evaluation to the next."
    )
    head = [
        ("samples", "of a pass"),
        ("median", "ms"),
        ("99th percentile", "ms"),
        ("rate", "samples/s"),
        ("passes", ""),
    ]
    return Table(caption, head, rows)


def state(traces: Traces) -> str:
    """How far the run has come."""
    history = traces.history
    if history.status is None and history.begun is not None:
        return "in training, or ended without a word: the log has no end"
    if history.status in ("stopped", "failed"):
        return f"{history.status}: {history.reason or 'no reason was given'}"
    if traces.evaluated:
        return "completed: prepared, trained and evaluated"
    if history.status or traces.checkpoint:
        return "trained; not evaluated yet"
    return "prepared; not trained yet" if traces.manifest else "nothing is prepared yet"


def about(traces: Traces) -> list[tuple[str, str]]:
    """The facts below the headline."""
    history, run = traces.history, traces.run
    pairs = [("State", state(traces))]
    if run:
        pairs.append(("Configuration", f"{run.name} ({plain(run.task.kind)})"))
        pairs.append(("Steps", f"{history.step:,} of {run.train.steps:,}"))
    if history.position:
        pairs.append(("Samples drawn", f"{history.position:,}"))
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
    return pairs


def warnings(traces: Traces) -> list[str]:
    """What a reader must know before believing the numbers."""
    found = []
    if traces.evaluation and not traces.evaluated:
        found.append("the metrics were not taken from the newest checkpoint; evaluate again")
    if traces.history.damaged:
        found.append(f"{traces.history.damaged} lines of {traces.folder.events.name} could not be read")
    lost = [name for name, values in traces.history.series.items() if not all(map(math.isfinite, values.values()))]
    if lost:
        found.append(f"not a number at some steps: {', '.join(lost)}")
    return found


def count_parameters(traces: Traces) -> int | None:
    """Numbers in the newest checkpoint's weights, by the files' headers; None without a readable one."""
    if traces.checkpoint is None:
        return None
    total = 0
    try:
        for path in step_folder(traces.folder.train, traces.checkpoint["step"]).glob("*.weights.rank-*.safetensors"):
            with safe_open(path, framework="numpy") as file:
                total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    except (OSError, SafetensorError):
        return None
    return total or None


def data_card(manifest: Record) -> dict[str, Any]:
    """Sources, tokenizer or images, splits, what was left out and digests, as the manifest has them."""
    facts = [(f"Source {source['part']}".strip(), _facts(source)) for source in manifest["sources"]]
    facts += [(title.capitalize(), _facts(manifest[title])) for title in ("tokenizer", "images") if manifest.get(title)]
    what = "images" if manifest.get("images") else "documents"
    dropped = [(reason, f"{count:,} {what}") for reason, count in manifest["dropped"].items()]
    facts.append(("Dropped", dropped or [(what, "none")]))
    rest = {"data sha256": manifest["digest"], "config sha256": manifest["config"]}
    rest |= {plain(key): manifest[key] for key in ("block_tokens", "classes") if manifest.get(key)}
    facts.append(("Digests and layout", _facts(rest)))
    splits = manifest["splits"]
    counts = [key for key in COUNTS if any(split.get(key) for split in splits.values())]
    rows = [
        (name, [*(f"{split.get(key, 0):,}" for key in counts), f"{len(split['shards']):,}"])
        for name, split in splits.items()
    ]
    shards = [(shard["name"], [shard["blake3"]]) for split in splits.values() for shard in split["shards"]]
    head = [("split", ""), *((plain(key), "") for key in counts), ("shards", "")]
    of = "stored images" if manifest.get("images") else "normalised documents"
    return {
        "facts": facts,
        "splits": Table(f"What each split holds; bytes are those of the {of}.", head, rows),
        "shards": Table("BLAKE3 of each shard.", [("shard", ""), ("BLAKE3", "")], shards),
    }


def _facts(record: Record) -> list[tuple[str, str]]:
    return [(plain(key), _in_words(value)) for key, value in record.items() if value not in (None, "", [], {})]


def _in_words(value: Any) -> str:
    match value:
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.4g}"
        case list():
            return ", ".join(map(_in_words, value))
        case dict():
            return ", ".join(f"{key} {_in_words(each)}" for key, each in value.items())
        case _:
            return str(value)


def chain(traces: Traces) -> Table:
    """Each stored digest from the source to the metrics, and whether it was made from the one above."""
    manifest, checkpoint, evaluation = traces.manifest, traces.checkpoint, traces.evaluation
    absent = ("–", "not there yet")
    source = data = weights = metrics = absent
    if manifest:
        source = (", ".join(each["digest"] for each in manifest["sources"]), "the bytes that were read")
        data = (manifest["digest"], "made from this source")
    if checkpoint:
        weights = (checkpoint["digest"], _link(checkpoint["data"], manifest, "trained on"))
    if evaluation:
        own = {"metrics": evaluation["metrics"], "protocols": evaluation["protocols"]}
        metrics = (digest(own), _link(evaluation["checkpoint"], checkpoint, "taken from"))
    step = f" of step {checkpoint['step']:,}" if checkpoint else ""
    rows = [("source", source), ("data", data), (f"checkpoint{step}", weights), ("metrics", metrics)]
    caption = "Digests that the stages stored; each says which one it was made from."
    return Table(caption, [("", ""), ("digest", ""), ("link", "")], rows)


def _link(said: str, above: Record | None, verb: str) -> str:
    if above is not None and said == above["digest"]:
        return f"{verb} the one above"
    return f"{verb} another one: {said[:12]}…"
