"""The lines that a stage prints for whoever follows it: to a screen, through a launcher, through kfp's own output."""

import json
import re
import sys
from typing import NamedTuple

LASTING, TRANSIENT, FAILURE = "|", "~", "!"
STAGES = ("prepare", "train", "evaluate")
_LINE = re.compile(rf"\b({'|'.join(STAGES)}) ([|~!]) (.*)")


class Line(NamedTuple):
    """`train | text` stays on the screen, `train ~ text` may be drawn over, `train ! {...}` says why it failed."""

    stage: str
    mark: str
    text: str


def emit(stage: str, mark: str, text: str) -> None:
    """Print a line in one write, so that those of several ranks do not mix."""
    sys.stdout.write(f"{stage} {mark} {text}\n")
    sys.stdout.flush()


def emit_failure(stage: str, code: int, reason: str, *, by_peer: bool = False) -> None:
    """Say why a stage failed and with which exit code: through the pipe, for the disk may be full.

    `by_peer`: it only follows from the end of another process, which knows more.
    """
    emit(stage, FAILURE, json.dumps({"code": code, "reason": reason} | ({"by_peer": True} if by_peer else {})))


def parse(text: str) -> Line | None:
    """The line for a follower in a line of output, whatever kfp puts before it."""
    found = _LINE.search(text)
    return Line(*found.groups()) if found else None


def read_failure(line: Line) -> tuple[int, str]:
    """Exit code and reason of a failure line; what cannot be read is the reason as it stands, with code 1."""
    try:
        record = json.loads(line.text)
        return int(record["code"]), str(record["reason"])
    except (ValueError, TypeError, KeyError):
        return 1, line.text


def follows_from_peer(line: Line) -> bool:
    """Whether a failure line tells of what the end of another process has caused."""
    try:
        return bool(json.loads(line.text).get("by_peer"))
    except (ValueError, AttributeError):
        return False
