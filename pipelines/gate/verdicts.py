"""Better, same, worse or not comparable: a verdict for each metric of new runs against old ones, and one over all."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from configs.metrics import unlike
from pipelines.gate.evidence import Loss, compare, gain_chance, loss_of, mean_of, scale_of, value_of
from pipelines.gate.noise import Difference, families, holm
from pipelines.gate.readings import Kind, Reading, kind_of

Word = Literal["better", "same", "worse", "not comparable"]
EXIT: Mapping[Word, int] = {"better": 0, "same": 0, "worse": 1, "not comparable": 2}
ALPHA = 0.01
MINIMUM: Mapping[Kind, float] = {"quality": 0.5, "speed": 5.0, "memory": 5.0, "resume": 20.0}
"""Per cent of the old value that a change must have to count"""


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
    of_weights: bool = False,
) -> Judgement:
    """Verdicts on new runs against old ones.

    `earlier`: repeats of older versions of the baseline in the same configuration, of which only the spread over seeds
    is used. `alpha` bounds the chance that any metric is called worse where nothing has changed, and likewise better;
    `minimum` is in per cent. `of_weights`: whether two single runs are compared as the models that they are, whatever
    another seed would have made of them.
    """
    names = dict.fromkeys(name for reading in (*theirs, *ours) for name in reading.metrics)
    compared: dict[str, Difference] = {}
    losses: dict[str, Loss] = {}
    told: dict[str, Verdict] = {}
    for name in names:
        refusal = refuse(name, ours, theirs)
        difference = None if refusal else compare(name, ours, theirs, earlier, of_weights=of_weights)
        if difference is not None:
            compared[name] = difference
            losses[name] = loss_of(name, ours, theirs, earlier, difference, minimum=minimum[kind_of(name)])
        else:
            told[name] = refusal or too_few(name)
    values = {name: [value_of(name, run) for run in (*ours, *theirs)] for name in compared}
    family = families(values)
    better = holm({name: gain_chance(theirs[0].metrics[name], each) for name, each in compared.items()}, family)
    worse = holm({name: each.chance for name, each in losses.items()}, family)
    for name, difference in compared.items():
        loss = replace(losses[name], chance=worse[name])
        limits = {"alpha": alpha, "minimum": minimum[kind_of(name)]}
        told[name] = weigh(name, ours, theirs, difference, loss, gain_chance=better[name], **limits)
    return Judgement(baseline, tuple(each.run for each in ours), tuple(told[name] for name in names))


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
    reason = "too few: one run on each side, of unlike seeds or without units and standard errors; run more seeds"
    return Verdict(name, "not comparable", reason, kind_of(name))


def weigh(
    name: str,
    ours: Sequence[Reading],
    theirs: Sequence[Reading],
    difference: Difference,
    loss: Loss,
    *,
    gain_chance: float,
    alpha: float,
    minimum: float,
) -> Verdict:
    """The verdict on a difference: a change counts when it is both beyond chance and large enough to matter."""
    metric, scale = theirs[0].metrics[name], scale_of(name, theirs)
    gain = (difference.change if metric.better == "higher" else -difference.change) or 0.0
    percent = gain * scale if gain else 0.0
    word: Word = "same"
    if loss.percent >= minimum and loss.chance <= alpha:
        word = "worse"
    elif percent >= minimum and gain_chance <= alpha:
        word = "better"
    chance, tests = (loss.chance, loss.tests) if word == "worse" or gain <= 0 else (gain_chance, 1)
    if word == "worse":
        told = f"{f'{loss.run} alone is ' if loss.run else ''}{_digits(loss.percent)} % worse, chance {chance:.1g}"
    elif word == "better":
        told = f"{_digits(percent)} % better, chance {chance:.1g}"
    elif not gain:
        told = "no difference"
    elif chance <= alpha:
        told = f"{_digits(percent, '+')} %, told from chance but under {minimum:g} %"
    else:
        visible = difference.visible(alpha / tests) * scale
        would = f"{_digits(visible)} %" if math.isfinite(visible) else "any size"
        told = f"{_digits(percent, '+')} %, within chance ({chance:.2g}); {would} would show"
    new, old = (mean_of(name, side) for side in (ours, theirs))
    shown = percent if math.isfinite(percent) else None
    return Verdict(name, word, f"{told}; {difference.basis}", kind_of(name), metric.unit, new, old, shown, chance)


def _digits(percent: float, sign: str = "") -> str:
    """Two digits that count."""
    return f"{float(f'{percent:.2g}'):{sign}g}"
