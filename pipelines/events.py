"""Command: a run's event log as readable lines or as JSON, once or while it grows. Run as `trainworks events RUN`."""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.events import LOG, Tail
from configs.process import command_main, die_with_parent
from pipelines.diagnose import find_run

STAGES = ("train", "evaluate")
"""Those that keep an event log"""
LOOK_S = 0.3
"""Between two looks at a log that is followed"""
BESIDE = ("event", "time", "step", "samples_digest")
"""Fields that stand in columns of their own, or are for programs alone"""
SHORT = 60
"""Characters of a text or a digest among figures"""
WHOLE = ("reason",)
"""Texts that are shown to their end"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="trainworks events",
        description="Print a run's event log: one line for each event, with its time (UTC), step and figures.",
        epilog="exit codes: 0 done, 2 a mistake in what was asked, or a log of a newer version, 130 Ctrl-C",
    )
    top.add_argument("run", metavar="RUN", help="a run folder: its name in --runs, or a path")
    top.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where run folders are (runs)")
    top.add_argument("--stage", choices=STAGES, default="train", help="whose log (train)")
    top.add_argument("--follow", action="store_true", help="go on until the log says finish")
    top.add_argument("--json", action="store_true", help="print JSON lines for programs, without their checksums")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 2 a mistake in what was asked, or a log of a newer version, 130 Ctrl-C."""
    arguments = parser().parse_args(argv)
    return command_main("events", lambda: _events(arguments))


def _events(arguments: argparse.Namespace) -> int:
    path = find_run(arguments.run, arguments.runs).stage_events(arguments.stage)
    if not path.is_file() and not arguments.follow:
        raise UserError(f"{path} is not there: {arguments.stage} has not begun; --follow waits for it")
    tail = Tail(path)
    try:
        for event in followed(tail) if arguments.follow else tail.new():
            print(json.dumps(event) if arguments.json else readable(event), flush=arguments.follow)
    finally:
        if tail.damaged:
            print(f"{path}: {tail.damaged:,} lines are damaged and left out", file=sys.stderr)
    return 0


def followed(tail: Tail, look_s: float = LOOK_S) -> Iterator[Mapping[str, Any]]:
    """Events as they come, until the last start that the log tells of is finished."""
    finished = False
    while not finished:
        for event in tail.new():
            if event.get("event") in ("start", "finish"):
                finished = event["event"] == "finish"
            yield event
        if not finished:
            time.sleep(look_s)


def readable(event: Mapping[str, Any]) -> str:
    """An event as `2026-01-31 12:00:00  step             10  train/loss 2.31  ...`."""
    if event.get("event") == LOG:
        return f"{moment(event.get('time'))}  {LOG:12}        -  version {event.get('version')}"
    step = event.get("step")
    place = f"{step:>8}" if isinstance(step, int) else f"{'-':>8}"
    figures = [f"{name} {_shown(name, value)}" for name, value in event.items() if name not in BESIDE]
    return printable("  ".join([moment(event.get("time")), f"{event.get('event')!s:12}{place}", *figures]).rstrip())


def moment(seconds: Any) -> str:
    """Seconds since 1970 as a date and a time of day, UTC; a dash for what is none."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"
    except (TypeError, ValueError, OverflowError, OSError):
        return f"{'-':19}"


def _shown(name: str, value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.5g}"
        case Mapping():
            return ", ".join(f"{key} {_shown(key, each)}" for key, each in value.items())
        case list():
            return f"[{len(value)} values]"
        case str() if name not in WHOLE and len(value) > SHORT:
            return f"{value[:SHORT]}…"
    return str(value)


def printable(text: str) -> str:
    """Text on one line, without what a terminal would take for an order."""
    return "".join(each if each.isprintable() else " " for each in text)


if __name__ == "__main__":
    die_with_parent()
    sys.exit(main())
