"""Which checkpoints stay, and how one goes."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from configs.engine import BestConfig, CheckpointConfig
from configs.stages import step_folder, steps_in
from data.progress import say


class Retention:
    """Keeps the newest checkpoints, those of every so many steps, and those with the best of a metric."""

    def __init__(self, root: Path, config: CheckpointConfig) -> None:
        self.root, self.config = root, config
        self._told = False

    def apply(self, newest: int) -> None:
        """Remove what need not stay beside the step `newest`, which was just saved.

        Later ones were found damaged, or training would be there.
        """
        steps = steps_in(self.root)
        metrics = {step: read_metrics(step_folder(self.root, step)) for step in steps if step <= newest}
        committed = {step: found for step, found in metrics.items() if found is not None}
        doomed = set(steps) - survivors(committed, self.config)
        best = self.config.best
        there = sorted(set().union(*committed.values()))
        scored = any(name.startswith("validation/") for name in there)  # before that, nothing can be told
        if best and scored and best.metric not in there and not self._told:
            self._told = True
            names = ", ".join(there)
            say("train", f"train.checkpoint.best.metric={best.metric} is in no checkpoint; the metrics there: {names}")
        for step in doomed:
            remove(step_folder(self.root, step))


def survivors(metrics: Mapping[int, Mapping[str, float]], config: CheckpointConfig) -> set[int]:
    """The steps that stay, of committed checkpoints with these metrics. The newest always does."""
    kept = set(sorted(metrics, reverse=True)[: config.keep])
    if config.permanent_every_steps is not None:
        kept |= {step for step in metrics if step % config.permanent_every_steps == 0}
    return kept | (best_of(metrics, config.best) if config.best else set())


def best_of(metrics: Mapping[int, Mapping[str, float]], best: BestConfig) -> set[int]:
    """The steps with the best values of the metric; of equal ones the later."""
    sign = 1.0 if best.better == "lower" else -1.0
    scored = [(sign * found[best.metric], -step) for step, found in metrics.items() if best.metric in found]
    return {-step for _, step in sorted(scored)[: best.count]}


def read_metrics(folder: Path) -> Mapping[str, float] | None:
    """What a checkpoint scored; None where its record cannot be read."""
    try:
        return json.loads((folder / "complete.json").read_text(encoding="utf-8"))["metrics"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remove(folder: Path) -> None:
    """Out of sight in one rename, then deleted: a kill in between leaves no half a checkpoint under its name."""
    doomed = folder.with_name(folder.name + ".old.part")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed)
