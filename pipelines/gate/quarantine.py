"""Metrics whose verdict goes back and forth: they say nothing, and are shown but not counted until they keep still."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.gate.verdicts import Judgement

WINDOW = 10
"""Gates that are looked back on"""
FLIPS = 2
"""Flips within them that put a metric into quarantine"""
CALM = 5
"""Gates with one verdict that let it out"""
_HEIGHT = {"worse": -1, "same": 0, "better": 1}


def entry(judgement: Judgement, *, version: int, evaluations: Sequence[str]) -> dict[str, Any]:
    """What the history of a baseline keeps of a gate: the verdicts as they were before any quarantine."""
    return {
        "version": version,
        "runs": list(judgement.runs),
        "evaluations": list(evaluations),
        "verdict": judgement.word,
        "verdicts": {each.name: each.word for each in judgement.verdicts},
    }


def quarantined(history: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """The metrics that are in quarantine after these gates, oldest first."""
    names = dict.fromkeys(name for gate in history for name in gate["verdicts"])
    return frozenset(name for name in names if _held(history, name))


def _held(history: Sequence[Mapping[str, Any]], name: str) -> bool:
    held, seen = False, list[tuple[int, int]]()
    for gate in history:
        height = _HEIGHT.get(gate["verdicts"].get(name, ""))
        if height is None:
            continue  # not comparable
        seen.append((gate["version"], height))
        if held and len(seen) >= CALM and len({height for _, height in seen[-CALM:]}) == 1:
            held, seen = False, seen[-1:]
        elif not held and flips(seen[-WINDOW:]) >= FLIPS:
            held, seen = True, seen[-1:]
    return held


def flips(seen: Sequence[tuple[int, int]]) -> int:
    """How often a change of verdict takes back the one before, against one version of the baseline.

    A regression and its repair are one flip: a fault that was found and mended. Two are a metric that wavers.
    """
    found, version, last, direction = 0, None, 0, 0
    for each, height in seen:
        if each != version:
            version, direction = each, 0  # the measure is another one
        elif height != last:
            turned = 1 if height > last else -1
            found += direction == -turned
            direction = turned
        last = height
    return found
