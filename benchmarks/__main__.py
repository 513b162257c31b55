"""Command: `python -m benchmarks [PREFIX] [--rounds N] [--list]`."""

import argparse
import sys
from collections.abc import Sequence

from benchmarks import data, loop
from benchmarks.harness import Case, run, select

CASES = (*loop.CASES, *data.CASES)
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


def main(arguments: Sequence[str], cases: Sequence[Case] = CASES) -> int:
    """Run the chosen cases; returns the exit code."""
    options = parse(arguments)
    chosen = select(cases, options.prefix)
    if not chosen:
        print(f"no case starts with {options.prefix!r}; there are:", file=sys.stderr)
    if options.list or not chosen:
        lines = [f"  {case.name:28} at least {case.goal:g} x, {case.unit}: {case.measures}" for case in chosen or cases]
        print("\n".join(lines), file=sys.stdout if chosen else sys.stderr)
        return 0 if chosen else 2
    results = [run(case, options.rounds, lambda line: print(line, flush=True)) for case in chosen]
    return 0 if all(result.passed for result in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
