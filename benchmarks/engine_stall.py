"""Cases of saving: for how long training stands still while half a gigabyte of state is saved to the disk."""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Case, Pair, Round, Stopwatch
from benchmarks.worker import worker
from configs.engine import CheckpointConfig
from configs.folder import digest
from configs.stages import step_folder
from trainer.checkpoint import Checkpointer, TrainState, read_tensors
from trainer.distributed import World
from trainer.pieces import Piece, State, Stored

MATRICES, SIDE = 40, 1024
"""Weights of 168 MB and two moments for each: 503 MB, as of a network of 42 million parameters under AdamW"""
PRODUCTS = 40
"""Matrix products of a forward and backward pass: about a second"""
MEGA = 1e6

Tensors = dict[str, dict[str, Tensor]]


def make_state(matrices: int = MATRICES, side: int = SIDE) -> Tensors:
    """Tensors by kind and name, the same every time."""
    generator = torch.Generator().manual_seed(0)
    names = [f"layers.{number}.weight" for number in range(matrices)]
    made = {name: torch.randn(side, side, generator=generator) for name in names}
    memory = {
        f"{name}/{key}": torch.rand(side, side, generator=generator)
        for name in names
        for key in ("exp_avg", "exp_avg_sq")
    }
    return {"weights": made, "optimizer": memory}


def train_a_little(state: Tensors) -> None:
    """Every number changes, as between any two checkpoints; which also leaves the caches as an update does."""
    for tensors in state.values():
        torch._foreach_mul_(list(tensors.values()), 0.999)  # pyright: ignore[reportPrivateImportUsage]


def size_of(state: Tensors) -> int:
    return sum(each.numel() * each.element_size() for tensors in state.values() for each in tensors.values())


def digest_of(state: Mapping[str, Mapping[str, Tensor]]) -> str:
    """Of all names and bytes."""
    found = hashlib.sha256()
    for kind, tensors in sorted(state.items()):
        for name, tensor in sorted(tensors.items()):
            found.update(f"{kind}/{name}".encode())
            found.update(tensor.contiguous().numpy().data)
    return found.hexdigest()


def forward_and_backward(matrix: Tensor) -> None:
    """What lies between a save and the next update: it reads weights and writes none."""
    for _ in range(PRODUCTS):
        torch.mm(matrix, matrix)


def timed(
    state: Tensors,
    save: Callable[[], Callable[[], Mapping[str, Mapping[str, Tensor]]]],
    settle: Callable[[], None] = lambda: None,
) -> Round:
    """A round: some training, `save`, a pass, `settle`, and the next update; the stall is the time in the two calls.

    What `save` returns waits and reads everything back.
    """
    train_a_little(state)
    os.sync()  # what is still to be written of the round before is nobody's stall
    matrix = next(iter(state["weights"].values())).clone()
    first, second = Stopwatch(), Stopwatch()
    first.start()
    read_back = save()
    first.stop()
    forward_and_backward(matrix)
    second.start()
    settle()
    second.stop()
    saved = digest_of(state)
    train_a_little(state)  # the update, which what was saved must not see
    told = {"digest": digest_of(read_back()), "saved": saved}
    return Round(size_of(state) / MEGA, first.seconds + second.seconds, first.cpu_s + second.cpu_s, told)


class Ours:
    """Checkpointer.save: a copy into resident buffers; files, digests, reading back and retention in the background."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        self.folder, self.step, self.tensors = folder, 0, make_state()
        world = World(rank=0, local_rank=0, size=1, device=torch.device("cpu"))
        config = CheckpointConfig(every_steps=1, keep=1)
        self.checkpointer = Checkpointer(folder, world, {"config": digest("")}, identity={}, config=config)

    def state(self) -> State:
        return {
            kind: [Piece(name, tuple(each.shape), 0, each) for name, each in tensors.items()]
            for kind, tensors in self.tensors.items()
        }

    def load(self, stored: Stored) -> None:
        """Nothing is loaded here."""

    def round(self) -> Round:
        self.step += 1
        return timed(self.tensors, self._save, self.checkpointer.settle)

    def _save(self) -> Callable[[], Mapping[str, Mapping[str, Tensor]]]:
        self.checkpointer.save({"model": self}, TrainState(self.step, self.step, ""), {})
        return self._read_back

    def _read_back(self) -> Mapping[str, Mapping[str, Tensor]]:
        self.checkpointer.wait()
        return read_tensors(step_folder(self.folder, self.step), "model")


class TorchSave:
    """torch.save of the same tensors into one file, which is not flushed to the disk."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        self.path, self.tensors = folder / "state.pt", make_state()

    def round(self) -> Round:
        return timed(self.tensors, self._save)

    def _save(self) -> Callable[[], Tensors]:
        torch.save(self.tensors, self.path)
        return self._read_back

    def _read_back(self) -> Tensors:
        loaded = torch.load(self.path, weights_only=True)
        self.path.unlink()
        return loaded


class AsyncSave:
    """torch.distributed.checkpoint.async_save with a stager that keeps its buffers from one save to the next."""

    def __init__(self, folder: Path) -> None:
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

        torch.set_num_threads(1)
        self.folder, self.tensors = folder / "state", make_state()
        self.stager = DefaultStager(
            StagingOptions(
                use_pinned_memory=False, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=False
            )
        )

    def round(self) -> Round:
        return timed(self.tensors, self._save)

    def _save(self) -> Callable[[], Tensors]:
        from torch.distributed.checkpoint.state_dict_saver import async_save

        future: Any = async_save(self.tensors, checkpoint_id=self.folder, async_stager=self.stager, no_dist=True)
        return partial(self._read_back, future)

    def _read_back(self, future: Any) -> Tensors:
        from torch.distributed.checkpoint.state_dict_loader import load

        future.result()
        loaded = {kind: {name: torch.empty_like(each) for name, each in t.items()} for kind, t in self.tensors.items()}
        load(loaded, checkpoint_id=self.folder, no_dist=True)
        shutil.rmtree(self.folder)
        return loaded


@contextlib.contextmanager
def sides(peer: str) -> Iterator[Pair]:
    """Both sides, each in a process of its own, with folders on one disk."""
    with tempfile.TemporaryDirectory(prefix="trainworks-benchmark-") as name, contextlib.ExitStack() as stack:
        asks = []
        for side in (f"{__name__}:Ours", peer):
            folder = Path(name) / side.rpartition(":")[2]
            folder.mkdir()
            asks.append(stack.enter_context(worker(side, folder, folder.with_suffix(".log"), threads=1)))
        yield Pair(*asks)


def states_differ(ours: Any, peer: Any) -> str | None:
    """Both read back what the same training had left."""
    same = len({each[key] for each in (ours, peer) for key in ("digest", "saved")}) == 1
    return None if same else "what was read back is not what was saved"


CASES = tuple(
    Case(
        name=f"engine/stall-{name}",
        measures=f"a save of a state of 503 MB against {what}: bytes per second that training stands still",
        unit="MB/s",
        goal=goal,
        libraries=("torch", "safetensors"),
        open=partial(sides, f"{__name__}:{peer}"),
        check=states_differ,
    )
    for name, what, peer, goal in (
        ("torch-save", "torch.save", "TorchSave", 9.0),
        ("dcp-async", "torch.distributed.checkpoint.async_save", "AsyncSave", 2.0),
    )
)
