"""The event log, which is the record of a run, and its view in Weights & Biases, which can never hurt it."""

import contextlib
import http.client
import json
import os
import queue
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from configs.folder import RunFolder, digest
from configs.schema import RunConfig, WandbConfig
from configs.stages import train_key
from data.progress import say

Metrics = Mapping[str, float | int | str]


class View(Protocol):
    """Somebody who shows the metrics elsewhere."""

    def log(self, step: int, metrics: Metrics) -> None: ...
    def artifact(self, path: Path, kind: str, metadata: Mapping[str, Any]) -> None: ...
    def finish(self, status: str) -> None: ...


class EventLog:
    """Append-only JSON lines with one writer; a line torn by a kill is cut off when the log is opened again."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("a+b")
        self._file.seek(0)
        whole = self._file.read().rfind(b"\n") + 1
        self._file.truncate(whole)

    def write(self, event: str, **fields: Any) -> None:
        line = json.dumps({"event": event, "time": round(time.time(), 3)} | fields)
        self._file.write(line.encode() + b"\n")

    def flush(self, *, to_disk: bool = False) -> None:
        self._file.flush()
        if to_disk:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self.flush(to_disk=True)
        self._file.close()


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a log in order; a torn last line is left out."""
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)


class Tracker:
    """What a stage tells: to the event log at once, to the views when they can."""

    def __init__(self, log: EventLog, views: list[View]) -> None:
        self._log, self._views = log, views

    def start(self, run: RunConfig, **fields: Any) -> None:
        """Mark a start or restart."""
        self._log.write("start", run=run.name, config=train_key(run), **fields)
        self._log.flush()

    def event(self, name: str, **fields: Any) -> None:
        """Anything that is not a metric of a step: a checkpoint, a stop."""
        self._log.write(name, **fields)
        self._log.flush()

    def log(self, step: int, metrics: Metrics, *, event: str = "step") -> None:
        """Metrics after `step` updates."""
        self._log.write(event, step=step, **metrics)
        for view in self._views:
            view.log(step, metrics)

    def flush(self) -> None:
        self._log.flush()

    def artifact(self, path: Path, kind: str, metadata: Mapping[str, Any]) -> None:
        """A file or folder that others may use, with its digests."""
        self._log.write("artifact", path=str(path.name), kind=kind, **metadata)
        for view in self._views:
            view.artifact(path, kind, metadata)

    def finish(self, status: str) -> None:
        """completed, stopped or failed."""
        self._log.write("finish", status=status)
        self._log.close()
        for view in self._views:
            view.finish(status)


class NullTracker(Tracker):
    """What every rank but the first talks to."""

    def __init__(self) -> None: ...
    def start(self, run: RunConfig, **fields: Any) -> None: ...
    def event(self, name: str, **fields: Any) -> None: ...
    def log(self, step: int, metrics: Metrics, *, event: str = "step") -> None: ...
    def flush(self) -> None: ...
    def artifact(self, path: Path, kind: str, metadata: Mapping[str, Any]) -> None: ...
    def finish(self, status: str) -> None: ...


def open_tracker(run: RunConfig, folder: RunFolder, stage: str, *, rank: int) -> Tracker:
    """The first rank's tracker of a stage, or a silent one."""
    if rank:
        return NullTracker()
    path = folder.events if stage == "train" else folder.evaluation / "events.jsonl"
    views: list[View] = [] if run.wandb.mode == "disabled" else [WandbView(run, folder, stage)]
    return Tracker(EventLog(path), views)


class WandbView:
    """W&B from a background thread with a bounded queue: training never waits for it, whatever it does."""

    LIMIT = 10_000
    FINISH_S = 60.0

    def __init__(self, run: RunConfig, folder: RunFolder, stage: str) -> None:
        self.run, self.folder, self.stage = run, folder, stage
        self.dropped = 0
        self._queue: queue.Queue[tuple[str, Any]] = queue.Queue(self.LIMIT)
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()

    def log(self, step: int, metrics: Metrics) -> None:
        self._put("log", {"train/step": step} | dict(metrics))

    def artifact(self, path: Path, kind: str, metadata: Mapping[str, Any]) -> None:
        self._put("artifact", (path, kind, dict(metadata)))

    def finish(self, status: str) -> None:
        """Wait a bounded time for W&B to write what it has."""
        deadline = time.monotonic() + self.FINISH_S
        with contextlib.suppress(queue.Full):
            self._queue.put(("finish", status), timeout=self.FINISH_S)
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            say(self.stage, f"W&B did not finish within {self.FINISH_S:.0f} s; the event log has everything")
        if self.dropped:
            say(self.stage, f"W&B was too slow for {self.dropped} records; the event log has them")

    def _put(self, kind: str, payload: Any) -> None:
        try:
            self._queue.put_nowait((kind, payload))
        except queue.Full:
            self.dropped += 1

    def _work(self) -> None:
        finished = False
        try:
            session = start_wandb(self.run, self.folder, self.stage)
            while not finished:
                kind, payload = self._queue.get()
                finished = kind == "finish"
                if kind == "log":
                    session.log(payload)
                elif kind == "artifact":
                    self._log_artifact(session, *payload)
                else:
                    session.summary["status"] = payload
                    session.finish(exit_code=0 if payload == "completed" else 1)
        except Exception as error:  # a view must not hurt the run, whatever a foreign library raises
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            say(self.stage, f"W&B is off for this run: {reason}; the event log has everything")
            while not finished:
                finished = self._queue.get()[0] == "finish"

    def _log_artifact(self, session: Any, path: Path, kind: str, metadata: dict[str, Any]) -> None:
        import wandb

        artifact = wandb.Artifact(f"{self.run.name}-{kind}", type=kind, metadata=metadata)
        artifact.add_dir(str(path)) if path.is_dir() else artifact.add_file(str(path))
        session.log_artifact(artifact)


def start_wandb(run: RunConfig, folder: RunFolder, stage: str) -> Any:
    """A W&B run of this stage, the same one after a restart, with all its files inside the run folder."""
    home = folder.path / "wandb"
    home.mkdir(parents=True, exist_ok=True)
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_ARTIFACT_DIR"):
        os.environ[name] = str(home)
    os.environ["WANDB_X_DISABLE_VIEWER"] = "true"
    import wandb

    session = wandb.init(
        project=run.wandb.project,
        entity=run.wandb.entity,
        id=digest([run.name, train_key(run), str(folder.path.resolve()), stage])[:16],
        name=f"{run.name}-{stage}",
        group=run.name,
        job_type=stage,
        config=run.model_dump(mode="json"),
        mode=choose_mode(run.wandb),
        resume="allow",
        dir=str(folder.path),
        settings=wandb.Settings(init_timeout=10, silent=True, console="off", x_transaction_log_flush_interval=1),
    )
    session.define_metric("train/step")
    session.define_metric("*", step_metric="train/step")
    return session


def choose_mode(config: WandbConfig) -> Any:
    """online, offline or disabled; without an account, or a server that answers in 3 s, a run stays offline."""
    if config.mode != "auto":
        return config.mode
    return "online" if os.environ.get("WANDB_API_KEY") and server_answers() else "offline"


def server_answers() -> bool:
    base = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").rstrip("/")
    try:
        request = urllib.request.Request(f"{base}/graphql", b"{}", {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=3).close()
    except urllib.error.HTTPError as error:
        return error.code < 500  # it answered, if only to refuse an empty query
    except (OSError, ValueError, http.client.HTTPException):
        return False
    return True
