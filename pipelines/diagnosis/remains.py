"""What a run left behind, read as it is: torn records, binary noise and absent files are part of a failure."""

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from configs.events import decode
from configs.folder import RunFolder, digest_holds
from configs.lines import STAGES
from pipelines.diagnosis.logs import Start, read_start

_FLAT = tuple(b'{"event":%s"%s"' % (space, name) for name in (b"step", b"span") for space in (b"", b" "))
"""Beginnings of events of which only the first and the last are looked at: there are as many as steps"""
_START = (b'{"event":"start"', b'{"event": "start"')
_LARGEST = 1e15  # a time, a size or a count: more is noise
_HEAD = len('{"event":"step"')

Record = dict[str, Any]


class RankEnd(NamedTuple):
    """What the node agent knew of a rank when it ended all: None where it knew nothing."""

    rank: int | None
    exit_code: int | None
    phase: str | None
    step: int | None
    beats: int | None
    silent_s: float | None


@dataclass(frozen=True)
class Incident:
    """The node agent's record of a start that ended badly; fields that were torn or are of another type are None."""

    path: Path
    """The folder, with the stacks and the end of the log beside the record"""
    time: float | None
    kind: str | None
    """dead, silent, failed or stopped"""
    rank: int | None
    exit_code: int | None
    signal: str | None
    reason: str
    restarted: bool
    ranks: Sequence[RankEnd]

    def stack(self, rank: int | None) -> str:
        """A rank's stack; empty where it left none."""
        return _text(self.path / f"rank-{rank:05d}.txt") if rank is not None else ""


@dataclass
class Events:
    """The event log of a stage, in short."""

    path: Path
    starts: int = 0
    step: int | None = None
    """Updates done, by the last event that says so"""
    begun: float | None = None
    """Time of the last start"""
    seen: float | None = None
    """Time of the last event"""
    status: str | None = None
    """completed, stopped or failed: how the last start ended"""
    word: str | None = None
    """Why it stopped or failed"""
    anomalies: list[Record] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    """Bytes that a rank held at the first and the last step that tell"""

    def add(self, event: Record) -> None:
        """Take in the next event."""
        self.seen = max(filter(None, (self.seen, _number(event.get("time")))), default=None)
        step = _integer(event.get("step"))
        self.step = self.step if step is None else step
        match event.get("event"):
            case "start":
                self.starts, self.begun, self.status, self.word = self.starts + 1, self.seen, None, None
                self.anomalies, self.memory = [], []
            case "step":
                if (held := _number(event.get("train/memory_bytes"))) is not None:
                    self.memory = [*self.memory[:1], held]
            case "stop" | "failure":
                self.word = _word(event.get("reason"))
            case "anomaly":
                self.anomalies.append(event)
            case "finish":
                self.status = event.get("status") if isinstance(event.get("status"), str) else None


class Checkpoint(NamedTuple):
    """A step's folder, and what is wrong with it; nothing where it is whole. File contents are not read."""

    step: int
    fault: str | None


@dataclass(frozen=True)
class StageRemains:
    """Everything that one stage left."""

    name: str
    start: Start
    incidents: Sequence[Incident]
    events: Events | None
    product: bool
    """Whether the file that it writes last is there"""
    held: str | None
    """The process that works in its folder now; empty where none does, None where the lock cannot be asked"""
    seen: float
    """Seconds since 1970 of its last sign of life; 0 where it left none"""


@dataclass(frozen=True)
class Remains:
    """Everything that a run left."""

    folder: RunFolder
    stages: Sequence[StageRemains]
    pipeline: Start
    pipeline_seen: float
    steps: int | None
    """Updates that the run is to have"""
    checkpoints: Sequence[Checkpoint]
    """Newest first"""
    pointer: int | None
    """The step that latest.json names"""
    free_bytes: int | None
    disk_bytes: int | None

    def place(self, path: Path) -> str:
        """A file's name inside the run."""
        return path.relative_to(self.folder.path).as_posix()


def read_remains(folder: RunFolder) -> Remains:
    """Read what there is, without a lock and without torch. Raises nothing: what cannot be read is not there."""
    disk = None
    with contextlib.suppress(OSError):
        disk = shutil.disk_usage(folder.path)
    pointer = read_object(folder.train / "latest.json").get("step")
    return Remains(
        folder,
        [_read_stage(name, folder) for name in STAGES],
        read_start(folder.log("pipeline")),
        _changed(folder.log("pipeline")),
        _planned_steps(folder.config),
        sorted(_checkpoints(folder.train), reverse=True),
        pointer if isinstance(pointer, int) else None,
        disk.free if disk else None,
        disk.total if disk else None,
    )


def _read_stage(name: str, folder: RunFolder) -> StageRemains:
    home = folder.stage_events(name).parent
    start = read_start(folder.log(name))
    events = read_events(home / "events.jsonl")
    incidents = read_incidents(home / "incidents")
    if not start.lines and incidents:  # an operator keeps the log elsewhere
        start = read_start(incidents[-1].path / "log.txt", whole=True)
    product = {"prepare": folder.manifest, "train": None, "evaluate": folder.metrics}[name]
    done = product.is_file() if product else events is not None and events.status == "completed"
    told = [incident.time for incident in incidents] + [events.seen if events else None]
    seen = max([time for time in told if time is not None], default=_changed(start.path))
    return StageRemains(name, start, incidents, events, done, holder(home), seen)


def read_incidents(root: Path) -> list[Incident]:
    """Incidents in the order in which they were numbered."""
    return [_incident(path.parent) for path in sorted(root.glob("*/incident.json"))]


def _incident(path: Path) -> Incident:
    record = read_object(path / "incident.json")
    ranks = record.get("ranks")
    return Incident(
        path,
        _number(record.get("time")),
        _word(record.get("kind")),
        _integer(record.get("rank")),
        _integer(record.get("exit_code")),
        _word(record.get("signal")),
        str(record.get("reason") or "").strip(),
        record.get("restarted") is True,
        [_rank_end(each) for each in ranks if isinstance(each, dict)] if isinstance(ranks, list) else [],
    )


def _rank_end(record: Record) -> RankEnd:
    rank, code, step, beats = (_integer(record.get(name)) for name in ("rank", "exit_code", "step", "beats"))
    return RankEnd(rank, code, _word(record.get("phase")), step, beats, _number(record.get("silent_s")))


def read_events(path: Path) -> Events | None:
    """The event log in short; None where there is none. Steps between the first and the last are not parsed."""
    events, last = Events(path), dict[bytes, bytes]()
    try:
        with path.open("rb") as file:
            for line in file:
                flat = line[:_HEAD] if line.startswith(_FLAT) else None
                if flat is None or flat not in last:
                    _add(events, line)
                    last = {} if line.startswith(_START) else last
                if flat:
                    last[flat] = line
    except OSError:
        return None
    finished = events.status
    for line in last.values():
        _add(events, line)
    events.status = finished
    return events


def _add(events: Events, line: bytes) -> None:
    events.add(decode(line, checked=False))  # empty for one torn by a kill, or being written now


def _checkpoints(root: Path) -> Iterator[Checkpoint]:
    for path in root.glob("step-*"):
        if path.is_dir() and path.name[5:].isdecimal():
            yield Checkpoint(int(path.name[5:]), _fault(path))


def _fault(path: Path) -> str | None:
    record = read_object(path / "complete.json")
    if not record:
        return "no complete.json that can be read"
    if not digest_holds(record):
        return "the digest of complete.json is not that of its content"
    files = record.get("files")
    absent = [name for name in files if not (path / name).is_file()] if isinstance(files, dict) else ["files"]
    return f"{absent[0]} is missing" if absent else None


def holder(home: Path) -> str | None:
    """The process that holds a folder's lock, empty where it is free; None where there is none that can be asked."""
    with contextlib.suppress(OSError), (home / ".lock").open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read(20).decode("ascii", "replace").strip() or "unknown"
        return ""
    return None


def _planned_steps(config: Path) -> int | None:
    """`train.steps` of run.yaml, read without its schema: the run may be of another version."""
    import yaml

    with contextlib.suppress(OSError, ValueError, yaml.YAMLError, KeyError, TypeError, RecursionError):
        return _integer(yaml.safe_load(config.read_text(encoding="utf-8"))["train"]["steps"])
    return None


def read_object(path: Path) -> Record:
    """A JSON object; an empty one where the file is absent, torn or something else."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        record = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(record, dict):
            return record
    return {}


def _text(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_bytes().decode("utf-8", "replace")
    return ""


def _changed(path: Path) -> float:
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if abs(value) < _LARGEST else None  # NaN is not less


def _word(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
