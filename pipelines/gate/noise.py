"""How likely a difference is by chance: between groups of seeds, over shared units, by errors; many at once."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtr, stdtrit

FEW = 10
"""Units that differ, below which no pattern of signs is unlikely enough, so that Student's test is taken"""
ENUMERATED = 14
"""Units of which every pattern of signs is tried; of more, the distribution's normal limit is taken"""
RANKED = 5
"""Different values from which on two quantities that put all runs in one order are held for one"""


@dataclass(frozen=True)
class Difference:
    """How far new runs are from old ones, and how likely a difference as large is by chance."""

    change: float
    """New less old, in the metric's unit"""
    error: float
    """One standard error of it"""
    freedom: float
    """Degrees of freedom of the error; infinite where it is taken as known"""
    p_above: float
    """Chance of a change as high or higher where there is none"""
    p_below: float
    """Chance of a change as low or lower where there is none"""
    basis: str
    """What it was told by, in words"""

    def visible(self, alpha: float) -> float:
        """The least change that would be told from none at this level, in the metric's unit."""
        return -quantile(self.freedom, alpha) * self.error


def quantile(freedom: float, alpha: float) -> float:
    return float(ndtri(alpha) if math.isinf(freedom) else stdtrit(freedom, alpha))


def by_seeds(
    ours: Sequence[float], theirs: Sequence[float], *, earlier: Sequence[Sequence[float]] = (), floor: float = 0.0
) -> Difference | None:
    """Student's test of two groups of runs; None when no group has two runs.

    One variance is pooled over both sides and over `earlier` groups of repeats. One run on a side makes it a prediction
    interval. Pooled rather than each group's own (Welch, 1947), because both sides are repeats of nearly one training,
    and at 3 against 3 Welch's test has down to 2 degrees of freedom in place of 4. The standard deviation is never
    taken below `floor`, for few seeds may agree by luck. Seeds that both sides share are taken as independent; where
    equal seeds fare alike, the difference varies less than that.
    """
    groups = [group for group in (ours, theirs, *earlier) if len(group) > 1]
    freedom = sum(len(group) - 1 for group in groups)
    if not freedom:
        return None
    squares = sum((value - mean) ** 2 for group in groups for mean in [fmean(group)] for value in group)
    deviation = max(math.sqrt(squares / freedom), floor)
    error = deviation * math.sqrt(1 / len(ours) + 1 / len(theirs))
    return _judged(fmean(ours) - fmean(theirs), error, float(freedom), f"{len(ours)} against {len(theirs)} seeds")


def by_worst_run(
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    rising: bool,
    earlier: Sequence[Sequence[float]] = (),
    floor: float = 0.0,
) -> tuple[int, Difference, float] | None:
    """The worst of several new runs against the prediction interval by the spread of `theirs` and `earlier` alone.

    `rising`: whether higher is worse. Returns the run's place, its difference, and the chance that any of as many runs
    lies as far (Bonferroni). None for a single new run, of which `by_seeds` says it, and without repeats on that side.
    """
    if len(ours) < 2:
        return None
    values = list(ours)
    worst = values.index(max(values) if rising else min(values))
    found = by_seeds([values[worst]], theirs, earlier=earlier, floor=floor)
    if found is None:
        return None
    return worst, found, min(1.0, len(ours) * (found.p_above if rising else found.p_below))


def by_units(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], *, change: float, slope: float
) -> Difference | None:
    """Sign-flip test of paired differences (Fisher, 1935): were both models alike, each unit's sign would be a coin's.

    ours, theirs [N]: sums over the same units. `change` is the metric's own, and `slope` its change for each unit of
    sum(ours - theirs). Every pattern of signs is tried up to ENUMERATED units; beyond, the pattern's sum is taken as
    normal with its exact variance. Fewer than FEW are judged by Student's paired test instead, unless all differ
    by as much. None for fewer than two units that differ.
    """
    every = ours - theirs
    apart = every[every != 0]
    if len(apart) < 2:
        return None if change else Difference(0.0, 0.0, math.inf, 1.0, 1.0, f"{len(ours)} paired units")
    basis = f"{len(ours)} paired units, no seed noise"
    if len(apart) < FEW and (deviation := float(every.std(ddof=1))):
        return _judged(change, abs(slope) * math.sqrt(len(every)) * deviation, float(len(every) - 1), basis)
    total, spread = float(apart.sum()), float(np.sqrt(np.square(apart).sum()))
    if len(apart) <= ENUMERATED:
        signs = np.array(list(product((-1.0, 1.0), repeat=len(apart))))  # [2^N, N]
        sums, slack = signs @ np.abs(apart), 1e-12 * float(np.abs(apart).sum())
        above, below = float(np.mean(sums >= total - slack)), float(np.mean(sums <= total + slack))
    else:
        above, below = float(ndtr(-total / spread)), float(ndtr(total / spread))
    if slope < 0:
        above, below = below, above
    return Difference(change, abs(slope) * spread, math.inf, above, below, basis)


def by_errors(change: float, errors: Sequence[float], *, folds: int | None = None) -> Difference | None:
    """By the standard errors of two values as if they were independent; None when neither has one.

    Errors that come of the spread over `folds` values have folds - 1 degrees of freedom, as the smaller side would in
    Welch's test (1947); others, over many samples, are taken as known.
    """
    error = math.hypot(*errors)
    basis = "standard errors" + (f" over {folds} folds" if folds else "") + ", no seed noise"
    return _judged(change, error, float(folds - 1) if folds else math.inf, basis) if error else None


def _judged(change: float, error: float, freedom: float, basis: str) -> Difference:
    if error == 0:  # runs that agree to the last bit on either side
        return Difference(change, 0.0, freedom, float(change <= 0), float(change >= 0), basis)
    ratio = change / error
    above, below = (
        (ndtr(-ratio), ndtr(ratio)) if math.isinf(freedom) else (stdtr(freedom, -ratio), stdtr(freedom, ratio))
    )
    return Difference(change, error, freedom, float(above), float(below), basis)


def families(values: Mapping[str, Sequence[float]]) -> dict[str, int]:
    """Numbers quantities such that those which are one in other units have one number.

    By name, the values of all runs, in one order for all names. Perplexity and bits per byte rise together, accuracy
    and micro F1 tie together too: quantities that put runs of RANKED different values or more in one order, or in the
    reverse, are counted once. Which runs are new plays no part in it, so the tests stay what they are.
    """
    found: dict[tuple[int, ...], int] = {}
    numbers: dict[str, int] = {}
    for name, each in values.items():
        places = {value: place for place, value in enumerate(sorted(set(each)))}
        ranks = [places[value] for value in each]
        reverse = [len(places) - 1 - rank for rank in ranks]
        key = tuple(min(ranks, reverse)) if len(places) >= RANKED else (-1, len(numbers))
        numbers[name] = found.setdefault(key, len(found))
    return numbers


def holm(chances: Mapping[str, float], family: Mapping[str, int]) -> dict[str, float]:
    """Chances corrected for their number (Holm, 1979): at most alpha that any below alpha is there by chance alone.

    Names of one family are one hypothesis, whose chance is that of its first name: the least of theirs would be below
    alpha more often than that.
    """
    first: dict[int, str] = {}
    for name in chances:
        first.setdefault(family[name], name)
    chances = {name: chances[first[family[name]]] for name in chances}
    count, seen = len({family[name] for name in chances}), set[int]()
    corrected, highest = {}, 0.0
    for name in sorted(chances, key=lambda name: chances[name]):
        left = count - len(seen - {family[name]})
        highest = max(highest, min(1.0, chances[name] * max(1, left)))
        corrected[name] = highest
        seen.add(family[name])
    return corrected
