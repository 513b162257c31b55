"""Command: `python -m benchmarks [PREFIX] [--rounds N] [--list]`."""

import argparse
import sys
from collections.abc import Sequence

from benchmarks import (
    data,
    engine,
    evaluation_classes,
    evaluation_images,
    evaluation_text,
    families_diffusion,
    families_images,
    families_text,
    loop,
    tracking,
    tracking_report,
)
from benchmarks.harness import Case, Limit, measure_limit, run, select

CASES: tuple[Case | Limit, ...] = (
    *loop.CASES,
    *data.CASES,
    *families_text.CASES,
    *families_images.CASES,
    *families_diffusion.CASES,
    *engine.CASES,
    *evaluation_text.CASES,
    *evaluation_classes.CASES,
    *evaluation_images.CASES,
    *tracking.CASES,
    *tracking_report.CASES,
)
DEFAULT_ROUNDS = 10


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure trainworks against its peers, both by turns on this machine.",
        epilog="Rates are in tokens per second of wall time, medians over rounds; a ratio is ours / peer, so above 1 "
        "we are faster. A round is one training of a few dozen steps by each side. Each case ends with one JSON line. "
        "Exit code: 0 when every goal is met with equal outputs, 1 when not, 2 for a prefix without a case.",
    )
    parser.add_argument("prefix", nargs="?", default="", help="run the cases whose name starts so; all when not given")
    parser.add_argument("--rounds", type=int, default=DEFAULT_ROUNDS, metavar="N", help="rounds per case (default: 10)")
    parser.add_argument("--list", action="store_true", help="list the cases with their goals (a ratio) and units")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds={options.rounds} must be at least 1")
    return options


def main(arguments: Sequence[str], cases: Sequence[Case | Limit] = CASES) -> int:
    """Run the chosen cases; returns the exit code."""
    options = parse(arguments)
    chosen = select(cases, options.prefix)
    if not chosen:
        print(f"no case starts with {options.prefix!r}; there are:", file=sys.stderr)
    if options.list or not chosen:
        print("\n".join(map(described, chosen or cases)), file=sys.stdout if chosen else sys.stderr)
        return 0 if chosen else 2
    results = [
        measure_limit(case, show) if isinstance(case, Limit) else run(case, options.rounds, show) for case in chosen
    ]
    return 0 if all(result.passed for result in results) else 1


def described(case: Case | Limit) -> str:
    goal = (
        f"at most {case.most:g} {case.unit}" if isinstance(case, Limit) else f"at least {case.goal:.3g} x, {case.unit}"
    )
    return f"  {case.name:28} {goal}: {case.measures}"


def show(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
