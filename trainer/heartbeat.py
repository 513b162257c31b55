"""Heartbeats: a few bytes per rank in shared memory, by which the node agent sees who goes on and who stands still."""

import mmap
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from data.progress import Progress

PULSES = "TRAINWORKS_PULSES"
"""Names the folder of the heartbeats; set by the node agent, absent elsewhere"""
PHASES = ("start", "data", "exchange", "compute", "save", "validate", "end")
TOLD = ("save", "validate")
"""Those within which a person is told how far it is; steps tell it themselves"""
_LAYOUT = struct.Struct("@QQqQ")  # beats, signs, step, phase: aligned words, so that a reader sees each whole


class Pulse(Protocol):
    """What a rank tells of its progress."""

    def beat(self, phase: str, step: int) -> None:
        """Say that a phase of a step begins. Ranks in lockstep call it equally often: who called it least is behind."""
        ...

    def alive(self) -> None:
        """Say within a phase that work goes on, as often as this rank likes."""
        ...


class Reading(NamedTuple):
    """A rank's heartbeat as it stands."""

    beats: int = 0
    """Phases begun"""
    signs: int = 0
    """Signs of life within phases"""
    step: int = 0
    phase: str = PHASES[0]


class SharedPulse:
    """The writing side: two stores into mapped memory, which no disk and no lock can hold up."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _LAYOUT.size)
        self._beats, self._signs, self._step, self._phase = _LAYOUT.unpack_from(self._map)

    def beat(self, phase: str, step: int) -> None:
        self._beats, self._step, self._phase = self._beats + 1, step, PHASES.index(phase)
        self._write()

    def alive(self) -> None:
        self._signs += 1
        self._write()

    def _write(self) -> None:
        _LAYOUT.pack_into(self._map, 0, self._beats, self._signs, self._step, self._phase)


class NullPulse:
    """Where nobody watches."""

    def beat(self, phase: str, step: int) -> None: ...
    def alive(self) -> None: ...


class ToldPulse:
    """A heartbeat that a person reads too: the last figures again in a phase that takes longer than between two."""

    def __init__(self, pulse: Pulse, progress: Progress) -> None:
        self._pulse, self._progress = pulse, progress
        self._phase, self._step = PHASES[0], progress.first

    def beat(self, phase: str, step: int) -> None:
        self._pulse.beat(phase, step)
        self._phase, self._step = phase, step

    def alive(self) -> None:
        self._pulse.alive()
        if self._phase in TOLD and self._progress.due():
            self._progress.again(self._step, self._phase)


def open_pulse(rank: int, environ: Mapping[str, str] = os.environ) -> Pulse:
    """This rank's heartbeat, which goes on where an earlier one of this process stopped; silent without an agent."""
    folder = environ.get(PULSES)
    return SharedPulse(pulse_file(Path(folder), rank)) if folder else NullPulse()


def pulse_file(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank:05d}.pulse"


def stack_file(folder: Path, rank: int) -> Path:
    """Where a rank writes its stacks when it is asked for them."""
    return folder / f"rank-{rank:05d}.txt"


class PulseReader:
    """The agent's side: makes a rank's heartbeat before the rank is started, then reads it."""

    def __init__(self, folder: Path, rank: int) -> None:
        path = pulse_file(folder, rank)
        path.write_bytes(bytes(_LAYOUT.size))  # on the disk now: a store into a hole of a full disk would kill the rank
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _LAYOUT.size)

    def read(self) -> Reading:
        beats, signs, step, phase = _LAYOUT.unpack_from(self._map)
        return Reading(beats, signs, step, PHASES[phase])
