"""What the stages left in a run folder, read for a page."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from configs.errors import DamageError
from configs.folder import RunFolder, digest
from configs.folds import cross_validates, fold_names
from configs.load import read
from configs.schema import RunConfig
from configs.stages import chosen_step, read_metrics, read_record, step_folder
from pipelines.fitting import Fit, judge_fit
from pipelines.gate.verdicts import Judgement, Verdict
from pipelines.goodput import Goodput
from pipelines.history import History, read_history
from pipelines.readout import Scores
from pipelines.tracking.verdicts import GATE

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Traces:
    """What the stages left in a run folder; None or empty where a stage has not been."""

    folder: RunFolder
    run: RunConfig | None
    manifest: Record | None
    history: History
    checkpoint: Record | None
    """complete.json of the checkpoint that is the result, or of the newest while it trains"""
    evaluation: Record | None
    samples: list[Record]
    figures: list[Record]
    cost: Record | None
    """Of a cross-validation, what its first fold measured"""
    folds: Mapping[str, "Traces"]
    """Those of a cross-validation, by name"""
    gate: Judgement | None
    """What the nightly or `trainworks gate RUN --json RUN/gate.json` left"""

    @cached_property
    def scores(self) -> Scores:
        return Scores.of(self.evaluation["metrics"] if self.evaluation else [])

    @cached_property
    def account(self) -> Goodput | None:
        """Where the time of the training went; None where its log does not tell."""
        return self.history.ledger.result()

    @cached_property
    def fit(self) -> Fit | None:
        """Whether it has learned too much or too little; None where there is nothing to tell."""
        return judge_fit(self.history.series)

    @property
    def evaluated(self) -> bool:
        """Whether the metrics are those of the result: of its checkpoint, or of all folds as they are."""
        if not self.evaluation:
            return False
        if self.folds:
            own = {name: fold.evaluation.get("digest") for name, fold in self.folds.items() if fold.evaluation}
            return self.evaluation.get("folds") == own
        return bool(self.checkpoint and self.evaluation["checkpoint"] == self.checkpoint["digest"])


def read_traces(folder: RunFolder) -> Traces:
    """Everything that a page shows. Raises ConfigError or DamageError when a stage's record cannot be read."""
    run = read(folder.config) if folder.config.exists() else None
    step = chosen_step(folder.train)
    result = None if step is None else step_folder(folder.train, step) / "complete.json"
    crossed = fold_names(run) if run and cross_validates(run) else []
    return Traces(
        folder=folder,
        run=run,
        manifest=read_record(folder.manifest) if folder.manifest.exists() else None,
        history=read_history(folder.events),
        checkpoint=read_record(result) if result and result.exists() else None,
        evaluation=read_metrics(folder) if folder.metrics.exists() else None,
        samples=_read_list(folder.samples),
        figures=_read_list(folder.figures),
        cost=read_record(folder.cost) if folder.cost.exists() else None,
        folds={name: read_traces(folder.fold(name)) for name in crossed},
        gate=_read_gate(folder.path / GATE),
    )


def _read_gate(path: Path) -> Judgement | None:
    if not path.exists():
        return None
    record = read_record(path)
    try:
        verdicts = tuple(Verdict(**each) for each in record["verdicts"])
        return Judgement(record["baseline"], tuple(record["runs"]), verdicts, tuple(record["notes"]))
    except (KeyError, TypeError) as error:
        raise DamageError(f"{path} is no verdict of this version: {error!r}; gate the run again") from None


def _read_list(path: Path) -> list[Record]:
    if not path.exists():
        return []
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamageError(f"{path} cannot be read: {error}; remove it and evaluate again") from None


def state(traces: Traces) -> str:
    """How far the run has come."""
    if traces.folds:
        return _state_of_folds(traces)
    history = traces.history
    if history.status is None and history.begun is not None:
        return "in training, or ended without a word: the log has no end"
    if history.status in ("stopped", "failed"):
        return f"{history.status}: {history.reason or 'no reason was given'}"
    if traces.evaluated:
        return "completed: prepared, trained and evaluated"
    if history.status or traces.checkpoint:
        return "trained; not evaluated yet"
    return "prepared; not trained yet" if traces.manifest else "nothing is prepared yet"


def _state_of_folds(traces: Traces) -> str:
    done, count = sum(fold.evaluated for fold in traces.folds.values()), len(traces.folds)
    if done == count:
        return f"completed: {count} folds trained and evaluated" if traces.evaluated else "not collected from all folds"
    return f"{done} of {count} folds trained and evaluated"


def count_parameters(traces: Traces) -> int | None:
    """Numbers in the checkpoint's weights, by the files' headers; None without a readable one."""
    if traces.folds:
        return count_parameters(next(iter(traces.folds.values())))
    if traces.checkpoint is None:
        return None
    total = 0
    try:
        for path in step_folder(traces.folder.train, traces.checkpoint["step"]).glob("*.weights.rank-*.safetensors"):
            with safe_open(path, framework="numpy") as file:
                total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    except (OSError, SafetensorError):
        return None
    return total or None


def own_digest(evaluation: Record) -> str:
    """Digest of an evaluation's metrics and protocols alone."""
    return digest({"metrics": evaluation["metrics"], "protocols": evaluation["protocols"]})
