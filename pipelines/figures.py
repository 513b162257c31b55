"""What an evaluation left to be drawn, in records that name no family: matrices, curves, bars and tables."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource, FactorRange, HoverTool
from bokeh.plotting import figure

from configs.errors import DamageError
from configs.folder import RunFolder
from pipelines.charts import COLOURS, DASHES, Chart, Key, empty_plot
from pipelines.page import Table

Record = Mapping[str, Any]
Cell = str | float | int | None

WIDE = 7
"""Columns from which a table takes the page's whole width, and a matrix with twice as many"""
LONG = 24
"""Rows, and letters of a cell, from which a table is folded away, and its cells are set as text"""
PLACES = 5
"""Places at which the words beside a curve give its value"""
SHADE = 45
"""Per cent of the colour in a full cell of a matrix: text on it is read well, light and dark"""


@dataclass(frozen=True)
class Matrix:
    """Numbers in rows and columns, each shaded by its share of its row."""

    caption: str
    corner: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[tuple[str, int, bool]]]]
    """Of a cell: the number, per cent of the colour, and whether it is off the diagonal of a square matrix"""


@dataclass(frozen=True)
class Piece:
    """One figure on the page; what is drawn is told by a table too."""

    title: str
    note: str
    chart: Chart | None = None
    matrix: Matrix | None = None
    table: Table | None = None
    kind: str = "numbers"
    """Style of the table"""
    folded: bool = False
    """Whether the table is shown on request alone"""
    wide: bool = False


def read_figures(folder: RunFolder, records: Any) -> list[Piece]:
    """The figures of an evaluation in order. Raises DamageError when one is of no known form."""
    pieces = []
    for number, record in enumerate(records):
        try:
            pieces.append(DRAW[record["kind"]](record))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DamageError(
                f"{folder.figures}: figure {number} cannot be drawn: {error!r}; evaluate again with this version"
            ) from None
    return pieces


def draw_matrix(record: Record) -> Piece:
    """A heat map that is a table: rows are labels, columns what they were taken for."""
    square = list(record["rows"]) == list(record["columns"])
    rows = []
    for place, (name, values) in enumerate(zip(record["rows"], record["values"], strict=True)):
        total = sum(abs(value) for value in values if value is not None) or 1
        cells = [
            (cell(value), round(SHADE * math.sqrt(abs(value or 0) / total)), square and column != place)
            for column, value in enumerate(values)
        ]
        if len(cells) != len(record["columns"]):
            raise ValueError(f"row {name} has {len(cells)} of {len(record['columns'])} values")
        rows.append((str(name), cells))
    down, across = record.get("row_title", "row"), record.get("column_title", "column")
    caption = f"Rows: {down}; columns: {across}. The stronger the colour of a cell, the larger its share of its row."
    matrix = Matrix(caption, f"{down} \\ {across}", [str(name) for name in record["columns"]], rows)
    return Piece(record["title"], record.get("note", ""), matrix=matrix, wide=len(record["columns"]) > 2 * WIDE)


def draw_table(record: Record) -> Piece:
    """A table whose cells may be empty; one with texts in it is set to the left."""
    columns = [str(name) for name in record["columns"]]
    rows = [(cell(row[0]), [cell(value) for value in row[1:]]) for row in record["rows"]]
    if any(len(cells) + 1 != len(columns) for _, cells in rows):
        raise ValueError(f"{record['title']}: a row has not {len(columns)} cells")
    texts = any(len(text) > LONG for _, cells in rows for text in cells)
    return Piece(
        record["title"],
        "",
        table=Table(record.get("note") or record["title"], [(name, "") for name in columns], rows),
        kind="listing" if texts else "numbers",
        folded=len(rows) > LONG,
        wide=texts or len(columns) >= WIDE,
    )


def draw_curves(record: Record) -> Piece:
    """Lines, with their values at a few places as a table."""
    lines = [(str(line["name"]), *_points(line["x"], line["y"])) for line in record["lines"]]
    plot = empty_plot(record["x"], record["y"], height=360)
    drawn, keys = [], []
    for number, (name, x, y) in enumerate(lines):
        source = ColumnDataSource({"x": x, "y": y})
        colour, dash = COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]
        style: Any = {"line_width": 2, "line_color": colour, "line_dash": dash}
        drawn.append(plot.line("x", "y", source=source, name=name, **style))
        keys.append(Key(name, colour, dash))
    if record.get("diagonal"):
        ends = np.concatenate([x for _, x, _ in lines]) if lines else np.array([0.0, 1.0])
        span = [float(ends.min()), float(ends.max())]
        plot.line(span, span, line_color=COLOURS[-1], line_dash="dashed")
    plot.add_tools(HoverTool(renderers=drawn, tooltips=[("", "$name"), (record["x"], "@x"), (record["y"], "@y")]))
    note = record.get("note", "")
    chart = Chart(record["title"], note, plot, tuple(keys))
    return Piece(record["title"], note, chart=chart, table=_told(record, lines), folded=True)


def _told(record: Record, lines: Sequence[tuple[str, Any, Any]]) -> Table:
    """Each line's values at evenly spaced places, on the straight between its points."""
    ends = np.concatenate([x for _, x, _ in lines]) if lines else np.zeros(1)
    places = np.linspace(float(ends.min()), float(ends.max()), PLACES)
    rows = []
    for name, x, y in lines:
        order = np.argsort(x, kind="stable")
        rows.append((name, [f"{value:.4g}" for value in np.interp(places, x[order], y[order])]))
    head = [("", record["x"]), *((f"{place:.4g}", "") for place in places)]
    return Table(f"{record['title']}: {record['y']} by {record['x']}.", head, rows)


def draw_bars(record: Record) -> Piece:
    """Bars over names or over numbers, with marks for what they are to be compared with."""
    names, y = list(record["x"]), list(record["y"])
    reference = list(record.get("reference") or [None] * len(names))
    if not len(names) == len(y) == len(reference):
        raise ValueError(f"{record['title']}: {len(names)} places, {len(y)} bars, {len(reference)} references")
    held = [place for place, value in enumerate(y) if value is not None]
    numeric = len(names) > 1 and all(isinstance(name, int | float) for name in names)
    plot, x, width = _bar_plot(record, names, numeric=numeric)
    shown = [f"{cell(names[place])}: {cell(y[place])}" for place in held]
    source = ColumnDataSource({"x": [x[place] for place in held], "y": [y[place] for place in held], "shown": shown})
    bars = plot.vbar("x", top="y", width=width, source=source, color=COLOURS[0], fill_alpha=0.6)
    marked = [place for place in held if reference[place] is not None]
    if marked:
        places: list[Any] = [x[place] for place in marked]
        values: list[Any] = [reference[place] for place in marked]
        plot.scatter(places, values, marker="dash", size=18, line_width=3, color=COLOURS[1], name="reference")
    plot.add_tools(HoverTool(renderers=[bars], tooltips=[("", "@shown")]))
    head = [(record["x_title"], ""), (record["y_title"], ""), *([("reference", "")] if marked else [])]
    rows = [
        (cell(names[place]), [cell(y[place]), *([cell(reference[place])] if marked else [])])
        for place in range(len(names))
    ]
    note = record.get("note", "")
    chart = Chart(record["title"], note, plot, (Key("reference", COLOURS[1]),) if marked else ())
    return Piece(record["title"], note, chart=chart, table=Table(f"{record['title']}.", head, rows), folded=True)


def _bar_plot(record: Record, names: Sequence[Any], *, numeric: bool) -> tuple[figure, list[Any], float]:
    """An empty plot, the bars' places in it and their width."""
    low = min([0.0, *(value for value in record["y"] if value is not None)])
    if numeric:
        plot = empty_plot(record["x_title"], record["y_title"])
        width = 0.9 * min(abs(b - a) for a, b in pairwise(names))
        places = list(names)
    else:
        places = [str(name) for name in names]
        factors = list(dict.fromkeys(places))
        plot = empty_plot(record["x_title"], record["y_title"], x_range=FactorRange(factors=factors))
        plot.xaxis.major_label_orientation = 0.8 if len(factors) > 6 else "horizontal"
        width = 0.85
    if low >= 0:
        plot.y_range.start = 0.0  # type: ignore[attr-defined]
    return plot, places, width


def _points(x: Sequence[float], y: Sequence[float]) -> tuple[Any, Any]:
    """The points of a line that has them, as arrays."""
    if len(x) != len(y):
        raise ValueError(f"{len(x)} places and {len(y)} values")
    pairs = [(a, b) for a, b in zip(x, y, strict=True) if a is not None and b is not None]
    if not pairs:
        raise ValueError("a line without a point")
    return tuple(np.array(pairs, dtype=np.float64).T)  # type: ignore[return-value]


def cell(value: Cell) -> str:
    """A value as it stands in a table."""
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float() if value.is_integer() and abs(value) < 1e15:
            return f"{value:,.0f}"
        case float():
            return f"{value:.4g}"
        case _:
            return str(value)


DRAW = {"matrix": draw_matrix, "table": draw_table, "curves": draw_curves, "bars": draw_bars}
