"""Metrics of a million predictions of ten classes: ours against scikit-learn's, on the same arrays."""

import contextlib
import importlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Case, Pair, Round, Stopwatch
from trainer.evaluation.confusion import accuracy, confusion_matrix, counts_of, f1, precision, recall
from trainer.evaluation.predictions import places
from trainer.evaluation.ranking import average_precision, rank, roc_area

SAMPLES, CLASSES, TOP = 1_000_000, 10, 3
Values = dict[str, Any]
Work = Callable[[NDArray[np.int64], NDArray[np.float64]], Values]


def ours(labels: NDArray[np.int64], scores: NDArray[np.float64]) -> Values:
    """labels [N], scores [N, classes] probabilities."""
    matrix = confusion_matrix(labels, scores.argmax(1), CLASSES)
    counts = counts_of(matrix)
    rankings = [rank(scores[:, index], labels == index) for index in range(CLASSES)]
    return {
        "accuracy": accuracy(counts),
        "confusion": matrix,
        "by class": np.stack([precision(counts), recall(counts), f1(counts)]),
        "ROC area": np.mean([roc_area(each) for each in rankings]),
        "average precision": np.array([average_precision(each) for each in rankings]),
        "log loss": -np.log(scores[np.arange(len(labels)), labels]).mean(),
        "top": (places(scores, labels) < TOP).mean(),
    }


def theirs(labels: NDArray[np.int64], scores: NDArray[np.float64]) -> Values:
    metrics: Any = importlib.import_module("sklearn.metrics")  # a peer: the program runs without it
    predicted, one_hot = scores.argmax(1), np.eye(CLASSES, dtype=np.int64)[labels]
    return {
        "accuracy": np.array(metrics.accuracy_score(labels, predicted)),
        "confusion": metrics.confusion_matrix(labels, predicted),
        "by class": np.stack(metrics.precision_recall_fscore_support(labels, predicted)[:3]),
        "ROC area": np.array(metrics.roc_auc_score(labels, scores, multi_class="ovr")),
        "average precision": np.array(metrics.average_precision_score(one_hot, scores, average=None)),
        "log loss": np.array(metrics.log_loss(labels, scores)),
        "top": np.array(metrics.top_k_accuracy_score(labels, scores, k=TOP)),
    }


def make_predictions() -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Labels [N], and probabilities [N, classes] that favour them; the same every time."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, SAMPLES)
    logits = rng.normal(size=(SAMPLES, CLASSES))
    logits[np.arange(SAMPLES), labels] += 1.5
    chances = np.exp(logits)
    return labels, chances / chances.sum(1, keepdims=True)


@contextlib.contextmanager
def _sides() -> Iterator[Pair]:
    labels, scores = make_predictions()
    yield Pair(*(partial(_timed, work, labels, scores) for work in (ours, theirs)))


def _timed(work: Work, labels: NDArray[np.int64], scores: NDArray[np.float64]) -> Round:
    watch = Stopwatch()
    watch.start()
    values = work(labels, scores)
    watch.stop()
    return Round(amount=len(labels), seconds=watch.seconds, cpu_s=watch.cpu_s, outputs=values)


def values_differ(ours: Values, peer: Values) -> str | None:
    """What differs by more than 1e-12; None when nothing does."""
    for name, value in ours.items():
        apart = float(np.abs(np.asarray(value) - np.asarray(peer[name])).max())
        if not apart <= 1e-12:
            return f"{name} is {apart:.1e} from the peer's"
    return None


CASES = (
    Case(
        name="evaluation/scikit-learn",
        measures=f"metrics of {SAMPLES:,} predictions of {CLASSES} classes: accuracy, confusion, precision, recall, "
        f"F1, ROC areas, average precisions, log loss, top {TOP}",
        unit="predictions per second",
        goal=1.0,
        libraries=("numpy", "scikit-learn"),
        open=_sides,
        check=values_differ,
    ),
)
