"""The event log: every line whole and checked, whatever ended its writer, and no line that could end a run."""

import errno
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.events import LOG, VERSION, EventLog, NewerLogError, Tail, decode, encode, read_events
from configs.folder import RunFolder
from tests.tiny import tiny_run
from trainer.tracker import NullTracker, Tracker, open_tracker

NAMES = st.text(min_size=1, max_size=8).filter(lambda name: name not in ("crc",))
VALUES = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**53), 2**53), st.text(max_size=20), st.none()
)


def events_in(path: Path) -> list[dict[str, Any]]:
    """All but the line of the version."""
    return [event for event in read_events(path) if event.get("event") != LOG]


def filled(path: Path, steps: int = 3) -> Path:
    log = EventLog(path)
    for step in range(1, steps + 1):
        log.write("step", step=step)
    log.close()
    return path


def test_events_come_back_in_order_with_their_fields(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "deep" / "events.jsonl")
    log.write("step", step=1, loss=0.1 + 0.2)
    log.write("stop", reason="asked")
    log.close()
    events = events_in(tmp_path / "deep" / "events.jsonl")
    assert [event.pop("event") for event in events] == ["step", "stop"]
    assert all(abs(event.pop("time") - time.time()) < 100 for event in events)
    assert events == [{"step": 1, "loss": 0.1 + 0.2}, {"reason": "asked"}]  # every bit of a float


@given(st.dictionaries(NAMES, VALUES, max_size=5))
def test_a_line_is_json_for_anybody_and_any_changed_byte_is_noticed(fields: dict[str, Any]) -> None:
    line = encode({"event": "any", **fields})
    assert decode(line) == {"event": "any", **fields}
    assert json.loads(line).items() >= {"event": "any", **fields}.items()
    for place in range(0, len(line) - 1, 7):
        other = bytes([line[place] ^ 1])
        assert decode(line[:place] + other + line[place + 1 :]) == {}


@pytest.mark.parametrize("tail", [b"", b'{"event":"st', b'{"event":"step"}', b"\x00\x00", "é".encode()[:1]])
def test_a_line_torn_by_a_kill_is_cut_when_the_log_is_opened_again(tmp_path: Path, tail: bytes) -> None:
    path = filled(tmp_path / "events.jsonl", 1)
    with path.open("ab") as file:
        file.write(tail)
    assert [event["step"] for event in events_in(path)] == [1]
    second = EventLog(path)
    second.write("step", step=2)
    second.close()
    assert [json.loads(line).get("step") for line in path.read_text().splitlines()] == [None, 1, 2]


@pytest.mark.parametrize("torn", [b'{"event":"sta', b"x" * 200_000])
def test_a_log_that_is_nothing_but_a_torn_line_starts_over(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(torn)
    EventLog(path).close()
    assert [event["event"] for event in read_events(path)] == [LOG]


def test_a_damaged_line_is_told_apart_and_those_after_it_are_read(tmp_path: Path) -> None:
    path = filled(tmp_path / "events.jsonl")
    path.write_bytes(path.read_bytes().replace(b'"step":2', b'"step":7'))
    assert [event.get("step") for event in events_in(path)] == [1, None, 3]


def test_a_log_from_before_checksums_is_read_and_goes_on_with_them(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"event": "step", "step": 1}\nnonsense\n')
    filled(path, 2)
    assert [event.get("step") for event in events_in(path)] == [1, None, 1, 2]
    with path.open("ab") as file:
        file.write(b'{"event": "step", "step": 9}\n')
    assert not events_in(path)[-1], "from there on a line without a checksum is damaged"


def test_a_log_of_a_newer_version_is_refused_by_readers_and_set_aside_by_a_writer(tmp_path: Path) -> None:
    path, told = tmp_path / "events.jsonl", list[str]()
    path.write_bytes(encode({"event": LOG, "version": VERSION + 1}) + b"what no one knows\n")
    with pytest.raises(NewerLogError, match=f"is of version {VERSION + 1}.* reads versions up to {VERSION}"):
        list(read_events(path))
    newer = path.read_bytes()
    EventLog(path, told.append).close()
    assert [event["version"] for event in read_events(path)] == [VERSION]
    assert (tmp_path / f"events-version-{VERSION + 1}.jsonl").read_bytes() == newer
    assert len(told) == 1


def test_a_full_disk_delays_events_and_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told, real, room = list[str](), os.write, [20]

    def write(descriptor: int, data: bytes) -> int:
        taken = min(len(data), room[0])
        if not taken:
            raise OSError(errno.ENOSPC, "No space left on device")
        room[0] -= taken
        return real(descriptor, data[:taken])

    log = EventLog(tmp_path / "events.jsonl", told.append)
    monkeypatch.setattr("configs.events.os.write", write)
    for step in range(1, 6):
        log.write("step", step=step)
    assert not events_in(log.path), "not even a part of a line"
    assert len(told) == 1
    assert "No space left" in told[0]
    room[0] = 10**6
    log.write("step", step=6)
    log.close()
    assert [event["step"] for event in events_in(log.path)] == [1, 2, 3, 4, 5, 6]
    assert len(told) == 1


def test_what_a_full_disk_never_took_is_counted_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = list[str]()
    log = EventLog(tmp_path / "events.jsonl", told.append)
    monkeypatch.setattr("configs.events.os.write", lambda *_: 0)
    log.write("step", step=1)
    log.write("step", step=2)
    log.close()
    assert "2 events are lost" in told[-1]


def test_a_tail_tells_each_event_once_and_none_that_is_being_written(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tail = Tail(path)
    assert not list(tail.new()), "there is no log yet"
    log = EventLog(path)
    log.write("step", step=1)
    assert [event.get("step") for event in tail.new()] == [None, 1]
    with path.open("ab") as file:
        file.write(b'{"event":"st')
    assert not list(tail.new())
    log.close()
    filled(path, 1)  # cuts what was torn
    assert [event.get("step") for event in tail.new()] == [1]
    assert not list(Tail(path, from_end=True).new())


def test_a_tracker_s_events_are_there_for_another_process_at_once(tmp_path: Path) -> None:
    tracker, run = Tracker(EventLog(tmp_path / "events.jsonl")), tiny_run()
    tracker.start(run, step=0)
    tracker.log(1, {"train/loss": 2.5})
    tracker.log(1, {"validation/loss": 3.5}, event="validation")
    tracker.artifact(tmp_path / "thing", "model", {"digest": "d"})
    tracker.event("checkpoint", step=1)
    events = events_in(tmp_path / "events.jsonl")
    assert [event["event"] for event in events] == ["start", "step", "validation", "artifact", "checkpoint"]
    assert events[0]["run"] == run.name
    tracker.finish("completed")
    assert events_in(tmp_path / "events.jsonl")[-1]["status"] == "completed"


def test_other_ranks_get_a_tracker_that_writes_nothing(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    tracker = open_tracker(folder, "train", rank=1)
    assert isinstance(tracker, NullTracker)
    tracker.start(tiny_run())
    tracker.log(1, {"train/loss": 1.0})
    tracker.event("checkpoint")
    tracker.artifact(folder.path, "model", {})
    tracker.finish("completed")
    assert not folder.path.exists()
