"""What the readings of new and of old runs say of one metric: the tests that they allow, and their chances."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from configs.metrics import Metric
from pipelines.gate.noise import Difference, by_errors, by_seeds, by_units, by_worst_run
from pipelines.gate.readings import Reading, kind_of

FLOOR = 0.1
"""Seeds are never taken to vary by less than this share of a metric's standard error: fewer agree by luck"""


@dataclass(frozen=True)
class Loss:
    """A loss of the mean, or of one run alone, and how likely one as large is where nothing has changed."""

    chance: float
    percent: float
    """Of the old value: above 0 is worse"""
    tests: int = 1
    """How many tests share the level"""
    run: str | None = None
    """The run that it is of; None for the mean"""


def compare(
    name: str,
    ours: Sequence[Reading],
    theirs: Sequence[Reading],
    earlier: Sequence[Sequence[Reading]],
    *,
    of_weights: bool = False,
) -> Difference | None:
    """The difference of a metric by the best test that the runs allow; None when there are too few of them.

    A test over samples tells two models apart, and not what a training reaches: two trainings of unlike seeds are held
    against each other so only when asked `of_weights`, these and no others.
    """
    new, old = ({run.seed: value_of(name, run) for run in side} for side in (ours, theirs))
    if all(old.get(seed) == value for seed, value in new.items()):
        basis = "equal to the last bit" + (f" for each of {len(new)} seeds" if len(new) > 1 else "")
        return Difference(0.0, 0.0, math.inf, 1.0, 1.0, basis)
    groups = _unseen(name, ours, theirs, earlier)
    found = by_seeds(list(new.values()), list(old.values()), earlier=groups, floor=_floor(name, (*ours, *theirs)))
    if found is not None or kind_of(name) != "quality":
        return found
    if not (of_weights or ours[0].seed == theirs[0].seed or _scored_alike(ours[0], theirs[0])):
        return None
    paired, errors = _paired(name, ours[0], theirs[0]), _errors(name, (ours[0], theirs[0]))
    if paired or len(errors) < 2:
        return paired
    change = value_of(name, ours[0]) - value_of(name, theirs[0])
    return by_errors(change, errors, folds=_folds(name, theirs[0]))


def _scored_alike(ours: Reading, theirs: Reading) -> bool:
    """Whether one checkpoint was evaluated twice."""
    return ours.digests["checkpoint"] == theirs.digests["checkpoint"]


def gain_chance(metric: Metric, difference: Difference) -> float:
    """Chance of a gain as large where nothing has changed."""
    return difference.p_above if metric.better == "higher" else difference.p_below


def loss_of(
    name: str,
    ours: Sequence[Reading],
    theirs: Sequence[Reading],
    earlier: Sequence[Sequence[Reading]],
    difference: Difference,
    *,
    minimum: float,
) -> Loss:
    """The least likely of two losses by chance: that of the mean and, of several new runs, that of the worst one alone.

    Seeds that blow up hide in the mean, as they widen its error. Each of the two tests has half the level, and is
    passed over while its own loss is below `minimum`, in per cent, unless both are.
    """
    rising, scale = theirs[0].metrics[name].better == "lower", scale_of(name, theirs)
    chance = difference.p_above if rising else difference.p_below
    of_mean = _percent_lost(difference.change, scale, rising=rising)
    new, old = ([value_of(name, run) for run in side] for side in (ours, theirs))
    groups = _unseen(name, ours, theirs, earlier)
    worst = by_worst_run(new, old, rising=rising, earlier=groups, floor=_floor(name, theirs))
    if worst is None or not difference.error:  # equal runs, or groups that each agree to the last bit
        return Loss(chance, of_mean)
    place, alone, chance_alone = worst
    of_run = _percent_lost(alone.change, scale, rising=rising)
    mean = Loss(min(1.0, 2 * chance), of_mean, tests=2)
    run = Loss(min(1.0, 2 * chance_alone), of_run, tests=2, run=ours[place].run)
    large = [loss for loss in (mean, run) if loss.percent >= minimum]
    return min(large or [mean], key=lambda loss: loss.chance)


def scale_of(name: str, theirs: Sequence[Reading]) -> float:
    """What a change in the metric's unit is times, to be in per cent of the old value."""
    old = mean_of(name, theirs)
    return 100 / abs(old) if old else math.inf


def mean_of(name: str, readings: Sequence[Reading]) -> float:
    return fmean(value_of(name, run) for run in readings)


def value_of(name: str, reading: Reading) -> float:
    value = reading.metrics[name].value
    assert value is not None, "undefined metrics are refused before"
    return value


def _percent_lost(change: float, scale: float, *, rising: bool) -> float:
    lost = change if rising else -change
    return lost * scale if lost else 0.0


def _floor(name: str, readings: Iterable[Reading]) -> float:
    """The least standard deviation over seeds that is believed."""
    errors = _errors(name, readings)
    return FLOOR * fmean(errors) if errors else 0.0


def _errors(name: str, readings: Iterable[Reading]) -> list[float]:
    return [error for run in readings if (error := run.metrics[name].stderr) is not None]


def _folds(name: str, reading: Reading) -> int | None:
    """Of how many values the error comes, where it comes of the folds of a cross-validation."""
    protocol = reading.protocols[reading.metrics[name].protocol]
    return protocol["folds"] * protocol["repeats"] if "folds" in protocol else None


def _unseen(
    name: str, ours: Sequence[Reading], theirs: Sequence[Reading], earlier: Sequence[Sequence[Reading]]
) -> list[list[float]]:
    """Values of older repeats under the metric's protocol, each once.

    A training that was stored twice, one seed with one value, tells of the noise once.
    """
    like, found = theirs[0].metrics[name], list[list[float]]()
    seen = {(run.seed, value_of(name, run)) for run in (*ours, *theirs)}
    for group in earlier:
        alike = {run.seed: value_of(name, run) for run in group if _comparable(run.metrics.get(name), like)}
        found.append([value for seed, value in alike.items() if (seed, value) not in seen])
        seen |= set(alike.items())
    return found


def _comparable(metric: Metric | None, like: Metric) -> bool:
    return metric is not None and metric.value is not None and metric.protocol == like.protocol


def _paired(name: str, ours: Reading, theirs: Reading) -> Difference | None:
    """By units that both runs were scored on; None when they are not the same ones."""
    a, b = ours.units.get(name), theirs.units.get(name)
    if a is None or b is None or not np.array_equal(a.ids, b.ids) or not np.array_equal(a.sizes, b.sizes):
        return None
    total, change = float((a.sums - b.sums).sum()), value_of(name, ours) - value_of(name, theirs)
    slope = change / total if total else 1.0 / float(a.sizes.sum())
    return by_units(a.sums, b.sums, change=change, slope=slope)
