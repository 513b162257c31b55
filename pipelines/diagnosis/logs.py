"""The last start in a stage's log: what the stage said of its end, and the errors that it shows."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from configs.lines import FAILURE, LASTING, TRANSIENT, Line, parse, read_failure
from pipelines.diagnosis.stacks import FRAME, Frame, own_frame

_BYTES = 4 << 20  # the end of a log that is read
_CHARACTERS = 1 << 16  # of a line, as many as the node agent passes on
_MARKS = [f" {mark} " for mark in (LASTING, TRANSIENT, FAILURE)]  # a quick look before a pattern
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
_BEGIN = re.compile(
    r"prepare \| .+: \d+ files, [\d.]+ MB$|train \| [\d,]+ parameters on \d+ x \w+, \d+ steps|; starting again \("
)
"""Lines with which a start begins"""
_AGAIN = "; starting again ("
_TALKATIVE = ("torch/distributed/elastic/", "/kfp/local/")
"""Starters that add words of their own after a failure, or let every rank say why it failed"""
_RANK = re.compile(r"^\[(?:rank|default)(?P<rank>\d+)\]:\s?")
_ERROR = re.compile(r"^(?:[A-Za-z_]\w*\.)*(?P<kind>[A-Z]\w*(?:Error|Exception|Interrupt|Exit))(?:: (?P<message>.*))?$")
_TRACEBACK = "Traceback (most recent call last)"
_CHAINED = ("During handling of the above exception", "The above exception was the direct cause")


class Said(NamedTuple):
    """A line of a log and its number, from 1."""

    number: int
    text: str


class Failure(NamedTuple):
    """A stage's own word on why it failed: where it stands, its exit code and the reason."""

    number: int
    stage: str
    code: int
    reason: str


@dataclass(frozen=True)
class Start:
    """What was printed since a stage was last started."""

    path: Path
    lines: Sequence[Said] = ()
    failures: Sequence[Failure] = ()
    went_on: bool = False
    """Whether the stage spoke again after the last failure"""
    failed_before: int = 0
    """Earlier starts in this log that had failed"""


class Raised(NamedTuple):
    """An exception in a log: line number of its last line, class, message, innermost call of our own, rank if told."""

    number: int
    kind: str
    message: str
    frame: Frame | None
    rank: int | None
    chain: int
    """The same for those that were raised while another one was handled"""

    def __str__(self) -> str:
        """As stages word their failures."""
        place = f" at {self.frame.place}" if self.frame else ""
        return f"{self.kind}{place}: {self.message}".rstrip(": ")


def read_start(path: Path, *, whole: bool = False) -> Start:
    """The last start in a log that every start adds to, or a `whole` log; no lines where it cannot be read."""
    said = _tail(path)
    if whole:
        return Start(path, said, _failures(said))
    many = any(starter in line.text for line in said for starter in _TALKATIVE)  # else one failure ends a start
    begin, before, failed, spoke = 0, 0, False, None
    for index, line in enumerate(said):
        told = _parse(line.text)
        begins = told is not None and _BEGIN.search(line.text) is not None
        speaks = told is not None or line.text.startswith(_TRACEBACK)
        ended = failed and speaks and (not many or (told and told.mark == FAILURE and spoke is not None))
        if begins or ended:
            before += failed or _AGAIN in line.text
            begin, failed, spoke = index if begins or not spoke else spoke, False, None
        if told and told.mark == FAILURE:
            failed = True
        elif told and told.mark == LASTING and failed and spoke is None:
            spoke = index  # of another start, if that one fails too; else perhaps of a rank that went on for a moment
    return Start(path, said[begin:], _failures(said[begin:]), spoke is not None, before)


def _failures(lines: Sequence[Said]) -> list[Failure]:
    told = [(line.number, _parse(line.text)) for line in lines]
    return [Failure(number, line.stage, *read_failure(line)) for number, line in told if line and line.mark == FAILURE]


def _parse(text: str) -> Line | None:
    return parse(text) if any(mark in text for mark in _MARKS) else None


def _tail(path: Path) -> list[Said]:
    """The lines at the end of a file, whatever bytes they hold."""
    try:
        with path.open("rb") as file:
            start = max(0, file.seek(0, 2) - _BYTES)
            file.seek(0)
            skipped = sum(file.read(min(_BYTES, start - at)).count(b"\n") for at in range(0, start, _BYTES))
            lines = file.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return []
    lines = lines[:-1] if lines[-1] == "" else lines
    return [Said(skipped + n, _ESCAPES.sub("", line[:_CHARACTERS]).rstrip("\r")) for n, line in enumerate(lines, 1)]


def exceptions(lines: Sequence[Said]) -> Iterator[Raised]:
    """Tracebacks in a log, in its order; those of W&B, which a run survives, are left out.

    Two ranks may print at once: the calls that stand last before an error are taken to be its own.
    """
    frames: list[Frame] = []
    inside, chain, chained = False, 0, False
    for number, raw in lines:
        prefix = _RANK.match(raw)
        text = raw[prefix.end() :] if prefix else raw
        if text.startswith(_TRACEBACK):
            frames, inside = [], True
        elif found := FRAME.match(text):
            frames.append(Frame(*found.groups()))
        elif text.startswith(_CHAINED):
            chained = True
        elif inside and (found := _ERROR.match(text)):
            chain += not chained
            inside = chained = False
            if not any("/wandb/" in frame.file for frame in frames):
                rank = int(prefix["rank"]) if prefix else None
                yield Raised(number, found["kind"], found["message"] or "", own_frame(frames[::-1]), rank, chain)
