"""Better, same, worse or not comparable: a verdict for each metric of new runs against old ones, and one over all."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from configs.metrics import Metric, unlike
from pipelines.gate.noise import Difference, by_errors, by_seeds, by_units, families, holm
from pipelines.gate.readings import Kind, Reading, kind_of

Word = Literal["better", "same", "worse", "not comparable"]
EXIT: Mapping[Word, int] = {"better": 0, "same": 0, "worse": 1, "not comparable": 2}
ALPHA = 0.01
MINIMUM: Mapping[Kind, float] = {"quality": 0.5, "speed": 5.0, "memory": 5.0, "resume": 20.0}
"""Per cent of the old value that a change must have to count"""
FLOOR = 0.1
"""Seeds are never taken to vary by less than this share of a metric's standard error: fewer agree by luck"""


@dataclass(frozen=True)
class Verdict:
    """What is said of one metric."""

    name: str
    word: Word
    reason: str
    kind: Kind = "quality"
    unit: str = ""
    ours: float | None = None
    """Mean of the new runs"""
    theirs: float | None = None
    """Mean of the old runs"""
    percent: float | None = None
    """Gain in per cent of the old value: above 0 is better"""
    chance: float | None = None
    """Corrected chance of a change as large, in its direction, where there is none"""
    blocks: bool = False
    """Whether nothing can be said of the runs as long as this is not comparable"""
    quarantined: bool = False
    """Shown and not counted"""

    @property
    def counts(self) -> bool:
        return not self.quarantined and (self.word != "not comparable" or self.blocks)


@dataclass(frozen=True)
class Judgement:
    """What is said of new runs, metric by metric."""

    baseline: str
    runs: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...] = field(default=())
    """What a reader should know beside: other configuration, no seed noise"""

    @property
    def word(self) -> Word:
        """Worse if one is; else not comparable if one that must be compared, or all, cannot be; else better or same."""
        words = {each.word for each in self.verdicts if each.counts}
        order: tuple[Word, ...] = ("worse", "not comparable", "better", "same")
        found: list[Word] = [word for word in order if word in words]
        return found[0] if found else "not comparable"

    @property
    def code(self) -> int:
        """Exit code: 0 same or better, 1 worse, 2 not comparable."""
        return EXIT[self.word]

    def record(self) -> dict[str, Any]:
        return {"verdict": self.word} | asdict(self)


def judge(
    ours: Sequence[Reading],
    theirs: Sequence[Reading],
    *,
    baseline: str,
    alpha: float = ALPHA,
    minimum: Mapping[Kind, float] = MINIMUM,
    earlier: Sequence[Sequence[Reading]] = (),
    quarantined: Iterable[str] = (),
) -> Judgement:
    """Verdicts on new runs against old ones.

    `earlier`: repeats of older versions of the baseline, of which only the spread over seeds is used. `alpha` bounds
    the chance that any metric is called worse where nothing has changed, and likewise better; `minimum` is in per cent.
    """
    names = dict.fromkeys(name for reading in (*theirs, *ours) for name in reading.metrics)
    compared: dict[str, Difference] = {}
    told: dict[str, Verdict] = {}
    for name in names:
        refusal = refuse(name, ours, theirs)
        difference = None if refusal else compare(name, ours, theirs, earlier)
        if difference is not None:
            compared[name] = difference
        else:
            told[name] = refusal or too_few(name)
    values = {name: [_value(name, run) for run in (*ours, *theirs)] for name in compared}
    family = families(values)
    gains = {name: _gain_chances(_metric(name, theirs), compared[name]) for name in compared}
    better = holm({name: up for name, (up, _) in gains.items()}, family)
    worse = holm({name: down for name, (_, down) in gains.items()}, family)
    for name, difference in compared.items():
        chances = (better[name], worse[name])
        told[name] = weigh(name, ours, theirs, difference, chances, alpha=alpha, minimum=minimum[kind_of(name)])
    held = set(quarantined)
    verdicts = tuple(replace(told[name], quarantined=name in held) for name in names)
    return Judgement(baseline, tuple(each.run for each in ours), verdicts)


def refuse(name: str, ours: Sequence[Reading], theirs: Sequence[Reading]) -> Verdict | None:
    """Why a metric cannot be compared whatever its values are; None when it can be."""
    kind = kind_of(name)
    sides = (("new", ours), ("old", theirs))
    for side, runs in sides:
        if lacking := [run.run for run in runs if name not in run.metrics]:
            blocks = kind == "quality" and side == "new"  # a metric that is new has nothing to fall behind
            return Verdict(name, "not comparable", f"{', '.join(lacking)} ({side}) has none", kind, blocks=blocks)
    reference, first = theirs[0], theirs[0].metrics[name]
    for _, runs in sides:
        for run in runs:
            metric = run.metrics[name]
            if metric.value is None:
                reason = f"undefined in {run.run}: {metric.undefined}"
                lost = kind == "quality" and any(old.metrics[name].value is not None for old in theirs)
                return Verdict(name, "not comparable", reason, kind, blocks=lost)
            if metric.protocol != first.protocol:
                parts = unlike(run.protocols[metric.protocol], reference.protocols[first.protocol])
                reason = f"unlike protocols ({run.run} and {reference.run}): {'; '.join(parts)}"
                return Verdict(name, "not comparable", reason, kind, blocks=kind == "quality")
    return None


def too_few(name: str) -> Verdict:
    reason = "too few samples: one run on each side, and neither shared units nor standard errors; run more seeds"
    return Verdict(name, "not comparable", reason, kind_of(name))


def compare(
    name: str, ours: Sequence[Reading], theirs: Sequence[Reading], earlier: Sequence[Sequence[Reading]]
) -> Difference | None:
    """The difference of a metric by the best test that the runs allow; None when there are too few of them."""
    new, old = ({run.seed: _value(name, run) for run in side} for side in (ours, theirs))
    if all(old.get(seed) == value for seed, value in new.items()):
        basis = "equal to the last bit" + (f" for each of {len(new)} seeds" if len(new) > 1 else "")
        return Difference(0.0, 0.0, math.inf, 1.0, 1.0, basis)
    metric = _metric(name, theirs)
    errors = [error for run in (*ours, *theirs) if (error := run.metrics[name].stderr) is not None]
    floor = FLOOR * float(np.mean(errors)) if errors else 0.0
    groups = _unseen(name, metric, earlier, seen={*new.items(), *old.items()})
    found = by_seeds(list(new.values()), list(old.values()), earlier=groups, floor=floor)
    if found is not None or kind_of(name) != "quality":
        return found
    change = _value(name, ours[0]) - _value(name, theirs[0])
    return _paired(name, ours[0], theirs[0]) or (by_errors(change, errors) if len(errors) == 2 else None)


def _unseen(
    name: str, like: Metric, groups: Sequence[Sequence[Reading]], *, seen: set[tuple[int, float]]
) -> list[list[float]]:
    """Values of older repeats under the metric's protocol, each once.

    A training that was stored twice, one seed with one value, tells of the noise once.
    """
    found = list[list[float]]()
    for group in groups:
        alike = {run.seed: _value(name, run) for run in group if _comparable(run.metrics.get(name), like)}
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
    total, change = float((a.sums - b.sums).sum()), _value(name, ours) - _value(name, theirs)
    slope = change / total if total else 1.0 / float(a.sizes.sum())
    return by_units(a.sums, b.sums, change=change, slope=slope)


def _gain_chances(metric: Metric, difference: Difference) -> tuple[float, float]:
    """Chances of a gain and of a loss as large where nothing has changed."""
    above, below = difference.p_above, difference.p_below
    return (above, below) if metric.better == "higher" else (below, above)


def weigh(
    name: str,
    ours: Sequence[Reading],
    theirs: Sequence[Reading],
    difference: Difference,
    chances: tuple[float, float],
    *,
    alpha: float,
    minimum: float,
) -> Verdict:
    """The verdict on a difference: a change counts when it is both beyond chance and large enough to matter."""
    metric = _metric(name, theirs)
    new, old = (float(np.mean([_value(name, run) for run in side])) for side in (ours, theirs))
    scale = 100 / abs(old) if old else math.inf
    gain = (difference.change if metric.better == "higher" else -difference.change) or 0.0
    percent = gain * scale if gain else 0.0
    chance = chances[0] if gain > 0 else chances[1]
    large, sure = abs(percent) >= minimum, chance <= alpha
    word: Word = "same" if not (large and sure) else "better" if gain > 0 else "worse"
    if not gain:
        told = "no difference"
    elif word != "same":
        told = f"{abs(percent):.2g} % {word}, chance {chance:.1g}"
    elif sure:
        told = f"{percent:+.2g} %, told from chance but under {minimum:g} %"
    else:
        told = f"{percent:+.2g} %, within chance ({chance:.2g}); {_shown(difference, alpha, scale)} would show"
    return Verdict(
        name,
        word,
        f"{told}; {difference.basis}",
        kind_of(name),
        metric.unit,
        new,
        old,
        percent if math.isfinite(percent) else None,
        chance,
    )


def _shown(difference: Difference, alpha: float, scale: float) -> str:
    visible = difference.visible(alpha) * scale
    return f"{visible:.2g} %" if math.isfinite(visible) else "any size"


def _metric(name: str, readings: Sequence[Reading]) -> Metric:
    return readings[0].metrics[name]


def _value(name: str, reading: Reading) -> float:
    value = reading.metrics[name].value
    assert value is not None, "undefined metrics are refused before"
    return value
