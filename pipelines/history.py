"""What the event log of a training says: the last value of every metric at every step, restarts, and how it ended."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from configs.events import read_events
from pipelines.goodput import Ledger, duration
from pipelines.series import Columns, Series, quantiles


@dataclass
class History:
    """Filled event by event by `read_history`."""

    columns: Columns = field(default_factory=Columns)
    """Metrics as they come in"""
    restarts: list[int] = field(default_factory=list)
    """Steps after which training went on"""
    damaged: int = 0
    """Lines that are no events; a torn last line is not counted"""
    begun: float | None = None
    """Seconds since 1970, as the log has them"""
    seen: float | None = None
    step: int = 0
    """Updates done, by the last event that says so"""
    position: int = 0
    drawn: tuple[int, int] = (0, 0)
    """Step and position of the last step"""
    device: str | None = None
    world: int | None = None
    status: str | None = None
    """completed, stopped or failed; None while it trains, or when it ended without a word"""
    reason: str | None = None
    anomalies: list[dict[str, Any]] = field(default_factory=list)
    """Events of training that ran away: step, reason, action"""
    early_stop: str | None = None
    """Why it ended before its last step; None where it did not"""
    shown: list[int] = field(default_factory=list)
    """Steps at which samples were made, in order"""
    weights: dict[str, dict[int, tuple[float, ...]]] = field(default_factory=dict)
    """Of each network, by step: `quantiles` of its weights"""
    ledger: Ledger = field(default_factory=Ledger)
    """Where the time went"""

    @cached_property
    def series(self) -> dict[str, Series]:
        """By metric, when all events are in; after a restart the repeated steps count."""
        return self.columns.series()

    def add(self, event: dict[str, Any]) -> None:
        """Take in the next event."""
        kind = event.get("event")
        self.seen = event.get("time", self.seen)
        if self.begun is None:
            self.begun = self.seen
        self.ledger.add(event)
        if kind != "checkpoint":  # it is complete some steps later
            self.step = event.get("step", self.step)
            self.position = event.get("position", self.position)
        if kind == "step":
            self.columns.add(self.step, event)
            self.drawn = self.step, self.position
        elif kind == "validation":
            self.columns.add(self.step, event)
        elif kind != "span":
            self._add_rare(kind, event)

    def _add_rare(self, kind: str | None, event: dict[str, Any]) -> None:
        match kind:
            case "start":
                if self.step:
                    self.restarts.append(self.step)
                self.status = self.reason = self.early_stop = None
                self.device, self.world = event.get("device"), event.get("world")
            case "samples":
                self.shown = sorted({*self.shown, self.step})
            case "histogram":
                known = self.weights.setdefault(event["name"], {})
                known[self.step] = quantiles(event["edges"], event["counts"])
            case "anomaly":
                self.anomalies.append(event)
            case "early_stop":
                self.early_stop = event.get("reason")
            case "stop" | "failure":
                self.reason = event.get("reason")
            case "finish":
                self.status = event.get("status")

    def span(self) -> str:
        """When it ran, and for how long by the clock."""
        if self.begun is None or self.seen is None:
            return "unknown"
        begun, seen = (datetime.fromtimestamp(t, UTC) for t in (self.begun, self.seen))
        day = "" if begun.date() == seen.date() else f"{seen:%Y-%m-%d} "
        return f"{begun:%Y-%m-%d %H:%M} to {day}{seen:%H:%M} UTC ({duration(self.seen - self.begun)})"


def read_history(path: Path) -> History:
    """The history in an event log; an absent log has none."""
    history = History()
    for event in read_events(path) if path.exists() else ():
        if event:
            history.add(event)
        else:
            history.damaged += 1
    return history
