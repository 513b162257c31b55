"""Which ranks give no sign of progress, and for how long."""

import contextlib
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.heartbeat import PulseReader, Reading

STEPLESS = ("start", "save", "validate", "end")
"""Phases that may last: within them a rank that computes is not silent"""
AT_WORK = 0.02
"""Share of a processor that a rank uses when it computes, however busy the machine; one that waits uses less"""


@dataclass
class _Seen:
    sign: tuple[int, int] = (0, 0)
    processor_s: float = 0.0
    silent_s: float = 0.0


class Silence:
    """Time without a sign by rank: counted in looks, so that a machine that slept or a clock that jumped adds none."""

    LOOK_S = 1.0
    """The most that one look adds"""

    def __init__(self, readers: Mapping[int, PulseReader], processes: Mapping[int, int], limit_s: float) -> None:
        self._readers, self._processes, self._limit_s = readers, processes, limit_s
        self._seen = {rank: _Seen() for rank in readers}

    def look(self, passed_s: float) -> None:
        """Take every rank's signs, `passed_s` after the last look."""
        for rank, seen in self._seen.items():
            reading = self._readers[rank].read()
            sign = (reading.beats, reading.signs)
            fresh = sign != seen.sign
            if reading.phase in STEPLESS:
                used = processor_time(self._processes[rank])
                fresh = fresh or used - seen.processor_s >= AT_WORK * self._limit_s
                seen.processor_s = used if fresh else seen.processor_s
            seen.sign = sign
            seen.silent_s = 0.0 if fresh else seen.silent_s + min(passed_s, self.LOOK_S)

    def reading(self, rank: int) -> Reading:
        return self._readers[rank].read()

    def silent_s(self, rank: int) -> float:
        return self._seen[rank].silent_s

    def culprits(self, running: Collection[int]) -> list[int]:
        """The running ranks that hold the others up: those with the fewest beats, once all of them are silent."""
        fewest = min((self.reading(rank).beats for rank in running), default=0)
        behind = [rank for rank in running if self.reading(rank).beats == fewest]
        return behind if all(self.silent_s(rank) > self._limit_s for rank in behind) else []


def to_blame(silent: Sequence[int], stacks: Mapping[int, Path], processes: Mapping[int, int]) -> Sequence[int]:
    """Those of some ranks at the same place that do not wait for the others there, as far as that can be told.

    A process that is held does not wait, nor does one whose `stacks` show no collective; else all are returned.
    """
    held = [rank for rank in silent if standing(processes[rank])]
    return held or [rank for rank in silent if not _in_collective(stacks[rank])] or silent


def _in_collective(stacks: Path) -> bool:
    return stacks.exists() and any(file in stacks.read_text() for file in ("distributed_c10d.py", "/comm/torch.py"))


def processor_time(process: int) -> float:
    """Seconds that a process has computed for; 0 when it is gone."""
    with contextlib.suppress(OSError):
        user, system = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return 0.0


def standing(process: int) -> str:
    """Why a process cannot answer, if it cannot: it is stopped, or inside the kernel."""
    with contextlib.suppress(OSError):
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        known = {"T": "stopped by a signal", "t": "stopped by a debugger", "D": "waiting for a disk or a device"}
        return known.get(state, "")
    return ""
