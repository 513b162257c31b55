"""The curves of a training over its steps, each with a caption that says the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from bokeh.models import BasicTickFormatter, ColumnDataSource, HoverTool
from bokeh.plotting import figure

from pipelines.charts import COLOURS, Chart, empty_plot, listed, plain, with_legend

Array = np.ndarray[Any, np.dtype[np.float64]]
Series = Mapping[int, float]
"""Step -> value"""

POINTS = 2000
"""Points drawn of one curve at most"""
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
    "goodput": ("Goodput so far", "share of the clock since the launch"),
    "loss_scale": ("Loss scale", "factor on the loss under fp16"),
}
SCALES = {"memory_bytes": 2**-30}
"""What values are multiplied with to be shown in the axis label's unit"""
EXACT = ("learning_rate", "memory_bytes", "goodput", "loss_scale")
"""Quantities without noise, which need no smoothing"""


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
class Mark:
    """A step that stands out, and why."""

    step: int
    name: str
    sentence: str


def curve_charts(
    series: Mapping[str, Series], restarts: Sequence[int], units: Mapping[str, str], *, mark: Mark | None = None
) -> list[Chart]:
    """One chart for each quantity (what follows the last "/" of a name), over the same zoomed range of steps.

    units: what the evaluation says of a quantity, where it does. mark: a step to stand out in the chart of the loss.
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
    steps: Any = None
    for quantity, curves in groups.items():
        if curves:
            title, label = TITLES.get(quantity, (plain(quantity).capitalize(), plain(quantity)))
            if unit := units.get(quantity):
                label = f"{label} ({unit})"
            marked = mark if quantity == "loss" else None
            plot, caption = _curve_plot(label, curves, restarts, smoothed=quantity not in EXACT, mark=marked)
            steps = steps or plot.x_range
            plot.x_range = steps  # a bump in one is found in all
            charts.append(Chart(title, caption, plot))
    return charts


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


def _curve_plot(
    label: str, curves: Sequence[Curve], restarts: Sequence[int], *, smoothed: bool, mark: Mark | None
) -> tuple[figure, str]:
    """The plot of one quantity, and what it shows in words."""
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
    if mark:
        plot.vspan(x=[mark.step], line_color=COLOURS[1], line_width=2, legend_label=mark.name)
        caption.append(mark.sentence)
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
    return with_legend(plot), " ".join(caption)


def describe(curve: Curve) -> str:
    """First, last, lowest and highest value of a curve in words."""
    lost = f" {len(curve.lost)} not a number and not drawn (step {listed(curve.lost)})." if curve.lost else ""
    if not len(curve.x):
        return f"{curve.name}:{lost}"
    low, high = int(np.argmin(curve.y)), int(np.argmax(curve.y))
    ends = ((word, at) for word, at in (("first", 0), ("last", -1), ("lowest", low), ("highest", high)))
    return f"{curve.name}: " + ", ".join(f"{w} {curve.y[i]:.4g} (step {curve.x[i]:,.0f})" for w, i in ends) + f".{lost}"


def _line(plot: figure, curve: Curve, label: str, **style: Any) -> Any:
    x, y = thin(curve.x, curve.y)
    source = ColumnDataSource({"x": x, "y": y, "shown": [f"{value:.5g}" for value in y]})
    return plot.line("x", "y", source=source, name=label, color=curve.colour, legend_label=label, **style)


def _spans_decades(curves: Sequence[Curve]) -> bool:
    """Whether a few values would press all others onto the axis."""
    values = np.concatenate([curve.y for curve in curves])
    return len(values) > 0 and bool(values.min() > 0 and values.max() > 50 * np.median(values))
