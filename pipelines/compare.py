"""Command: metrics of several runs beside each other, with their differences. `trainworks compare RUN RUN...`."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from configs.errors import UserError
from configs.process import command_main, die_with_parent
from pipelines.gate.readings import Reading, kind_of, read_reading
from pipelines.gate.verdicts import ALPHA, Judgement, Verdict, judge
from pipelines.overview import find_runs
from pipelines.readout import show


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="trainworks compare",
        description="Print the metrics of runs beside each other: values ± one standard error, differences from the "
        "first run, and whether they are beyond chance, by units where both were scored on the same ones.",
        epilog="exit codes: 0 done, 1 a damaged file, 2 unlike protocols, or a mistake in what was asked",
    )
    top.add_argument("run", nargs="+", metavar="RUN", help="run folders: names in --runs, or paths; two or more")
    top.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where run folders are (runs)")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 a damaged file, 2 unlike protocols or a mistake in what was asked."""
    arguments = parser().parse_args(argv)
    return command_main("compare", lambda: _compare(arguments))


def _compare(arguments: argparse.Namespace) -> int:
    if len(arguments.run) < 2:
        raise UserError(f"name two runs or more; got {', '.join(arguments.run)}")
    readings = [read_reading(folder) for folder in find_runs(arguments.run, arguments.runs)]
    first, others = readings[0], readings[1:]
    judgements = judge_each(first, others)
    refused = list(refusals(judgements))
    for line in table(first, others, judgements):
        print(line)
    if refused:
        raise UserError("not put side by side:\n" + "\n".join(f"  - {line}" for line in refused))
    return 0


def judge_each(first: Reading, others: Sequence[Reading]) -> list[Judgement]:
    """Each of the others against the first, as the models that they are."""
    return [judge([other], [first], baseline=first.run, alpha=ALPHA, of_weights=True) for other in others]


def refusals(judgements: Sequence[Judgement]) -> Iterator[str]:
    """Why metrics of quality, which some run has under another protocol or not at all, are left out of the table."""
    for judgement in judgements:
        for each in judgement.verdicts:
            if each.blocks:
                yield f"{each.name}: {each.reason}"


def table(first: Reading, others: Sequence[Reading], judgements: Sequence[Judgement]) -> Iterator[str]:
    """Lines with columns of one width: a metric, its unit, its value in each run and what the difference is."""
    rows = [head(first, others), *(cells for _, cells in rows_of(first, others, judgements))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def head(first: Reading, others: Sequence[Reading]) -> list[str]:
    """What stands above the cells of `rows_of`."""
    return ["", "unit", first.run, *(cell for other in others for cell in (other.run, "difference"))]


def rows_of(
    first: Reading, others: Sequence[Reading], judgements: Sequence[Judgement]
) -> Iterator[tuple[str, list[str]]]:
    """Each metric of the first run that may be put beside those of all others, and its cells, the name first."""
    by_name = [{each.name: each for each in judgement.verdicts} for judgement in judgements]
    for name, metric in first.metrics.items():
        verdicts = [each[name] for each in by_name]
        if any(verdict.blocks for verdict in verdicts):
            continue
        cells = [name, metric.unit, _value(first, name)]
        for other, verdict in zip(others, verdicts, strict=True):
            cells += [_value(other, name), _difference(verdict)]
        yield name, cells


def _value(reading: Reading, name: str) -> str:
    metric = reading.metrics.get(name)
    return "–" if metric is None or metric.value is None else show(asdict(metric))


def _difference(verdict: Verdict) -> str:
    """The reason of a verdict; of the machine, whose noise one run does not tell, the plain difference."""
    if verdict.percent is None and kind_of(verdict.name) != "quality":
        return "one run tells nothing of its noise" if "too few" in verdict.reason else verdict.reason
    return verdict.reason


if __name__ == "__main__":
    die_with_parent()
    sys.exit(main())
