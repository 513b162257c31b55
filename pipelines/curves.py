"""The curves of a training over its steps, or of several beside each other, each with a caption that says the same."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from bokeh.models import BasicTickFormatter, ColumnDataSource, HoverTool
from bokeh.plotting import figure

from pipelines.charts import COLOURS, DASHES, MANY, Chart, Key, empty_plot, listed, plain
from pipelines.series import Array, Series

POINTS, ALL_POINTS = 2000, 60_000
"""Points drawn of one curve, and of all curves of a page, at most: a page is to stay below 5 MB"""
DOTS = 60
"""Values up to which a curve has a dot at each"""
SMOOTHING = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
"""What a page's slider can choose: shares of a curve's values over which the thick line is the mean"""
CHOSEN = 3
"""The place of the share that a page begins with"""
SLIDER = {"shares": SMOOTHING, "chosen": CHOSEN, "told": f"mean over {100 * SMOOTHING[CHOSEN]:g} % of the steps"}
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
    lost: Sequence[int] = ()
    """Steps whose value is not a number"""
    dash: str = "solid"
    noisy: bool = False
    """Whether it is of single batches, and wants to be smoothed"""
    label: str = ""
    """What the legend calls it, together with others; its name where not given"""
    subject: str = ""
    """What its dash stands for; nothing where not given"""


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
        noisy = subject.split("/")[0] == "train" and quantity not in EXACT
        curve = read_curve(subject or name, values, colour, scale=SCALES.get(quantity, 1.0), noisy=noisy)
        groups.setdefault(quantity, []).append(curve)
    return _charts(groups, restarts, units, mark)


def overlaid_charts(runs: Mapping[str, Mapping[str, Series]], units: Mapping[str, str]) -> list[Chart]:
    """One chart for each quantity that several runs have: a colour for each run, a dash for what else is measured."""
    groups: dict[str, list[Curve]] = {quantity: [] for quantity in TITLES}
    dashes: dict[str, str] = {}
    for number, (run, series) in enumerate(runs.items()):
        colour = MANY[number % len(MANY)]
        for name, values in series.items():
            subject, _, quantity = name.rpartition("/")
            dash = dashes.setdefault(subject, DASHES[len(dashes) % len(DASHES)])
            noisy = subject.split("/")[0] == "train" and quantity not in EXACT
            shown, scale = f"{run}, {subject}" if subject else run, SCALES.get(quantity, 1.0)
            curve = read_curve(shown, values, colour, scale=scale, noisy=noisy, dash=dash, label=run, subject=subject)
            groups.setdefault(quantity, []).append(curve)
    shared = {quantity: curves for quantity, curves in groups.items() if len({curve.label for curve in curves}) > 1}
    return _charts(shared, (), units, None)


def _charts(
    groups: Mapping[str, Sequence[Curve]], restarts: Sequence[int], units: Mapping[str, str], mark: Mark | None
) -> list[Chart]:
    charts: list[Chart] = []
    steps: Any = None
    points = min(POINTS, ALL_POINTS // max(1, sum(map(len, groups.values()))))
    for quantity, curves in groups.items():
        if curves:
            title, label = TITLES.get(quantity, (plain(quantity).capitalize(), plain(quantity)))
            if unit := units.get(quantity):
                label = f"{label} ({unit})"
            marked = mark if quantity == "loss" else None
            chart = _curve_chart(title, label, curves, restarts, marked, points)
            assert isinstance(chart.plot, figure)
            steps = steps or chart.plot.x_range
            chart.plot.x_range = steps  # a bump in one is found in all
            charts.append(chart)
    return charts


def read_curve(name: str, values: Series, colour: str = COLOURS[0], *, scale: float = 1.0, **more: Any) -> Curve:
    """A series in order of step, what is not a number set aside."""
    known = values.known
    return Curve(name, colour, known.steps, known.numbers * scale, values.lost, **more)


def thin(x: Array, y: Array, points: int = POINTS) -> tuple[Array, Array]:
    """At most `points` of a curve: the lowest and the highest of each stretch, and both ends."""
    if len(x) <= points:
        return x, y
    edges = np.linspace(0, len(x), points // 2).astype(int)
    extremes = {a + int(pick(y[a:b])) for a, b in pairwise(edges) for pick in (np.argmin, np.argmax)}
    chosen = sorted(extremes | {0, len(x) - 1})
    return x[chosen], y[chosen]


def stretches(x: Array, y: Array, points: int) -> tuple[Array, Array, Array]:
    """At most `points` stretches of a curve: mean step, mean value and number of values of each."""
    starts = np.unique(np.linspace(0, len(x), min(points, len(x)), endpoint=False).astype(int))
    counts = np.diff(np.append(starts, len(x)))
    return np.add.reduceat(x, starts) / counts, np.add.reduceat(y, starts) / counts, counts


def window(values: float, share: float) -> int:
    """The odd number of values that a share of them is; 1 smooths nothing."""
    return int(values * share / 2) * 2 + 1


def smooth(means: Array, counts: Any, width: float) -> Array:
    """The mean over `width` values around the middle of each stretch, fewer at the ends; the page's script does it too.

    Within a stretch all values are taken to be its mean, so that of stretches of one value it is exact.
    """
    ends = np.concatenate([[0.0], np.cumsum(counts)])
    sums = np.concatenate([[0.0], np.cumsum(means * counts)])
    middles = (ends[1:] + ends[:-1]) / 2
    low, high = np.maximum(middles - width / 2, 0), np.minimum(middles + width / 2, ends[-1])
    return (np.interp(high, ends, sums) - np.interp(low, ends, sums)) / (high - low)


def _curve_chart(
    title: str, label: str, curves: Sequence[Curve], restarts: Sequence[int], mark: Mark | None, points: int
) -> Chart:
    """The chart of one quantity, and what it shows in words."""
    logarithmic = _spans_decades(curves)
    plot = empty_plot("step", label, y_axis_type="log" if logarithmic else "linear")
    drawn, caption, keys = [], [], dict[str, Key]()
    for curve in curves:
        drawn.append(_draw(plot, curve, points))
        name = curve.label or curve.name
        keys.setdefault(name, Key(name, curve.colour))
        caption.append(describe(curve))
        if len(curve.x) > points:
            caption.append(f"Drawn: at most {points:,} of {len(curve.x):,} values, each stretch's lowest and highest.")
    if any(curve.noisy and len(curve.x) > 2 for curve in curves):
        caption.append("The thick line is the mean over as many logged steps as the page's slider says.")
    dashes = {curve.dash: curve.subject for curve in curves if curve.subject}
    if len(dashes) > 1:
        caption.append(f"{'; '.join(f'{dash}: {subject}' for dash, subject in dashes.items())}.".capitalize())
    if restarts:
        plot.vspan(x=list(restarts), line_color="#808080", line_dash="dashed", name="restart")
        keys["restart"] = Key("restart", "#808080", "dashed")
        caption.append(f"Dashed: restarts after step {listed(restarts)}.")
    if mark:
        plot.vspan(x=[mark.step], line_color=COLOURS[1], line_width=2, name=mark.name)
        keys[mark.name] = Key(mark.name, COLOURS[1])
        caption.append(mark.sentence)
    if logarithmic:
        caption.append("The vertical axis is logarithmic.")
    else:
        plot.yaxis.formatter = BasicTickFormatter(power_limit_low=-5)  # 0.004, not 4.000e-3
    tips = [("", "$name"), ("step", "@x"), ("", "@shown")]
    plot.add_tools(HoverTool(renderers=drawn, mode="vline", line_policy="nearest", tooltips=tips, visible=False))
    return Chart(title, " ".join(caption), plot, tuple(keys.values()))


def describe(curve: Curve) -> str:
    """First, last, lowest and highest value of a curve in words."""
    lost = f" {len(curve.lost)} not a number and not drawn (step {listed(curve.lost)})." if curve.lost else ""
    if not len(curve.x):
        return f"{curve.name}:{lost}"
    low, high = int(np.argmin(curve.y)), int(np.argmax(curve.y))
    ends = ((word, at) for word, at in (("first", 0), ("last", -1), ("lowest", low), ("highest", high)))
    return f"{curve.name}: " + ", ".join(f"{w} {curve.y[i]:.4g} (step {curve.x[i]:,.0f})" for w, i in ends) + f".{lost}"


def _draw(plot: figure, curve: Curve, points: int) -> Any:
    """A curve's line; above it, if it is noisy, the line of its means. The page's script finds both by their tags."""
    label = curve.label or curve.name
    x, y = thin(curve.x, curve.y, points)
    source = ColumnDataSource({"x": _small(x), "y": _small(y), "shown": [f"{value:.5g}" for value in y]})
    style: Any = {"name": curve.name, "color": curve.colour, "line_dash": curve.dash}
    smoothed = curve.noisy and len(curve.x) > 2
    width = window(len(curve.x), SMOOTHING[CHOSEN]) if smoothed else 1
    faint = {"line_width": 1.5, "line_alpha": 0.35 if width > 1 else 1}
    line = plot.line("x", "y", source=source, **style, **faint)
    line.tags = [label, "noisy" if smoothed else "values"]
    if smoothed:
        steps, means, counts = stretches(curve.x, curve.y, points)
        even = _small(smooth(means, counts, width))
        table = {"x": _small(steps), "y": even, "mean": _small(means), "count": counts.astype(np.int32)}
        thick = plot.line("x", "y", source=ColumnDataSource(table), line_width=2.5, visible=width > 1, **style)
        thick.tags = [label, "means"]
    elif len(x) <= DOTS:
        plot.scatter("x", "y", source=source, size=7, color=curve.colour).tags = [label, "values"]
    return line


def _small(values: Array) -> Any:
    """With as many digits as can be seen: a page is to stay small."""
    whole = len(values) and np.abs(values).max() < 2**31 and (values == np.floor(values)).all()
    return values.astype(np.int32 if whole else np.float32)


def _spans_decades(curves: Iterable[Curve]) -> bool:
    """Whether a few values would press all others onto the axis."""
    values = np.concatenate([curve.y for curve in curves])
    return len(values) > 0 and bool(values.min() > 0 and values.max() > 50 * np.median(values))
