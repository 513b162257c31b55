"""The plots of a report: curves over the steps and bars of the baselines, each with a caption that says the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from bokeh.core.json_encoder import serialize_json
from bokeh.document import Document
from bokeh.models import BasicTickFormatter, ColumnDataSource, FactorRange, HoverTool, Range1d, TeeHead, Whisker
from bokeh.models.glyphs import HBar
from bokeh.plotting import figure

Array = np.ndarray[Any, np.dtype[np.float64]]
Series = Mapping[int, float]
"""Step -> value"""

POINTS = 2000
"""Points drawn of one curve at most"""
COLOURS = ("#3b82c4", "#d9730d", "#2e9e6b", "#9b6bd3", "#d9534f", "#808080")  # 3:1 or better on white and on near-black
TITLES = {  # quantity: title, axis label
    "loss": ("Loss", "loss"),
    "learning_rate": ("Learning rate", "learning rate (per step)"),
    "grad_norm": ("Gradient norm", "gradient norm (L2)"),
    "samples_per_s": ("Throughput", "throughput (samples/s)"),
    "tokens_per_s": ("Throughput in tokens", "throughput (tokens/s)"),
    "mfu": ("Model FLOPs utilisation", "share of the peak FLOP/s"),
    "data_wait_s": ("Data wait", "wait for data (s/step)"),
    "data_wait_share": ("Data wait", "share of the time"),
    "memory_bytes": ("Memory", "largest use of a rank (GiB)"),
    "loss_scale": ("Loss scale", "factor on the loss under fp16"),
}
SCALES = {"memory_bytes": 2**-30}
"""What values are multiplied with to be shown in the axis label's unit"""
EXACT = ("learning_rate", "memory_bytes", "loss_scale")
"""Quantities without noise, which need no smoothing"""


@dataclass(frozen=True)
class Chart:
    """A plot and what it shows, in words."""

    title: str
    caption: str
    plot: figure


@dataclass(frozen=True)
class Curve:
    """The finite values of one series, in order of step."""

    name: str
    colour: str
    x: Array
    y: Array
    lost: tuple[int, ...]
    """Steps whose value is not a number"""


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


def curve_charts(series: Mapping[str, Series], restarts: Sequence[int], units: Mapping[str, str]) -> list[Chart]:
    """One chart for each quantity (what follows the last "/" of a name), over the same zoomed range of steps.

    units: what the evaluation says of a quantity, where it does.
    """
    groups: dict[str, list[Curve]] = {quantity: [] for quantity in TITLES}
    colours: dict[str, str] = {}  # what is measured has one colour in all charts
    for name, values in series.items():
        subject, _, quantity = name.rpartition("/")
        colour = colours.setdefault(subject, COLOURS[len(colours) % len(COLOURS)])
        scale = SCALES.get(quantity, 1.0)
        scaled = {step: value * scale for step, value in values.items()}
        groups.setdefault(quantity, []).append(read_curve(subject or name, scaled, colour))
    charts: list[Chart] = []
    for quantity, curves in groups.items():
        if curves:
            title, label = TITLES.get(quantity, (plain(quantity).capitalize(), plain(quantity)))
            if unit := units.get(quantity):
                label = f"{label} ({unit})"
            charts.append(_curve_chart(title, label, curves, restarts, smoothed=quantity not in EXACT))
            charts[-1].plot.x_range = charts[0].plot.x_range  # a bump in one is found in all
    return charts


def plain(name: str) -> str:
    return name.replace("_", " ")


def read_curve(name: str, values: Series, colour: str = COLOURS[0]) -> Curve:
    """A series in order of step, what is not a number set aside."""
    steps = np.array(sorted(values), dtype=np.float64)
    y = np.array([values[step] for step in sorted(values)], dtype=np.float64)
    finite = np.isfinite(y)
    return Curve(name, colour, steps[finite], y[finite], tuple(int(step) for step in steps[~finite]))


def thin(x: Array, y: Array, points: int = POINTS) -> tuple[Array, Array]:
    """At most `points` of a curve: the lowest and the highest of each stretch, and both ends."""
    if len(x) <= points:
        return x, y
    edges = np.linspace(0, len(x), points // 2).astype(int)
    extremes = {a + int(pick(y[a:b])) for a, b in pairwise(edges) for pick in (np.argmin, np.argmax)}
    chosen = sorted(extremes | {0, len(x) - 1})
    return x[chosen], y[chosen]


def smooth(y: Array, window: int) -> Array:
    """Mean over `window` values around each, fewer at the ends."""
    sums = np.concatenate([[0.0], np.cumsum(y)])
    places = np.arange(len(y))
    low, high = np.maximum(places - window // 2, 0), np.minimum(places + window // 2 + 1, len(y))
    return (sums[high] - sums[low]) / (high - low)


def _curve_chart(title: str, label: str, curves: Sequence[Curve], restarts: Sequence[int], *, smoothed: bool) -> Chart:
    logarithmic = _spans_decades(curves)
    plot = empty_plot("step", label, y_axis_type="log" if logarithmic else "linear")
    drawn, caption = [], []
    for curve in curves:
        training = curve.name.split("/")[0] == "train"
        window = max(1, len(curve.x) // 50) // 2 * 2 + 1 if training and smoothed else 1
        if window > 1:
            drawn.append(_line(plot, curve, curve.name, line_alpha=0.35))
            even = replace(curve, y=smooth(curve.y, window))
            _line(plot, even, f"{curve.name}, mean over {window}", line_width=2.5)
        else:
            drawn.append(_line(plot, curve, curve.name, line_width=2))
        if not training:
            source = drawn[-1].data_source
            plot.scatter("x", "y", source=source, size=7, color=curve.colour, legend_label=curve.name)
        caption.append(describe(curve))
        if window > 1:
            caption.append(f"The thick line is the mean over {window} logged steps around each.")
        if len(curve.x) > POINTS:
            caption.append(f"Drawn: at most {POINTS:,} of {len(curve.x):,} values, each stretch's lowest and highest.")
    if restarts:
        plot.vspan(x=list(restarts), line_color="#808080", line_dash="dashed", legend_label="restart")
        caption.append(f"Dashed: restarts after step {listed(restarts)}.")
    if logarithmic:
        caption.append("The vertical axis is logarithmic.")
    else:
        plot.yaxis.formatter = BasicTickFormatter(power_limit_low=-5)  # 0.004, not 4.000e-3
    plot.add_tools(
        HoverTool(
            renderers=drawn,
            mode="vline",
            line_policy="nearest",
            tooltips=[("", "$name"), ("step", "@x"), ("", "@shown")],
        )
    )
    return Chart(title, " ".join(caption), with_legend(plot))


def describe(curve: Curve) -> str:
    """First, last, lowest and highest value of a curve in words."""
    lost = f" {len(curve.lost)} not a number and not drawn (step {listed(curve.lost)})." if curve.lost else ""
    if not len(curve.x):
        return f"{curve.name}:{lost}"
    low, high = int(np.argmin(curve.y)), int(np.argmax(curve.y))
    ends = ((word, at) for word, at in (("first", 0), ("last", -1), ("lowest", low), ("highest", high)))
    return f"{curve.name}: " + ", ".join(f"{w} {curve.y[i]:.4g} (step {curve.x[i]:,.0f})" for w, i in ends) + f".{lost}"


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


def bubble_chart(title: str, x: str, y: str, size: str, bubbles: Sequence[Bubble]) -> Chart:
    """y against the logarithm of x, with names; areas are in proportion to `size`. Every x is above 0."""
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
    ends = (min(bubbles, key=lambda bubble: bubble.x), max(bubbles, key=lambda bubble: bubble.x))
    caption = "; ".join(
        f"{word} {bubble.name}, {bubble.shown}" for word, bubble in zip(("least", "most"), ends, strict=True)
    )
    return Chart(title, f"{caption}. Areas are in proportion to {size}; the horizontal axis is logarithmic.", plot)


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


def _line(plot: figure, curve: Curve, label: str, **style: Any) -> Any:
    x, y = thin(curve.x, curve.y)
    source = ColumnDataSource({"x": x, "y": y, "shown": [f"{value:.5g}" for value in y]})
    return plot.line("x", "y", source=source, name=label, color=curve.colour, legend_label=label, **style)


def with_legend(plot: figure) -> figure:
    """The plot with its legend above, in the page's colours."""
    legend = plot.legend[0]
    legend.click_policy = "hide"
    legend.location = "left"
    legend.orientation = "horizontal"
    legend.ncols = 2
    legend.background_fill_color = None
    legend.border_line_color = None
    legend.update(padding=2, margin=2)
    legend.stylesheets = [".bk-label { color: var(--text) !important; }"]  # the page's, light or dark
    plot.add_layout(legend, "above")
    return plot


def _spans_decades(curves: Sequence[Curve]) -> bool:
    """Whether a few values would press all others onto the axis."""
    values = np.concatenate([curve.y for curve in curves])
    return len(values) > 0 and bool(values.min() > 0 and values.max() > 50 * np.median(values))


def listed(steps: Sequence[int], limit: int = 5) -> str:
    """The first few steps, and how many more."""
    more = f" and {len(steps) - limit} more" if len(steps) > limit else ""
    return ", ".join(f"{step:,}" for step in steps[:limit]) + more
