"""Where the time of a training went, by its event log: what share of the clock computed steps that count."""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from pipelines.series import Array

Event = Mapping[str, Any]

KINDS = {
    "compute": "computing steps that count",
    "data": "waiting for data",
    "save": "saving checkpoints",
    "validate": "validating",
    "start": "starting: imports, networks, the checkpoint",
    "lost": "steps that were done again later",
    "restart": "from the last sign of a start to the next start",
    "stopped": "from a stop that was asked for, or a failure, to the next start",
    "other": "all else",
}
"""What time can go into; together the whole clock"""
MEASURED = ("start", "data", "compute", "save", "validate")
"""Kinds of span events"""
SLICES = 120
"""Of the clock, in a timeline"""
_PLACES = {kind: place for place, kind in enumerate(KINDS)}


@dataclass(frozen=True)
class Goodput:
    """Seconds by kind, which add up to `wall_s`."""

    seconds: Mapping[str, float]
    wall_s: float
    """From the launch of the first start to the last event"""
    lost_steps: int
    """Steps that were done again, counted each time"""

    @property
    def share(self) -> float:
        """The part of the clock that computed steps that count."""
        return self.seconds["compute"] / self.wall_s if self.wall_s else 0.0


def goodput(events: Iterable[Event]) -> Goodput | None:
    """The account of an event log; None when it has no spans, as logs of older runs."""
    ledger = Ledger()
    for event in events:
        ledger.add(event)
    return ledger.result()


@dataclass(frozen=True)
class Timeline:
    """What went into each slice of the clock; slices are equally long."""

    edges: Array
    """Ends of the slices, in seconds since the launch of the first start"""
    seconds: Mapping[str, Array]
    """By kind, of each slice; together its length"""
    restarts: Sequence[float]
    """When later starts were launched"""


@dataclass
class Ledger:
    """Filled event by event, in the log's order.

    A flush writes the steps done since the last one, a window, and then a span for each kind of work: the sum of its
    seconds. Where a step stands in the log again later, after a restart or a way back, its share of the window is lost.
    """

    _steps: "array[int]" = field(default_factory=partial(array, "q"))
    """Logged so far, less those of a start that died before it wrote their spans"""
    _windows: "array[int]" = field(default_factory=partial(array, "q"))
    """How many of the steps were logged at the end of each"""
    _spans: "array[float]" = field(default_factory=partial(array, "d"))
    """Rows: window, place of the kind, seconds, and between which times"""
    _first: float | None = None
    _last: float = 0.0
    _ended: bool = False
    """Whether the last start said that it was at its end"""
    _gaps: list[tuple[str, float, float]] = field(default_factory=list)
    """Kind, begin and end of what no start covers"""
    _restarts: list[float] = field(default_factory=list)
    _begun: float = 0.0
    """When what the next spans tell of began: at the last flush, or a start"""
    _flushing: bool = False
    """Whether the last event was a span"""

    def add(self, event: Event) -> None:
        """Take in the next event."""
        now, kind = event.get("time"), event.get("event")
        if now is None:
            return
        if kind == "step":
            self._steps.append(event["step"])
        elif kind == "span":
            self._span(now, event["kind"], event["seconds"])
        elif kind == "start":
            self._start(now, event.get("since_launch_s", 0.0))
        elif kind == "finish":
            self._ended = True
        if self._flushing and kind != "span":
            self._flushing, self._begun = False, self._last
        if self._first is None:
            self._first = now
        if now > self._last:
            self._last = now

    def _start(self, now: float, since_launch_s: float) -> None:
        del self._steps[self._windows[-1] if self._windows else 0 :]
        if self._first is None:
            self._first = now - since_launch_s
            self._gaps.append(("start", self._first, now))
        else:  # a clock that was set back, or a launch before the last start was gone, leaves no gap
            idle = max(0.0, now - self._last)
            launched = self._last + idle - min(idle, since_launch_s)
            self._gaps.append(("stopped" if self._ended else "restart", self._last, launched))
            self._gaps.append(("start", launched, self._last + idle))
            self._restarts.append(launched)
        self._flushing, self._begun, self._ended = False, max(now, self._last), False

    def _span(self, now: float, kind: str, seconds: float) -> None:
        if not self._windows or len(self._steps) > self._windows[-1]:
            self._windows.append(len(self._steps))  # else it goes with the steps before
        self._flushing = True
        begun, ended = self._begun, now
        if kind == "start":
            ended = self._begun = min(begun + seconds, now)  # the first of the flush, and of its time
        place = _PLACES[kind if kind in MEASURED else "other"]
        self._spans.extend((len(self._windows) - 1, place, seconds, begun, ended))

    def result(self) -> Goodput | None:
        """The account so far; None before the first span."""
        if not self._windows or self._first is None:
            return None
        spans, lost, again = self._judged()
        spent = np.bincount(spans[:, 1].astype(int), spans[:, 2] - lost, len(KINDS))
        seconds = dict(zip(KINDS, spent.tolist(), strict=True))
        seconds["lost"] += float(lost.sum())
        for kind, begin, end in self._gaps:
            seconds[kind] += end - begin
        wall_s = self._last - self._first
        seconds["other"] += max(0.0, wall_s - sum(seconds.values()))
        return Goodput(seconds, wall_s, again)

    def timeline(self, slices: int = SLICES) -> Timeline | None:
        """The account along the clock; None before the first span.

        What a flush tells is spread over the time since the one before it, after the beginning of a start.
        """
        if not self._windows or self._first is None:
            return None
        spans, lost, _ = self._judged()
        edges = np.linspace(0.0, self._last - self._first, slices + 1)
        begins, ends = spans[:, 3] - self._first, spans[:, 4] - self._first
        seconds = {kind: np.zeros(slices) for kind in KINDS}
        for kind in (*MEASURED, "other"):
            of = spans[:, 1] == _PLACES[kind]
            seconds[kind] += _spread(begins[of], ends[of], (spans[:, 2] - lost)[of], edges)
            seconds["lost"] += _spread(begins[of], ends[of], lost[of], edges)
        for kind, begin, end in self._gaps:
            span = np.array([begin - self._first]), np.array([end - self._first]), np.array([end - begin])
            seconds[kind] += _spread(*span, edges)
        known, length = sum(seconds.values()), np.diff(edges)
        seconds["other"] += np.maximum(length - known, 0.0)
        over = np.maximum(known / np.maximum(length, 1e-9), 1.0)  # spans of a clock that was set back
        seconds = {kind: values / over for kind, values in seconds.items()}
        return Timeline(edges, seconds, [launched - self._first for launched in self._restarts])

    def _judged(self) -> tuple[Array, Array, int]:
        """The spans, the seconds of each that were done again later, and how many steps were."""
        ends = np.frombuffer(self._windows, dtype=np.int64)
        counts = np.diff(ends, prepend=0)
        done = np.frombuffer(self._steps, dtype=np.int64)[: ends[-1]]
        _, from_end = np.unique(done[::-1], return_index=True)
        final = np.zeros(len(done), dtype=bool)
        final[len(done) - 1 - from_end] = True
        again = np.bincount(np.repeat(np.arange(len(counts)), counts)[~final], minlength=len(counts))
        spans = np.frombuffer(self._spans, dtype=np.float64).reshape(-1, 5).copy()
        share = (again / np.maximum(counts, 1))[spans[:, 0].astype(int)]
        share[spans[:, 1] == _PLACES["start"]] = 0.0
        return spans, spans[:, 2] * share, int(again.sum())


def _spread(begins: Array, ends: Array, seconds: Array, edges: Array) -> Array:
    """How many of the seconds, spent evenly between their begin and end, lie between each two edges.

    Spans follow each other, as those of one kind do in a log.
    """
    sums = np.cumsum(seconds)
    times = np.maximum.accumulate(np.stack([begins, ends], axis=1).ravel()) if len(sums) else np.zeros(1)
    before = np.stack([sums - seconds, sums], axis=1).ravel() if len(sums) else np.zeros(1)
    return np.diff(np.interp(edges, times, before, left=0.0))


def sentence(account: Goodput) -> str:
    """The account in a line."""
    lost = f"; steps done again: {account.lost_steps:,}" if account.lost_steps else ""
    return f"{100 * account.share:.1f} % of {duration(account.wall_s)} computed steps that count{lost}"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds; the two that matter."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
