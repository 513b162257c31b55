"""Where the time of a training went, by its event log: what share of the clock computed steps that count."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

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


@dataclass
class _Window:
    """What went between two flushes of the log."""

    steps: list[int]
    seconds: dict[str, float]


@dataclass
class Ledger:
    """Filled event by event, in the log's order.

    A flush writes the steps done since the last one and then a span for each kind of work: the sum of its seconds.
    Where a step stands in the log again later, after a restart or a way back, its share of the window is lost.
    """

    _windows: list[_Window] = field(default_factory=list)
    _steps: list[int] = field(default_factory=list)
    """Logged since the last span"""
    _first: float | None = None
    _last: float = 0.0
    _ended: bool = False
    """Whether the last start said that it was at its end"""
    _gaps: dict[str, float] = field(default_factory=lambda: {"start": 0.0, "restart": 0.0, "stopped": 0.0})

    def add(self, event: Event) -> None:
        """Take in the next event."""
        now = event.get("time")
        if now is None:
            return
        match event.get("event"):
            case "start":
                self._start(now, event.get("since_launch_s", 0.0))
            case "step":
                self._steps.append(event["step"])
            case "span":
                self._span(event)
            case "finish":
                self._ended = True
        self._first = now if self._first is None else self._first
        self._last = max(self._last, now)

    def _start(self, now: float, since_launch_s: float) -> None:
        self._steps = []  # done by a start that died before it wrote their spans
        if self._first is None:
            self._first = now - since_launch_s
            launching = since_launch_s
        else:  # a clock that was set back, or a launch before the last start was gone, leaves no gap
            idle = max(0.0, now - self._last)
            launching = min(idle, since_launch_s)
            self._gaps["stopped" if self._ended else "restart"] += idle - launching
        self._gaps["start"] += launching
        self._ended = False

    def _span(self, event: Event) -> None:
        if self._steps or not self._windows:
            self._windows.append(_Window(self._steps, {}))
            self._steps = []
        seconds = self._windows[-1].seconds  # without steps since the last span, it goes with those before
        seconds[event["kind"]] = seconds.get(event["kind"], 0.0) + event["seconds"]

    def result(self) -> Goodput | None:
        """The account so far; None before the first span."""
        if not self._windows or self._first is None:
            return None
        done = [(number, step) for number, window in enumerate(self._windows) for step in window.steps]
        final = {step: place for place, (_, step) in enumerate(done)}
        again_in = Counter(number for place, (number, step) in enumerate(done) if final[step] != place)
        seconds = dict.fromkeys(KINDS, 0.0) | self._gaps
        for number, window in enumerate(self._windows):
            again = again_in[number]
            for kind, spent in window.seconds.items():
                gone = spent * again / len(window.steps) if again and kind != "start" else 0.0
                seconds["lost"] += gone
                seconds[kind if kind in MEASURED else "other"] += spent - gone
        wall_s = self._last - self._first
        seconds["other"] += max(0.0, wall_s - sum(seconds.values()))
        return Goodput(seconds, wall_s, again_in.total())


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
