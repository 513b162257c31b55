"""Metrics of which now this is told and now that: shown and not counted until they keep still."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from pipelines.gate.readings import Kind, Reading, config_digest
from pipelines.gate.verdicts import Judgement

WINDOW = 10
"""Gates that are looked back on"""
TURNS = 3
"""Changes of verdict in them, whatever the code, that are no longer a regression and its mending"""
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
    """Whether the last gate contradicts one before it, or the metric has changed its verdict TURNS times.

    A gate contradicts another that asked the same: code, configuration and data were one, seeds and luck were not. A
    change between two codes is what a gate is for, and a second one that takes it back too; a third is noise.
    """
    *before, last = gates
    if any(_asked(each) == _asked(last) and each["verdicts"][name] != last["verdicts"][name] for each in before):
        return True
    words = [each["verdicts"][name] for each in gates if _held_against(each) == _held_against(last)]
    return sum(one != other for one, other in pairwise(words)) >= TURNS


def _held_against(gate: Mapping[str, Any]) -> tuple[object, ...]:
    """What new runs were compared with, and how strictly."""
    return tuple(gate.get(part) for part in ("version", "alpha", "minimum"))


def _asked(gate: Mapping[str, Any]) -> tuple[object, ...]:
    """What decides a verdict beside luck; a gate of unknown code, or of several, is like no other."""
    parts = [gate.get(part) for part in ("config", "data")]
    return gate.get("code") or object(), *parts, *_held_against(gate), len(gate["runs"])
