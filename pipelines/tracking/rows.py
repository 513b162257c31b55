"""W&B's history as a function of the event log: row n is the same whatever was sent, killed or torn before."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from configs.quantities import STEP

SAMPLES, HISTOGRAM, EVALUATION = "samples", "histogram", "evaluation"
MEDIA = (SAMPLES, HISTOGRAM, EVALUATION)
FIGURES = ("step", "validation", EVALUATION)
"""Events whose numbers are drawn as curves"""
BESIDE = ("event", "time", "step", "samples_digest")
"""Fields of an event that are no figures"""


class Row(NamedTuple):
    """A line of W&B's history."""

    number: int
    """From 0 on without a gap; what W&B calls _step"""
    time: float
    """Seconds since 1970 at which it was logged, not at which it was sent"""
    values: Mapping[str, Any]
    media: Mapping[str, Any] | None = None
    """The event of samples, a histogram or an evaluation, of which the view makes what W&B can show"""


class Rows:
    """Makes rows of events in the log's order.

    A step that a restart or a way back repeats has its row already: a history can only grow, and W&B's row is that of
    the first time. So the rows of the beginning of a log are the beginning of the rows of all of it, and the number of
    rows that a server has says exactly which are missing.
    """

    def __init__(self) -> None:
        self.count = 0
        self._last: dict[str, int] = {}

    def take(self, event: Mapping[str, Any]) -> Row | None:
        """The row of the next event; None for an event without one."""
        kind, step = event.get("event"), event.get("step")
        if kind not in (*FIGURES, *MEDIA) or not isinstance(step, int):
            return None
        line = f"{kind} {event.get('name', '')}"
        if step <= self._last.get(line, -1) and kind != EVALUATION:  # who evaluates again wants to see it
            return None
        self._last[line] = step
        values = {STEP: step} | (_figures(event) if kind in FIGURES else {})
        self.count += 1
        return Row(self.count - 1, float(event.get("time", 0.0)), values, event if kind in MEDIA else None)


def _figures(event: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in event.items()
        if name not in BESIDE and isinstance(value, int | float) and not isinstance(value, bool)
    }


def missing(events: Iterable[Mapping[str, Any]], have: int) -> Iterator[Row]:
    """The rows of a log that a server with `have` of them lacks."""
    rows = Rows()
    for event in events:
        if (row := rows.take(event)) and row.number >= have:
            yield row
