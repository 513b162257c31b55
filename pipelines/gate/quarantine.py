"""Metrics of which one training is told two things: shown and not counted until they keep still."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.gate.readings import Kind, Reading, config_digest
from pipelines.gate.verdicts import Judgement

WINDOW = 10
"""Gates that are looked back on"""
CALM = 5
"""Gates with one verdict that let a metric out"""


def entry(
    judgement: Judgement, readings: Sequence[Reading], *, version: int, alpha: float, minimum: Mapping[Kind, float]
) -> dict[str, Any]:
    """What the history of a baseline keeps of a gate: the verdicts as they were before any quarantine."""
    codes = {reading.digests.get("code") for reading in readings}
    return {
        "version": version,
        "alpha": alpha,
        "minimum": dict(minimum),
        "runs": list(judgement.runs),
        "evaluations": [reading.digests["evaluation"] for reading in readings],
        "code": codes.pop() if len(codes) == 1 else None,
        "config": config_digest(readings[0]),
        "data": readings[0].digests["data"],
        "verdict": judgement.word,
        "verdicts": {each.name: each.word for each in judgement.verdicts},
    }


def quarantined(history: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """The metrics that are in quarantine after these gates, oldest first."""
    names = dict.fromkeys(name for gate in history for name in gate["verdicts"])
    return frozenset(name for name in names if _held(history, name))


def _held(history: Sequence[Mapping[str, Any]], name: str) -> bool:
    held, seen = False, list[Mapping[str, Any]]()
    for gate in history:
        if gate["verdicts"].get(name, "not comparable") == "not comparable":
            continue
        seen.append(gate)
        if held and len(seen) >= CALM and len({each["verdicts"][name] for each in seen[-CALM:]}) == 1:
            held, seen = False, seen[-1:]
        elif not held and flips(seen[-WINDOW:], name):
            held, seen = True, seen[-1:]
    return held


def flips(gates: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Whether the last gate says something else of a metric than one before it that asked the same.

    Code, configuration and data were one, seeds and luck were not. Between two codes a change of verdict is what a gate
    is for, however often it goes back and forth.
    """
    *before, last = gates
    return any(_asked(each) == _asked(last) and each["verdicts"][name] != last["verdicts"][name] for each in before)


def _asked(gate: Mapping[str, Any]) -> tuple[object, ...]:
    """What decides a verdict beside luck; a gate of unknown code, or of several, is like no other."""
    parts = [gate.get(part) for part in ("config", "data", "version", "alpha", "minimum")]
    return gate.get("code") or object(), *parts, len(gate["runs"])
