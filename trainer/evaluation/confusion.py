"""Which class is taken for which: the confusion matrix, and what follows from its sums by class."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Counts:
    """Samples by class, each [..., classes]; axes before the last are resamples, where there are any."""

    true: NDArray[Any]
    """Whose label it is"""
    predicted: NDArray[Any]
    found: NDArray[Any]
    """Both"""


def confusion_matrix(labels: Ids, predicted: Ids, classes: int) -> Ids:
    """How many samples of each class (rows) are taken for each class (columns), [classes, classes]; both [N]."""
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def counts_of(matrix: Ids) -> Counts:
    return Counts(true=matrix.sum(1), predicted=matrix.sum(0), found=matrix.diagonal())


def precision(counts: Counts) -> Numbers:
    """Of the samples taken for a class, the share that is of it; 0 where none is taken for it. [..., classes]"""
    return _share(counts.found, counts.predicted)


def recall(counts: Counts) -> Numbers:
    """Of a class's samples, the share that is found; 0 where it has none. [..., classes]"""
    return _share(counts.found, counts.true)


def f1(counts: Counts) -> Numbers:
    """Harmonic mean of precision and recall, 2 x found / (true + predicted); 0 where both are. [..., classes]"""
    return _share(2 * counts.found, counts.true + counts.predicted)


def accuracy(counts: Counts) -> Numbers:
    """The share that is found, [...]; with one label a sample it is precision, recall and F1 of all classes as one."""
    return _share(counts.found.sum(-1), counts.true.sum(-1))


def macro(values: Numbers, counts: Counts) -> Numbers:
    """Mean over the classes that have samples, [...]."""
    seen = counts.true > 0
    return _share(np.where(seen, values, 0.0).sum(-1), seen.sum(-1))


def weighted(values: Numbers, counts: Counts) -> Numbers:
    """Mean over classes, each by its samples, [...]."""
    return _share((values * counts.true).sum(-1), counts.true.sum(-1))


def matthews(counts: Counts) -> Numbers:
    """The correlation of labels and predictions (Matthews, 1975; for many classes Gorodkin, 2004, eq. 8), [...].

    In [-1, 1]; 0 where labels or predictions are all of one class, which correlates with nothing.
    """
    true, predicted = counts.true.astype(np.float64), counts.predicted.astype(np.float64)
    size = true.sum(-1)
    together = counts.found.sum(-1) * size - (true * predicted).sum(-1)
    spread = (size**2 - (predicted**2).sum(-1)) * (size**2 - (true**2).sum(-1))
    return _share(together, np.sqrt(spread))


def balanced_variance(counts: Counts) -> float | None:
    """Estimated variance of the mean recall over the classes that have samples; None where one has a single sample."""
    size, found = counts.true[counts.true > 0], counts.found[counts.true > 0]
    if not len(size) or (size == 1).any():
        return None
    share = found / size
    return float((share * (1 - share) / (size - 1)).sum()) / len(size) ** 2


def _share(part: NDArray[Any], whole: NDArray[Any]) -> Numbers:
    """part / whole, and 0 where the whole is."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.zeros(np.broadcast_shapes(part.shape, whole.shape)), where=whole != 0)
