"""Several runs as one page: curves over each other, numbers with intervals and differences, what was set otherwise."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from configs.errors import ConfigError, DamageError, UserError
from configs.folder import RunFolder, write_atomic
from configs.load import differences
from configs.schema import identity
from pipelines.charts import embed
from pipelines.compare import head, judge_each, refusals, rows_of
from pipelines.curves import SLIDER, overlaid_charts
from pipelines.entries import Entry, read_entry
from pipelines.gate.readings import Reading, read_reading
from pipelines.overview import card
from pipelines.page import Table, render
from pipelines.readout import show_interval
from pipelines.series import Series

SECTIONS = {
    "numbers": "Numbers",
    "charts": "Charts",
    "runs": "Runs",
    "settings": "Set otherwise",
}


def write_comparison(folders: Sequence[RunFolder], output: Path) -> None:
    """Write the page; runs that are not finished are shown as far as they have come."""
    entries = [read_entry(folder) for folder in folders]
    write_atomic(output, build_comparison(entries, output.resolve().parent))


def build_comparison(entries: Sequence[Entry], beside: Path) -> str:
    """The whole page; links are relative to the folder `beside` it. The first run is what others are compared with."""
    names = names_of(entries)
    readings, unread = _readings(entries, names)
    numbers, left_out = compared(readings)
    charts = overlaid_charts(_series(entries, names), _units(entries))
    plots, elements = embed(charts)
    settings = {name: set_otherwise(entries[0], entry) for name, entry in zip(names[1:], entries[1:], strict=True)}
    return render(
        "comparison",
        names=names,
        sections=list(SECTIONS.items()),
        numbers=numbers,
        left_out=[*left_out, *unread],
        curves=list(zip(elements, charts, strict=True)),
        charts=charts,
        plots=plots,
        smoothing=SLIDER,
        runs=[card(entry, beside) | {"name": name} for name, entry in zip(names, entries, strict=True)],
        settings=settings,
    )


def names_of(entries: Sequence[Entry]) -> list[str]:
    """What each run is called on the page: its folder's name, or the path where two have one name."""
    count = Counter(entry.name for entry in entries)
    return [entry.name if count[entry.name] == 1 else str(entry.folder.path) for entry in entries]


def compared(readings: Sequence[Reading]) -> tuple[Table | None, list[str]]:
    """The metrics of the runs beside each other, and why some are not; no table with fewer than two runs."""
    if len(readings) < 2:
        return None, []
    first, others = readings[0], readings[1:]
    judgements = judge_each(first, others)
    rows, notes = [], {}
    for row, (name, cells) in enumerate(rows_of(first, others, judgements)):
        rows.append((cells[0], cells[2:]))
        metrics = [reading.metrics.get(name) for reading in readings]
        notes[row, -1] = f"{cells[1]}, {first.metrics[name].better} is better"
        for number, metric in enumerate(metrics):
            if metric and metric.value is not None and (interval := show_interval(asdict(metric))):
                notes[row, max(0, 2 * number - 1)] = interval
    title, _, *columns = head(first, others)
    caption = (
        f"Values ± one standard error, and where they lie with 95 % confidence; differences are from {first.run}. "
        "Metrics under unlike protocols are not put beside each other."
    )
    table = Table(caption, [(title, ""), *((column, "") for column in columns)], rows, notes=notes)
    return (table if rows else None), list(refusals(judgements))


def set_otherwise(first: Entry, other: Entry) -> list[str] | None:
    """The keys of the configuration in which a run is not as the first; None where one of them cannot be read."""
    runs = [entry.traces.run if entry.traces else None for entry in (other, first)]
    if not all(runs):
        return None
    ours, theirs = (
        {key: value for key, value in identity(run).items() if key != "name"} for run in runs if run is not None
    )
    return list(differences(ours, theirs))


def _readings(entries: Sequence[Entry], names: Sequence[str]) -> tuple[list[Reading], list[str]]:
    """The evaluated runs, and why others are none."""
    found, reasons = [], []
    for name, entry in zip(names, entries, strict=True):
        try:
            found.append(replace(read_reading(entry.folder), run=name))
        except (ConfigError, DamageError, UserError) as error:
            reasons.append(str(error))
    return found, reasons


def _series(entries: Sequence[Entry], names: Sequence[str]) -> Mapping[str, Mapping[str, Series]]:
    return {
        name: entry.traces.history.series
        for name, entry in zip(names, entries, strict=True)
        if entry.traces and entry.traces.history.series
    }


def _units(entries: Sequence[Entry]) -> dict[str, Any]:
    return {quantity: unit for entry in entries for quantity, unit in entry.scores.units.items()}
