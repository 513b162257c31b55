"""The event log, and a view of it that must never hurt a run."""

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import trainer.tracker
from configs.folder import RunFolder
from configs.schema import WandbConfig
from tests.tiny import raiser, tiny_run
from trainer.tracker import EventLog, NullTracker, Tracker, WandbView, choose_mode, open_tracker, read_events

ENTER_S = 10.0
"""How long a test waits for what another thread does at once"""


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def watched_run() -> Any:
    return tiny_run(wandb__mode="offline")


def test_events_come_back_in_order_with_their_fields(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "deep" / "events.jsonl")
    log.write("step", step=1, loss=0.1 + 0.2)
    log.write("stop", reason="asked")
    log.close()
    events = list(read_events(tmp_path / "deep" / "events.jsonl"))
    assert [event.pop("event") for event in events] == ["step", "stop"]
    assert all(abs(event.pop("time") - time.time()) < 100 for event in events)
    assert events == [{"step": 1, "loss": 0.1 + 0.2}, {"reason": "asked"}]  # every bit of a float


@pytest.mark.parametrize("tail", [b"", b'{"event": "st', b'{"event": "step"}', b"\x00\x00", "é".encode()[:1]])
def test_a_line_torn_by_a_kill_is_cut_when_the_log_is_opened_again(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "events.jsonl"
    first = EventLog(path)
    first.write("step", step=1)
    first.close()
    with path.open("ab") as file:
        file.write(tail)
    assert [event["step"] for event in read_events(path)] == [1]
    second = EventLog(path)
    second.write("step", step=2)
    second.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


def test_a_log_that_is_nothing_but_a_torn_line_starts_over(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"event": "sta')
    EventLog(path).close()
    assert path.read_bytes() == b""


class Memo:
    """A view that remembers."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        self.seen.append(("log", step, dict(metrics)))

    def artifact(self, path: Path, kind: str, metadata: Mapping[str, Any]) -> None:
        self.seen.append(("artifact", path.name, kind))

    def finish(self, status: str) -> None:
        self.seen.append(("finish", status))


def test_a_tracker_tells_the_log_and_every_view(tmp_path: Path) -> None:
    view, run = Memo(), tiny_run()
    tracker = Tracker(EventLog(tmp_path / "events.jsonl"), [view])
    tracker.start(run, step=0)
    tracker.log(1, {"train/loss": 2.5})
    tracker.log(1, {"validation/loss": 3.5}, event="validation")
    tracker.artifact(tmp_path / "thing", "model", {"digest": "d"})
    tracker.event("checkpoint", step=1)
    tracker.finish("completed")
    events = list(read_events(tmp_path / "events.jsonl"))
    assert [event["event"] for event in events] == ["start", "step", "validation", "artifact", "checkpoint", "finish"]
    assert events[0]["run"] == run.name
    assert view.seen == [
        ("log", 1, {"train/loss": 2.5}),
        ("log", 1, {"validation/loss": 3.5}),
        ("artifact", "thing", "model"),
        ("finish", "completed"),
    ]


def test_what_was_flushed_is_there_for_another_process_at_once(tmp_path: Path) -> None:
    tracker = Tracker(EventLog(tmp_path / "events.jsonl"), [])
    tracker.log(1, {"train/loss": 2.5})
    tracker.flush()
    assert [event["step"] for event in read_events(tmp_path / "events.jsonl")] == [1]
    tracker.finish("completed")


def test_other_ranks_get_a_tracker_that_writes_nothing(folder: RunFolder) -> None:
    tracker = open_tracker(watched_run(), folder, "train", rank=1)
    assert isinstance(tracker, NullTracker)
    tracker.start(watched_run())
    tracker.log(1, {"train/loss": 1.0})
    tracker.event("checkpoint")
    tracker.artifact(folder.path, "model", {})
    tracker.flush()
    tracker.finish("completed")
    assert not folder.path.exists()


class Session:
    """A W&B run as far as the view knows it; may be told to hang or to break at a call."""

    def __init__(self, *, breaks: str = "", gate: threading.Event | None = None) -> None:
        self.breaks, self.gate = breaks, gate
        self.logged: list[Any] = []
        self.summary: dict[str, Any] = {}
        self.exit_code: int | None = None

    def log(self, payload: Any) -> None:
        self._enter("log")
        self.logged.append(payload)

    def finish(self, exit_code: int) -> None:
        self._enter("finish")
        self.exit_code = exit_code

    def _enter(self, call: str) -> None:
        if self.gate:
            self.gate.wait(ENTER_S)
        if call == self.breaks:
            raise RuntimeError("the service went away")


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What a hanging W&B waits for; opened in the end, so that no thread outlives its test."""
    event = threading.Event()
    yield event
    event.set()
    for thread in threading.enumerate():
        if thread.name == "wandb":
            thread.join(ENTER_S)


def view_of(session: Session, folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> WandbView:
    monkeypatch.setattr(trainer.tracker, "start_wandb", lambda *_: session)
    return WandbView(watched_run(), folder, "train")


def test_a_view_passes_on_what_it_is_told(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session()
    view = view_of(session, folder, monkeypatch)
    view.log(3, {"train/loss": 2.0})
    view.finish("completed")
    assert session.logged == [{"train/step": 3, "train/loss": 2.0}]
    assert session.summary == {"status": "completed"}
    assert session.exit_code == 0


def test_a_view_of_a_stopped_run_says_so(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session()
    view_of(session, folder, monkeypatch).finish("stopped")
    assert (session.summary, session.exit_code) == ({"status": "stopped"}, 1)


@pytest.mark.parametrize("error", [RuntimeError("no"), OSError("no net"), ImportError("no wandb"), ValueError("no")])
def test_wandb_that_does_not_start_is_one_line_and_nothing_else(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    monkeypatch.setattr(trainer.tracker, "start_wandb", raiser(error))
    tracker = open_tracker(watched_run(), folder, "train", rank=0)
    for step in range(50):
        tracker.log(step, {"train/loss": 1.0})
    tracker.artifact(folder.train, "model", {})
    tracker.finish("completed")
    assert capsys.readouterr().out.count("W&B is off for this run") == 1
    assert sum(event["event"] == "step" for event in read_events(folder.events)) == 50


@pytest.mark.parametrize("call", ["log", "finish"])
def test_wandb_that_breaks_later_is_one_line_and_nothing_else(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], call: str
) -> None:
    view = view_of(Session(breaks=call), folder, monkeypatch)
    for step in range(50):
        view.log(step, {"train/loss": 1.0})
    begun = time.perf_counter()
    view.finish("completed")
    assert time.perf_counter() - begun < 5
    assert capsys.readouterr().out.count("W&B is off for this run: RuntimeError: the service went away") == 1


def test_wandb_that_hangs_at_its_start_neither_blocks_log_nor_the_end(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], gate: threading.Event
) -> None:
    monkeypatch.setattr(WandbView, "FINISH_S", 0.3)
    monkeypatch.setattr(trainer.tracker, "start_wandb", lambda *_: gate.wait(ENTER_S) and Session())
    tracker = open_tracker(watched_run(), folder, "train", rank=0)
    begun = time.perf_counter()
    for step in range(1000):
        tracker.log(step, {"train/loss": 1.0})
    tracker.finish("completed")
    assert time.perf_counter() - begun < 5
    assert "W&B did not finish within" in capsys.readouterr().out
    assert len(list(read_events(folder.events))) == 1001


def test_a_slow_wandb_loses_records_and_says_how_many(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], gate: threading.Event
) -> None:
    monkeypatch.setattr(WandbView, "LIMIT", 10)
    monkeypatch.setattr(WandbView, "FINISH_S", 0.3)
    view = view_of(Session(gate=gate), folder, monkeypatch)
    begun = time.perf_counter()
    for step in range(1000):
        view.log(step, {"train/loss": 1.0})
    view.finish("completed")
    assert time.perf_counter() - begun < 5
    said = capsys.readouterr().out
    assert view.dropped >= 989
    assert f"W&B was too slow for {view.dropped} records" in said


def test_a_full_queue_still_ends_in_order_once_wandb_catches_up(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, gate: threading.Event
) -> None:
    monkeypatch.setattr(WandbView, "LIMIT", 3)
    session = Session(gate=gate)
    view = view_of(session, folder, monkeypatch)
    for step in range(20):
        view.log(step, {})
    threading.Timer(0.2, gate.set).start()
    view.finish("completed")
    assert session.exit_code == 0


@pytest.mark.parametrize("mode", ["online", "offline", "disabled"])
def test_a_given_mode_is_kept_without_asking_anybody(monkeypatch: pytest.MonkeyPatch, mode: Any) -> None:
    monkeypatch.setattr(trainer.tracker, "server_answers", raiser(AssertionError("asked")))
    assert choose_mode(WandbConfig(mode=mode)) == mode


@pytest.mark.parametrize("key", [None, ""])
def test_without_a_key_the_mode_is_offline_and_nobody_is_asked(
    monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    monkeypatch.setattr(trainer.tracker, "server_answers", raiser(AssertionError("asked")))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("WANDB_API_KEY", key)
    assert choose_mode(WandbConfig()) == "offline"


class Answer(http.server.BaseHTTPRequestHandler):
    """A server that answers every POST with the status of its class."""

    status = 200

    def do_POST(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.mark.parametrize(("status", "expected"), [(200, "online"), (401, "online"), (500, "offline"), (503, "offline")])
def test_with_a_key_the_servers_answer_decides(monkeypatch: pytest.MonkeyPatch, status: int, expected: str) -> None:
    handler = type("Handler", (Answer,), {"status": status})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_address[1]}")
        assert choose_mode(WandbConfig()) == expected
        server.shutdown()


def test_with_a_key_and_no_server_the_mode_is_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    for nonsense in ("http://127.0.0.1:1", "not a url", "http://a b", "http://127.0.0.1:99999"):
        monkeypatch.setenv("WANDB_BASE_URL", nonsense)
        assert choose_mode(WandbConfig()) == "offline"


def test_with_a_key_and_something_that_is_no_web_server_the_mode_is_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"220 mail.example ready\r\n")

        threading.Thread(target=greet, daemon=True).start()
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert choose_mode(WandbConfig()) == "offline"


OFFLINE_RUN = """
import sys
from pathlib import Path
from configs.folder import RunFolder
from tests.tiny import tiny_run
from trainer.tracker import open_tracker

folder = RunFolder(Path(sys.argv[1]))
tracker = open_tracker(tiny_run(wandb__mode="auto"), folder, "train", rank=0)
tracker.start(tiny_run())
for step in range(20):
    tracker.log(step, {"train/loss": 1.0 / (step + 1)})
folder.evaluation.mkdir()
(folder.evaluation / "metrics.json").write_text("{}")
tracker.artifact(folder.evaluation, "evaluation", {"digest": "d"})
tracker.finish("completed")
"""


@pytest.mark.slow
def test_a_real_offline_run_keeps_all_its_files_in_the_run_folder(tmp_path: Path) -> None:
    home, work, folder = tmp_path / "home", tmp_path / "work", tmp_path / "run"
    home.mkdir()
    work.mkdir()
    root = str(Path(__file__).parents[2])
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")} | {"HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE_RUN, str(folder)],
        cwd=work,
        env=environment | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "W&B" not in done.stdout, done.stdout
    (session,) = (folder / "wandb").glob("offline-run-*")
    (record,) = session.glob("run-*.wandb")
    assert record.stat().st_size > 1000
    assert not list(work.iterdir())
    assert not list(home.rglob("*"))
