"""Command: are runs better, the same or worse than a baseline? `trainworks gate RUN [RUN ...] --baseline NAME`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from configs.folder import require_output, write_atomic, write_json
from configs.process import command_main, die_with_parent
from pipelines.baselines import HOME, load_baseline
from pipelines.gate.against import gate
from pipelines.gate.junit import junit
from pipelines.gate.page import build_page, lines
from pipelines.gate.readings import Kind, read_reading
from pipelines.gate.verdicts import ALPHA, MINIMUM
from pipelines.overview import find_runs


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="trainworks gate",
        description="Say of each metric of new runs, which differ in seed and name alone, whether it is better, the "
        "same or worse than a baseline's, by the noise of seeds: quality, speed, memory and resume time.",
        epilog="exit codes: 0 same or better, 1 worse or a damaged file, 2 not comparable or a mistake in the command",
    )
    defaults = ", ".join(f"{kind} {percent:g}" for kind, percent in MINIMUM.items())
    top.add_argument("run", nargs="+", metavar="RUN", help="run folders: names in --runs, or paths")
    top.add_argument(
        "--baseline", required=True, metavar="NAME", help="the baseline to compare with, its newest version"
    )
    top.add_argument(
        "--minimum",
        type=_minimum,
        action="append",
        default=[],
        metavar="[KIND=]PERCENT",
        help=f"the least change that counts, of quality unless a kind is named ({defaults})",
    )
    top.add_argument(
        "--alpha", type=_share, default=ALPHA, metavar="X", help=f"chance of a false alarm over all metrics ({ALPHA:g})"
    )
    top.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where run folders are (runs)")
    top.add_argument("--baselines", type=Path, default=HOME, metavar="DIR", help=f"where baselines are ({HOME})")
    top.add_argument("--json", type=Path, metavar="FILE", help="write the verdicts there")
    top.add_argument("--junit", type=Path, metavar="FILE", help="write them as JUnit XML")
    top.add_argument("--html", type=Path, metavar="FILE", help="write them as a page")
    return top


def _minimum(text: str) -> tuple[Kind, float]:
    name, _, percent = text.rpartition("=")
    kind: Kind | None = next((kind for kind in get_args(Kind) if kind == (name or "quality")), None)
    try:
        value = float(percent)
    except ValueError:
        value = -1.0
    if kind is None or not 0 <= value < float("inf"):
        kinds = ", ".join(get_args(Kind))
        raise argparse.ArgumentTypeError(f"{text!r} is no PERCENT or KIND=PERCENT from 0 on; kinds: {kinds}")
    return kind, value


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 0.5:
        raise argparse.ArgumentTypeError(f"{text!r} must be above 0 and below 0.5, such as {ALPHA:g}")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 same or better, 1 worse or a damaged file, 2 not comparable or a mistake in what was asked."""
    arguments = parser().parse_args(argv)
    return command_main("gate", lambda: _gate(arguments))


def _gate(arguments: argparse.Namespace) -> int:
    for option, path in (("--json", arguments.json), ("--junit", arguments.junit), ("--html", arguments.html)):
        require_output(option, path)
    readings = [read_reading(folder) for folder in find_runs(arguments.run, arguments.runs)]
    minimum = {**MINIMUM, **dict(arguments.minimum)}
    baseline = load_baseline(arguments.baseline, arguments.baselines)
    judgement = gate(readings, baseline, arguments.baselines, alpha=arguments.alpha, minimum=minimum)
    for line in lines(judgement):
        print(line)
    if arguments.json:
        write_json(arguments.json, judgement.record())
    if arguments.junit:
        write_atomic(arguments.junit, junit(judgement))
    if arguments.html:
        write_atomic(arguments.html, build_page(judgement))
    return judgement.code


if __name__ == "__main__":
    die_with_parent()
    sys.exit(main())
