"""Checkpoints: whole or absent, whatever happens while they are written."""

import errno
import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from configs.errors import ConfigError, DamageError
from configs.stages import step_folder
from tests.tiny import ALONE, Memory, checkpoints, raiser, tiny_run, without_deepspeed
from trainer.checkpoint import TrainState, load_network, load_weights, weights
from trainer.engines import Engine
from trainer.pieces import Stateful

ORIGIN = {"data": "d" * 64, "config": "c" * 64}


def state_at(step: int) -> TrainState:
    return TrainState(step, 8 * step, f"{step:02d}" * 32, {"left": 5 - step % 5})


def memory(step: int) -> Memory:
    """Tensors that tell which step they are of."""
    generator = torch.Generator().manual_seed(step)
    return Memory(
        {
            "weights": {"a": torch.randn(3, 4, generator=generator), "b": torch.full((2,), step, dtype=torch.int64)},
            "optimizer": {"a/exp_avg": torch.randn(3, 4, generator=generator), "a/step": torch.tensor(float(step))},
        }
    )


def save(root: Path, *steps: int, **settings: Any) -> None:
    saver = checkpoints(root, ORIGIN, **settings)
    for step in steps:
        saver.save({"model": memory(step)}, state_at(step), {"train/loss": 1.5})


def assert_loads(root: Path, step: int) -> None:
    """The newest sound checkpoint is that of `step`, with every bit as it was."""
    reader, engine = checkpoints(root, ORIGIN), Memory({})
    assert reader.latest() == step
    assert reader.load(step, {"model": engine}) == state_at(step)
    for kind, tensors in memory(step).tensors.items():
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


def tensors_of(engine: Stateful) -> dict[str, dict[str, torch.Tensor]]:
    """The state of an engine that is alone, by kind and name."""
    return {kind: {each.name: each.values for each in pieces} for kind, pieces in engine.state().items()}


def test_an_engine_comes_back_with_every_bit_of_weights_moments_and_averages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = trained_engine(monkeypatch, 1, 5), trained_engine(monkeypatch, 2, 3)
    saver = checkpoints(tmp_path, ORIGIN)
    saver.save({"model": first}, state_at(5), {})
    assert saver.load(5, {"model": second}) == state_at(5)
    ours, theirs = tensors_of(first), tensors_of(second)
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
    for name, tensor in tensors_of(first)["weights"].items():
        assert torch.equal(tensor, tensors_of(second)["weights"][name])
    assert second.module.get_parameter("head.weight") is second.module.get_parameter("embedding.weight")


def test_a_checkpoint_is_safetensors_and_json_and_nothing_that_is_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pickle.dumps", raiser(AssertionError("pickled")))
    monkeypatch.setattr("torch.save", raiser(AssertionError("pickled")))
    save(tmp_path, 3)
    folder = step_folder(tmp_path, 3)
    names = sorted(path.name for path in folder.iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest.json", folder.name]
    assert names == ["complete.json", "model.optimizer.rank-00000.safetensors", "model.weights.rank-00000.safetensors"]
    record = json.loads((folder / "complete.json").read_text())
    assert set(record["files"]) == set(names) - {"complete.json"}
    assert (record["step"], record["position"], record["world"]) == (3, 24, 1)
    assert (record["data"], record["config"]) == (ORIGIN["data"], ORIGIN["config"])


def flip_byte(path: Path, at: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("file", ["model.weights.rank-00000.safetensors", "model.optimizer.rank-00000.safetensors"])
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


@pytest.mark.parametrize("file", ["model.weights.rank-00000.safetensors", "model.optimizer.rank-00000.safetensors"])
def test_a_missing_or_cut_file_is_passed_over(tmp_path: Path, file: str) -> None:
    save(tmp_path, 1, 2, 3)
    (step_folder(tmp_path, 3) / file).unlink()
    cut = step_folder(tmp_path, 2) / file
    cut.write_bytes(cut.read_bytes()[:-8])
    assert_loads(tmp_path, 1)


def test_nothing_saved_or_nothing_sound_is_none(tmp_path: Path) -> None:
    assert checkpoints(tmp_path / "absent", ORIGIN).latest() is None
    save(tmp_path, 1)
    flip_byte(step_folder(tmp_path, 1) / "model.weights.rank-00000.safetensors")
    assert checkpoints(tmp_path, ORIGIN).latest() is None


def test_a_damaged_step_can_be_saved_again(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    flip_byte(step_folder(tmp_path, 2) / "model.weights.rank-00000.safetensors")
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
    other, engine = checkpoints(tmp_path, ORIGIN | {key: "e" * 64}), Memory({})
    assert other.latest() == 1
    with pytest.raises(ConfigError, match=f"another {key} .*choose another --name"):
        other.load(1, {"model": engine})
    assert engine.tensors == {}


def test_a_checkpoint_of_another_configuration_is_refused_with_the_keys_that_differ(tmp_path: Path) -> None:
    theirs = {"seed": 1, "train": {"steps": 9, "optimizer": {"kind": "adamw"}}}
    saver = checkpoints(tmp_path, ORIGIN, identity=theirs)
    saver.save({"model": memory(1)}, state_at(1), {})
    ours = {"seed": 1, "train": {"steps": 8, "optimizer": {"kind": "muon"}}}
    with pytest.raises(ConfigError) as caught:
        checkpoints(tmp_path, ORIGIN, identity=ours).load(1, {"model": Memory({})})
    lines = str(caught.value).splitlines()
    assert "another configuration" in lines[0]
    assert lines[1:3] == ["  - train.steps: 8 here, 9 there", "  - train.optimizer.kind: 'muon' here, 'adamw' there"]
    assert "choose another --name" in lines[3]


def test_the_only_sound_one_is_never_removed_for_the_sake_of_a_damaged_later_one(tmp_path: Path) -> None:
    save(tmp_path, 1, 3)
    flip_byte(step_folder(tmp_path, 3) / "model.weights.rank-00000.safetensors")
    save(tmp_path, 2, keep=1)  # training went back to 1 and has come to 2
    assert_loads(tmp_path, 2)


@pytest.mark.parametrize("place", ["open", "write", "fsync", "mkdir", "rename", "replace"])
def test_no_space_left_raises_and_leaves_the_earlier_ones_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    save(tmp_path, 1)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")
    saver = checkpoints(tmp_path, ORIGIN)
    with monkeypatch.context() as patch:
        patch.setattr(os, place, raiser(full))
        with pytest.raises(OSError, match="No space left") as caught:
            saver.save({"model": memory(2)}, state_at(2), {})
    assert caught.value.errno == errno.ENOSPC
    assert str(caught.value.filename)
    assert not saver.failed  # it has been told
    assert_loads(tmp_path, 1)


@pytest.fixture
def small_files_only() -> Iterator[None]:
    """The kernel refuses to let files of this process grow beyond 64 KiB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_files_only")
def test_a_write_that_the_kernel_refuses_is_told_with_number_and_file_and_leaves_nothing(tmp_path: Path) -> None:
    save(tmp_path, 1)
    with pytest.raises(OSError, match="File too large") as caught:
        checkpoints(tmp_path, ORIGIN).save({"model": Memory({"weights": {"a": torch.zeros(30000)}})}, state_at(2), {})
    assert caught.value.errno == errno.EFBIG
    assert str(caught.value.filename).endswith("model.weights.rank-00000.safetensors")
    assert not list(tmp_path.glob("*.part"))
    assert_loads(tmp_path, 1)


@pytest.mark.skipif(os.geteuid() == 0, reason="to the superuser no folder is read-only")
def test_a_read_only_folder_is_told_by_name(tmp_path: Path) -> None:
    save(tmp_path, 1)
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(PermissionError, match=r"step-00000002\.part"):
            save(tmp_path, 2)
        assert_loads(tmp_path, 1)
    finally:
        tmp_path.chmod(0o755)


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
    checkpoints(tmp_path, ORIGIN).save({"model": engine}, state_at(4), {})
    own, averaged = (load_network(step_folder(tmp_path, 4), "model", Tied(), averaged=each) for each in (False, True))
    assert engine.ema is not None
    for name, parameter in engine.module.named_parameters():
        assert torch.equal(own.get_parameter(name), parameter)
        assert torch.equal(averaged.get_parameter(name), engine.ema.average[name])
        assert not torch.equal(averaged.get_parameter(name), parameter)
    for name in ("norm.running_mean", "norm.running_var"):
        assert torch.equal(own.get_buffer(name), engine.module.get_buffer(name))
        assert torch.equal(averaged.get_buffer(name), engine.ema.average[name])
