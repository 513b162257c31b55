"""The record of a start that went wrong: what each rank did last, their stacks and their last words."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.folder import write_atomic, write_json
from trainer.heartbeat import stack_file
from trainer.node.verdict import Ending
from trainer.node.watch import Start


@dataclass(frozen=True)
class Aftermath:
    """What the agent does about an ending."""

    restarted: bool
    restarts_left: int


def write_incident(root: Path, stage: str, start: Start, ending: Ending, aftermath: Aftermath) -> Path:
    """Leave `root`/NNNN with incident.json, which is written last, log.txt and the stacks. Raises OSError."""
    folder = _next_folder(root)
    stacks = _copy_stacks(start, folder)
    write_atomic(folder / "log.txt", "".join(f"{line}\n" for line in start.relay.last()))
    record = {
        "time": round(time.time(), 3),
        "stage": stage,
        "kind": ending.kind,
        "rank": ending.rank,
        "exit_code": ending.code,
        "signal": ending.killed_by,
        "reason": ending.reason,
        "restarts_left": aftermath.restarts_left,
        "restarted": aftermath.restarted,
        "ranks": _describe_ranks(start),
        "stacks": stacks,
    }
    write_json(folder / "incident.json", record)
    return folder


def _next_folder(root: Path) -> Path:
    """A new folder, numbered after those that are there; agents of several nodes may ask at once."""
    root.mkdir(parents=True, exist_ok=True)
    taken = [int(path.name) for path in root.iterdir() if re.fullmatch(r"\d{4,}", path.name)]
    number = max(taken, default=0)
    while True:
        number += 1
        folder = root / f"{number:04d}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder


def _copy_stacks(start: Start, folder: Path) -> list[str]:
    paths = [stack_file(start.pulses, rank.number) for rank in start.ranks]
    written = [path for path in paths if path.exists() and path.stat().st_size]
    for path in written:
        write_atomic(folder / path.name, path.read_bytes())
    return [path.name for path in written]


def _describe_ranks(start: Start) -> Sequence[dict[str, Any]]:
    """Each rank's last place, and its exit code where it ended by itself."""
    codes = dict(start.facts.ended)
    described = []
    for rank in start.ranks:
        reading, code = start.facts.readings[rank.number], codes.get(rank.number)
        described.append(
            {
                "rank": rank.number,
                "exit_code": 128 - code if code is not None and code < 0 else code,
                "phase": reading.phase,
                "step": reading.step,
                "beats": reading.beats,
                "silent_s": round(start.silence.silent_s(rank.number), 1),
            }
        )
    return described
