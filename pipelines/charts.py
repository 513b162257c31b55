"""The plots of a page: bars, bubbles, and what all of them share; each has a caption that says the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from bokeh.core.json_encoder import serialize_json
from bokeh.document import Document
from bokeh.models import (
    ColumnDataSource,
    FactorRange,
    HoverTool,
    LayoutDOM,
    Range1d,
    TeeHead,
    Whisker,
)
from bokeh.models.glyphs import HBar
from bokeh.plotting import figure

COLOURS = ("#3b82c4", "#d9730d", "#2e9e6b", "#9b6bd3", "#d9534f", "#808080")  # 3:1 or better on white and on near-black
MANY = (*COLOURS[:-1], "#b0567f", "#8a8a2e", "#5f8a8b", COLOURS[-1])
"""Where there are more things to be told apart"""
DASHES = ("solid", "dashed", "dotted", "dotdash")
"""Of lines that share a colour"""


@dataclass(frozen=True)
class Key:
    """A name in a chart's legend: a button on the page that hides what is drawn under it, and shows it again."""

    label: str
    """The first tag of the plot's renderers too, or their name"""
    colour: str
    dash: str = "solid"

    @property
    def dashes(self) -> str:
        """Of the stroke beside the name, in an SVG's words."""
        return {"solid": "none", "dashed": "6 4", "dotted": "2 3", "dotdash": "2 3 6 3"}[self.dash]


@dataclass(frozen=True)
class Chart:
    """A plot, or several side by side, and what it shows, in words."""

    title: str
    caption: str
    plot: LayoutDOM
    keys: tuple[Key, ...] = ()


@dataclass(frozen=True)
class Bar:
    """One value of the bar chart."""

    name: str
    value: float
    stderr: float | None
    shown: str


@dataclass(frozen=True)
class Bubble:
    """A point of a trade-off, as large as what it stands for."""

    name: str
    x: float
    y: float
    size: float
    """The area, in any unit"""
    shown: str


def plain(name: str) -> str:
    return name.replace("_", " ")


def bar_chart(title: str, label: str, bars: Sequence[Bar]) -> Chart | None:
    """Horizontal bars from zero with error bars of one standard error, the first one the model; None with fewer than
    two finite values."""
    bars = [bar for bar in bars if np.isfinite(bar.value)]
    if len(bars) < 2:
        return None
    spreads = [bar.stderr if bar.stderr is not None and np.isfinite(bar.stderr) else 0.0 for bar in bars]
    values = [bar.value for bar in bars]
    names = [bar.name for bar in bars]
    source = ColumnDataSource(
        {
            "name": names,
            "value": values,
            "shown": [bar.shown for bar in bars],
            "low": [value - error for value, error in zip(values, spreads, strict=True)],
            "high": [value + error for value, error in zip(values, spreads, strict=True)],
            "colour": [COLOURS[0], *[COLOURS[-1]] * (len(bars) - 1)],
        }
    )
    plot = empty_plot(label, "", height=max(230, 70 + 38 * len(bars)), y_range=FactorRange(factors=names[::-1]))
    plot.x_range = Range1d(start=min(0.0, *values) * 1.1, end=max(0.0, *values) * 1.1 or 1.0)
    drawn = plot.add_glyph(
        source, HBar(y="name", right="value", height=0.6, fill_color="colour", fill_alpha=0.6, line_color="colour")
    )
    stroke = {"line_color": COLOURS[1], "line_width": 2, "level": "overlay"}
    heads = {name: TeeHead(size=10, line_color=COLOURS[1], line_width=2) for name in ("lower_head", "upper_head")}
    errors = Whisker(base="name", lower="low", upper="high", dimension="width", source=source, **heads, **stroke)
    plot.add_layout(errors)
    plot.add_tools(HoverTool(renderers=[drawn], tooltips=[("", "@name"), ("", "@shown")]))
    caption = "; ".join(f"{bar.name} {bar.shown}" for bar in bars)
    return Chart(title, f"{caption}. Error bars: one standard error.", plot)


def bubble_plot(x: str, y: str, bubbles: Sequence[Bubble]) -> figure:
    """y against the logarithm of x, with names. Every x is above 0."""
    largest = max(bubble.size for bubble in bubbles)
    diameters = [max(8.0, 44 * (bubble.size / largest) ** 0.5) for bubble in bubbles]
    source = ColumnDataSource(
        {
            "name": [bubble.name for bubble in bubbles],
            "x": [bubble.x for bubble in bubbles],
            "y": [bubble.y for bubble in bubbles],
            "diameter": diameters,
            "lift": [-diameter / 2 - 2 for diameter in diameters],
            "shown": [bubble.shown for bubble in bubbles],
        }
    )
    plot = empty_plot(x, y, height=360, x_axis_type="log")
    low, high = min(bubble.x for bubble in bubbles), max(bubble.x for bubble in bubbles)
    margin = max(1.5, (high / low) ** 0.15)  # room for bubbles and names at both ends
    plot.x_range = Range1d(start=low / margin, end=high * margin)
    below, above = min(bubble.y for bubble in bubbles), max(bubble.y for bubble in bubbles)
    middle = (below + above) / 2
    half = 0.7 * (above - below) or 0.05 * abs(middle) or 1.0
    plot.y_range = Range1d(start=middle - half, end=middle + half)
    drawn = plot.scatter("x", "y", size="diameter", source=source, color=COLOURS[0], fill_alpha=0.35, line_width=2)
    place = {"x": "x", "y": "y", "y_offset": "lift", "source": source}
    plot.text(text="name", text_align="center", text_font_size="13px", text_color=COLOURS[-1], **place)  # type: ignore[arg-type]
    plot.add_tools(HoverTool(renderers=[drawn], tooltips=[("", "@name"), ("", "@shown")]))
    return plot


def embed(charts: Sequence[Chart]) -> tuple[str, list[str]]:
    """The plots as JSON for Bokeh.embed.embed_items, safe inside a <script>, and the id of the element of each."""
    document = Document()
    for chart in charts:
        document.add_root(chart.plot)
    ids = [f"chart-{number}" for number in range(len(charts))]
    roots = {chart.plot.id: place for chart, place in zip(charts, ids, strict=True)}
    item = {"docid": "report", "roots": roots, "root_ids": list(roots)}
    content = serialize_json([{"report": document.to_json(deferred=False)}, [item]])
    return content.replace("<", "\\u003c"), ids


def empty_plot(x: str, y: str, *, height: int = 300, **options: Any) -> figure:
    """Axes with these labels and the tools that every chart has."""
    plot = figure(
        x_axis_label=x,
        y_axis_label=y,
        height=height,
        sizing_mode="stretch_width",
        tools="pan,box_zoom,wheel_zoom,reset,save",
        active_drag=None,  # a finger scrolls the page; the page's script turns the zoom on for a mouse
        active_scroll=None,
        background_fill_color=None,
        border_fill_color=None,
        **options,
    )
    plot.toolbar.logo = None
    return plot


def listed(steps: Sequence[int], limit: int = 5) -> str:
    """The first few steps, and how many more."""
    more = f" and {len(steps) - limit} more" if len(steps) > limit else ""
    return ", ".join(f"{step:,}" for step in steps[:limit]) + more
