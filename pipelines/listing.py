"""Command: the runs of a folder in a table: state, step, headline metric, age. Run as `trainworks list`."""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.folder import RunFolder
from configs.process import command_main, die_with_parent
from pipelines.diagnosis.words import flat
from pipelines.readout import show, show_interval
from pipelines.standing import COMPLETED, Standing, read_standing

HEAD = ("run", "state", "stage", "step", "metric", "age", "why")
SHORT = 90
"""Characters of a reason in the table"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="trainworks list",
        description="List the runs of a folder: state, stage, step, headline metric with where it lies with 95 %% "
        "confidence, time since the last sign of life. Folds stand in the line of their run.",
        epilog="exit codes: 0 done, 2 a mistake in what was asked",
    )
    top.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where run folders are (runs)")
    top.add_argument("--json", action="store_true", help="print a record for programs")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 2 a mistake in what was asked."""
    arguments = parser().parse_args(argv)
    return command_main("list", lambda: _list(arguments))


def _list(arguments: argparse.Namespace) -> int:
    if not arguments.runs.is_dir():
        raise UserError(f"{arguments.runs} is no folder; name the one that holds the runs with --runs")
    found = sorted((read_standing(folder) for folder in run_folders(arguments.runs)), key=lambda each: -each.seen)
    if arguments.json:
        print(json.dumps([as_record(each) for each in found], indent=1))
        return 0
    for line in table(found, time.time()):
        print(line)
    if not found:
        print(f"{arguments.runs} holds no run", file=sys.stderr)
    return 0


def run_folders(runs: Path) -> list[RunFolder]:
    """Every folder in `runs` that a run has left something in."""
    found = [RunFolder(path) for path in sorted(runs.iterdir()) if path.is_dir()]
    return [each for each in found if each.config.exists() or each.logs.is_dir() or each.events.exists()]


def table(found: Sequence[Standing], now: float) -> Iterator[str]:
    """Lines with columns of one width, the newest sign of life first."""
    rows = [HEAD, *((*_cells(each), age(now - each.seen) if each.seen else "-", _cut(each.why)) for each in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    if found:
        for row in rows:
            yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _cells(each: Standing) -> tuple[str, ...]:
    return flat(each.name), flat(each.state), each.stage or "-", _extent(each), _metric(each)


def _extent(each: Standing) -> str:
    if each.fold_count:
        done = sum(fold.state == COMPLETED for fold in each.folds)
        return f"{done} of {each.fold_count} folds"
    if each.steps is None:
        return "-"
    return f"{each.step or 0:,} of {each.steps:,}"


def _metric(each: Standing) -> str:
    if each.metric is None:
        return "-"
    where = show_interval(each.metric)
    return f"{each.metric['name']} {show(each.metric)}{f' ({where})' if where else ''}"


def _cut(text: str) -> str:
    return text if len(text) <= SHORT else f"{text[: SHORT - 1]}…"


def age(seconds: float) -> str:
    """How long ago, in the largest unit that fits."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def as_record(each: Standing) -> dict[str, Any]:
    """The same for programs."""
    return {
        "run": each.name,
        "folder": str(each.folder.path),
        "state": each.state,
        "stage": each.stage or None,
        "step": each.step,
        "steps": each.steps,
        "metric": each.metric,
        "seen": each.seen or None,
        "why": each.why or None,
        "folds": [as_record(fold) for fold in each.folds],
        "fold_count": each.fold_count or None,
    }


if __name__ == "__main__":
    die_with_parent()
    sys.exit(main())
