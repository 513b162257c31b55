"""Brings what W&B has of a stage up to what its event log says, once or for as long as the stage goes on."""

import contextlib
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs.errors import DamageError, OutageError, UserError
from configs.events import Tail
from configs.folder import RunFolder, digest, write_json
from configs.schema import RunConfig
from configs.stages import read_record
from pipelines.tracking import records
from pipelines.tracking.alerts import FRESH_S, Alert, alert_of, alert_of_gate, alert_of_incident
from pipelines.tracking.control import Control
from pipelines.tracking.identity import Identity, begin_anew, identity_of
from pipelines.tracking.rows import EVALUATION, HISTOGRAM, SAMPLES, Row, Rows
from pipelines.tracking.server import Known, look_up, require_server
from pipelines.tracking.session import Session, WandbSession, histogram, samples, table
from pipelines.tracking.verdicts import GATE, verdict_of

POLL_S, RETRY_S, LOOK_S = 1.0, 30.0, 20.0
"""Seconds between two looks at the log, two tries to reach a server that is away, two questions to it"""
STUCK_S = 120.0
"""A server that answers and takes no row for so long is begun with anew"""
BEHIND_BYTES = 8 << 20
"""Of the log, from which on samples and histograms are left out, so that the numbers come first"""
CODES = {"completed": 0, "stopped": 143}

Open = Callable[[Identity, Path, Mapping[str, Any]], Session]
Say = Callable[[str], None]


@dataclass
class Follower:
    """The view of one stage. A new one begins where W&B stands, so that it may be killed at any time."""

    run: RunConfig
    folder: RunFolder
    stage: str
    say: Say
    open: Open = WandbSession
    live: bool = True
    """Whether the stage goes on; else this is a later replay"""
    session: Session | None = None
    rows: Rows = field(default_factory=Rows)
    left_out: int = 0
    """Rows of media without their media"""
    _tail: Tail | None = None
    _control: Control | None = None
    _status: str | None = None
    _first: int = 0
    """The first row that the server lacked when the session began"""
    _sent: int = 0
    _told: bool = False
    _known: Known | None = None
    _moved: float = 0.0
    """When the server last had more rows than before"""

    def connect(self) -> bool:
        """Begin or go on with the run of W&B; says once why that cannot be."""
        identity = identity_of(self.run, self.folder, self.stage)
        try:
            require_server()
            known = look_up(identity.place)
            self.session = self._begin(identity)
        except (UserError, OutageError) as error:
            self._tell(f"{error}; the event log has everything: trainworks sync {self.folder.path}")
            return False
        self.rows, self._tail = Rows(), Tail(self.folder.stage_events(self.stage))
        self._first = self._sent = max(self.session.first, known.rows if known else 0)
        self._control = Control(identity.place, self.folder, self.say) if self.live and self.stage == "train" else None
        self._moved, self._told = time.monotonic(), False
        return True

    def _begin(self, identity: Identity) -> Session:
        """Raises OutageError for whatever wandb says, UserError for a run that the server does not take."""
        home = home_of(self.folder, self.stage)
        config = records.config_of(self.run, self.folder)
        try:
            return self.open(identity, home, config)
        except Exception as error:  # whatever a foreign library raises
            if "deleted" in str(error):
                begin_anew(self.folder)
                raise OutageError(
                    f"W&B has deleted run {identity.place.run} and takes it no more; another begins"
                ) from None
            raise OutageError(f"W&B: {one_line(error)}") from None

    def step(self) -> None:
        """Send what is new in the log."""
        assert self.session is not None
        assert self._tail is not None
        for event in self._tail.new():
            if (row := self.rows.take(event)) and row.number >= self._first:
                self.session.row(row.number, row.time, {**row.values, **self._media(row)})
                self._sent = row.number + 1
            self._beside(event)
        for number, incident in _incidents(self.folder, self.stage):
            self._alert(f"incident {number}", alert_of_incident(incident, self._name), float(incident.get("time", 0)))

    def look(self) -> None:
        """Ask the server how far it is, and what is asked of the run there. Raises OutageError where it is stuck."""
        place = identity_of(self.run, self.folder, self.stage).place
        with contextlib.suppress(OutageError):  # wandb tries again by itself
            known = look_up(place)
            if known and self._control:
                self._control.obey(known.tags)
            rows = known.rows if known else 0
            if not self._known or rows > self._known.rows or rows >= self._sent:
                self._moved = time.monotonic()
            self._known = known
            if time.monotonic() - self._moved > STUCK_S:
                raise OutageError(f"W&B took no row for {STUCK_S:.0f} s")

    def finish(self) -> None:
        """Send what the stage has made, and end; says what W&B does not have."""
        assert self.session
        self.step()
        if self.stage == "evaluate" and self.folder.metrics.is_file():
            self._conclude()
        for bundle in records.bundles(self.run, self.folder, self.stage):
            self.session.artifact(bundle)
        product = {"prepare": self.folder.manifest, "evaluate": self.folder.metrics}.get(self.stage)
        status = self._status or ("completed" if product and product.is_file() else "unfinished")
        self.session.summary({"status": status, "rows": self.rows.count})
        self.session.finish(CODES.get(status, 1))
        self.session = None
        for path in home_of(self.folder, self.stage).glob("[!.]*"):  # all of it is in the log, and at the server
            shutil.rmtree(path, ignore_errors=True)
        if self.left_out:
            self.say(f"W&B was far behind: {self.left_out} rows of samples and histograms went without them")

    def _conclude(self) -> None:
        """The numbers of an evaluation, and the gate's word on them."""
        assert self.session
        self.session.summary(records.summary_of(self.folder) | verdict_of(self.folder))
        path = self.folder.path / GATE
        record = read_record(path) if path.is_file() else {}
        if alert := alert_of_gate(record, self._name):
            self._alert(f"gate {digest(record)[:16]}", alert, path.stat().st_mtime)

    def abandon(self) -> None:
        """Let go of a run of W&B that does not go well; the next one begins where the server stands."""
        if self.session:
            with contextlib.suppress(Exception):  # it may be what does not go well
                self.session.finish(1)
        self.session = None

    def behind(self) -> int:
        """Rows that the server lacks. Raises UserError and OutageError."""
        known = look_up(identity_of(self.run, self.folder, self.stage).place)
        return max(0, self.rows.count - (known.rows if known else 0))

    @property
    def _name(self) -> str:
        return identity_of(self.run, self.folder, self.stage).name

    def _beside(self, event: Mapping[str, Any]) -> None:
        """What an event says that is no row."""
        assert self.session
        if event.get("event") == "start":
            self._status = None
            facts = {name: value for name, value in event.items() if name not in ("event", "time", "step")}
            self.session.config({"trainworks_start": facts})
        if event.get("event") == "finish":
            self._status = str(event.get("status"))
        if alert := alert_of(event, self._name):
            at = float(event.get("time", 0.0))
            self._alert(f"{event['event']} {at}", alert, at)

    def _alert(self, key: str, alert: Alert, at: float) -> None:
        """Send an alert once, and none that is old: which were sent stands in the run folder."""
        path = self.folder.logs / f"wandb-{self.stage}-alerts.json"
        sent = read_record(path) if path.is_file() else {}
        if key in sent or time.time() - at > FRESH_S or self.session is None:
            return
        self.session.alert(alert)
        write_json(path, {**sent, key: alert.title})

    def _media(self, row: Row) -> dict[str, Any]:
        event = row.media
        if event is None:
            return {}
        if self._tail and self._tail.left_bytes > BEHIND_BYTES and event["event"] != EVALUATION:
            self.left_out += 1
            return {}
        match event["event"]:
            case name if name == HISTOGRAM:
                return histogram(event)
            case name if name == SAMPLES:
                found = records.samples_in(self.folder.stage_events(self.stage).parent / str(event.get("file")))
                return samples(found) if found else {}
        tables = records.tables_of(self.folder) if self.folder.metrics.is_file() else {}
        found = records.samples_in(self.folder.samples)
        return {name: table(each) for name, each in tables.items()} | (samples(found) if found else {})

    def _tell(self, text: str) -> None:
        """Say once that W&B is away, until it was there again."""
        if not self._told:
            self.say(text)
        self._told = True


def home_of(folder: RunFolder, stage: str) -> Path:
    """Where wandb keeps its own files while it sends a stage; who sends it holds the lock of this folder."""
    home = folder.path / "wandb" / stage
    home.mkdir(parents=True, exist_ok=True)
    return home


def one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _incidents(folder: RunFolder, stage: str) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for path in sorted((folder.stage_events(stage).parent / "incidents").glob("*/incident.json")):
        with contextlib.suppress(DamageError):
            found.append((path.parent.name, read_record(path)))
    return found
