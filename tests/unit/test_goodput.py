"""Where the time went, in logs whose account is known."""

from typing import Any

import numpy as np
import pytest

from pipelines.goodput import KINDS, Goodput, Ledger, Timeline, goodput


def start(time: float, step: int = 0, since_launch_s: float = 0.0) -> dict[str, Any]:
    return {"event": "start", "time": time, "step": step, "since_launch_s": since_launch_s}


def flush(time: float, steps: range, **seconds: float) -> list[dict[str, Any]]:
    """The events of a flush of the log: its steps, then its spans."""
    done = [{"event": "step", "time": time, "step": step} for step in steps]
    last = {"event": "span", "time": time, "step": steps[-1] if steps else 0}
    return [*done, *(last | {"kind": kind, "seconds": value} for kind, value in seconds.items())]


def account(*events: dict[str, Any]) -> Goodput:
    found = goodput(events)
    assert found is not None
    assert sum(found.seconds.values()) == pytest.approx(found.wall_s)
    assert list(found.seconds) == list(KINDS)
    return found


def test_an_undisturbed_run_has_the_seconds_of_its_spans_and_the_rest_is_other() -> None:
    found = account(
        start(110.0, since_launch_s=10.0),
        *flush(115.0, range(1, 6), compute=3.0, data=1.0),
        *flush(120.0, range(6, 11), compute=4.0, save=0.5),
    )
    assert found.wall_s == 20.0
    spent = {kind: seconds for kind, seconds in found.seconds.items() if seconds}
    assert spent == {"compute": 7.0, "data": 1.0, "save": 0.5, "start": 10.0, "other": 1.5}
    assert found.share == 7.0 / 20.0
    assert found.lost_steps == 0


def test_steps_past_the_checkpoint_that_was_resumed_from_are_lost_with_their_share_of_each_span() -> None:
    found = account(
        start(0.0),
        *flush(10.0, range(1, 6), compute=9.0, data=1.0),
        *flush(20.0, range(6, 11), compute=8.0, data=2.0),
        start(32.0, step=8, since_launch_s=5.0),  # steps 9 and 10, two of five, come again
        *flush(36.0, range(9, 11), compute=4.0),
    )
    assert found.seconds["lost"] == pytest.approx(10.0 * 2 / 5)
    assert found.seconds["compute"] == pytest.approx(9.0 + 8.0 * 3 / 5 + 4.0)
    assert found.seconds["data"] == pytest.approx(1.0 + 2.0 * 3 / 5)
    assert (found.seconds["restart"], found.seconds["start"]) == (7.0, 5.0)
    assert found.lost_steps == 2


def test_a_step_done_three_times_counts_once() -> None:
    found = account(
        start(0.0),
        *flush(1.0, range(1, 2), compute=1.0),
        start(1.0),
        *flush(2.0, range(1, 2), compute=1.0),
        start(2.0),
        *flush(3.0, range(1, 2), compute=1.0),
    )
    assert (found.seconds["compute"], found.seconds["lost"], found.lost_steps) == (1.0, 2.0, 2)


def test_a_way_back_within_one_start_loses_the_steps_since() -> None:
    found = account(
        start(0.0),
        *flush(4.0, range(1, 5), compute=4.0),
        *flush(6.0, range(3, 5), compute=2.0),
    )
    assert (found.seconds["compute"], found.seconds["lost"]) == (4.0, 2.0)


def test_the_way_to_the_next_start_is_a_restart_after_a_death_and_a_pause_after_a_stop() -> None:
    dead = account(start(0.0), *flush(5.0, range(1, 2), compute=5.0), start(9.0, step=1))
    assert (dead.seconds["restart"], dead.seconds["stopped"]) == (4.0, 0.0)
    finish = {"event": "finish", "time": 5.0, "status": "stopped"}
    stopped = account(start(0.0), *flush(5.0, range(1, 2), compute=5.0), finish, start(9.0, step=1))
    assert (stopped.seconds["restart"], stopped.seconds["stopped"]) == (0.0, 4.0)


def test_spans_without_steps_go_with_the_steps_before_them() -> None:
    found = account(
        start(0.0),
        *flush(2.0, range(1, 3), compute=2.0),
        {"event": "span", "time": 4.0, "step": 2, "kind": "validate", "seconds": 2.0},
        start(4.0, step=1),
        *flush(5.0, range(2, 3), compute=1.0),
    )
    assert found.seconds["validate"] == 1.0  # half of the window was done again
    assert found.seconds["lost"] == 2.0


def test_steps_whose_spans_died_with_their_start_are_not_taken_for_the_next_ones() -> None:
    unspanned = {"event": "step", "time": 5.0, "step": 3}
    found = account(
        start(0.0),
        *flush(2.0, range(1, 3), compute=2.0),
        unspanned,
        start(6.0, step=2),
        *flush(8.0, range(3, 5), compute=2.0),
    )
    assert (found.seconds["compute"], found.seconds["lost"]) == (4.0, 0.0)


def test_a_clock_that_is_set_back_makes_no_negative_time() -> None:
    found = account(
        start(100.0),
        *flush(110.0, range(1, 2), compute=5.0),
        start(50.0, step=1, since_launch_s=3.0),
        *flush(120.0, range(2, 3), compute=5.0),
    )
    assert min(found.seconds.values()) >= 0
    assert found.wall_s == 20.0


def test_a_log_without_spans_has_no_account() -> None:
    assert goodput([]) is None
    assert goodput([start(0.0), {"event": "step", "time": 1.0, "step": 1}]) is None


def test_a_kind_that_is_not_known_is_other() -> None:
    found = account(start(0.0), *flush(4.0, range(1, 2), compute=1.0, dreaming=2.0))
    assert found.seconds["other"] == 3.0


def timeline(*events: dict[str, Any], slices: int = 10) -> Timeline:
    ledger = Ledger()
    for event in events:
        ledger.add(event)
    found, sums = ledger.timeline(slices), ledger.result()
    assert found is not None
    assert sums is not None
    length = sums.wall_s / slices
    np.testing.assert_allclose(sum(found.seconds.values()), np.full(slices, length))
    for kind, seconds in sums.seconds.items():
        assert found.seconds[kind].sum() == pytest.approx(seconds, abs=1e-6), kind
    return found


def test_the_timeline_shows_when_the_time_went_into_what() -> None:
    found = timeline(
        start(10.0, since_launch_s=10.0),
        *flush(30.0, range(1, 6), compute=20.0),
        *flush(50.0, range(6, 11), compute=10.0, data=10.0),
        start(80.0, step=5, since_launch_s=10.0),  # dead for 20 s; steps 6 to 10 come again
        *flush(100.0, range(6, 11), compute=20.0),
    )
    told = {kind: seconds.tolist() for kind, seconds in found.seconds.items() if seconds.any()}
    assert told == {
        "compute": [0, 10, 10, 0, 0, 0, 0, 0, 10, 10],
        "start": [10, 0, 0, 0, 0, 0, 0, 10, 0, 0],
        "lost": [0, 0, 0, 10, 10, 0, 0, 0, 0, 0],
        "restart": [0, 0, 0, 0, 0, 10, 10, 0, 0, 0],
    }
    assert found.restarts == [70.0]


def test_the_beginning_of_a_start_is_at_its_beginning() -> None:
    found = timeline(start(0.0), *flush(100.0, range(1, 6), start=20.0, compute=60.0))
    assert found.seconds["start"].tolist() == pytest.approx([10, 10, 0, 0, 0, 0, 0, 0, 0, 0])


def test_the_timeline_of_a_clock_that_is_set_back_stays_within_its_slices() -> None:
    ledger = Ledger()
    events = [start(100.0), *flush(110.0, range(1, 2), compute=5.0), start(50.0, step=1, since_launch_s=3.0)]
    for event in (*events, *flush(120.0, range(2, 3), compute=50.0)):
        ledger.add(event)
    found = ledger.timeline(10)
    assert found is not None
    np.testing.assert_allclose(sum(found.seconds.values()), np.full(10, 2.0))
    assert Ledger().timeline() is None
