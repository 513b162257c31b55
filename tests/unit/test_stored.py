"""Checkpoints read by other numbers of ranks than wrote them."""

import json
import math
import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from configs.errors import DamageError
from configs.stages import step_folder
from tests.tiny import checkpoints, on_ranks
from trainer.checkpoint import StoredNetwork, TrainState, read_tensors
from trainer.checkpoint.checkpointer import file_name
from trainer.checkpoint.snapshot import Snapshot
from trainer.distributed import World
from trainer.pieces import Piece, State, Stored

ORIGIN = {"data": "d" * 64, "config": "c" * 64}


def write(folder: Path, kind: str, shares: Sequence[Sequence[Piece]]) -> list[str]:
    """What ranks with these pieces leave; returns the names of the files."""
    names = [file_name("model", kind, rank) for rank, pieces in enumerate(shares) if pieces]
    for rank, pieces in enumerate(shares):
        if pieces:
            snapshot = Snapshot(pieces)
            snapshot.take(pieces, still=True)
            snapshot.write(folder / file_name("model", kind, rank))
    return names


def cut(tensor: Tensor, name: str, places: Sequence[int]) -> list[Piece]:
    """A tensor in runs that begin at 0 and at these places."""
    flat, shape = tensor.reshape(-1), tuple(tensor.shape)
    ends = [*places, len(flat)]
    return [Piece(name, shape, a, flat[a:b]) for a, b in zip([0, *places], ends, strict=True)]


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), shapes=st.lists(st.lists(st.integers(0, 5), max_size=3), min_size=1, max_size=4))
def test_any_cutting_over_any_ranks_reads_back_as_it_was_in_any_run(seed: int, shapes: list[list[int]]) -> None:
    rng = random.Random(seed)
    shares: list[list[Piece]] = [[] for _ in range(rng.choice((1, 2, 5)))]
    tensors: dict[str, Tensor] = {}
    for number, shape in enumerate(shapes):
        name, dtype = f"t.{number}", rng.choice((torch.float32, torch.bfloat16, torch.int64))
        tensors[name] = torch.randint(1000, shape).to(dtype)
        size = math.prod(shape)
        places = sorted(rng.randint(0, size) for _ in range(rng.choice((0, 1, 4))))
        for piece in cut(tensors[name], name, places):
            rng.choice(shares).append(piece)
    with tempfile.TemporaryDirectory() as folder:
        stored = StoredNetwork(Path(folder), "model", write(Path(folder), "weights", shares))
        assert stored.kinds() == ["weights"]
        assert stored.names("weights") == sorted(tensors)
        for name, tensor in tensors.items():
            assert stored.shape("weights", name) == tuple(tensor.shape)
            found = stored.read("weights", name)
            assert found.dtype == tensor.dtype
            assert found.equal(tensor.reshape(-1))
            for _ in range(5):
                a, b = sorted(rng.randint(0, tensor.numel()) for _ in "ab")
                assert stored.read("weights", name, a, b - a).equal(tensor.reshape(-1)[a:b])


class Partition:
    """A rank's equal part of all numbers of a kind laid end to end, as ZeRO has them; the steps are with the owner."""

    def __init__(self, tensors: Mapping[str, Tensor], world: World) -> None:
        self.tensors, self.world = tensors, world
        self.found: dict[str, Tensor] = {}

    def runs(self) -> dict[str, tuple[int, int]]:
        """Start and count of this rank's run of each tensor."""
        total = sum(map(torch.numel, self.tensors.values()))
        size = math.ceil(total / self.world.size)
        begin, offset, runs = self.world.rank * size, 0, {}
        for name, tensor in self.tensors.items():
            a, b = max(begin, offset), min(begin + size, offset + tensor.numel())
            if a < b:
                runs[name] = (a - offset, b - a)
            offset += tensor.numel()
        return runs

    def state(self) -> State:
        pieces = [
            Piece(name, tuple(self.tensors[name].shape), start, self.tensors[name].view(-1)[start : start + count])
            for name, (start, count) in self.runs().items()
        ]
        steps = [Piece(f"{each.name}/step", (), 0, torch.tensor(4.0)) for each in pieces if each.start == 0]
        return {"weights": pieces, "optimizer": steps}

    def load(self, stored: Stored) -> None:
        assert stored.kinds() == ["optimizer", "weights"]
        for name, (start, count) in self.runs().items():
            self.found[name] = stored.read("weights", name, start, count)
            assert stored.read("optimizer", f"{name}/step").tolist() == [4.0]


def test_two_ranks_then_one_then_three_have_every_number_where_it_belongs(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(7, 3), "b": torch.randn(5), "c": torch.tensor(2.0), "d": torch.randn(2, 3, 4)}

    def work(world: World, step: int) -> Any:
        saver, engine = checkpoints(tmp_path, ORIGIN, world), Partition(tensors, world)
        if step > 1:
            assert saver.latest() == step - 1
            saver.load(step - 1, {"model": engine})
            for name, (start, count) in engine.runs().items():
                assert engine.found[name].equal(tensors[name].view(-1)[start : start + count])
        saver.save({"model": engine}, TrainState(step, 8 * step, "00" * 32), {}, changed=False)

    folder = tmp_path
    for step, size in enumerate((2, 1, 3), 1):
        on_ranks(size, lambda world, step=step: work(world, step))
        folder = step_folder(tmp_path, step)
        found = read_tensors(folder, "model")
        assert all(found["weights"][name].equal(tensor) for name, tensor in tensors.items())
        assert json.loads((folder / "complete.json").read_text())["world"] == size
        assert len(list(folder.glob("model.weights.*"))) == size
    assert read_tensors(folder, "model", "optimizer", "ema").keys() == {"optimizer"}


WHOLE = torch.arange(12.0).view(3, 4)


@pytest.mark.parametrize(
    ("shares", "fault"),
    [
        ([cut(WHOLE, "w", [5])[:1]], "5 numbers of 12"),
        ([cut(WHOLE, "w", [5])[1:]], "number 0 not at all"),
        ([cut(WHOLE, "w", [5])[:1], [Piece("w", (3, 4), 6, torch.ones(6))]], "number 5 not at all"),
        ([cut(WHOLE, "w", [5]), cut(WHOLE, "w", [5])[1:]], "number 5 twice"),
        ([cut(WHOLE, "w", [5])[:1], [Piece("w", (3, 4), 4, torch.ones(8))]], "number 4 twice"),
        ([cut(WHOLE, "w", [5])[:1], [Piece("w", (4, 3), 5, torch.ones(7))]], "in another file"),
        ([cut(WHOLE, "w", [5])[:1], [Piece("w", (3, 4), 5, torch.ones(7).double())]], "in another file"),
        ([[Piece("w", (3, 4), 0, WHOLE)], [Piece("w", (3, 4), 0, WHOLE)]], "number 0 twice"),
    ],
)
def test_pieces_that_do_not_cover_a_tensor_exactly_once_are_damage(
    tmp_path: Path, shares: list[list[Piece]], fault: str
) -> None:
    stored = StoredNetwork(tmp_path, "model", write(tmp_path, "weights", shares))
    with pytest.raises(DamageError, match=fault):
        stored.names("weights")


@pytest.mark.parametrize(
    "cuts",
    ["{", "[]", '{"w": 1}', '{"w": {"shape": [9]}}', '{"w": {"shape": [9], "runs": [[0, 4]]}}',
     '{"w": {"shape": [9], "runs": 3}}', '{"w": {"shape": "x", "runs": [[0, 3]]}}'],
)  # fmt: skip
def test_a_header_that_somebody_made_up_is_damage(tmp_path: Path, cuts: str) -> None:
    name = file_name("model", "weights", 0)
    save_file({"w": torch.ones(3)}, tmp_path / name, metadata={"cuts": cuts})
    with pytest.raises(DamageError, match="its header cannot be read"):
        StoredNetwork(tmp_path, "model", [name]).names("weights")


def test_a_file_that_is_none_or_gone_is_damage(tmp_path: Path) -> None:
    names = [file_name("model", kind, 0) for kind in ("weights", "ema")]
    (tmp_path / names[0]).write_bytes(b"what is this")
    stored = StoredNetwork(tmp_path, "model", names)
    for kind in ("weights", "ema"):
        with pytest.raises(DamageError, match=f"model.{kind}.rank-00000.safetensors cannot be read"):
            stored.names(kind)


def test_what_is_not_there_is_said_by_name(tmp_path: Path) -> None:
    names = write(tmp_path, "weights", [[Piece("w", (3, 4), 0, WHOLE)]])
    stored = StoredNetwork(tmp_path, "model", names)
    assert stored.names("ema") == []
    with pytest.raises(DamageError, match="holds no ema w of the network model"):
        stored.read("ema", "w")
    with pytest.raises(DamageError, match="holds nothing of the network other"):
        StoredNetwork(tmp_path, "other", names)
    for start, count in ((-1, 2), (11, 2), (3, -1)):
        with pytest.raises(IndexError, match="w has 12 numbers"):
            stored.read("weights", "w", start, count)
