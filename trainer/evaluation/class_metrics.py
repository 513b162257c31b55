"""The metrics of a classifier of whole samples, from what it says of each of them, and how they were taken."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from configs.metrics import Metric
from trainer.evaluation.calibration import BIASED, BINS, calibration_error, confidence_sums
from trainer.evaluation.classes import share_variance
from trainer.evaluation.confusion import (
    Counts,
    Ids,
    Numbers,
    accuracy,
    balanced_variance,
    confusion_matrix,
    counts_of,
    f1,
    macro,
    matthews,
    precision,
    recall,
    weighted,
)
from trainer.evaluation.contract import Units
from trainer.evaluation.intervals import (
    RESAMPLES,
    SEED,
    Interval,
    exact_interval,
    logit_interval,
    percentile_interval,
    resampled_calibration,
    resampled_counts,
    resampled_stderr,
)
from trainer.evaluation.predictions import MOST_SCORES, Predictions
from trainer.evaluation.ranking import (
    Ranking,
    average_precision,
    precision_influence,
    rank,
    roc_area,
    roc_influence,
)

MEANS: dict[str, Callable[[Counts], Numbers]] = {
    "balanced_accuracy": lambda counts: macro(recall(counts), counts),
    "precision_macro": lambda counts: macro(precision(counts), counts),
    "f1_macro": lambda counts: macro(f1(counts), counts),
    "f1_micro": accuracy,
    "f1_weighted": lambda counts: weighted(f1(counts), counts),
    "matthews": matthews,
}
"""Metrics of the counts by class"""
AREAS: dict[str, tuple[Callable[[Ranking], float], Callable[[Ranking], Numbers]]] = {
    "roc_area": (roc_area, roc_influence),
    "average_precision": (average_precision, precision_influence),
}
"""Metrics of the ranking of one class against the rest: value, and each sample's influence on it"""


@dataclass(frozen=True)
class Area:
    """The area under one kind of curve, by class and as their mean."""

    by_class: tuple[float | None, ...]
    """None for a class without samples, or without others"""
    mean: float | None
    stderr: float | None
    """Of the mean: infinitesimal jackknife (Efron, 1982)"""


@dataclass(frozen=True)
class Assessment:
    """What the metrics and the figures of one classifier on one split are made of."""

    predictions: Predictions
    matrix: Ids
    """[classes, classes], rows are labels"""
    calibration: dict[str, float]
    areas: dict[str, Area] | None
    """By kind of curve; None where scores are not kept"""

    @property
    def counts(self) -> Counts:
        return counts_of(self.matrix)


def assess(predictions: Predictions, classes: int) -> Assessment | None:
    """What metrics and figures are made of; None for a split without samples, and for scores that are not numbers."""
    if predictions.broken or not len(predictions.ids):
        return None
    correct = torch.from_numpy(predictions.correct)
    sums = confidence_sums(torch.from_numpy(predictions.confidence), correct)
    return Assessment(
        predictions,
        confusion_matrix(predictions.labels, predictions.predicted, classes),
        {name: float(value) for name, value in sums.items()},
        None if predictions.scores is None else measure_areas(predictions, classes),
    )


def rank_class(predictions: Predictions, index: int) -> Ranking:
    """Samples by the score of one class; the scores are there."""
    assert predictions.scores is not None
    return rank(predictions.scores[:, index], predictions.labels == index)


def measure_areas(predictions: Predictions, classes: int) -> dict[str, Area]:
    """The areas under each kind of curve, of each class against the rest and as a mean over those that have both."""
    by_class: dict[str, list[float | None]] = {name: [] for name in AREAS}
    influence = {name: np.zeros(len(predictions.ids)) for name in AREAS}
    for index in range(classes):
        ranking = rank_class(predictions, index)
        for name, (area, moves) in AREAS.items():
            by_class[name].append(area(ranking) if ranking.is_split else None)
            if ranking.is_split:
                influence[name] += moves(ranking)
    return {name: _mean_area(values, influence[name]) for name, values in by_class.items()}


def _mean_area(values: Sequence[float | None], influence: Numbers) -> Area:
    known = [value for value in values if value is not None]
    if not known:
        return Area(tuple(values), None, None)
    return Area(tuple(values), math.fsum(known) / len(known), float(np.linalg.norm(influence)) / len(known))


@dataclass(frozen=True)
class _Maker:
    """Metrics of one subject, such as `test`, under one protocol."""

    prefix: str
    size: int
    protocol: str
    each: str

    def make(
        self,
        name: str,
        value: float | None,
        stderr: float | None = None,
        interval: Interval | None = None,
        *,
        why: str = "",
    ) -> Metric:
        unit = f"nats/{self.each}" if name == "loss" else "correlation" if name == "matthews" else "share"
        better = "lower" if name in ("loss", "calibration_error") else "higher"
        undefined = why if value is None else None
        return Metric(
            f"{self.prefix}/{name}", value, stderr, self.size, unit, better, self.protocol, interval, undefined
        )


def class_metrics(
    prefix: str,
    predictions: Predictions,
    assessed: Assessment | None,
    *,
    classes: Sequence[str],
    top: int,
    each: str,
    protocol: str,
) -> list[Metric]:
    """Every metric of a classifier on a split; one that cannot be had has a reason instead of a value.

    `each` is what one sample is: image, text. Where `top` guesses are not fewer than the classes, none is told of them.
    """
    maker = _Maker(prefix, len(predictions.ids), protocol, each)
    placed = f"top{top}_accuracy"
    if assessed is None:
        names = ["accuracy", *MEANS, *([placed] if len(classes) > top else []), *AREAS, "calibration_error", "loss"]
        why = why_not(predictions, each)
        return [maker.make(name, None, why=why) for name in names]
    metrics = [_share(maker, "accuracy", predictions.correct), *_means(maker, assessed, classes)]
    if len(classes) > top:
        metrics.append(_share(maker, placed, predictions.placed < top))
    stderr = resampled_stderr(resampled_calibration(predictions.confidence, predictions.correct))
    error = maker.make("calibration_error", calibration_error(assessed.calibration), stderr)
    return [*metrics, *_areas(maker, assessed, classes), error, _loss(maker, predictions)]


def why_not(predictions: Predictions, each: str) -> str:
    """Why there is no assessment."""
    size = len(predictions.ids)
    return f"the scores of {predictions.broken} of {size} {each}s are not numbers" if size else "the split is empty"


def _share(maker: _Maker, name: str, found: np.ndarray[Any, Any]) -> Metric:
    number, size = int(found.sum()), len(found)
    variance = share_variance(number, size)
    stderr = None if variance is None else math.sqrt(variance)
    return maker.make(name, number / size, stderr, exact_interval(number, size))


def _means(maker: _Maker, assessed: Assessment, classes: Sequence[str]) -> list[Metric]:
    counts, resampled = assessed.counts, resampled_counts(assessed.matrix)
    variance = balanced_variance(counts)
    metrics = []
    for name, mean in MEANS.items():
        if name == "matthews" and (alone := single_class(assessed, classes)):
            metrics.append(maker.make(name, None, why=alone))
            continue
        stderr = math.sqrt(variance) if name == "balanced_accuracy" and variance is not None else None
        interval = percentile_interval(mean(resampled))
        metrics.append(maker.make(name, float(mean(counts)), stderr, interval))
    return metrics


def single_class(assessed: Assessment, classes: Sequence[str]) -> str | None:
    """In words, that all samples are of one class, which leaves nothing to tell apart; None where they are not."""
    seen = np.flatnonzero(assessed.counts.true)
    return f"all samples of the split are of one class, {classes[int(seen[0])]}" if len(seen) == 1 else None


def _areas(maker: _Maker, assessed: Assessment, classes: Sequence[str]) -> list[Metric]:
    if assessed.areas is None:
        why = f"the split has more than {MOST_SCORES:,} scores, samples x classes, which are not kept"
        return [maker.make(name, None, why=why) for name in AREAS]
    metrics = []
    for name, area in assessed.areas.items():
        if area.mean is None or area.stderr is None:
            metrics.append(maker.make(name, None, why=single_class(assessed, classes) or ""))
        else:
            metrics.append(maker.make(name, area.mean, area.stderr, logit_interval(area.mean, area.stderr)))
    return metrics


def _loss(maker: _Maker, predictions: Predictions) -> Metric:
    nll, size = predictions.nll, len(predictions.nll)
    if impossible := int(np.isinf(nll).sum()):
        why = f"the label of {impossible} of {size} {maker.each}s has probability 0, so the loss is infinite"
        return maker.make("loss", None, why=why)
    stderr = float(nll.std(ddof=1)) / math.sqrt(size) if size > 1 else None
    return maker.make("loss", float(nll.mean()), stderr)


def class_units(predictions: Predictions, assessed: Assessment | None) -> dict[str, Units]:
    """Each sample's accuracy and loss, for paired tests; none where they are not numbers."""
    if assessed is None or not np.isfinite(predictions.nll).all():
        return {}
    ones = np.ones(len(predictions.ids))
    return {
        "test/accuracy": Units(predictions.ids, predictions.correct.astype(np.float64), ones),
        "test/loss": Units(predictions.ids, predictions.nll, ones),
    }


def class_protocol(*, data: str, classes: Sequence[str], top: int, each: str) -> dict[str, Any]:
    """What changes the metrics of any classifier of whole samples, apart from the model and from what it reads."""
    return {
        "metric": "classification by the class of the largest logit, of equal ones the first",
        "split": "test",
        "data": data,
        "classes": len(classes),
        "scored": f"every {each} once",
        "loss": "negative log-likelihood of the label, without weights and label smoothing",
        "balanced_accuracy": f"mean over the split's classes of the share of their {each}s that is found",
        "means over classes": "macro: mean over the split's classes; weighted: by their samples; micro: all as one; 0 "
        "for a class that nothing is taken for",
        "matthews": "correlation of labels and predictions, of all classes at once (Gorodkin, 2004)",
        f"top{top}_accuracy": f"share of {each}s whose label is among the {top} largest logits, of equal ones the "
        f"first; with more than {top} classes",
        "roc_area, average_precision": "each of the split's classes against the rest by its probability, equal ones as "
        "one step; mean over classes",
        "calibration_error": f"{BINS} bins of equal width of the largest probability; {BIASED}",
        "baseline": "the train split's largest class; as probabilities its shares, each class counted once more",
        "stderr": f"{each}s are drawn independently; of areas the infinitesimal jackknife, of the calibration error "
        "over the resamples",
        "interval": "95 %; of accuracies exact (Clopper and Pearson, 1934), of areas normal on the logit's scale, none "
        "of the calibration error, else "
        f"percentiles of {RESAMPLES} resamples of the split (Efron, 1981), seed {SEED}",
        "precision": "fp32 logits, fp64 sums",
    }
