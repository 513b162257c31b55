"""Where a number of a split of independent samples lies with 95 % confidence: exact, or from resamples of the split."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, expit, logit

from trainer.evaluation.calibration import BINS
from trainer.evaluation.confusion import Counts

Numbers = NDArray[np.float64]
Interval = tuple[float, float]
CONFIDENCE = 0.95
DEVIATIONS = 1.959963984540054  # of a normal distribution, that hold CONFIDENCE
RESAMPLES = 1000
SEED = 8128
_CELLS = 1 << 22  # numbers drawn at once
_FINER = 64  # cells within each bin of the calibration error
MOST_GROUPS = 10_000
"""Samples that are drawn one by one; of more of them, groups of equal size are"""


def exact_interval(found: int, size: int) -> Interval | None:
    """Of the share found / size, from the binomial distribution (Clopper and Pearson, 1934); None for no sample."""
    if not size:
        return None
    tail = (1 - CONFIDENCE) / 2
    low = float(betaincinv(found, size - found + 1, tail)) if found else 0.0
    high = float(betaincinv(found + 1, size - found, 1 - tail)) if found < size else 1.0
    return low, high


def logit_interval(share: float, stderr: float) -> Interval | None:
    """Of an area between 0 and 1: normal on the logit's scale, so that it stays between them (Pepe, 2003, 2.2.2).

    None at 0 and 1 and without an error: the samples then say nothing of how far it is from there.
    """
    if not (0 < share < 1 and stderr > 0):
        return None
    centre, width = logit(share), DEVIATIONS * stderr / (share * (1 - share))
    return float(expit(centre - width)), float(expit(centre + width))


def percentile_interval(values: Numbers) -> Interval | None:
    """The middle 95 % of a number's values over resamples (Efron, 1981).

    None where all are equal: a split without an error knows nothing of the errors outside it.
    """
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return (float(low), float(high)) if high > low else None


def resampled_stderr(values: Numbers) -> float | None:
    """Standard deviation of a number's values over resamples; None where all are equal, and for fewer than two."""
    return float(values.std(ddof=1)) if len(values) > 1 and values.max() > values.min() else None


def resampled_counts(matrix: NDArray[np.int64]) -> Counts:
    """`Counts` [RESAMPLES, classes] of as many samples drawn anew, with repetition, from a confusion matrix.

    Counts depend on a sample by its cell of the matrix alone, so cells are drawn, not samples.
    """
    rows, columns = np.nonzero(matrix)  # by rows
    held, size, classes = matrix[rows, columns], int(matrix.sum()), len(matrix)
    by_column, same = np.argsort(columns, kind="stable"), rows == columns
    true, predicted, found = (np.zeros((RESAMPLES, classes), np.int64) for _ in range(3))
    for part, draws in _draws(held, size):
        true[part] = _sums(draws, rows, classes)
        predicted[part] = _sums(draws[:, by_column], columns[by_column], classes)
        found[part, rows[same]] = draws[:, same]
    return Counts(true=true, predicted=predicted, found=found)


def resampled_calibration(confidence: Numbers, correct: NDArray[np.bool_]) -> Numbers:
    """The calibration error [RESAMPLES] of as many predictions drawn anew; both [N].

    Predictions are drawn by cells of 1/64 of a bin, right and wrong ones apart, each with its cell's mean confidence.
    """
    fine = np.clip(np.ceil(confidence * BINS * _FINER) - 1, 0, BINS * _FINER - 1).astype(np.int64)
    cell = 2 * fine + correct
    counts, sums = np.bincount(cell), np.bincount(cell, confidence)
    held = np.flatnonzero(counts)
    gaps = held % 2 - sums[held] / counts[held]
    errors = np.empty(RESAMPLES)
    for part, draws in _draws(counts[held], len(confidence)):
        by_bin = _sums(draws * gaps, held // (2 * _FINER), BINS)
        errors[part] = np.abs(by_bin).sum(1) / len(confidence)
    return errors


def resampled_sums(columns: Numbers) -> Numbers:
    """Sums [RESAMPLES, K] over as many samples drawn anew; columns [N, K], N > 0.

    Of more than MOST_GROUPS samples every MOST_GROUPS-th are drawn together: independent samples in groups that do not
    depend on them are independent groups.
    """
    groups = min(len(columns), MOST_GROUPS)
    places = np.arange(len(columns)) % groups
    pooled = np.stack([np.bincount(places, column, groups) for column in columns.T], 1)  # [groups, K]
    rng, step = np.random.default_rng(SEED), max(1, _CELLS // groups)
    sums = np.empty((RESAMPLES, columns.shape[1]))
    for start in range(0, RESAMPLES, step):
        drawn = rng.integers(0, groups, (min(step, RESAMPLES - start), groups))
        times = np.stack([np.bincount(row, minlength=groups) for row in drawn])  # how often each is drawn
        sums[start : start + step] = times.astype(np.float64) @ pooled
    return sums


def calibration_stderr(drawn: Numbers) -> float | None:
    """Of the calibration error, from `resampled_sums` [R, 1 + BINS]: how many predictions, then their gaps by bin.

    Resamples without a prediction are left out.
    """
    held = drawn[drawn[:, 0] > 0]
    return resampled_stderr(np.abs(held[:, 1:]).sum(1) / held[:, 0])


def _draws(held: NDArray[np.int64], size: int) -> Iterator[tuple[slice, NDArray[np.int64]]]:
    """Slices of the resamples, and how many of `size` samples each draws from each cell, [resamples, cells]."""
    rng, step = np.random.default_rng(SEED), max(1, _CELLS // len(held))
    for start in range(0, RESAMPLES, step):
        part = slice(start, min(start + step, RESAMPLES))
        yield part, rng.multinomial(size, held / size, size=part.stop - start)


def _sums(values: NDArray[Any], groups: NDArray[np.int64], number: int) -> NDArray[Any]:
    """Sums [R, number] of columns by group; values [R, cells], groups [cells] rising."""
    present, starts = np.unique(groups, return_index=True)
    sums = np.zeros((len(values), number), values.dtype)
    sums[:, present] = np.add.reduceat(values, starts, axis=1)
    return sums
