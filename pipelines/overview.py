"""Command: several runs on one page: cards, means over seeds, tables and charts of those that may be compared.

Run as `trainworks overview [RUN ...]`.
"""

import argparse
import math
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, takewhile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from configs.errors import ConfigError, DamageError, UserError
from configs.folder import RunFolder, digest, write_atomic
from configs.process import command_main, die_with_parent
from configs.schema import identity
from pipelines.charts import Bubble, Chart, bubble_chart, embed, plain
from pipelines.page import Table, render
from pipelines.report import Traces, read_traces, state
from pipelines.scores import BASELINE, Metric, Scores, cards, metric_table, show, verdict

EXCERPT = 280
"""Characters of a text that a card shows"""
SECTIONS = {"runs": "Runs", "seeds": "Over seeds", "tables": "Compared", "charts": "Quality and cost"}
AXES = {"GFLOPs per sample": "GFLOPs", "latency of one sample (ms)": "ms"}


@dataclass(frozen=True)
class Entry:
    """A run folder and what can be read of it."""

    name: str
    folder: RunFolder
    traces: Traces | None
    state: str

    @property
    def scores(self) -> Scores:
        return self.traces.scores if self.traces else Scores.of([])

    @property
    def headline(self) -> Metric | None:
        """The metric that is shown first; None before the evaluation, or of a model that has run away."""
        metric = next((self.scores.model[quantity] for quantity in self.scores.headlines), None)
        return metric if metric and math.isfinite(metric["value"]) else None


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but seed and name."""

    name: str
    metrics: Sequence[Metric]
    """The headline of each"""

    def __str__(self) -> str:
        return f"{self.name} {spread([metric['value'] for metric in self.metrics])}"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="trainworks overview",
        description="One page over several runs, finished or not: cards, means over seeds, tables, quality against "
        "GFLOPs and latency in ms.",
        epilog="exit codes: 0 done, 2 a mistake in what was asked",
    )
    top.add_argument("run", nargs="*", metavar="RUN", help="names of run folders, or paths (all in --runs)")
    top.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where run folders are (runs)")
    top.add_argument("-o", "--output", type=Path, metavar="FILE", help="the page to write (DIR/overview.html)")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 2 a mistake in what was asked."""
    arguments = parser().parse_args(argv)
    return command_main("overview", lambda: _overview(arguments))


def _overview(arguments: argparse.Namespace) -> int:
    output = arguments.output or arguments.runs / "overview.html"
    write_overview(find_runs(arguments.run, arguments.runs), output)
    print(output.resolve())
    return 0


def write_overview(folders: Sequence[RunFolder], output: Path) -> None:
    """Write the page; runs that are not finished are listed with their state, and so are those that cannot be read."""
    entries = [read_entry(folder) for folder in folders]
    write_atomic(output, build_overview(entries, output.resolve().parent))


def find_runs(named: Sequence[str], runs: Path) -> list[RunFolder]:
    """The folders of the runs that are named, inside `runs` or by path, or all in `runs`.

    Raises UserError when there is none, or one that is named holds no run.
    """
    if not named:
        found = [RunFolder(path) for path in sorted(runs.glob("*")) if RunFolder(path).config.exists()]
        if not found:
            raise UserError(f"{runs} holds no run; name one, or another folder with --runs")
        return found
    folders = [
        RunFolder(next((path for path in (runs / name, Path(name)) if path.is_dir()), runs / name)) for name in named
    ]
    if lost := [str(folder.path) for folder in folders if not folder.config.exists()]:
        raise UserError(f"{', '.join(lost)}: no run is there (no run.yaml)")
    return folders


def read_entry(folder: RunFolder) -> Entry:
    name = folder.path.resolve().name
    try:
        traces = read_traces(folder)
    except (ConfigError, DamageError) as error:
        return Entry(name, folder, None, f"cannot be read: {error}")
    return Entry(name, folder, traces, state(traces))


def build_overview(entries: Sequence[Entry], beside: Path) -> str:
    """The whole page; links are relative to the folder `beside` it."""
    charts = [chart for shared in by_protocol(entries).values() for chart in trade_offs(shared)]
    measured = [entry for shared in by_protocol(entries).values() for entry in shared if cost_of(entry)]
    plots, elements = embed(charts)
    tables, seeds = comparisons(entries), groups(entries)
    present = {"runs": True, "seeds": seeds, "tables": tables, "charts": charts}
    return render(
        "overview",
        runs=[card(entry, beside) for entry in entries],
        sections=[(name, title) for name, title in SECTIONS.items() if present[name]],
        seeds=seed_table(seeds) if seeds else None,
        sentences=list(sentences(seeds)),
        tables=tables,
        costs=cost_table(measured),
        charts=list(zip(elements, charts, strict=True)),
        plots=plots,
    )


# --- a run ---


def card(entry: Entry, beside: Path) -> dict[str, Any]:
    """What the page shows of a run."""
    traces, report = entry.traces, entry.folder.report
    return {
        "name": entry.name,
        "task": plain(traces.run.task.kind) if traces and traces.run else "unknown",
        "state": entry.state,
        "verdict": verdict(entry.scores),
        "cards": cards(entry.scores),
        "report": os.path.relpath(report.resolve(), beside) if report.exists() else None,
        "picture": None,
        "text": None,
        **thumbnail(traces.samples if traces else []),
    }


def thumbnail(samples: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The first sample, small: a picture, or the beginning of its longest text."""
    if not samples:
        return {}
    if "picture" in samples[0]:
        return {"picture": samples[0]["picture"]}
    first = {name: str(value) for name, value in samples[0].items()}
    text = first["text"] if "text" in first else max(first.values(), key=len, default="")
    text = first.get("prompt", "") + text if "text" in first else text
    return {"text": text if len(text) <= EXCERPT else text[: EXCERPT - 1] + "…"}


# --- runs under one protocol ---


def by_protocol(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Evaluated runs by the protocol of their headline, where several have the same."""
    found: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.headline:
            found[entry.headline["protocol"]].append(entry)
    return {protocol: shared for protocol, shared in found.items() if len(shared) > 1}


def comparisons(entries: Sequence[Entry]) -> list[Table]:
    """A table for each protocol that several runs share: runs down, quantities across, then the baselines."""
    tables = []
    for protocol, shared in by_protocol(entries).items():
        rows = {entry.name: under(protocol, entry.scores.model) for entry in shared}
        baselines = shared[0].scores.by_subject.items()
        rows |= {name: under(protocol, own) for name, own in baselines if name.startswith(BASELINE)}
        tables.append(metric_table(Scores({name: metrics for name, metrics in rows.items() if metrics})))
    return tables


def under(protocol: str, metrics: Mapping[str, Metric]) -> dict[str, Metric]:
    return {quantity: metric for quantity, metric in metrics.items() if metric["protocol"] == protocol}


def cost_of(entry: Entry) -> Mapping[str, Any] | None:
    return entry.traces.cost if entry.traces else None


def axes_of(cost: Mapping[str, Any]) -> dict[str, float]:
    """What a sample costs, by the axes of the charts."""
    values = (cost["flops_per_sample"] / 1e9, next(iter(cost["latency_ms"].values()))["median"])
    return dict(zip(AXES, values, strict=True))


def trade_offs(entries: Sequence[Entry]) -> Iterator[Chart]:
    """The headline of runs under one protocol against the FLOPs and the time that a sample takes."""
    for axis, unit in AXES.items():
        bubbles = []
        for entry in entries:
            metric, cost = entry.headline, cost_of(entry)
            if metric and cost and (x := axes_of(cost)[axis]) > 0:
                shown = f"{show(metric)} at {x:.3g} {unit}"
                bubbles.append(Bubble(entry.name, x, metric["value"], cost["parameters"], shown))
        if len(bubbles) > 1:
            quantity = quantity_of(entries[0].headline)
            yield bubble_chart(f"{quantity.capitalize()} against {axis}", axis, quantity, "parameters", bubbles)


def cost_table(entries: Sequence[Entry]) -> Table:
    """The numbers of the charts."""
    rows = []
    for entry in entries:
        metric, cost = entry.headline, cost_of(entry)
        if metric and cost:
            costs = [f"{value:.3g}" for value in axes_of(cost).values()]
            rows.append(
                (entry.name, [quantity_of(metric), show(metric), *costs, f"{cost['parameters']:,}", cost["device"]])
            )
    head = [("", ""), ("quantity", ""), ("value", "± one standard error"), *((axis, "") for axis in AXES)]
    caption = "What runs that may be compared reach, and what a sample costs them; latency is a median in fp32."
    if len({cost["device"] for entry in entries if (cost := cost_of(entry))}) > 1:
        caption += " Latencies on different devices say nothing of the models."
    return Table(caption, [*head, ("parameters", ""), ("measured on", "")], rows)


def quantity_of(metric: Metric | None) -> str:
    return plain(metric["name"].rpartition("/")[2]) if metric else ""


# --- seeds ---


def groups(entries: Sequence[Entry]) -> list[Group]:
    """Evaluated runs whose configurations differ in seed and name alone, where there are several."""
    found: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.headline and entry.traces and entry.traces.run:
            own = {k: v for k, v in identity(entry.traces.run).items() if k not in ("name", "seed")}
            found[digest([own, entry.headline["name"], entry.headline["protocol"]])].append(entry)
    return [
        Group(shared_name([entry.name for entry in own]), [entry.headline for entry in own if entry.headline])
        for own in found.values()
        if len({entry.traces.run.seed for entry in own if entry.traces and entry.traces.run}) > 1
    ]


def shared_name(names: Sequence[str]) -> str:
    """What the names begin with, without the number that tells them apart."""
    letters = takewhile(lambda each: len(set(each)) == 1, zip(*names, strict=False))
    prefix = "".join(each[0] for each in letters).rstrip("0123456789").rstrip("-_")
    return prefix.removesuffix("seed").rstrip("-_") or names[0]


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation, to two digits of the latter."""
    metric = {"value": mean(values), "stderr": stdev(values)}
    return show(metric)


def seed_table(found: Sequence[Group]) -> Table:
    rows = []
    for group in found:
        values = [metric["value"] for metric in group.metrics]
        each = ", ".join(f"{value:.4g}" for value in values)
        rows.append((group.name, [quantity_of(group.metrics[0]), spread(values), str(len(values)), each]))
    caption = "Runs that differ in nothing but their seed and name: mean ± standard deviation over seeds."
    head = [("", ""), ("quantity", ""), ("mean", "± standard deviation"), ("seeds", ""), ("each", "")]
    return Table(caption, head, rows)


def sentences(found: Sequence[Group]) -> Iterator[str]:
    """One for each two groups whose headlines were taken under one protocol, the better one first."""
    for pair in combinations(found, 2):
        first = pair[0].metrics[0]
        if any(each.metrics[0][key] != first[key] for each in pair for key in ("name", "protocol")):
            continue
        higher = first["better"] == "higher"
        best, other = sorted(pair, key=lambda group: mean(m["value"] for m in group.metrics), reverse=higher)
        counts = len(best.metrics), len(other.metrics)
        seeds = f"{counts[0]} seeds each" if counts[0] == counts[1] else f"{counts[0]} and {counts[1]} seeds"
        yield f"{quantity_of(first).capitalize()}: {best} against {other}, {seeds}{doubt(best, other)}."


def doubt(one: Group, other: Group) -> str:
    """What to say where the means are no further apart than twice the standard error of their difference."""
    values = [[metric["value"] for metric in group.metrics] for group in (one, other)]
    error = math.sqrt(sum(stdev(each) ** 2 / len(each) for each in values))
    return (
        "; the difference is within two standard errors" if abs(mean(values[0]) - mean(values[1])) <= 2 * error else ""
    )


if __name__ == "__main__":
    die_with_parent()
    sys.exit(main())
