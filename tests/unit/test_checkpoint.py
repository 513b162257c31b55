"""Checkpoints: whole or absent, whatever happens while they are written."""

import errno
import json
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import trainer.checkpoint
from configs.errors import ConfigError, DamageError
from configs.stages import step_folder, steps_in
from tests.tiny import ALONE, Memory, raiser, tiny_run, without_deepspeed
from trainer.checkpoint import Checkpointer, TrainState, load_network, load_weights, weights
from trainer.engines import Engine

ORIGIN = {"data": "d" * 64, "config": "c" * 64}


def state_at(step: int) -> TrainState:
    return TrainState(step, 8 * step, f"{step:02d}" * 32)


def memory(step: int) -> Memory:
    """Tensors that tell which step they are of."""
    generator = torch.Generator().manual_seed(step)
    return Memory(
        {
            "weights": {"a": torch.randn(3, 4, generator=generator), "b": torch.full((2,), step, dtype=torch.int64)},
            "optimizer": {"a/exp_avg": torch.randn(3, 4, generator=generator), "a/step": torch.tensor(float(step))},
        }
    )


def checkpointer(root: Path, **origin: str) -> Checkpointer:
    return Checkpointer(root, ALONE, ORIGIN | origin)


def save(root: Path, *steps: int) -> Checkpointer:
    saver = checkpointer(root)
    for step in steps:
        saver.save({"model": memory(step)}, state_at(step), {"train/loss": 1.5})
    return saver


def assert_loads(root: Path, step: int) -> None:
    """The newest sound checkpoint is that of `step`, with every bit as it was."""
    reader, engine = checkpointer(root), Memory({})
    assert reader.latest() == step
    assert reader.load(step, {"model": engine}) == state_at(step)
    for kind, tensors in memory(step).state().items():
        for name, tensor in tensors.items():
            assert torch.equal(engine.tensors[kind][name], tensor)
            assert engine.tensors[kind][name].dtype == tensor.dtype


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 9, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("scratch", torch.zeros(2), persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.embedding(tokens)))


def trained_engine(monkeypatch: pytest.MonkeyPatch, seed: int, steps: int) -> Engine:
    without_deepspeed(monkeypatch)
    torch.manual_seed(seed)
    run = tiny_run(train__ema="{decay: 0.9}", train__global_batch_samples=4, world__micro_batch_samples=4)
    engine = Engine(Tied(), run, ALONE)
    for _ in range(steps):
        engine.backward(engine(torch.randint(9, (16,))).square().sum())
        engine.step(0.05, 0)
    return engine


def test_an_engine_comes_back_with_every_bit_of_weights_moments_and_averages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = trained_engine(monkeypatch, 1, 5), trained_engine(monkeypatch, 2, 3)
    saver = checkpointer(tmp_path)
    saver.save({"model": first}, state_at(5), {})
    assert saver.load(5, {"model": second}) == state_at(5)
    ours, theirs = first.state(), second.state()
    assert set(ours) == {"weights", "optimizer", "ema"}
    assert "head.weight" not in ours["weights"]  # tied: kept once
    assert "scratch" not in ours["weights"]
    assert "norm.running_mean" in ours["weights"]
    assert {"embedding.weight/step", "embedding.weight/exp_avg", "embedding.weight/exp_avg_sq"} <= set(
        ours["optimizer"]
    )
    for kind, tensors in ours.items():
        assert set(tensors) == set(theirs[kind])
        for name, tensor in tensors.items():
            assert torch.equal(tensor, theirs[kind][name]), (kind, name)
    for engine in (first, second):  # and both go on alike
        torch.manual_seed(9)
        engine.backward(engine(torch.randint(9, (16,))).square().sum())
        engine.step(0.05, 0)
    for name, tensor in first.state()["weights"].items():
        assert torch.equal(tensor, second.state()["weights"][name])
    assert second.module.get_parameter("head.weight") is second.module.get_parameter("embedding.weight")


def test_a_checkpoint_is_safetensors_and_json_and_nothing_that_is_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pickle.dumps", raiser(AssertionError("pickled")))
    monkeypatch.setattr("torch.save", raiser(AssertionError("pickled")))
    save(tmp_path, 3)
    folder = step_folder(tmp_path, 3)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["complete.json", "model.optimizer.safetensors", "model.weights.safetensors"]
    record = json.loads((folder / "complete.json").read_text())
    assert set(record["files"]) == set(names) - {"complete.json"}
    assert (record["step"], record["position"], record["world"]) == (3, 24, 1)
    assert (record["data"], record["config"]) == (ORIGIN["data"], ORIGIN["config"])


def fails_at_call(original: Callable[..., Any], number: int) -> Callable[..., Any]:
    """The function, but its call `number` (from 0) dies like a process that is killed."""
    calls = iter(range(1000))

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == number:
            raise Killed
        return original(*args, **kwargs)

    return wrapper


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


MOMENTS = {
    "first tensors": (trainer.checkpoint, "save_file", 0),
    "second tensors": (trainer.checkpoint, "save_file", 1),
    "flush of tensors": (trainer.checkpoint, "sync", 0),
    "record": (trainer.checkpoint, "write_json", 0),
    "rename of the record": (os, "replace", 0),
    "rename of the folder": (Path, "rename", 0),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_while_saving_leaves_the_checkpoint_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    save(tmp_path, 1, 2)
    owner, name, number = MOMENTS[moment]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fails_at_call(getattr(owner, name), number))
        with pytest.raises(Killed):
            save(tmp_path, 3)
    assert steps_in(tmp_path) == [2, 1]
    assert_loads(tmp_path, 2)
    assert not list(tmp_path.glob("*.part"))  # looking for the latest cleared the remains
    save(tmp_path, 3)
    assert_loads(tmp_path, 3)


def test_a_kill_right_after_the_rename_has_saved_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(trainer.checkpoint, "sync", fails_at_call(trainer.checkpoint.sync, 2))  # two files, then the root
        with pytest.raises(Killed):
            save(tmp_path, 2)
    assert_loads(tmp_path, 2)


@pytest.mark.parametrize("call", [0, 1])
def test_a_kill_while_pruning_leaves_no_half_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    saver = save(tmp_path, 1, 2, 3)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", fails_at_call(trainer.checkpoint.shutil.rmtree, call))
        with pytest.raises(Killed):
            saver.prune(1, newest=3)
    for step in steps_in(tmp_path):
        assert (step_folder(tmp_path, step) / "complete.json").exists()
    assert_loads(tmp_path, 3)


def flip_byte(path: Path, at: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("file", ["model.weights.safetensors", "model.optimizer.safetensors"])
def test_a_flipped_byte_in_the_newest_falls_back_to_the_one_before_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    save(tmp_path, 1, 2)
    flip_byte(step_folder(tmp_path, 2) / file)
    assert_loads(tmp_path, 1)
    said = capsys.readouterr().out
    assert "skipping a damaged checkpoint" in said
    assert "step-00000002" in said
    assert file in said


def test_a_changed_digit_in_the_record_is_damage_too(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    record = step_folder(tmp_path, 2) / "complete.json"
    changed = record.read_text().replace('"position": 16', '"position": 17')
    assert changed != record.read_text()
    record.write_text(changed)
    assert_loads(tmp_path, 1)


@pytest.mark.parametrize("content", [None, "", "{", "[1]", "{}", '{"step": 2}'])
def test_a_folder_without_a_sound_record_is_passed_over(tmp_path: Path, content: str | None) -> None:
    save(tmp_path, 1, 2)
    record = step_folder(tmp_path, 2) / "complete.json"
    record.unlink()
    if content is not None:
        record.write_text(content)
    assert_loads(tmp_path, 1)


@pytest.mark.parametrize("file", ["model.weights.safetensors", "model.optimizer.safetensors"])
def test_a_missing_or_cut_file_is_passed_over(tmp_path: Path, file: str) -> None:
    save(tmp_path, 1, 2, 3)
    (step_folder(tmp_path, 3) / file).unlink()
    cut = step_folder(tmp_path, 2) / file
    cut.write_bytes(cut.read_bytes()[:-8])
    assert_loads(tmp_path, 1)


def test_nothing_saved_or_nothing_sound_is_none(tmp_path: Path) -> None:
    assert checkpointer(tmp_path / "absent").latest() is None
    save(tmp_path, 1)
    flip_byte(step_folder(tmp_path, 1) / "model.weights.safetensors")
    assert checkpointer(tmp_path).latest() is None


def test_a_damaged_step_can_be_saved_again(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    flip_byte(step_folder(tmp_path, 2) / "model.weights.safetensors")
    assert_loads(tmp_path, 1)
    save(tmp_path, 2)
    assert_loads(tmp_path, 2)
    assert not list(tmp_path.glob("*.part"))


def test_strangers_in_the_folder_are_ignored(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / "step-later").mkdir()
    (tmp_path / "step-00000009.part").mkdir()
    (tmp_path / "events.jsonl").write_text("{}\n")
    assert_loads(tmp_path, 1)


@pytest.mark.parametrize("key", ["data", "config"])
def test_a_checkpoint_of_other_data_or_another_config_is_refused_with_the_way_out(tmp_path: Path, key: str) -> None:
    save(tmp_path, 1)
    other, engine = checkpointer(tmp_path, **{key: "e" * 64}), Memory({})
    assert other.latest() == 1
    with pytest.raises(ConfigError, match=f"another {key} .*choose another --name"):
        other.load(1, {"model": engine})
    assert engine.tensors == {}


def test_prune_keeps_the_newest(tmp_path: Path) -> None:
    saver = save(tmp_path, 5, 10, 100, 1000)
    saver.prune(2, newest=1000)
    assert steps_in(tmp_path) == [1000, 100]
    saver.prune(3, newest=1000)
    assert steps_in(tmp_path) == [1000, 100]
    assert_loads(tmp_path, 1000)


def test_prune_never_removes_the_only_sound_one_for_the_sake_of_a_damaged_later_one(tmp_path: Path) -> None:
    saver = save(tmp_path, 1, 3)
    flip_byte(step_folder(tmp_path, 3) / "model.weights.safetensors")
    save(tmp_path, 2)  # training went back to 1 and has come to 2
    saver.prune(1, newest=2)
    assert_loads(tmp_path, 2)


@pytest.mark.parametrize("place", ["save_file", "write_json", "sync"])
def test_no_space_left_raises_and_leaves_the_earlier_ones_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    save(tmp_path, 1)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")
    with monkeypatch.context() as patch:
        patch.setattr(trainer.checkpoint, place, raiser(full))
        with pytest.raises(OSError, match="No space left") as caught:
            save(tmp_path, 2)
    assert caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.glob("*.part"))
    assert_loads(tmp_path, 1)


@pytest.fixture
def small_files_only() -> Iterator[None]:
    """The kernel refuses to let files of this process grow beyond 64 KiB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_files_only")
def test_what_safetensors_raises_on_a_full_disk_becomes_an_oserror_with_number_and_file(tmp_path: Path) -> None:
    save(tmp_path, 1)
    with pytest.raises(OSError, match="File too large") as caught:
        checkpointer(tmp_path).save({"model": Memory({"weights": {"a": torch.zeros(30000)}})}, state_at(2), {})
    assert caught.value.errno == errno.EFBIG
    assert str(caught.value.filename).endswith("model.weights.safetensors")
    assert not list(tmp_path.glob("*.part"))
    assert_loads(tmp_path, 1)


def test_weights_of_another_network_are_refused_by_name() -> None:
    network = Tied()
    whole = {name: tensor.clone() for name, tensor in weights(network).items()}
    lacking = {name: tensor for name, tensor in whole.items() if name != "norm.weight"}
    for wrong, named in ((lacking, "norm.weight"), (whole | {"extra": torch.zeros(1)}, "extra")):
        with pytest.raises(DamageError, match=named):
            load_weights(network, wrong)
    with pytest.raises(DamageError, match=r"norm\.bias"):
        load_weights(network, whole | {"norm.bias": torch.zeros(5)})


def test_a_network_is_loaded_with_its_own_or_its_averaged_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = trained_engine(monkeypatch, 1, 4)
    checkpointer(tmp_path).save({"model": engine}, state_at(4), {})
    own, averaged = (load_network(step_folder(tmp_path, 4), "model", Tied(), averaged=each) for each in (False, True))
    assert engine.ema is not None
    for name, parameter in engine.module.named_parameters():
        assert torch.equal(own.get_parameter(name), parameter)
        assert torch.equal(averaged.get_parameter(name), engine.ema.average[name])
        assert not torch.equal(averaged.get_parameter(name), parameter)
    for name in ("norm.running_mean", "norm.running_var"):
        assert torch.equal(own.get_buffer(name), engine.module.get_buffer(name))
        assert torch.equal(averaged.get_buffer(name), engine.ema.average[name])
