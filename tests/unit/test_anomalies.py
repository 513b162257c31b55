"""A training that runs away: its update left out, or back to the last checkpoint and past the samples since."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs.events import read_events
from configs.folder import RunFolder
from configs.schema import RunConfig
from configs.stages import step_folder
from tests.tiny import random_documents, run_fit, steps_of, tiny_run, without_deepspeed, write_dataset
from trainer.loop import StopRequest
from trainer.task import Batch
from trainer.tasks import build_task

STEPS, BATCH = 8, 4


class Poisoned:
    """A task whose loss of some samples is no number, or too large."""

    def __init__(self, task: Any, bad: Callable[[Batch], float]) -> None:
        self.task, self.bad = task, bad

    def loss(self, turn: str, nets: Any, batch: Batch) -> Any:
        total, scalars = self.task.loss(turn, nets, batch)
        return total * self.bad(batch), scalars

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)


def anomalous_run(policy: str, **overrides: object) -> RunConfig:
    settings: dict[str, object] = {
        "train__steps": STEPS,
        "train__schedule": "{kind: cosine, warmup_steps: 2}",
        "train__global_batch_samples": BATCH,
        "world__micro_batch_samples": BATCH,
        "train__validate_every_steps": 100,
        "train__log_every_steps": 1,
        "train__checkpoint": "{every_steps: 2, keep: 9}",
        "train__anomalies": policy,
    }
    return tiny_run(**settings | overrides)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    without_deepspeed(monkeypatch)
    folder = RunFolder(tmp_path / "run")
    documents = {
        "train": random_documents([900], vocabulary_size=270, end=0, seed=1),
        "validation": random_documents([50], vocabulary_size=270, end=0, seed=2),
    }
    write_dataset(anomalous_run("{}"), folder, documents)
    return folder


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Callable[[set[int]], None]:
    """Make the losses of the given updates, counted from 0 as drawn, no numbers."""

    def prepare(updates: set[int]) -> None:
        drawn: list[tuple[int, ...]] = []

        def bad(batch: Batch) -> float:
            if batch.ids not in drawn:
                drawn.append(batch.ids)
            return math.nan if drawn.index(batch.ids) in updates else 1.0

        monkeypatch.setattr("tests.tiny.build_task", lambda *args: Poisoned(build_task(*args), bad))

    return prepare


def anomalies(folder: RunFolder) -> list[tuple[int, str]]:
    return [(e["step"], e["action"]) for e in read_events(folder.events) if e["event"] == "anomaly"]


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch) -> StopRequest:
    monkeypatch.setattr("signal.signal", lambda *args: None)
    return StopRequest()


def test_an_update_without_a_number_is_left_out_and_training_goes_on(
    folder: RunFolder, poison: Callable[[set[int]], None], stop: StopRequest
) -> None:
    poison({3})
    run_fit(anomalous_run("{not_finite: skip}"), folder, stop)
    assert anomalies(folder) == [(4, "skip")]
    steps = steps_of(folder)
    assert list(steps) == list(range(1, STEPS + 1))
    assert "train/loss" not in steps[4]
    assert all(math.isfinite(steps[step]["train/loss"]) for step in steps if step != 4)
    assert [event["position"] for event in steps.values()] == [BATCH * step for step in steps]


def test_a_way_back_goes_to_the_last_checkpoint_and_past_the_samples_since(
    folder: RunFolder, poison: Callable[[set[int]], None], stop: StopRequest
) -> None:
    poison({4})
    run_fit(anomalous_run("{not_finite: rollback}"), folder, stop)
    assert anomalies(folder) == [(5, "rollback")]
    steps = steps_of(folder)
    assert list(steps) == list(range(1, STEPS + 1))
    assert [event["position"] for event in steps.values()] == [
        BATCH * step if step <= 4 else BATCH * (step + 1) for step in steps
    ]
    record = json.loads((step_folder(folder.train, STEPS) / "complete.json").read_text())
    assert record["guard"]["windows"] == [[BATCH * 4, BATCH * 5]]
    assert record["position"] == BATCH * (STEPS + 1)


def test_a_run_killed_after_a_way_back_takes_the_same_way_again(
    folder: RunFolder, poison: Callable[[set[int]], None], stop: StopRequest
) -> None:

    poison({4})
    run = anomalous_run("{not_finite: rollback}")
    run_fit(run, folder, stop)
    uninterrupted = steps_of(folder)
    for step in (6, 8):  # as if the run had been killed after the way back and before its next checkpoint
        shutil.rmtree(step_folder(folder.train, step))
    run_fit(run, folder, stop)
    assert steps_of(folder) == uninterrupted
    assert anomalies(folder) == [(5, "rollback")] * 2


def test_a_spent_budget_ends_the_run_and_keeps_its_checkpoints(
    folder: RunFolder, poison: Callable[[set[int]], None], stop: StopRequest
) -> None:
    poison({2, 3, 4})
    with pytest.raises(FloatingPointError, match=r"anomalies\.budget=2 is spent"):
        run_fit(anomalous_run("{not_finite: skip, budget: 2}"), folder, stop)
    assert step_folder(folder.train, 2).exists()


def test_a_way_back_without_a_checkpoint_ends_the_run(
    folder: RunFolder, poison: Callable[[set[int]], None], stop: StopRequest
) -> None:
    poison({0})
    with pytest.raises(FloatingPointError, match="there is no checkpoint to go back to"):
        run_fit(anomalous_run("{not_finite: rollback}"), folder, stop)
