"""Steps that are done but not yet logged: their figures stay on the device until one exchange for all of them."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from trainer.distributed import World
from trainer.guard import Guard
from trainer.meter import Meter
from trainer.tracker import Tracker


class RunawayError(Exception):
    """Training has run away, and is to go back to the last checkpoint."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(reason)
        self.position = position


@dataclass
class Recorder:
    """All ranks see the same figures, so what the guard makes of them is the same everywhere."""

    world: World
    tracker: Tracker
    guard: Guard
    meter: Meter
    samples_per_s: float = 0.0
    """Of the last flush"""
    steps: list[tuple[int, dict[str, Tensor], dict[str, Any]]] = field(default_factory=list)
    last: dict[str, Any] = field(default_factory=dict)
    """Figures of the last logged step"""

    def add(self, step: int, sums: dict[str, Tensor], known: dict[str, Any]) -> None:
        """Figures after `step` updates: this rank's parts of sums, and what every rank knows."""
        self.steps.append((step, sums, known))

    def flush(self) -> None:
        """Log every pending step. Raises FloatingPointError or RunawayError as the guard decides."""
        if not self.steps:
            return
        names = list(self.steps[0][1])
        local = torch.stack([torch.stack([sums[name] for name in names]) for _, sums, _ in self.steps])
        totals = self.world.sum(local).tolist()  # [steps, names]
        pending, self.steps = self.steps, []
        speed = self.meter.figures(len(pending))
        self.samples_per_s = speed["train/samples_per_s"]
        pending[-1][2].update(speed)
        with self.tracker.together():
            for (step, _, known), values in zip(pending, totals, strict=True):
                self.last = dict(zip(names, values, strict=True)) | {
                    name: value.item() if isinstance(value, Tensor) else value for name, value in known.items()
                }
                self._judge(step)
                self.tracker.log(step, {name: value for name, value in self.last.items() if is_number(value)})
            self.tell_time(pending[-1][0])

    def tell_time(self, step: int) -> None:
        """What the time since the last call was spent on."""
        for kind, seconds in self.meter.spans().items():
            self.tracker.event("span", kind=kind, seconds=round(seconds, 3), step=step)

    def _judge(self, step: int) -> None:
        verdict = self.guard.look(step, self.last)
        if verdict.action == "go on":
            return
        self.tracker.event("anomaly", step=step, reason=verdict.reason, action=verdict.action)
        if verdict.action == "rollback":
            raise RunawayError(self.last["position"], verdict.reason)
        if verdict.action == "stop":
            raise FloatingPointError(verdict.reason)


def is_number(value: Any) -> bool:
    """JSON knows neither infinity nor NaN: such a figure stands in the event of its anomaly."""
    return not isinstance(value, float) or math.isfinite(value)
