"""An evaluation as artifacts that the pages of KFP show: numbers, confusion matrix, ROC and the report."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from configs.folder import RunFolder, write_atomic
from configs.stages import read_record
from pipelines.report import write_report

if TYPE_CHECKING:
    from kfp.dsl import HTML, ClassificationMetrics, Metrics

    Shown = tuple[Metrics, ClassificationMetrics, HTML]

PLACES = 101
"""Points of a curve"""
ROC = ("false positive rate", "true positive rate")
"""By its axes a curve of an evaluation is known to be one"""


def show_evaluation(folder: RunFolder, shown: "Shown") -> None:
    """Write the run's report, and fill the artifacts of a component from what the evaluation left."""
    scalars, classification, html = shown
    for metric in read_record(folder.metrics)["metrics"]:
        if metric["value"] is not None:
            scalars.log_metric(metric["name"], metric["value"])
    fill_classification(classification, json.loads(folder.figures.read_bytes()))
    write_report(folder)
    path = Path(html.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, folder.report.read_bytes())


def fill_classification(artifact: "ClassificationMetrics", figures: Iterable[Mapping[str, Any]]) -> None:
    """The square matrix and the ROC among the figures; nothing where an evaluation has neither.

    KFP draws one curve: the mean of the classes' curves at equal false positive rates, whose classes the metadata name.
    It has no threshold; in its place stands the share of the others that is told apart, 1 - false positive rate.
    """
    for figure in figures:
        if figure["kind"] == "matrix" and figure["rows"] == figure["columns"]:
            artifact.log_confusion_matrix(figure["rows"], figure["values"])
        if figure["kind"] == "curves" and (figure["x"], figure["y"]) == ROC:
            places = np.linspace(0.0, 1.0, PLACES)
            lines = [np.interp(places, [0.0, *line["x"]], [0.0, *line["y"]]) for line in figure["lines"]]
            rates = np.mean(lines, axis=0)
            artifact.log_roc_curve(places.tolist(), rates.tolist(), (1.0 - places).tolist())
            artifact.metadata["mean of"] = ", ".join(line["name"] for line in figure["lines"])
