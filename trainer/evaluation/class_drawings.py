"""What the report draws of a classifier: confusion matrix, table by class, curves, reliability diagram."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from trainer.evaluation.calibration import reliability
from trainer.evaluation.class_metrics import Area, Assessment, rank_class
from trainer.evaluation.confusion import Counts, Ids, Numbers, f1, macro, precision, recall, weighted
from trainer.evaluation.ranking import precision_recall_curve, roc_curve

MATRIX_CLASSES = 40
"""Of a confusion matrix that can be read; of more classes the pairs that are confused most are listed"""
LISTED = 100
"""Rows of a table"""
CURVES = 10
"""Lines of a chart"""
AREA_TITLES = {"roc_area": "ROC area", "average_precision": "average precision"}
Figure = dict[str, Any]


def draw_classifier(assessed: Assessment | None, classes: Sequence[str]) -> tuple[Figure, ...]:
    """Every figure of a classifier that was scored; none of one that could not be."""
    if assessed is None:
        return ()
    counts = assessed.counts
    figures = [*draw_confusion(assessed.matrix, classes), class_table(counts, classes, assessed.areas)]
    return (*figures, *_curves(assessed, classes), reliability(assessed.calibration, "Reliability"))


def draw_confusion(matrix: Ids, classes: Sequence[str], *, what: str = "samples") -> list[Figure]:
    """The confusion matrix [classes, classes]; where it would be too large to read, the pairs confused most."""
    if len(classes) > MATRIX_CLASSES:
        return [_confused_pairs(matrix, classes, what)]
    return [
        {
            "kind": "matrix",
            "title": "Confusion matrix",
            "rows": list(classes),
            "columns": list(classes),
            "values": matrix.tolist(),
            "row_title": "label",
            "column_title": "taken for",
            "note": f"Numbers of {what}.{_absent(matrix.sum(1), classes)}",
        }
    ]


def _confused_pairs(matrix: Ids, classes: Sequence[str], what: str) -> Figure:
    wrong = matrix - np.diag(matrix.diagonal())
    worst = np.argsort(-wrong, axis=None, kind="stable")[:LISTED]
    pairs = [(int(label), int(taken)) for label, taken in zip(*np.unravel_index(worst, wrong.shape), strict=True)]
    return {
        "kind": "table",
        "title": "Classes confused most",
        "columns": ["label", "taken for", what],
        "rows": [[classes[a], classes[b], int(wrong[a, b])] for a, b in pairs if wrong[a, b]],
    }


def class_table(
    counts: Counts, classes: Sequence[str], areas: dict[str, Area] | None, *, what: str = "samples", name: str = "class"
) -> Figure:
    """Precision, recall and F1 of each class, those with the worst F1 where not all are listed, and their means."""
    columns = {"precision": precision(counts), "recall": recall(counts), "F1": f1(counts)}
    areas, shown, some = areas or {}, np.arange(len(classes)), ""
    if len(classes) > LISTED:
        shown = np.sort(np.argsort(np.where(counts.true > 0, columns["F1"], np.inf), kind="stable")[:LISTED])
        some = f" The {LISTED} classes with the lowest F1 of {len(classes)}."
    rows: list[list[Any]] = [
        [
            classes[index],
            int(counts.true[index]),
            *(float(values[index]) if counts.true[index] else None for values in columns.values()),
            *(area.by_class[index] for area in areas.values()),
        ]
        for index in shown.tolist()
    ]
    return {
        "kind": "table",
        "title": f"By {name}",
        "columns": [name, what, *columns, *(AREA_TITLES[kind] for kind in areas)],
        "rows": rows + _mean_rows(counts, list(columns.values()), list(areas.values())),
        "note": f"macro: mean over classes with {what}; weighted: by their {what}; micro: all as one, which is the "
        f"accuracy.{some}{_absent(counts.true, classes)}",
    }


def _mean_rows(counts: Counts, columns: Sequence[Numbers], areas: Sequence[Area]) -> list[list[Any]]:
    """The last rows of the table by class; areas have one mean, over classes."""
    size, none = int(counts.true.sum()), [None] * len(areas)
    share = float(counts.found.sum() / size)
    macros, weights = ([float(mean(values, counts)) for values in columns] for mean in (macro, weighted))
    return [
        ["macro", size, *macros, *(area.mean for area in areas)],
        ["weighted", size, *weights, *none],
        ["micro", size, *[share] * len(columns), *none],
    ]


def _curves(assessed: Assessment, classes: Sequence[str]) -> list[Figure]:
    """ROC and precision-recall curves of each class against the rest."""
    if assessed.areas is None:
        return []
    areas = assessed.areas["roc_area"].by_class
    known = [index for index, area in enumerate(areas) if area is not None]
    shown = sorted(sorted(known, key=lambda index: areas[index] or 0.0)[:CURVES])
    if not shown:
        return []
    rankings = {index: rank_class(assessed.predictions, index) for index in shown}
    some = f"The {CURVES} of {len(known)} classes with the smallest area. " if len(known) > CURVES else ""
    note = f"{some}Each class against the rest.{_absent(assessed.counts.true, classes)}"

    def lines(curve: Any) -> list[Figure]:
        points = {classes[index]: curve(ranking) for index, ranking in rankings.items()}
        return [{"name": name, "x": x.tolist(), "y": y.tolist()} for name, (x, y) in points.items()]

    return [
        {
            "kind": "curves",
            "title": "Receiver operating characteristic",
            "x": "false positive rate",
            "y": "true positive rate",
            "lines": lines(roc_curve),
            "diagonal": True,
            "note": note,
        },
        {
            "kind": "curves",
            "title": "Precision and recall",
            "x": "recall",
            "y": "precision",
            "lines": lines(precision_recall_curve),
            "note": note,
        },
    ]


def _absent(true: Ids, classes: Sequence[str]) -> str:
    """A sentence on the classes without samples, which no mean has; empty where there are none."""
    absent = [name for name, count in zip(classes, true, strict=True) if not count]
    if not absent:
        return ""
    named = ", ".join(absent[:10]) + (f" and {len(absent) - 10} more" if len(absent) > 10 else "")
    return f" Without a sample in the split, and so in no mean: {named}."
