"""W&B's history is a function of the event log: whatever was sent before, it converges to the same rows."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipelines.tracking.rows import STEP, Row, Rows, missing

Log = list[dict[str, Any]]


@st.composite
def logs(draw: st.DrawFn) -> Log:
    """Trainings that were killed and went on, or went back to a checkpoint, with all kinds of events."""
    events: Log = []
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, 12))
        events.append({"event": "start", "step": begin})
        for step in range(begin + 1, begin + 1 + draw(st.integers(0, 12))):
            events.append({"event": "step", "step": step, "train/loss": draw(st.floats(0, 9)), "samples_digest": "ab"})
            if step % 3 == 0:
                events.append({"event": "validation", "step": step, "validation/loss": step / 7})
                events.append({"event": "samples", "step": step, "file": f"{step}.json"})
                events.append(
                    {"event": "histogram", "step": step, "name": "weights/model", "edges": [0, 1], "counts": [1]}
                )
                events.append({"event": "span", "step": step, "kind": "compute", "seconds": 1.0})
    if draw(st.booleans()):
        events.append({"event": "evaluation", "step": 12, "test/loss": 1.0})
    return events


def history(events: Log) -> list[Row]:
    return list(missing(events, 0))


@given(logs(), st.data())
def test_any_prefix_of_the_log_with_any_state_of_wandb_converges_to_the_same_history(log: Log, data: st.DataObject):
    server: list[Row] = []
    for _ in range(data.draw(st.integers(0, 5))):  # sessions that are killed at any row, over any prefix of the log
        prefix = log[: data.draw(st.integers(0, len(log)))]
        lacking = list(missing(prefix, len(server)))
        server += lacking[: data.draw(st.integers(0, len(lacking)))]
    server += missing(log, len(server))
    assert server == history(log)


@given(logs())
def test_every_step_has_one_row_and_rows_are_in_order(log: Log) -> None:
    rows = history(log)
    assert [row.number for row in rows] == list(range(len(rows)))
    steps = [row.values[STEP] for row in rows if "train/loss" in row.values]
    assert steps == sorted(set(steps))
    assert set(steps) == {event["step"] for event in log if event["event"] == "step"} - skipped(log)


def skipped(log: Log) -> set[int]:
    """Steps that no start had reached before the log went beyond them."""
    seen, reached = set[int](), 0
    for event in log:
        if event["event"] == "step":
            if event["step"] <= reached and event["step"] not in seen:
                continue
            seen.add(event["step"])
            reached = max(reached, event["step"])
    return {event["step"] for event in log if event["event"] == "step"} - seen


def test_a_row_has_the_time_and_the_figures_of_its_event_and_no_more() -> None:
    rows = Rows()
    event = {"event": "step", "time": 7.5, "step": 3, "train/loss": 1.5, "position": 12, "samples_digest": "ab"}
    assert rows.take(event) == Row(0, 7.5, {STEP: 3, "train/loss": 1.5, "position": 12})
    assert rows.take({"event": "checkpoint", "step": 3, "position": 12}) is None
    assert rows.take({"event": "step", "step": "3"}) is None
    samples = {"event": "samples", "time": 8.0, "step": 3, "file": "samples/3.json"}
    assert rows.take(samples) == Row(1, 8.0, {STEP: 3}, samples)


def test_who_evaluates_again_gets_another_row() -> None:
    rows = Rows()
    numbers = [rows.take({"event": "evaluation", "step": 3, "test/loss": loss}) for loss in (1.0, 2.0)]
    assert [row and row.number for row in numbers] == [0, 1]
