"""What the values of folds say of the mean: folds share training samples, so they are not independent draws."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

CONFIDENCE = 0.95
ROUNDING = 1e-12
"""Values that differ by no more, as a share of the largest, are equal: what is left is that of floating point"""


@dataclass(frozen=True)
class Spread:
    """The mean over folds, and how sure it is; same unit as the values."""

    mean: float
    deviation: float
    """Standard deviation of the values, one degree of freedom taken"""
    stderr: float | None
    """None where all values are equal: such folds do not show how far others would lie"""
    interval: tuple[float, float] | None


def spread(values: Sequence[float], *, test_to_train: float) -> Spread:
    """The corrected resampled t interval of J values at 95 % (Nadeau and Bengio, 2003, section 3).

    The variance of the mean is (1 / J + test_to_train) s², test_to_train being the number of held-out samples over that
    of training samples: without the second term, which stands for the overlap of training sets, intervals are far too
    narrow. Needs two values; of equal ones there is no interval, as one without width would claim to be certain.
    """
    mean, deviation = statistics.fmean(values), statistics.stdev(values)
    if max(values) - min(values) <= ROUNDING * max(map(abs, values)):
        return Spread(mean, 0.0, None, None)
    stderr = math.sqrt(1 / len(values) + test_to_train) * deviation
    reach = float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2)) * stderr
    return Spread(mean, deviation, stderr, (mean - reach, mean + reach))
