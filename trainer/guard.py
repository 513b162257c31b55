"""Watches losses and gradient norms for a training that runs away, and says what is to be done."""

import math
import statistics
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from configs.engine import AnomalyConfig

WINDOW, LEAST = 64, 16
"""Values that a new one is compared with: at most, and at least"""
FLOOR = 1e-3
"""Least deviation, as a share of the median: a curve that hardly moves is not yet one where every move is a spike"""
NORMAL = 1.4826
"""Standard deviations of a normal distribution in one median absolute deviation (Rousseeuw and Croux, 1993)"""
ADVICE = (
    "the last checkpoint is from before: try a lower train.optimizer.learning_rate, more warm-up or a smaller "
    "train.clip_grad_norm"
)

Action = Literal["go on", "skip", "rollback", "stop"]


@dataclass(frozen=True)
class Verdict:
    """What a step's figures call for; `skip` says that the step's update was left out."""

    action: Action
    reason: str = ""
    """Names figure, value and step; empty for `go on`"""


GO_ON = Verdict("go on")


class Guard:
    """The policy of `train.anomalies`. All ranks see the same figures in the same order, so all decide alike.

    `look` judges a step that is logged. `skips` judges a gradient norm before its update, where something is to be
    left out. What both remember is part of a checkpoint: a resumed run decides as the uninterrupted one does.

    Under a loss scale (`scaled`, fp16) a gradient that is no number is the scale's business, and no anomaly.
    """

    def __init__(self, config: AnomalyConfig, *, scaled: bool = False) -> None:
        self._config, self._scaled = config, scaled
        self._history: dict[str, deque[float]] = {}
        self._left_out: dict[int, list[str]] = {}  # reasons by step, until that step is logged
        self.spent = 0
        """Updates left out and ways back so far"""
        self.windows: list[tuple[int, int]] = []
        """Positions from the first to behind the last of the samples that ways back have passed over"""

    @classmethod
    def restore(cls, config: AnomalyConfig, state: Mapping[str, Any], *, scaled: bool = False) -> "Guard":
        """A guard that goes on from what `state` gave; from the start where that is empty."""
        guard = cls(config, scaled=scaled)
        guard._remember(state)
        guard.spent = int(state.get("spent", 0))
        return guard

    @property
    def vetoes(self) -> bool:
        """Whether `skips` is to be asked before every update; that costs the host's wait for each gradient norm."""
        return "skip" in (self._config.not_finite, self._config.spike)

    def state(self) -> dict[str, Any]:
        """All that it remembers, for JSON, where floats keep every bit; every step so far must have been looked at."""
        assert not self._left_out, "a step whose update was left out has not been logged yet"
        history = {key: list(values) for key, values in self._history.items()}
        return {"history": history, "spent": self.spent, "windows": [list(window) for window in self.windows]}

    def skips(self, norm: float, *, key: str, step: int) -> bool:
        """Whether the update with this gradient norm is to be left out; `key` and `step` are those of its log."""
        reason = self._reason_to_skip(norm, key, step)
        if reason:
            self._left_out.setdefault(step, []).append(reason)
        return reason is not None

    def look(self, step: int, figures: Mapping[str, Any]) -> Verdict:
        """Judge the figures after `step` updates: losses, gradient norms, and others that are to be numbers."""
        if reasons := self._left_out.pop(step, None):
            return self._spend("skip", "; ".join(reasons), count=len(reasons))
        if broken := dict(self._broken(figures)):
            return self._mend(step, broken, figures)
        if self._config.spike in ("stop", "rollback"):
            watched = {key: value for key, value in figures.items() if key.endswith(("/loss", "/grad_norm"))}
            finite = {key: value for key, value in watched.items() if math.isfinite(value)}
            if reason := self._spike(step, finite):
                return self._spend(self._config.spike, reason)
        return GO_ON

    def go_back(self, saved: Mapping[str, Any], *, start: int, end: int) -> None:
        """Take up a checkpoint's history after the way back to it, past the samples at positions `start` to `end`.

        What was spent stays spent.
        """
        self._left_out.clear()
        self._remember(saved)
        self.windows.append((start, end))

    def _remember(self, state: Mapping[str, Any]) -> None:
        self._history = {key: deque(values, WINDOW) for key, values in state.get("history", {}).items()}
        self.windows = [(start, end) for start, end in state.get("windows", [])]

    def _reason_to_skip(self, norm: float, key: str, step: int) -> str | None:
        if not math.isfinite(norm):
            wanted = self._config.not_finite == "skip" and not self._scaled
            return no_number(key, norm, step) if wanted else None
        return self._spike(step, {key: norm}) if self._config.spike == "skip" else None

    def _broken(self, figures: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
        for name, value in figures.items():
            excused = self._scaled and name.endswith("/grad_norm")
            if isinstance(value, float) and not math.isfinite(value) and not excused:
                yield name, value

    def _mend(self, step: int, broken: Mapping[str, float], figures: Mapping[str, Any]) -> Verdict:
        """What becomes of figures that are no numbers; an update by a gradient that is none was left out at once."""
        name, value = next(iter(broken.items()))
        reason, action = no_number(name, value, step), self._config.not_finite
        norms = [each for key, each in figures.items() if key.endswith("/grad_norm")]
        if action == "skip" and all(map(math.isfinite, norms)):
            return self._spend("stop", f"{reason}, although its gradient is finite: there is no update to leave out")
        return self._spend(action, reason)

    def _spike(self, step: int, watched: Mapping[str, float]) -> str | None:
        """What is wrong with the first value far above its history; values join it when none of the step is."""
        for key, value in watched.items():
            past = self._history.get(key, ())
            if value > (most := threshold(past, self._config.spike_deviations)):
                return (
                    f"{key} is {value:.6g} at step {step}, above {most:.6g}: the median of the last {len(past)} steps, "
                    f"{statistics.median(past):.6g}, and {self._config.spike_deviations:g} robust deviations"
                )
        for key, value in watched.items():
            self._history.setdefault(key, deque(maxlen=WINDOW)).append(value)
        return None

    def _spend(self, action: Action, reason: str, *, count: int = 1) -> Verdict:
        if action == "stop":
            return Verdict("stop", f"{reason}; {ADVICE}")
        self.spent += count
        if self.spent <= self._config.budget:
            return Verdict(action, reason)
        over = f"train.anomalies.budget={self._config.budget} is spent on updates left out and ways back"
        return Verdict("stop", f"{reason}; {over}; {ADVICE}")


def threshold(past: Sequence[float] | deque[float], deviations: float) -> float:
    """The value above which the next one is a spike: the median and robust standard deviations of finite values.

    Infinite while there are too few values, and where all were 0, which tells no scale.
    """
    if len(past) < LEAST:
        return math.inf
    median = statistics.median(past)
    spread = NORMAL * statistics.median(abs(value - median) for value in past)
    spread = max(spread, FLOOR * abs(median))
    return median + deviations * spread if spread else math.inf


def no_number(name: str, value: float, step: int) -> str:
    return f"{name} is {value} at step {step}"


def require_finite(step: int, figures: Mapping[str, Any]) -> None:
    """Raises FloatingPointError at a figure that is no number, for figures that no policy mends."""
    for name, value in figures.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise FloatingPointError(f"{no_number(name, value, step)}; {ADVICE}")
