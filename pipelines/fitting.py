"""Whether a training has learned too much or too little: its loss beside that of the validation split."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.series import NONE, Series

TRAIN, VALIDATION = "train/loss", "validation/loss"
LEAST = 6
"""Passes over the validation split below which nothing is told"""
SURE = 4.0
"""Standard errors that make a change; of many stretches the lowest is looked for, so two would be too few"""
CHANGE = 0.005
"""Least change that is told, as a share of the loss: a curve without noise has no standard error"""
NORMAL = 1.4826
"""Standard deviations of a normal distribution in one median absolute deviation (Rousseeuw and Croux, 1993)"""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Fit:
    """What the curves of a training say."""

    kind: Literal["overfitting", "still learning"]
    step: int | None
    """Where validation was best, to be marked in the chart; None where the end is"""
    sentence: str


def judge_fit(series: Mapping[str, Series]) -> Fit | None:
    """Compare the last third of a training with its best stretch; None where there is nothing to tell.

    Overfitting: validation has risen by more than its noise since its best stretch, while training fell. Still
    learning: both still fall at the end. Training's loss is that of single batches, so between two passes over the
    validation split it is averaged; a training with fewer than LEAST passes is not judged.
    """
    validation, train = series.get(VALIDATION, NONE).known, series.get(TRAIN, NONE).known
    steps, theirs = validation.steps, validation.numbers
    ours = averaged(train, steps)
    if len(steps) < LEAST or ours is None:
        return None
    width = len(steps) // 3
    means, end = moving_means(theirs, width), ours[-width:].mean()
    best = int(means.argmin())
    rise, fall = means[-1] - means[best], moving_means(ours, width)[best] - end
    errors = (2 / width) ** 0.5  # of the difference of two means, in standard deviations of one value
    if rise > threshold(theirs, errors) and fall > threshold(ours, errors):
        step = int(steps[int(theirs.argmin())])
        return Fit(
            "overfitting",
            step,
            f"Overfitting since step {step:,}: {VALIDATION} was best there and has risen by {rise / means[best]:.1%} "
            f"since its best stretch, while {TRAIN} fell by {fall / (end + fall):.1%}.",
        )
    slopes = [trend(each[-width:]) for each in (theirs, ours)]
    errors = (12 * (width - 1) / (width * (width + 1))) ** 0.5  # of a least-squares line's rise, likewise
    if all(-slope > threshold(each, errors) for slope, each in zip(slopes, (theirs, ours), strict=True)):
        share = -slopes[0] / theirs[-width:].mean()
        return Fit(
            "still learning",
            None,
            f"Still learning: {VALIDATION} fell by {share:.1%} over the last third of the steps, and {TRAIN} with it; "
            "more steps may help.",
        )
    return None


def averaged(train: Series, steps: Array) -> Array | None:
    """The mean training loss of the steps up to each of `steps` and after the one before; None where some has none."""
    if not len(train) or not len(steps):
        return None
    ends = np.searchsorted(train.steps, steps, side="right")
    begins = np.concatenate([[0], ends[:-1]])
    if (ends <= begins).any():
        return None
    sums = np.concatenate([[0.0], np.cumsum(train.numbers)])
    return (sums[ends] - sums[begins]) / (ends - begins)


def moving_means(values: Array, width: int) -> Array:
    """The mean of every `width` values in a row."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return (sums[width:] - sums[:-width]) / width


def noise(values: Array) -> float:
    """The standard deviation of a curve around its course, from second differences (Gasser et al., 1986), robustly."""
    bends = values[:-2] - 2 * values[1:-1] + values[2:]
    return NORMAL * float(np.median(np.abs(bends))) / 6**0.5  # 6 = 1 + 4 + 1: the variance of a bend over a value's


def threshold(values: Array, errors: float) -> float:
    """The least change that is told, whose standard error is `errors` standard deviations of one value."""
    return max(SURE * errors * noise(values), CHANGE * abs(float(values.mean())))


def trend(values: Array) -> float:
    """By how much a straight line through the values rises from the first to the last (least squares)."""
    places = np.arange(len(values), dtype=np.float64)
    return float(np.polyfit(places, values, 1)[0]) * (len(values) - 1)
