"""The event log as it is read back: restarts, a torn tail, damage."""

import json
from pathlib import Path

from configs.folder import RunFolder
from pipelines.history import read_history
from tests.reported import (
    step,
    write_events,
)


def test_last_value_of_a_step_wins_after_a_restart(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    again = {"event": "start", "step": 1}
    write_events(folder, {"event": "start", "step": 0}, step(1, 4.0), step(2, 3.9), again, step(2, 3.5), step(3, 3.0))
    history = read_history(folder.events)
    assert history.series["train/loss"] == {1: 4.0, 2: 3.5, 3: 3.0}
    assert history.restarts == [1]
    assert history.step == 3


def test_torn_tail_is_left_out_and_other_damage_is_counted(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write_events(folder, step(1, 4.0), tail='{"broken\n' + json.dumps(step(2, 3.0)) + '\n{"event": "step", "st')
    history = read_history(folder.events)
    assert history.series["train/loss"] == {1: 4.0, 2: 3.0}
    assert history.damaged == 1


def test_reason_of_a_stop_is_forgotten_when_training_goes_on(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    stop = [{"event": "stop", "reason": "SIGTERM"}, {"event": "finish", "status": "stopped"}]
    write_events(folder, step(1, 4.0), *stop)
    assert (read_history(folder.events).status, read_history(folder.events).reason) == ("stopped", "SIGTERM")
    write_events(folder, step(1, 4.0), *stop, {"event": "start", "step": 1})
    assert read_history(folder.events).status is None
