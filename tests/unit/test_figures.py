"""Figures of an evaluation: what is drawn, and that a table says the same."""

import re
from pathlib import Path
from typing import Any

import pytest

from configs.errors import DamageError
from configs.folder import RunFolder
from pipelines.charts import embed
from pipelines.figures import Piece, cell, read_figures
from pipelines.page import render

MATRIX = {
    "kind": "matrix",
    "title": "Confusion matrix",
    "rows": ["cat", "<b>"],
    "columns": ["cat", "<b>"],
    "values": [[9, 1], [0, 1234]],
    "row_title": "label",
    "column_title": "taken for",
    "note": "Numbers of samples.",
}
CURVES = {
    "kind": "curves",
    "title": "ROC",
    "x": "false positive rate",
    "y": "true positive rate",
    "lines": [{"name": str(name), "x": [0.0, 0.5, 1.0], "y": [0.0, 1.0, 1.0]} for name in range(10)],
    "diagonal": True,
}
BARS = {
    "kind": "bars",
    "title": "Reliability",
    "x": ["0 to 0.5", "0.5 to 1"],
    "y": [0.25, None],
    "x_title": "probability",
    "y_title": "share right",
    "reference": [0.3, 0.8],
}
TABLE = {"kind": "table", "title": "By class", "columns": ["class", "n", "F1"], "rows": [["cat", 1000, None]]}


def read(*records: Any) -> list[Piece]:
    return read_figures(RunFolder(Path("run")), records)


def page_of(*pieces: Piece) -> str:
    """The section of a page that shows them."""
    charts = [piece.chart for piece in pieces if piece.chart]
    _, elements = embed(charts)
    left = iter(elements)
    placed = [(next(left) if piece.chart else None, piece) for piece in pieces]
    keys = (
        "folds metrics gate cost price samples samples_are data configuration chain times anomalies clock curves "
        "smoothing"
    )
    content: dict[str, Any] = dict.fromkeys(keys.split()) | {"plots": "", "protocols": [], "charts": []}
    lists = {"warnings": [], "cards": [], "about": [], "missing": {"breakdown": None}, "verdict": None, "name": ""}
    return render("report", sections=[("breakdown", "Breakdown")], pieces=placed, **content, **lists)


def test_a_matrix_is_a_table_whose_cells_are_shaded_by_their_share_and_mistakes_stand_out():
    (piece,) = read(MATRIX)
    assert piece.matrix
    (name, (right, wrong)), (_, (none, _)) = piece.matrix.rows
    assert (name, right, wrong) == ("cat", ("9", 43, False), ("1", 14, True))  # 45 times the root of 0.9 and of 0.1
    assert none == ("0", 0, True)
    page = page_of(piece)
    assert '<td class="off" style="--share: 14%">1</td>' in page
    assert '<th scope="col">&lt;b&gt;</th>' in page
    assert "1,234" in page
    assert "Numbers of samples." in page
    assert "Rows: label; columns: taken for." in page


def test_a_matrix_of_unlike_rows_and_columns_has_no_diagonal():
    (piece,) = read(MATRIX | {"columns": ["a", "b"]})
    assert piece.matrix
    assert not any(off for _, cells in piece.matrix.rows for _, _, off in cells)


def test_curves_are_told_at_a_few_places_by_a_table():
    (piece,) = read(CURVES)
    assert piece.chart
    assert piece.table
    assert [name for name, _ in piece.table.head[1:]] == ["0", "0.25", "0.5", "0.75", "1"]
    assert piece.table.rows[0] == ("0", ["0", "0.5", "1", "1", "1"])
    page = page_of(piece)
    assert '<div id="chart-0">' in page
    assert "The same in numbers" in page


def test_lines_that_share_a_colour_differ_in_their_dashes():
    (piece,) = read(CURVES)
    assert piece.chart
    lines = [(each.glyph.line_color, str(each.glyph.line_dash)) for each in piece.chart.plot.renderers]  # type: ignore[attr-defined]
    assert len(set(lines)) == len(lines) == 11


def test_falling_places_are_told_in_order():
    (piece,) = read(CURVES | {"lines": [{"name": "a", "x": [1.0, 0.0], "y": [0.5, 1.0]}], "diagonal": False})
    assert piece.table
    assert piece.table.rows == [("a", ["1", "0.875", "0.75", "0.625", "0.5"])]


@pytest.mark.parametrize("x", [["0 to 0.5", "0.5 to 1"], [1, 2], [0.5, 1.5], ["same", "same"]])
def test_bars_stand_over_names_or_numbers_and_a_missing_one_is_a_dash(x: list[Any]):
    (piece,) = read(BARS | {"x": x})
    assert piece.chart
    assert piece.table
    assert piece.table.rows == [(cell(x[0]), ["0.25", "0.3"]), (cell(x[1]), ["–", "0.8"])]


def test_bars_without_a_reference_have_no_column_for_it():
    (piece,) = read({key: value for key, value in BARS.items() if key != "reference"})
    assert piece.table
    assert [name for name, _ in piece.table.head] == ["probability", "share right"]


def test_cells_of_a_table_may_be_empty_and_long_ones_are_set_as_text():
    (piece,) = read(TABLE)
    assert piece.table
    assert piece.table.rows == [("cat", ["1,000", "–"])]
    assert (piece.kind, piece.folded, piece.wide) == ("numbers", False, False)
    (told,) = read(TABLE | {"rows": [["cat", "It was a dark and stormy night", 1.0]] * 30})
    assert (told.kind, told.folded, told.wide) == ("listing", True, True)
    assert re.search(r"<details><summary>30 rows</summary>", page_of(told))


@pytest.mark.parametrize(
    "record",
    [
        {"kind": "pie"},
        {"title": "none"},
        MATRIX | {"values": [[1, 2]]},
        MATRIX | {"values": [[1], [2]]},
        CURVES | {"lines": [{"name": "a", "x": [0.0], "y": []}]},
        CURVES | {"lines": [{"name": "a", "x": [None], "y": [1.0]}]},
        BARS | {"y": [1.0]},
        TABLE | {"rows": [["cat", 1]]},
        TABLE | {"rows": [[]]},
    ],
)
def test_a_figure_of_no_known_form_is_named(record: dict[str, Any]):
    with pytest.raises(DamageError, match=r"figures.json: figure 1 cannot be drawn"):
        read(TABLE, record)


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "–"), (1234, "1,234"), (2.0, "2"), (0.123456, "0.1235"), (True, "yes"), ("a", "a")]
)
def test_a_cell_is_shown_to_four_digits(value: Any, shown: str):
    assert cell(value) == shown
