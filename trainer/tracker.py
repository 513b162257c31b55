"""What a stage tells of itself: the event log, which is the record that reports and Weights & Biases are made from."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from configs.events import EventLog
from configs.folder import RunFolder
from configs.schema import RunConfig
from configs.stages import train_key
from data.progress import say

Metrics = Mapping[str, float | int | str]


class Tracker:
    """The names of the log's events, and what each holds."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    def start(self, run: RunConfig, **fields: Any) -> None:
        """Mark a start or restart."""
        self._log.write("start", run=run.name, config=train_key(run), **fields)

    def event(self, name: str, /, **fields: Any) -> None:
        """Anything that is not a metric of a step: a checkpoint, a stop."""
        self._log.write(name, **fields)

    def log(self, step: int, metrics: Metrics, *, event: str = "step") -> None:
        """Metrics after `step` updates."""
        self._log.write(event, step=step, **metrics)

    def together(self) -> AbstractContextManager[None]:
        """Write the events of a block at its end, in one go."""
        return self._log.together()

    def artifact(self, path: Path, kind: str, metadata: Mapping[str, Any]) -> None:
        """A file or folder that others may use, with its digests."""
        self._log.write("artifact", path=str(path.name), kind=kind, **metadata)

    def finish(self, status: str) -> None:
        """completed, stopped or failed."""
        self._log.write("finish", status=status)
        self._log.close()


class NullTracker(Tracker):
    """What every rank but the first talks to."""

    def __init__(self) -> None: ...
    def start(self, run: RunConfig, **fields: Any) -> None: ...
    def event(self, name: str, /, **fields: Any) -> None: ...
    def log(self, step: int, metrics: Metrics, *, event: str = "step") -> None: ...
    def together(self) -> AbstractContextManager[None]:
        return nullcontext()

    def artifact(self, path: Path, kind: str, metadata: Mapping[str, Any]) -> None: ...
    def finish(self, status: str) -> None: ...


def open_tracker(folder: RunFolder, stage: str, *, rank: int) -> Tracker:
    """The first rank's tracker of a stage, or a silent one."""
    if rank:
        return NullTracker()
    return Tracker(EventLog(folder.stage_events(stage), lambda text: say(stage, text)))
