"""Where a run stands, told fast: from the end of its log, its locks and its records, whatever they are like."""

import contextlib
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from configs.errors import DamageError
from configs.events import VERSION, Event, decode, version_of
from configs.folder import RunFolder
from configs.stages import chosen_step, read_metrics, read_record, step_folder
from pipelines.diagnosis.logs import read_start
from pipelines.diagnosis.remains import holder, read_incidents
from pipelines.diagnosis.verdict import RECENT_S
from pipelines.diagnosis.words import flat
from pipelines.readout import Metric, Scores, has_value

RUNNING, COMPLETED, DAMAGED = "running", "completed", "damaged"
TAIL_BYTES = 1 << 16
"""Of a log: its last events say how it stands"""

DEEPEST = 50
"""Levels of a run.yaml; ours have ten"""


@dataclass(frozen=True)
class Standing:
    """A run in a line."""

    name: str
    folder: RunFolder
    state: str
    """running, completed, stopped, failed, cut off, not evaluated, not trained, not prepared or damaged"""
    stage: str = ""
    """Which one that is about"""
    step: int | None = None
    steps: int | None = None
    """Updates in all"""
    metric: Metric | None = None
    """The first of the headline metrics"""
    seen: float = 0.0
    """Seconds since 1970 of its last sign of life; 0 where it left none"""
    why: str = ""
    """It stopped, failed or is damaged"""
    folds: tuple["Standing", ...] = ()
    """Of a cross-validation, those that have begun"""
    fold_count: int = 0


@dataclass(frozen=True)
class Plan:
    """What run.yaml says of a run's extent; it may be of another version."""

    steps: int | None = None
    folds: int = 0
    """0 for a run that is one training"""


@dataclass
class _End:
    """The last events of a log."""

    there: bool = False
    step: int | None = None
    seen: float = 0.0
    status: str | None = None
    reason: str = ""
    damaged: str = ""
    last: dict[str, Any] = field(default_factory=dict)

    def add(self, event: Event) -> None:
        """Take in the next event."""
        self.seen = max(self.seen, _number(event.get("time")))
        if event.get("event") != "checkpoint" and isinstance(event.get("step"), int):
            self.step = event["step"]
        match event.get("event"):
            case "start":
                self.status, self.reason = None, ""
            case "stop" | "failure":
                self.reason = str(event.get("reason") or "")
            case "finish":
                self.status = str(event.get("status"))


def read_standing(folder: RunFolder) -> Standing:
    """Where a run stands. Raises nothing: what cannot be read is its state."""
    name = folder.path.name
    try:
        plan = read_plan(folder.config)
        return _crossed(name, folder, plan) if plan.folds else _single(name, folder, plan)
    except (DamageError, OSError, TypeError, KeyError, ValueError, AttributeError) as error:
        why = (
            str(error) if isinstance(error, DamageError | OSError | ValueError) else f"a record is no record: {error!r}"
        )
        return Standing(name, folder, DAMAGED, seen=_newest(folder), why=flat(why))


def read_plan(config: Path) -> Plan:
    """The extent of a run by its run.yaml, without its schema. Raises DamageError where it is no configuration."""
    import yaml

    try:
        content, loader = config.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        depth = 0
        for event in yaml.parse(content, loader):  # the C loader does not outlive what is nested without end
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise ValueError("it is nested too deeply")
        tree = yaml.load(content, loader)  # noqa: S506  both are safe
        steps, splits = tree["train"]["steps"], tree.get("data", {}).get("splits", {})
        folds = splits.get("folds") or {}
        crossed = folds and folds.get("held_out") is None
        return Plan(int(steps), folds["count"] * folds.get("repeats", 1) if crossed else 0)
    except FileNotFoundError:
        raise DamageError(f"{config} is missing") from None
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DamageError(f"{config} is no configuration of a run: {flat(str(error))}") from None


def _single(name: str, folder: RunFolder, plan: Plan) -> Standing:
    end = read_end(folder.events)
    found = Standing(name, folder, "", "train", end.step, plan.steps, seen=max(end.seen, _newest(folder)))
    if stage := working(folder, found.seen):
        return replace(found, state=RUNNING, stage=stage)
    if end.damaged:
        return replace(found, state=DAMAGED, why=end.damaged)
    if folder.metrics.is_file():
        metrics = read_metrics(folder)
        if metrics.get("checkpoint") == _checkpoint(folder):
            return replace(found, state=COMPLETED, stage="evaluate", metric=headline(metrics))
    return replace(found, **_unfinished(folder, end))


def _unfinished(folder: RunFolder, end: _End) -> dict[str, str]:
    """State, stage and reason of a run at which nobody works."""
    if end.status == "completed":
        return _failed("evaluate", folder) or {"state": "not evaluated", "stage": "evaluate"}
    if end.status:
        return {"state": end.status, "why": flat(end.reason)}
    if end.there:
        cut = {"state": "cut off", "why": "its log has no end; `trainworks diagnose` may know why"}
        return _failed("train", folder) or cut
    if folder.manifest.is_file():
        read_record(folder.manifest)
        return _failed("train", folder) or {"state": "not trained", "stage": "train"}
    return _failed("prepare", folder) or {"state": "not prepared", "stage": "prepare"}


def _failed(stage: str, folder: RunFolder) -> dict[str, str] | None:
    """The failure in which the last start of a stage ended, by its own word or by the node agent's."""
    start = read_start(folder.log(stage))
    reason = "" if start.went_on or not start.failures else start.failures[-1].reason
    if not reason and (incidents := read_incidents(folder.stage_events(stage).parent / "incidents")):
        reason = "" if incidents[-1].restarted else incidents[-1].reason
    return {"state": "failed", "stage": stage, "why": flat(reason)} if reason else None


def _crossed(name: str, folder: RunFolder, plan: Plan) -> Standing:
    """A cross-validation by its folds; those that have not begun have no folder."""
    inside = sorted(path for path in folder.folds.glob("*-*") if path.is_dir())
    folds = tuple(read_standing(RunFolder(path)) for path in inside)
    done = sum(fold.state == COMPLETED for fold in folds)
    found = Standing(name, folder, "", folds=folds, fold_count=plan.folds)
    found = replace(found, seen=max([_newest(folder), *(fold.seen for fold in folds)]))
    for state in (RUNNING, DAMAGED, "failed", "stopped", "cut off"):
        if first := next((fold for fold in folds if fold.state == state), None):
            return replace(found, state=state, stage=first.stage, why=first.why and f"fold {first.name}: {first.why}")
    if stage := working(folder, found.seen):
        return replace(found, state=RUNNING, stage=stage)
    if done < plan.folds:
        begun = "not trained" if folder.manifest.is_file() else "not prepared"
        return replace(found, state="not evaluated" if folds else begun)
    if not folder.metrics.is_file():
        return replace(found, state="not evaluated", stage="evaluate", why="not collected from all folds")
    return replace(found, state=COMPLETED, stage="evaluate", metric=headline(read_metrics(folder)))


def read_end(path: Path) -> _End:
    """How a log ends; of a long one its last bytes alone are read."""
    end = _End()
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            file.seek(max(0, size - TAIL_BYTES))
            lines = file.read(TAIL_BYTES).split(b"\n")[:-1]  # the last is torn, or empty
    except OSError:
        return end
    version = version_of(path)
    end.there = True
    if version > VERSION:
        end.damaged = f"{path} is of version {version}; this program reads versions up to {VERSION}"
        return end
    lines = lines[1:] if size > TAIL_BYTES else lines  # the first is a part of one
    bad = 0
    for line in lines:
        event = decode(line + b"\n", checked=version > 0)
        end.add(event)
        bad += not event
    if bad and bad == len(lines):
        end.damaged = f"{path} holds no event that can be read"
    return end


def working(folder: RunFolder, seen: float) -> str:
    """The stage at which a living process works; empty where none does."""
    for stage in ("evaluate", "train", "prepare"):
        home = folder.stage_events(stage).parent
        held = holder(home)
        unasked = held is None and (home / ".lock").exists()  # another machine's lock cannot be asked everywhere
        if held or (unasked and time.time() - seen < RECENT_S):
            return stage
    return ""


def headline(metrics: Mapping[str, Any]) -> Metric | None:
    """The metric that is shown first; None where none has a value."""
    scores = Scores.of(metrics["metrics"])
    first = next((scores.model[quantity] for quantity in scores.headlines), None)
    return first if first and has_value(first) else None


def _checkpoint(folder: RunFolder) -> str | None:
    """The digest of the checkpoint that stands for the run."""
    step = chosen_step(folder.train)
    record = None if step is None else read_record(step_folder(folder.train, step) / "complete.json")
    return record.get("digest") if record else None


def _newest(folder: RunFolder) -> float:
    """When any of what a stage leaves was written last."""
    places = [folder.logs, folder.manifest, folder.train, folder.events, folder.metrics, folder.config]
    found = [0.0]
    for path in places:
        with contextlib.suppress(OSError):
            found.append(os.stat(path).st_mtime)
    return max(found)


def _number(value: Any) -> float:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value < 1e11
    return float(value) if good else 0.0
