"""Saving beside training: what the writer holds, what it refuses, and how the ranks agree."""

import errno
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.errors import PeerError, StaleError
from configs.stages import check_files, step_folder, steps_in, verify_checkpoint
from tests.tiny import ALONE, Memory, checkpoints, on_ranks
from trainer.checkpoint import Checkpointer, TrainState, read_tensors
from trainer.checkpoint.snapshot import Snapshot
from trainer.distributed import World
from trainer.pieces import Piece, State

ORIGIN = {"data": "d" * 64, "config": "c" * 64}


def open_background(root: Path, world: World = ALONE) -> Checkpointer:
    return checkpoints(root, ORIGIN, world, asynchronous=True)


def state_at(step: int) -> TrainState:
    return TrainState(step, 8 * step, "00" * 32)


def memory(value: float) -> Memory:
    return Memory({"weights": {"a": torch.full((64,), value)}, "ema": {"a": torch.full((64,), 0.5)}})


@contextmanager
def writing_held(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, Callable[[], None]]]:
    """The writer stops where it first flushes: an event says that it is there, a function lets it go on."""
    there, go, original = threading.Event(), threading.Event(), os.fsync

    def held(descriptor: int) -> None:
        there.set()
        assert go.wait(30)
        original(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", held)
        try:
            yield there, go.set
        finally:
            go.set()


def test_weights_may_change_when_the_copy_has_settled_and_the_file_holds_the_old_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver, engine = open_background(tmp_path), memory(1.0)
    with writing_held(monkeypatch) as (there, go):
        saver.save({"model": engine}, state_at(1), {})
        saver.settle()
        engine.tensors["weights"]["a"].fill_(2.0)
        assert there.wait(30)
        assert steps_in(tmp_path) == []  # it has no name while it is written
        go()
        saver.wait()
    assert read_tensors(step_folder(tmp_path, 1), "model")["weights"]["a"].tolist() == [1.0] * 64


def test_what_is_not_still_is_copied_before_save_returns_and_the_rest_before_it_settles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch norm's statistics change in the very next forward pass."""
    copying, take = threading.Event(), Snapshot.take

    def slow(self: Snapshot, pieces: Sequence[Piece], *, still: bool) -> None:
        assert not still or copying.wait(30)
        take(self, pieces, still=still)

    class Network(Memory):
        def state(self) -> State:
            pieces = super().state()["weights"]
            return {"weights": [replace(each, still=each.name != "running_mean") for each in pieces]}

    monkeypatch.setattr(Snapshot, "take", slow)
    engine = Network({"weights": {"running_mean": torch.ones(64), "weight": torch.ones(64)}})
    saver = open_background(tmp_path)
    saver.save({"model": engine}, state_at(1), {})
    engine.tensors["weights"]["running_mean"].fill_(2.0)
    copying.set()
    saver.settle()
    engine.tensors["weights"]["weight"].fill_(2.0)
    saver.wait()
    for tensor in read_tensors(step_folder(tmp_path, 1), "model")["weights"].values():
        assert tensor.tolist() == [1.0] * 64


def test_a_second_save_waits_for_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saver, order = open_background(tmp_path), []
    with writing_held(monkeypatch) as (there, go):
        saver.save({"model": memory(1.0)}, state_at(1), {})
        assert there.wait(30)

        def second() -> None:
            saver.save({"model": memory(2.0)}, state_at(2), {})
            order.append(steps_in(tmp_path)[-1])  # the first was there before the second began

        thread = threading.Thread(target=second)
        thread.start()
        assert not order
        go()
        thread.join(30)
    saver.wait()
    assert order == [1]
    assert steps_in(tmp_path) == [2, 1]
    for step in (1, 2):
        assert read_tensors(step_folder(tmp_path, step), "model")["weights"]["a"][0] == step


def test_looking_and_loading_wait_for_a_save_that_is_under_way(tmp_path: Path) -> None:
    saver = open_background(tmp_path)
    saver.save({"model": memory(1.0)}, state_at(1), {})
    assert saver.latest() == 1
    saver.save({"model": memory(2.0)}, state_at(2), {})
    assert saver.load(2, {"model": Memory({})}) == state_at(2)


def test_memory_is_kept_from_save_to_save_and_made_anew_when_the_state_has_another_layout(tmp_path: Path) -> None:
    saver, engine = open_background(tmp_path), memory(1.0)
    places: list[dict[Any, int]] = []
    for step in (1, 2, 3, 4):
        engine.tensors["weights"]["a"].add_(1)
        if step == 4:
            engine.tensors = {"weights": {"a": torch.ones(65)}}
        saver.save({"model": engine}, state_at(step), {})
        saver.wait()
        places.append({key: each.bytes.data_ptr() for key, each in saver._snapshots.items()})
    assert places[0] == places[1] == places[2]
    assert places[3].keys() == {("model", "weights")}


def test_what_failed_in_the_background_is_known_and_raised_by_the_next_call_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for call in ("wait", "save", "latest"):
        saver = open_background(tmp_path)
        with writing_held(monkeypatch) as (there, go):
            saver.save({"model": memory(float("nan"))}, state_at(1), {})
            assert not there.wait(0)
            go()
        assert saver._writer is not None
        saver._writer.join(30)
        assert saver.failed
        arguments = ({"model": memory(1.0)}, state_at(2), {}) if call == "save" else ()
        with pytest.raises(FloatingPointError, match="step 1 is not saved"):
            getattr(saver, call)(*arguments)
        assert not saver.failed
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["weights", "optimizer", "ema"])
def test_a_number_that_is_none_is_refused_with_the_name_of_its_tensor(tmp_path: Path, kind: str) -> None:
    tensors = {each: {"layers.0": torch.ones(9), "layers.1": torch.ones(9)} for each in ("weights", "optimizer", "ema")}
    tensors[kind]["layers.1"][4] = float("inf")
    with pytest.raises(FloatingPointError, match=rf"step 3 is not saved: {kind} layers\.1 of model"):
        checkpoints(tmp_path, ORIGIN).save({"model": Memory(tensors)}, state_at(3), {})
    assert list(tmp_path.iterdir()) == []


def test_saves_with_changed_weights_have_different_digests(tmp_path: Path) -> None:
    saver = checkpoints(tmp_path, ORIGIN)
    for step in (1, 2):
        saver.save({"model": memory(step)}, state_at(step), {})
    digests = [verify_checkpoint(step_folder(tmp_path, step))["files"] for step in (1, 2)]
    weights, ema = (f"model.{kind}.rank-00000.safetensors" for kind in ("weights", "ema"))
    assert digests[0][weights] != digests[1][weights]
    assert digests[0][ema] == digests[1][ema]


@pytest.mark.parametrize("known", ["saved", "loaded"])
def test_weights_that_have_not_changed_though_training_went_on_are_refused(tmp_path: Path, known: str) -> None:
    saver = checkpoints(tmp_path, ORIGIN)
    saver.save({"model": memory(1.0)}, state_at(4), {})
    if known == "loaded":
        saver = checkpoints(tmp_path, ORIGIN)
        saver.load(4, {"model": Memory({})})
    with pytest.raises(StaleError, match="step 6 is not saved: every weight is the same as at step 4"):
        saver.save({"model": memory(1.0)}, state_at(6), {})
    assert steps_in(tmp_path) == [4]
    assert not list(tmp_path.glob("*.part"))
    saver.save({"model": memory(1.0)}, state_at(6), {}, changed=False)  # every update was left out
    saver.save({"model": memory(1.0)}, state_at(6), {})  # the same step again
    saver.save({"model": memory(2.0)}, state_at(7), {})
    assert steps_in(tmp_path) == [7, 6, 4]


def test_one_network_that_moves_is_change_enough(tmp_path: Path) -> None:
    saver = checkpoints(tmp_path, ORIGIN)
    for step in (1, 2):
        saver.save({"first": memory(0.0), "second": memory(step)}, state_at(step), {})
    assert steps_in(tmp_path) == [2, 1]


def test_metrics_that_json_cannot_hold_are_an_error_and_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        checkpoints(tmp_path, ORIGIN).save({"model": memory(1.0)}, state_at(1), {"train/loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


class Share(Memory):
    """A rank's share of a network: a tensor of its own; rank 0 has no average to save."""

    def __init__(self, world: World, value: float) -> None:
        kinds = ("weights",) if world.rank == 0 else ("weights", "ema")
        super().__init__({kind: {f"of-{world.rank}": torch.full((9,), value)} for kind in kinds})


def test_every_rank_writes_its_own_files_and_one_that_holds_nothing_none(tmp_path: Path) -> None:
    def work(world: World) -> None:
        saver = open_background(tmp_path, world)
        saver.save({"model": Share(world, 1.0)}, state_at(1), {})
        saver.wait()

    on_ranks(2, work)
    record = verify_checkpoint(step_folder(tmp_path, 1))
    names = [f"model.{each}.safetensors" for each in ("ema.rank-00001", "weights.rank-00000", "weights.rank-00001")]
    assert sorted(record["files"]) == names
    assert record["world"] == 2
    pointer = json.loads((tmp_path / "latest.json").read_text())
    assert pointer == {"step": 1, "digest": record["digest"]}


@pytest.mark.parametrize("culprit", [0, 1, 2])
def test_a_rank_that_refuses_raises_why_the_others_a_peer_error_and_nothing_is_left(
    tmp_path: Path, culprit: int
) -> None:
    def work(world: World) -> str:
        saver = open_background(tmp_path, world)
        saver.save({"model": Share(world, 1.0)}, state_at(1), {})
        saver.save({"model": Share(world, float("nan") if world.rank == culprit else 2.0)}, state_at(2), {})
        try:
            saver.wait()
        except (FloatingPointError, PeerError) as error:
            return f"{type(error).__name__}: {error}"
        return "nothing"

    for number, told in enumerate(on_ranks(3, work)):
        expected = "FloatingPointError: step 2" if number == culprit else f"PeerError: rank {culprit} could not"
        assert told.startswith(expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest.json", "step-00000001"]


def test_a_commit_that_fails_is_told_to_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "complete.json")

    def work(world: World) -> str:
        saver = open_background(tmp_path, world)
        saver.save({"model": Share(world, 1.0)}, state_at(1), {})
        try:
            saver.wait()
        except (OSError, PeerError) as error:
            return type(error).__name__
        return "nothing"

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        assert on_ranks(2, work) == ["OSError", "PeerError"]
    assert list(tmp_path.iterdir()) == []


def test_the_ranks_share_the_reading_and_agree_on_what_is_sound(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(world: World) -> None:
        saver = checkpoints(tmp_path, ORIGIN, world)
        for step in (1, 2):
            saver.save({"model": Share(world, step)}, state_at(step), {})

    on_ranks(2, save)
    path = step_folder(tmp_path, 2) / "model.weights.rank-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    read: list[str] = []
    monkeypatch.setattr(
        "trainer.checkpoint.checkpointer.check_files",
        lambda folder, files: (read.extend(f"{folder.name}/{name}" for name in files), check_files(folder, files))[1],
    )
    assert on_ranks(2, lambda world: checkpoints(tmp_path, ORIGIN, world).latest()) == [1, 1]
    assert len(read) == len(set(read)) == 6  # each file by one rank
    said = capsys.readouterr().out
    assert said.count("skipping a damaged checkpoint") == 1
    assert str(path) in said
    assert "latest.json names step 2, which is gone or damaged; going on from step 1" in said


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"step": "x"}'])
def test_a_pointer_that_cannot_be_read_is_said_and_not_needed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    saver = checkpoints(tmp_path, ORIGIN)
    saver.save({"model": memory(1.0)}, state_at(1), {})
    (tmp_path / "latest.json").write_text(content)
    assert saver.latest() == 1
    assert "latest.json cannot be read; going on from step 1" in capsys.readouterr().out


def test_a_checkpoint_that_somebody_took_away_is_missed_aloud(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saver = checkpoints(tmp_path, ORIGIN)
    saver.save({"model": memory(1.0)}, state_at(7), {})
    step_folder(tmp_path, 7).rename(tmp_path / "taken")
    assert saver.latest() is None
    assert "names step 7, which is gone or damaged; going on from the start" in capsys.readouterr().out


def test_the_clock_does_not_matter(tmp_path: Path) -> None:
    saver = checkpoints(tmp_path, ORIGIN, keep=2)
    for step in (1, 2, 3):
        saver.save({"model": memory(step)}, state_at(step), {})
        os.utime(step_folder(tmp_path, step), (10**9 - step, 10**9 - step))
    assert saver.latest() == 3
    assert steps_in(tmp_path) == [3, 2]
