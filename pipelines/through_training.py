"""What a training showed on its way: samples made with the same seeds at its validations, and how its weights lay."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource, HoverTool, NumeralTickFormatter
from bokeh.plotting import figure

from configs.errors import DamageError
from configs.folder import RunFolder
from pipelines.charts import COLOURS, Chart, Key, empty_plot, plain
from pipelines.series import SHARES
from pipelines.traces import Record

STEPS, BYTES = 12, 1_500_000
"""Steps whose samples a page holds, and the bytes of their files, at most: a page is to stay below 5 MB"""
DRAWN = 200
"""Steps at which a chart says how weights lie, at most"""
BANDS = {0.1: "all", 0.25: "nine tenths", 0.5: "the middle half"}
"""The opacity of each band of a chart of weights, from the outer one, and the share of the weights in it"""


@dataclass(frozen=True)
class Through:
    """Samples at some steps of a training."""

    steps: Sequence[tuple[int, Sequence[Record]]]
    told: str
    """How many of how many steps are here, and where the others are"""


def shown_through(folder: RunFolder, steps: Sequence[int]) -> Through | None:
    """Samples at the first, the last and steps evenly between them, as many as a page takes; None without any."""
    sizes = {step: path.stat().st_size for step in steps if (path := folder.training_samples(step)).exists()}
    if not sizes:
        return None
    found = list(sizes)
    choices = (spread_over(found, count) for count in range(STEPS, 0, -1))
    chosen = next((some for some in choices if sum(map(sizes.__getitem__, some)) <= BYTES), [])
    where = f"{folder.training_samples(0).parent.relative_to(folder.path)}/"
    told = f"Samples of {len(chosen)} of {len(found)} validations, made with the same seeds; all are in {where}."
    return Through([(step, _read(folder, step)) for step in chosen], told)


def spread_over(found: Sequence[int], count: int) -> list[int]:
    """So many of them, the last one and, of more than one, the first one among them."""
    if count == 1:
        return [found[-1]]
    places = np.unique(np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int))
    return [found[place] for place in places]


def _read(folder: RunFolder, step: int) -> list[Record]:
    path = folder.training_samples(step)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamageError(f"{path} cannot be read: {error}; remove it, and the report does without") from None


def weight_charts(weights: Mapping[str, Mapping[int, Sequence[float]]], beside: Sequence[Chart] = ()) -> list[Chart]:
    """How the weights of each network lie, step by step; over the steps of the curves `beside`."""
    steps = beside[0].plot.x_range if beside and isinstance(beside[0].plot, figure) else None
    return [_weight_chart(name, rows, steps) for name, rows in weights.items() if len(rows) > 1]


def _weight_chart(name: str, rows: Mapping[int, Sequence[float]], over: Any) -> Chart:
    steps = spread_over(sorted(rows), DRAWN)
    lines = np.array([rows[step] for step in steps]).T  # [shares, steps]
    plot = empty_plot("step", "weight")
    plot.x_range = over or plot.x_range
    table: dict[str, Any] = {"x": steps} | {f"share_{row}": line for row, line in enumerate(lines)}
    source = ColumnDataSource(table)
    for row, (opacity, share) in enumerate(BANDS.items()):
        low, high = f"share_{row}", f"share_{len(SHARES) - 1 - row}"
        plot.varea("x", low, high, source=source, fill_color=COLOURS[0], fill_alpha=opacity, name=share)
    middle = plot.line("x", f"share_{len(SHARES) // 2}", source=source, color=COLOURS[0], line_width=2, name="median")
    tips = [("step", "@x"), *((f"{share:.0%}", f"@share_{row}{{0.0000}}") for row, share in enumerate(SHARES))]
    plot.add_tools(HoverTool(renderers=[middle], mode="vline", tooltips=tips, visible=False))
    plot.yaxis.formatter = NumeralTickFormatter(format="0.[000]")
    keys = (Key("median", COLOURS[0]),)
    return Chart(_title(name), _in_words(steps, lines), plot, keys)


def _title(name: str) -> str:
    what, _, network = name.partition("/")
    return f"{plain(what).capitalize()} of {plain(network)}" if network else plain(what).capitalize()


def _in_words(steps: Sequence[int], lines: "np.ndarray[Any, Any]") -> str:
    told = [f"Bands, from the outer one: {', '.join(BANDS.values())} of the weights"]
    for word, at in (("at the first step drawn", 0), ("at the last", -1)):
        low, some, _, middle, _, more, high = lines[:, at]
        bulk = f"nine tenths from {some:.4g} to {more:.4g}"
        told.append(f"{word}, {steps[at]:,}: {low:.4g} to {high:.4g}, {bulk}, median {middle:.4g}")
    return f"{'; '.join(told)}."
