"""Watches a validation metric: which pass was the best, and when training is to end because none improves on it."""

from collections.abc import Mapping
from typing import Any

from configs.engine import BestConfig, EarlyStoppingConfig
from configs.errors import ConfigError
from configs.schema import TrainConfig


class Watch:
    """The policy of `train.early_stopping` and `train.result`.

    All ranks see the same scores in the same order, so all decide alike. What it remembers is part of a checkpoint: a
    resumed run stops where the uninterrupted one does.
    """

    def __init__(self, stopping: EarlyStoppingConfig | None, chosen_by: BestConfig | None) -> None:
        self._stopping, self._watched, self._keeps = stopping, stopping or chosen_by, chosen_by is not None
        self.best: tuple[int, float] | None = None
        """Step and value of the best pass; of equal ones the last"""
        self._mark: float | None = None  # the last value that counted as an improvement
        self._waited = 0  # passes since then

    @classmethod
    def restore(cls, config: TrainConfig, state: Mapping[str, Any]) -> "Watch":
        """A watch that goes on from what `state` gave; from the start where that is empty or of another metric."""
        watch = cls(config.early_stopping, config.chosen_by)
        if state and watch._watched and state["metric"] == [watch._watched.metric, watch._watched.better]:
            step, value = state["best"]
            watch.best, watch._mark, watch._waited = (int(step), float(value)), float(state["mark"]), state["waited"]
        return watch

    def state(self) -> dict[str, Any]:
        """All that it remembers, for JSON, where floats keep every bit; empty before the first pass."""
        if self._watched is None or self.best is None:
            return {}
        metric = [self._watched.metric, self._watched.better]
        return {"metric": metric, "best": list(self.best), "mark": self._mark, "waited": self._waited}

    def look(self, step: int, scores: Mapping[str, float]) -> bool:
        """Take in a pass over the validation split; returns whether its checkpoint may become the run's result.

        Raises ConfigError where the scores have no such metric.
        """
        if self._watched is None:
            return False
        value = self._value(scores)
        least = self._stopping.least if self._stopping else 0.0
        if self._mark is None or self._gain(value, self._mark) > least:
            self._mark, self._waited = value, 0
        else:
            self._waited += 1
        if self.best is not None and self._gain(value, self.best[1]) < 0:
            return False
        self.best = step, value  # an equal one too: whenever checkpoints are saved, the last of the best is there
        return self._keeps

    @property
    def spent(self) -> bool:
        """Whether the patience is at its end."""
        return self._stopping is not None and self._waited >= self._stopping.patience

    @property
    def best_step(self) -> int | None:
        """Of the best pass; None before the first."""
        return self.best[0] if self.best else None

    @property
    def reason(self) -> str:
        """Why training ends, once the patience is at its end."""
        assert self._stopping is not None
        assert self.best is not None
        step, value = self.best
        beyond = f" by more than {self._stopping.least:g}" if self._stopping.least else ""
        return (
            f"{self._stopping.metric} has not improved{beyond} in {self._waited} validations; "
            f"it was best at step {step}, {value:.6g}"
        )

    def _gain(self, value: float, other: float) -> float:
        """By how much a value is better than another."""
        assert self._watched is not None
        return other - value if self._watched.better == "lower" else value - other

    def _value(self, scores: Mapping[str, float]) -> float:
        assert self._watched is not None
        if self._watched.metric not in scores:
            where = "train.early_stopping" if self._stopping else "train.checkpoint.best"
            names = ", ".join(sorted(scores)) or "none, for there is no validation split"
            raise ConfigError(
                f"{where}.metric={self._watched.metric} is no metric of this run's validation; those are: {names}"
            )
        return scores[self._watched.metric]
