"""Command: several runs on one page: cards, means over seeds, tables and charts of those that may be compared.

Run as `trainworks overview [RUN ...]`.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.folder import RunFolder, require_output, write_atomic
from configs.process import command_main, die_with_parent
from pipelines.charts import embed, plain
from pipelines.costs import price_table, trade_off
from pipelines.entries import Entry, by_protocol, read_entry
from pipelines.figures import read_figures
from pipelines.page import Table, render
from pipelines.readout import BASELINE, Metric, Scores
from pipelines.report import fold_table
from pipelines.scores import cards, metric_table, rival_charts, verdict
from pipelines.seeds import groups, seed_table, sentences

EXCERPT = 280
"""Characters of a text that a card shows"""
PICTURES = 10
"""Samples whose pictures a card shows"""
OPEN = 4
"""Runs up to which the results of each are unfolded"""
SECTIONS = {
    "runs": "Runs",
    "seeds": "Over seeds",
    "tables": "Compared",
    "results": "Results of each run",
    "costs": "Quality and cost",
}


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
    require_output("--output", arguments.output)
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
        there = ", ".join(path.parent.name for path in sorted(runs.glob("*/run.yaml"))) or "none"
        raise UserError(f"{', '.join(lost)}: no run is there (no run.yaml); in {runs} there are: {there}")
    places = [folder.path.resolve() for folder in folders]
    if twice := [str(path) for path in dict.fromkeys(places) if places.count(path) > 1]:
        raise UserError(f"{', '.join(twice)} is named twice; name each run once")
    return folders


def build_overview(entries: Sequence[Entry], beside: Path) -> str:
    """The whole page; links are relative to the folder `beside` it."""
    found = [trade_off([each.priced for each in shared if each.priced]) for shared in by_protocol(entries).values()]
    trades = [chart for chart in found if chart]
    of_runs = [rival_charts(entry.scores) for entry in entries]  # two of them may have one name
    charts = [*trades, *(chart for own in of_runs for chart in own)]
    plots, elements = embed(charts)
    drawn = list(zip(elements, charts, strict=True))
    places = iter(drawn[len(trades) :])
    results = [
        result(entry, [next(places) for _ in own], beside)
        for entry, own in zip(entries, of_runs, strict=True)
        if entry.scores.by_subject
    ]
    tables, seeds = comparisons(entries), groups(entries)
    priced = [entry.priced for entry in entries if entry.priced]
    present = {"runs": True, "seeds": seeds, "tables": tables, "results": results, "costs": priced}
    return render(
        "overview",
        runs=[card(entry, beside) for entry in entries],
        sections=[(name, title) for name, title in SECTIONS.items() if present[name]],
        seeds=seed_table(seeds) if seeds else None,
        sentences=list(sentences(seeds)),
        tables=tables,
        results=results,
        unfolded=len(results) <= OPEN,
        costs=price_table(priced),
        trades=drawn[: len(trades)],
        charts=drawn,
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
        "pictures": (),
        "text": None,
        **thumbnail(traces.samples if traces else []),
    }


def thumbnail(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The first samples, small: their pictures, or the beginning of the first one's longest text."""
    if not samples:
        return {}
    if pictures := [sample["picture"] for sample in samples if "picture" in sample]:
        return {"pictures": pictures[:PICTURES]}
    first = {name: str(value) for name, value in samples[0].items()}
    text = first["text"] if "text" in first else max(first.values(), key=len, default="")
    text = first.get("prompt", "") + text if "text" in first else text
    return {"text": text if len(text) <= EXCERPT else text[: EXCERPT - 1] + "…"}


def result(entry: Entry, drawn: Sequence[tuple[str, Any]], beside: Path) -> dict[str, Any]:
    """All metrics of a run beside its baselines; of a cross-validation its folds too."""
    tables: list[tuple[Table, str]] = [(metric_table(entry.scores), "numbers")]
    if entry.traces and entry.traces.folds:
        tables.append((fold_table(entry.traces, beside), "listing"))
        pieces = read_figures(entry.folder, entry.traces.figures)
        tables += [(piece.table, piece.kind) for piece in pieces if piece.table and not piece.chart]
    return {"name": entry.name, "verdict": verdict(entry.scores), "charts": drawn, "tables": tables}


# --- runs under one protocol ---


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


if __name__ == "__main__":
    die_with_parent()
    sys.exit(main())
