"""A metric is a value with its error, its size and the protocol that produced it; what an evaluation left of them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from configs.errors import DamageError
from configs.folder import RunFolder, digest
from configs.stages import read_metrics


class _Nothing:
    def __str__(self) -> str:
        return "nothing"


_NOTHING = _Nothing()
"""In place of a part that a protocol does not have: None may be what it says"""


@dataclass(frozen=True)
class Metric:
    """One line of metrics.json: a number, or the reason why there is none."""

    name: str
    value: float | None
    stderr: float | None
    """One standard error of the value, same unit"""
    n: int
    """What it was taken over: tokens, images"""
    unit: str
    better: Literal["lower", "higher"]
    protocol: str
    """Id of the protocol it was taken under: values under unlike protocols must not be compared"""
    interval: tuple[float, float] | None = None
    """Where the value lies with 95 % confidence, same unit"""
    undefined: str | None = None
    """Why there is no value"""

    def __post_init__(self) -> None:
        if (self.value is None) == (self.undefined is None):
            raise ValueError(f"{self.name} must have either a value or a reason for having none")
        numbers = (self.value, self.stderr, *(self.interval or ()))
        if any(number is not None and not math.isfinite(number) for number in numbers):
            raise ValueError(f"{self.name} = {self.value} ± {self.stderr} {self.interval or ''}: give a reason instead")


@dataclass(frozen=True)
class Evaluation:
    """metrics.json, read."""

    checkpoint: str
    """Digest of what was scored"""
    data: str
    digest: str
    metrics: Mapping[str, Metric]
    """By name"""
    protocols: Mapping[str, Mapping[str, Any]]
    """By id"""


def protocol_id(protocol: Mapping[str, Any]) -> str:
    """Sixteen hex digits of the digest of everything that changes the number."""
    return digest(dict(protocol))[:16]


def unlike(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """The parts in which two protocols differ, in words: `features.resize: clean and legacy`; none when they are one"""
    lines = []
    for part in dict.fromkeys([*ours, *theirs]):
        one, other = (each.get(part, _NOTHING) for each in (ours, theirs))
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            lines += [f"{part}.{line}" for line in unlike(one, other)]
        elif one is _NOTHING or other is _NOTHING or digest(one) != digest(other):
            lines.append(f"{part}: {one} and {other}")
    return lines


def read_evaluation(folder: RunFolder) -> Evaluation:
    """What a run's evaluation left. Raises DamageError when it is not as it was written, or not there."""
    record = read_metrics(folder)
    known = {field.name for field in fields(Metric)}
    try:
        metrics = [Metric(**{key: _plain(each[key]) for key in each if key in known}) for each in record["metrics"]]
        return Evaluation(
            checkpoint=record["checkpoint"],
            data=record["data"],
            digest=record["digest"],
            metrics={metric.name: metric for metric in metrics},
            protocols=record["protocols"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DamageError(f"{folder.metrics} is of another version: {error!r}; evaluate again") from None


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
