"""Command: why a run ended, from what it left: one cause, one action, the evidence. `trainworks diagnose RUN`."""

import argparse
import json
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from configs.errors import UserError
from configs.folder import RunFolder
from configs.process import command_main
from pipelines.diagnosis.remains import Incident, Remains, StageRemains, read_remains
from pipelines.diagnosis.stacks import main_thread, own_frame, waits_for_peers
from pipelines.diagnosis.verdict import Verdict, final_incidents, judge
from pipelines.diagnosis.words import flat, size

WIDTH = 110
_SHORT = 300  # characters of a text that stands as evidence
_LATEST = 1e11  # seconds since 1970 that a calendar still has
_SHOWN = 4  # ranks, other signs and earlier incidents that are listed


class Fact(NamedTuple):
    """A piece of evidence: what it says and where it stands."""

    place: str
    text: str


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="trainworks diagnose",
        description="Say why a run ended, and what to do: one cause, one action, the evidence. Reads what the run left "
        "behind, on any machine, and changes nothing.",
        epilog="exit codes: 0 it completed or is running, 1 a cause was found, 2 a mistake in what was asked",
    )
    top.add_argument("run", metavar="RUN", help="a run folder: its name in --runs, or a path")
    top.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where run folders are (runs)")
    top.add_argument("--json", action="store_true", help="print a record for programs")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 it completed or is running, 1 a cause was found, 2 a mistake in what was asked."""
    arguments = parser().parse_args(argv)
    return command_main("diagnose", lambda: _diagnose(arguments))


def _diagnose(arguments: argparse.Namespace) -> int:
    remains = read_remains(find_run(arguments.run, arguments.runs))
    verdict = judge(remains)
    facts = list(evidence(verdict, remains))
    if arguments.json:
        print(json.dumps(as_record(verdict, remains, facts), indent=1))
    else:
        print(as_text(verdict, facts))
    return 0 if verdict.state in ("completed", "running") else 1


def find_run(name: str, runs: Path) -> RunFolder:
    """The folder of a run, inside `runs` or by path. Raises UserError where no run is."""
    tried = [path for path in dict.fromkeys((runs / name, Path(name))) if name]
    for path in tried:
        folder = RunFolder(path)
        if folder.config.is_file() or folder.logs.is_dir() or folder.events.is_file():
            return folder
    places = " or ".join(map(str, tried)) or "''"
    raise UserError(f"{places}: no run is there (no run.yaml, no logs); name another, or its folder with --runs")


def as_text(verdict: Verdict, facts: Sequence[Fact]) -> str:
    """The verdict for a person, the cause first."""
    sure = "" if verdict.sure == "certain" else f" ({verdict.sure})"
    name = "" if verdict.cause == "none" else f"{verdict.cause}{sure}: "
    lines = [*_paragraph("cause", name + verdict.sentence), *_paragraph("action", verdict.action)]
    if facts:
        width = min(40, max(len(fact.place) for fact in facts))
        lines.append("evidence")
        for place, text in facts:
            hanging = " " * (width + 4)
            wrapped = textwrap.wrap(text, WIDTH - len(hanging), break_on_hyphens=False) or [""]
            first = f"  {place:{width}}  {wrapped[0]}" if len(place) <= width else f"  {place}\n{hanging}{wrapped[0]}"
            lines += [first, *(hanging + line for line in wrapped[1:])]
    return "\n".join(lines)


def _paragraph(title: str, text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"{title:8}", subsequent_indent=" " * 8, break_on_hyphens=False)


def as_record(verdict: Verdict, remains: Remains, facts: Sequence[Fact]) -> dict[str, Any]:
    """The verdict for a program."""
    stage = _stage(verdict, remains)
    return {
        "run": str(remains.folder.path.resolve()),
        "state": verdict.state,
        "cause": verdict.cause,
        "sure": verdict.sure,
        "sentence": verdict.sentence,
        "action": verdict.action,
        "stage": verdict.stage,
        "rank": verdict.rank,
        "step": verdict.step,
        "failed_before": _failed_before(stage) if stage else 0,
        "checkpoints": [each._asdict() for each in remains.checkpoints],
        "free_bytes": remains.free_bytes,
        "evidence": [fact._asdict() for fact in facts],
    }


def evidence(verdict: Verdict, remains: Remains) -> Iterator[Fact]:
    """What the verdict rests on, and what else is worth knowing."""
    if verdict.sign:
        yield Fact(verdict.sign.place, _short(verdict.sign.text))
    told = verdict.sign.text if verdict.sign else ""
    others = {re.sub(r"^exit \d+: ", "", each.sign.text): each for each in reversed(verdict.others)}
    for other in [each for text, each in reversed(others.items()) if text not in told][:_SHOWN]:
        follows = "follows from it: " if other.rule.consequence else ""
        yield Fact(other.sign.place, f"{follows}{_short(other.sign.text)}")
    if stage := _stage(verdict, remains):
        for incident in final_incidents(stage):
            yield from _ranks(incident, remains)
        yield from _story(stage, remains)
    yield from _state_of_disk(remains)


def _stage(verdict: Verdict, remains: Remains) -> StageRemains | None:
    return next((each for each in remains.stages if each.name == verdict.stage), None)


def _ranks(incident: Incident, remains: Remains) -> Iterator[Fact]:
    """How each rank ended, the one that is named first, and where those stood that left a stack."""
    first = sorted(incident.ranks, key=lambda each: each.rank != incident.rank)
    for each in first[:_SHOWN]:
        parts = [f"rank {each.rank}"]
        if each.exit_code is not None:
            parts.append(f"exit code {each.exit_code}")
        if each.phase is not None:
            parts.append(f"{each.phase} of step {each.step}, {each.beats} beats")
        if each.silent_s and incident.kind == "silent":
            parts[-1] += f", silent for {each.silent_s:.1f} s"
        if frames := main_thread(incident.stack(each.rank)):
            own = own_frame(frames)
            shown = frames[:3] if own in frames[:3] else [*frames[:2], own]
            verb = "waiting for the others in" if waits_for_peers(frames) else "in"
            parts.append(f"{verb} {' < '.join(map(str, shown))}")
        yield Fact(remains.place(incident.path), "; ".join(parts))
    if len(first) > _SHOWN:
        yield Fact(remains.place(incident.path), f"and {len(first) - _SHOWN} ranks more")


def _story(stage: StageRemains, remains: Remains) -> Iterator[Fact]:
    """How far the stage had come, what went wrong on the way, and how often it had failed before."""
    if (events := stage.events) and events.seen is not None and events.seen < _LATEST:
        of = f" of {remains.steps}" if remains.steps and stage.name == "train" else ""
        at = f"{datetime.fromtimestamp(events.seen, UTC):%Y-%m-%d %H:%M:%S} UTC"
        step = f"step {events.step}{of}, " if events.step is not None else ""
        yield Fact(remains.place(events.path), f"last event at {at}: {step}{_count(events.starts, 'start')} in all")
        for anomaly in events.anomalies[-_SHOWN:]:
            yield Fact(remains.place(events.path), f"anomaly: {anomaly.get('reason')} ({anomaly.get('action')})")
    if failed := _failed_before(stage):
        yield Fact(remains.place(stage.start.path), f"before: {_count(failed, 'start')} failed")
    last = final_incidents(stage)
    for incident in [each for each in stage.incidents if each not in last][-_SHOWN:]:
        after = "; it was started again" if incident.restarted else ""
        yield Fact(remains.place(incident.path), f"before: {_short(incident.reason) or incident.kind}{after}")


def _failed_before(stage: StageRemains) -> int:
    """Starts before the last one that had failed, by the log or by the incidents, whichever tells of more."""
    return max(stage.start.failed_before, len(stage.incidents) - len(final_incidents(stage)))


def _state_of_disk(remains: Remains) -> Iterator[Fact]:
    train = remains.place(remains.folder.train)
    whole = [str(each.step) for each in remains.checkpoints if each.fault is None]
    if whole:
        pointer = f"; latest.json names {remains.pointer}" if remains.pointer is not None else ""
        yield Fact(train, f"checkpoints of steps {', '.join(whole[:6])} look whole{pointer}")
    elif remains.checkpoints or remains.folder.events.exists():
        yield Fact(train, "no whole checkpoint")
    for each in remains.checkpoints[:_SHOWN]:
        if each.fault:
            yield Fact(train, f"step {each.step} is damaged: {each.fault}")
    if remains.pointer is not None and str(remains.pointer) not in whole:
        yield Fact(train, f"latest.json names step {remains.pointer}, which is not there or not whole")
    if remains.free_bytes is not None and remains.disk_bytes is not None:
        yield Fact("disk", f"{size(remains.free_bytes)} free of {size(remains.disk_bytes)} where the folder is now")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _short(text: str) -> str:
    line = flat(text)
    return line if len(line) <= _SHORT else line[: _SHORT - 1] + "…"


if __name__ == "__main__":
    sys.exit(main())
