"""Whether two trainings are the same: pure comparisons of their events and of what `trainer.compare` says."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Event = Mapping[str, Any]


@dataclass(frozen=True)
class Curves:
    """How the steps of a training that was killed compare with those of one that was not."""

    digest: bool
    """Whether every step, repeated ones too, read the reference's samples"""
    rate: bool
    """Whether every step had the reference's learning rate"""
    loss: float
    """Largest relative difference of a loss; infinite where one is missing or no number"""
    problems: Sequence[str]
    """The first difference of each kind that is not allowed, in words"""


def steps_of(events: Iterable[Event], last: int) -> dict[int, Event]:
    """The step events up to a step; of a repeated step the last."""
    return {event["step"]: event for event in events if event.get("event") == "step" and event["step"] <= last}


def compare_curves(
    reference: Mapping[int, Event], events: Iterable[Event], *, world: int, last: int, tolerance: float
) -> Curves:
    """Every step event of a log up to `last` beside the reference's of the same step.

    While all starts so far ran on `world` ranks, the reference's number, losses must be equal to the last bit; after
    a start on another number they may differ by `tolerance`, relatively.
    """
    exact, seen = True, set[int]()
    loss, problems = 0.0, dict[str, str]()
    for event in events:
        if event.get("event") == "start":
            exact = exact and event["world"] == world
        if event.get("event") != "step" or event["step"] > last:
            continue
        step = event["step"]
        seen.add(step)
        expected = reference[step]
        if (got := event["samples_digest"]) != expected["samples_digest"]:
            problems.setdefault("digest", _say(step, "samples_digest", got[:12], expected["samples_digest"][:12]))
        for name in ending("learning_rate", expected, event):
            if event.get(name) != expected.get(name):
                problems.setdefault("rate", _say(step, name, event.get(name), expected.get(name)))
        for name in ending("loss", expected, event):
            apart = relative(event.get(name), expected.get(name))
            loss = max(loss, apart)
            if apart > (0.0 if exact else tolerance):
                problems.setdefault("loss", _say(step, name, event.get(name), expected.get(name)))
    if missing := sorted(reference.keys() - seen):
        loss = math.inf
        problems["missing"] = f"step {missing[0]} is not in the log, nor are {len(missing) - 1} more"
    return Curves("digest" not in problems, "rate" not in problems, loss, list(problems.values()))


def ending(quantity: str, *events: Event) -> list[str]:
    """The metrics of that quantity in any of the events: one a turn."""
    return list(dict.fromkeys(name for event in events for name in event if name.endswith(quantity)))


def relative(ours: float | None, theirs: float | None) -> float:
    """|a - b| over the larger of both; infinite where one is missing or no number."""
    if ours == theirs:
        return 0.0
    if ours is None or theirs is None or not (math.isfinite(ours) and math.isfinite(theirs)):
        return math.inf
    return abs(ours - theirs) / max(abs(ours), abs(theirs))


def judge_tensors(told: Mapping[str, Mapping[str, Any]], *, exact: bool, tolerance: float) -> list[str]:
    """What is wrong with the tensors of a checkpoint, by what `trainer.compare` says of them."""
    problems = []
    for kind, each in told.items():
        if each["difference"] is None:
            problems.append(f"{kind}: {each['worst']} is missing, has another shape or holds what is no number")
        elif exact and not each["equal"]:
            problems.append(f"{kind}: not bit-equal, {each['difference']:.2g} apart, most in {each['worst']}")
        elif each["difference"] > tolerance:
            problems.append(f"{kind}: {each['difference']:.2g} apart, most in {each['worst']}")
    return problems


def _say(step: int, name: str, got: object, expected: object) -> str:
    return f"step {step}: {name} is {got}, uninterrupted {expected}"
