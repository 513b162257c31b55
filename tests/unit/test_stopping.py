"""When validation comes, when training ends before its last step, and which checkpoint is the result then."""

import json
import math
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from configs.engine import BestConfig, CheckpointConfig
from configs.errors import ConfigError, DamageError, Stopped
from configs.events import read_events
from configs.folder import RunFolder, write_json
from configs.schema import RunConfig, TrainConfig
from configs.stages import FINISHED, chosen_step, complete, final_step, step_folder, steps_in, train_key
from tests.tiny import (
    BEGINNING,
    fit_from_latest,
    make_trainer,
    on_ranks,
    raiser,
    random_documents,
    run_fit,
    steps_of,
    tiny_run,
    without_deepspeed,
    write_dataset,
)
from tests.unit.test_anomalies import Poisoned
from trainer.checkpoint import TrainState, settle_result
from trainer.distributed import World
from trainer.loop import Trainer, fit
from trainer.requests import StopRequest
from trainer.task import Batch
from trainer.tasks import build_task
from trainer.timetable import Timetable

CURVE = {2: 3.0, 4: 2.0, 6: 2.5, 8: 2.25, 10: 1.0, 12: 0.5}
"""A validation loss by step; with a patience of 2 the best but those never seen is at step 4, and step 8 the end"""


def stopping_run(**overrides: object) -> RunConfig:
    settings: dict[str, object] = {
        "train__steps": 12,
        "train__global_batch_samples": 8,
        "world__micro_batch_samples": 4,
        "train__schedule": "{kind: constant}",
        "train__validate_every_steps": 2,
        "train__log_every_steps": 3,
        "train__checkpoint": "{every_steps: 3, keep: 1}",
        "train__early_stopping": "{patience: 2}",
    }
    return tiny_run(**settings | overrides)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    without_deepspeed(monkeypatch)
    folder = RunFolder(tmp_path / "run")
    documents = {
        "train": random_documents([200, 30, 199], vocabulary_size=270, end=0, seed=1),
        "validation": random_documents([50], vocabulary_size=270, end=0, seed=2),
    }
    write_dataset(stopping_run(), folder, documents)
    return folder


@pytest.fixture
def stop() -> Iterator[StopRequest]:
    before = signal.getsignal(signal.SIGTERM)
    yield StopRequest()
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps after which validation came; it scores as CURVE has it."""
    seen: list[int] = []

    def validate(trainer: Trainer, step: int) -> dict[str, float]:
        if trainer.world.rank == 0:
            seen.append(step)
        return {"validation/loss": CURVE[step]}

    monkeypatch.setattr("trainer.loop.validate", validate)
    return seen


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


def train(run: RunConfig, folder: RunFolder, stop: StopRequest) -> TrainState:
    """As the train command does, to the settled result."""
    _, state = fit_from_latest(run, folder, stop)
    settle_result(run, folder, state)
    return state


def test_the_clock_brings_a_pass_one_step_later_and_only_one(
    folder: RunFolder, stop: StopRequest, passes: list[int], monkeypatch: pytest.MonkeyPatch
):
    now = 0.0

    class Hands(Timetable):
        """A clock that moves 10 seconds a step."""

        def __init__(self, config: TrainConfig) -> None:
            super().__init__(config, clock=lambda: now)

        def falls_on(self, step: int, *, overdue: bool) -> bool:
            nonlocal now
            now += 10
            return super().falls_on(step, overdue=overdue)

    monkeypatch.setattr("trainer.loop.Timetable", Hands)
    clocked = {"train__early_stopping": None, "train__validate_every_steps": None, "train__validate_every_s": 30}
    monkeypatch.setattr("tests.unit.test_stopping.CURVE", dict.fromkeys(range(13), 1.0))
    run_fit(stopping_run(**clocked), folder, stop)
    assert passes == [4, 8, 12]


def test_training_ends_early_and_its_best_checkpoint_is_the_result(
    folder: RunFolder, stop: StopRequest, passes: list[int]
):
    run = stopping_run()
    assert final_step(run, folder) is None
    state = train(run, folder, stop)
    assert passes == [2, 4, 6, 8]
    assert (state.step, state.position) == (8, 64)
    assert steps_in(folder.train) == [8, 4]  # the last to go on from, the best for its loss
    assert final_step(run, folder) == chosen_step(folder.train) == 4
    told = [event for event in read_events(folder.events) if event["event"] == "early_stop"]
    assert [(event["step"], event["best_step"]) for event in told] == [(8, 4)]
    assert told[0]["reason"] == "validation/loss has not improved in 2 validations; it was best at step 4, 2"
    record = json.loads((folder.train / FINISHED).read_text())
    assert record["why"] == "early stop after step 8, best by validation/loss at step 4"
    saved = json.loads((step_folder(folder.train, 4) / "complete.json").read_text())
    assert record["checkpoint"] == saved["digest"]


def test_the_same_command_after_an_early_stop_changes_nothing(folder: RunFolder, stop: StopRequest, passes: list[int]):
    run = stopping_run()
    first = train(run, folder, stop)
    record = (folder.train / FINISHED).read_bytes()
    assert train(run, folder, stop) == first
    assert (folder.train / FINISHED).read_bytes() == record
    assert passes == [2, 4, 6, 8]
    assert steps_in(folder.train) == [8, 4]


def dies_when(monkeypatch: pytest.MonkeyPatch, what: str, number: int) -> None:
    """Let the program be killed at the beginning of the nth call of a function of the loop."""
    import trainer.loop

    real: Callable[..., Any] = getattr(trainer.loop, what)
    calls = 0

    def mortal(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return raiser(Killed())() if calls == number else real(*args, **kwargs)

    monkeypatch.setattr(f"trainer.loop.{what}", mortal)


@pytest.mark.parametrize(
    ("what", "number"),
    [("validate", 2), ("save", 2), ("save", 3), ("validate", 4), ("save", 5), ("finish_saving", 1)],
)
def test_killed_between_a_validation_and_the_stop_it_ends_as_the_uninterrupted_run(
    folder: RunFolder,
    stop: StopRequest,
    passes: list[int],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    what: str,
    number: int,
):
    run = stopping_run()
    with monkeypatch.context() as patch:
        dies_when(patch, what, number)
        with pytest.raises(Killed):
            train(run, folder, stop)
    resumed = train(run, folder, stop)
    other = RunFolder(tmp_path / "whole")
    other.path.mkdir()
    other.data.symlink_to(folder.data)
    assert resumed == train(run, other, stop)
    assert steps_of(folder) == steps_of(other)
    for each in (4, 8):
        name = "model.weights.rank-00000.safetensors"
        weights = [(step_folder(one.train, each) / name).read_bytes() for one in (folder, other)]
        assert weights[0] == weights[1]
    assert chosen_step(folder.train) == chosen_step(other.train) == 4


def test_stopped_by_hand_in_between_it_ends_as_the_uninterrupted_run(
    folder: RunFolder, stop: StopRequest, passes: list[int], monkeypatch: pytest.MonkeyPatch
):
    import trainer.loop

    scripted = trainer.loop.validate

    def validate(trainer: Trainer, step: int) -> dict[str, float]:
        stop.wanted = step == 6
        return scripted(trainer, step)

    monkeypatch.setattr("trainer.loop.validate", validate)
    with pytest.raises(Stopped, match="stopped after step 7 of 12"):
        train(stopping_run(), folder, stop)
    stop.wanted = False
    assert train(stopping_run(), folder, stop).step == 8
    assert final_step(stopping_run(), folder) == 4
    assert passes == [2, 4, 6, 8]


def test_more_patience_goes_on_from_where_the_training_ended(folder: RunFolder, stop: StopRequest, passes: list[int]):
    train(stopping_run(), folder, stop)
    patient = stopping_run(train__early_stopping="{patience: 3}")
    assert final_step(patient, folder) is None
    assert train_key(patient) == train_key(stopping_run())  # the weights of a step are the same
    state = train(patient, folder, stop)
    assert passes == [2, 4, 6, 8, 10, 12]
    assert state.step == final_step(patient, folder) == 12
    assert (
        json.loads((folder.train / FINISHED).read_text())["why"] == "the last step, best by validation/loss at step 12"
    )


def test_the_last_checkpoint_of_an_early_stop_can_be_the_result(
    folder: RunFolder, stop: StopRequest, passes: list[int]
):
    run = stopping_run(train__result="last")
    train(run, folder, stop)
    assert final_step(run, folder) == 8
    assert steps_in(folder.train) == [8]
    assert passes == [2, 4, 6, 8]


def test_the_best_of_a_whole_training_is_saved_whenever_checkpoints_are(
    folder: RunFolder, stop: StopRequest, passes: list[int], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(CURVE, 10, 2.0)
    monkeypatch.setitem(CURVE, 12, 4.0)
    run = stopping_run(
        train__early_stopping=None,
        train__result="best",
        train__checkpoint="{every_steps: 5, keep: 1, best: {metric: validation/loss, count: 2}}",
    )
    assert train(run, folder, stop).step == 12
    assert steps_in(folder.train) == [12, 10, 4]  # step 10 equals step 4, and the later counts
    assert final_step(run, folder) == 10
    last = run.model_copy(update={"train": run.train.model_copy(update={"result": None})})
    assert final_step(last, folder) == 12


def test_a_best_checkpoint_that_is_gone_is_an_error_and_no_other_takes_its_place(
    folder: RunFolder, stop: StopRequest, passes: list[int]
):
    run = stopping_run()
    state = train(run, folder, stop)
    (step_folder(folder.train, 4) / "complete.json").unlink()
    (folder.train / FINISHED).unlink()
    with pytest.raises(DamageError, match=r"step-00000004, the best by validation/loss \(2\), is gone or damaged"):
        settle_result(run, folder, state)
    assert not (folder.train / FINISHED).exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"step": 4}'])
def test_a_torn_word_on_the_result_leaves_training_to_settle_it(
    folder: RunFolder, stop: StopRequest, passes: list[int], content: str
):
    run = stopping_run()
    train(run, folder, stop)
    (folder.train / FINISHED).write_text(content)
    assert final_step(run, folder) is None
    assert complete("train", run, folder) is None
    assert chosen_step(folder.train) == 8
    train(run, folder, stop)
    assert final_step(run, folder) == 4


def test_two_ranks_end_and_remember_as_one(folder: RunFolder, stop: StopRequest, passes: list[int], tmp_path: Path):
    run = stopping_run(world__processes=2)

    def work(world: World) -> TrainState:
        trainer = make_trainer(run, folder, world)
        state = fit(trainer, BEGINNING, stop)
        trainer.tracker.finish("over")
        return state

    first, second = on_ranks(2, work)
    assert first == second
    assert passes == [2, 4, 6, 8]
    alone = RunFolder(tmp_path / "alone")
    alone.path.mkdir()
    alone.data.symlink_to(folder.data)
    one = train(stopping_run(), alone, stop)
    assert (one.step, one.position, one.samples_digest, one.stopping) == (
        first.step,
        first.position,
        first.samples_digest,
        first.stopping,
    )


def test_without_early_stopping_the_last_step_is_the_result_and_nothing_more_is_written(
    folder: RunFolder, stop: StopRequest, passes: list[int]
):
    run = stopping_run(train__early_stopping=None)
    train(run, folder, stop)
    assert final_step(run, folder) == chosen_step(folder.train) == 12
    assert not (folder.train / FINISHED).exists()
    write_json(folder.train / FINISHED, {"step": 9})
    assert final_step(run, folder) == chosen_step(folder.train) == 12


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"train__validate_every_steps": None}, "one of validate_every_steps and validate_every_s is needed"),
        ({"train__validate_every_s": 60}, "early_stopping with validate_every_s=60 would let the clock choose"),
        ({"train__early_stopping": None, "train__result": "best"}, "result=best needs a metric; give checkpoint.best"),
        (
            {
                "train__early_stopping": None,
                "train__result": "best",
                "train__checkpoint": "{every_steps: 3, best: {metric: train/loss}}",
            },
            "needs a validation metric, got checkpoint.best.metric=train/loss",
        ),
        (
            {"train__checkpoint": "{every_steps: 3, best: {metric: validation/accuracy, better: higher}}"},
            "choose two results; make them equal, or set result=last",
        ),
        ({"data__splits__validation": 0}, "train.early_stopping needs a validation split"),
        ({"train__early_stopping": "{patience: 0}"}, "patience"),
        ({"train__early_stopping": "{patience: 1, metric: train/loss}"}, "metric"),
    ],
)
def test_what_cannot_decide_a_result_is_refused_at_load(overrides: dict[str, object], says: str):
    with pytest.raises(ConfigError, match=says):
        stopping_run(**overrides)


def test_the_result_stays_among_the_checkpoints_that_are_kept():
    train = stopping_run().train
    assert train.retention.best == BestConfig(metric="validation/loss")
    own = CheckpointConfig(every_steps=3, best=BestConfig(metric="validation/loss", count=3))
    assert train.model_copy(update={"checkpoint": own}).retention == own
    assert train.model_copy(update={"result": "last"}).retention == train.checkpoint


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Updates, counted from 0 as they are first drawn, whose loss is made no number."""
    updates: list[int] = []
    drawn: list[tuple[int, ...]] = []

    def bad(batch: Batch) -> float:
        if batch.ids not in drawn:
            drawn.append(batch.ids)
        return math.nan if drawn.index(batch.ids) // 2 in updates else 1.0  # two micro-batches an update

    monkeypatch.setattr("tests.tiny.build_task", lambda *args: Poisoned(build_task(*args), bad))
    return updates


def test_a_way_back_forgets_the_passes_since_the_checkpoint_also_when_it_is_taken_again(
    folder: RunFolder, stop: StopRequest, passes: list[int], poisoned: list[int]
):
    run = stopping_run(
        train__log_every_steps=1,
        train__checkpoint="{every_steps: 4, keep: 1}",
        train__anomalies="{not_finite: rollback}",
    )
    poisoned.append(6)
    state = train(run, folder, stop)
    assert passes == [2, 4, 6, 6, 8], "the pass at step 6 was taken back with its step, and did not count twice"
    assert (state.step, state.position) == (8, 88)
    assert state.stopping == {"metric": ["validation/loss", "lower"], "best": [4, 2.0], "mark": 2.0, "waited": 2}
    assert final_step(run, folder) == 4
    shutil.rmtree(step_folder(folder.train, 8))  # as if killed after the way back and before its next checkpoint
    (folder.train / FINISHED).unlink()
    assert train(run, folder, stop) == state
    assert passes == [2, 4, 6, 6, 8, 6, 6, 8]
