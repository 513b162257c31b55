"""The report's account of the clock: one bar, a table, and what ran away."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource, FactorRange, HoverTool, Range1d

from pipelines.charts import COLOURS, Chart, Key, empty_plot, listed, plain
from pipelines.goodput import KINDS, Goodput, Timeline, duration, sentence
from pipelines.history import History
from pipelines.page import Table

_UNITS = (("h", 3600.0), ("min", 60.0), ("s", 1.0))
MARGIN = 8.0
"""Per cent above the columns, for the marks of restarts"""
RESTARTS = 5
"""Named in the words below the timeline"""
_ORDER = ("compute", "data", "save", "validate", "restart", "start", "lost", "stopped", "other")
_SHADES: Mapping[str, str] = dict(zip(_ORDER, (*COLOURS, "#b0567f", "#8a8a2e", "#5f8a8b"), strict=True))


def time_chart(account: Goodput) -> Chart:
    """One bar of the whole clock, cut by what it went into."""
    plot = empty_plot("time (s)", "", height=190, y_range=FactorRange(factors=["training"]))
    plot.x_range = Range1d(start=0.0, end=account.wall_s or 1.0)
    drawn, keys, left = [], [], 0.0
    for kind, seconds in account.seconds.items():
        if seconds <= 0:
            continue
        shown = f"{_seconds(seconds)} s, {_share(seconds, account)} %"
        source = ColumnDataSource(
            {"y": ["training"], "left": [left], "right": [left + seconds], "kind": [plain(kind)], "shown": [shown]}
        )
        colour = _SHADES[kind]
        drawn.append(
            plot.hbar("y", left="left", right="right", height=0.6, source=source, color=colour, name=plain(kind))
        )
        keys.append(Key(plain(kind), colour))
        left += seconds
    plot.add_tools(HoverTool(renderers=drawn, tooltips=[("", "@kind"), ("", "@shown")]))
    return Chart("Training, from its launch to its last event", f"{sentence(account)}.", plot, tuple(keys))


def timeline_chart(timeline: Timeline) -> Chart:
    """What each slice of the clock went into, as shares, with a line at each restart."""
    wall_s = float(timeline.edges[-1])
    unit, seconds = next((each for each in _UNITS if wall_s >= 2 * each[1]), _UNITS[-1])
    edges, width = timeline.edges / seconds, float(timeline.edges[1])
    plot = empty_plot(f"time since the launch ({unit})", "share of the time (%)")
    plot.x_range = Range1d(start=0.0, end=float(edges[-1]))
    plot.y_range = Range1d(start=0.0, end=100.0 + MARGIN)
    drawn, keys, below = [], [], np.zeros(len(edges) - 1)
    for kind, spent in timeline.seconds.items():
        if not spent.any():
            continue
        above = below + 100 * spent / (width or 1.0)
        shown = [f"{share:.3g} % of {width:.3g} s" for share in above - below]
        table = {"left": edges[:-1], "right": edges[1:], "bottom": below, "top": above, "shown": shown}
        source, style = ColumnDataSource(table), {"line_color": None, "fill_color": _SHADES[kind], "name": plain(kind)}
        drawn.append(plot.quad("left", "right", "top", "bottom", source=source, **style))
        keys.append(Key(plain(kind), _SHADES[kind]))
        below = above
    plot.add_tools(HoverTool(renderers=drawn, tooltips=[("", "$name"), ("", "@shown")], visible=False))
    caption = f"Each column is {width:.3g} s of the clock, from the first launch on."
    if timeline.restarts:
        marks = [launched / seconds for launched in timeline.restarts]
        plot.vspan(x=marks, line_color="#ffffff", line_dash="dashed", line_width=2, name="launched again")
        above: Any = [100.0 + MARGIN / 2] * len(marks)
        plot.scatter(marks, above, marker="inverted_triangle", size=10, color="#808080", name="launched again")
        keys.append(Key("launched again", "#808080", "dashed"))
        caption += f" Triangles: launched again after {', '.join(map(duration, timeline.restarts[:RESTARTS]))}"
        more = len(timeline.restarts) - RESTARTS
        caption += f" and {more} times more." if more > 0 else "."
    return Chart("Along the clock", caption, plot, tuple(keys))


def time_table(account: Goodput) -> Table:
    """Seconds and shares by kind, with what each means."""
    rows = [
        (plain(kind), [_seconds(seconds), _share(seconds, account), KINDS[kind]])
        for kind, seconds in account.seconds.items()
        if seconds > 0
    ]
    caption = f"What {duration(account.wall_s)} by the clock went into, by the spans of the first rank's event log."
    return Table(caption, [("", ""), ("time", "s"), ("share", "%"), ("what it is", "")], rows)


def anomaly_table(anomalies: Sequence[Mapping[str, Any]]) -> Table:
    """What ran away, and what was done about it."""
    rows = [
        (f"{event.get('step', 0):,}", [str(event.get("action", "")), str(event.get("reason", ""))])
        for event in anomalies
    ]
    return Table("Steps at which training ran away.", [("step", ""), ("action", ""), ("reason", "")], rows)


def anomaly_sentence(history: History, batch: int | None) -> str:
    """Where training ran away, and the samples that ways back to a checkpoint passed over.

    `batch` is what a step reads, where that is known.
    """
    steps = [event.get("step", 0) for event in history.anomalies]
    passed = history.drawn[1] - history.drawn[0] * batch if batch else 0
    return f"{len(steps)}, at step {listed(steps)}" + (f"; {passed:,} samples passed over" if passed > 0 else "")


def _seconds(seconds: float) -> str:
    return f"{seconds:,.1f}"


def _share(seconds: float, account: Goodput) -> str:
    return f"{100 * seconds / account.wall_s:.1f}" if account.wall_s else "–"
