"""Checkpoints that are whole or absent: staged, digested, completed last, verified when read."""

import errno
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from configs.errors import ConfigError, DamageError, PeerError
from configs.folder import digest, file_digest, sync, write_json
from configs.stages import read_record, step_folder, steps_in, verify_checkpoint
from data.progress import say
from trainer.distributed import World

State = Mapping[str, Mapping[str, Tensor]]


class Stateful(Protocol):
    def state(self) -> State: ...
    def load(self, state: State) -> None: ...


@dataclass(frozen=True)
class TrainState:
    """Where the run stands, beside the tensors."""

    step: int
    """Updates done"""
    position: int
    """Samples drawn by the whole world"""
    samples_digest: str
    """Rolling digest of all sample ids drawn so far"""


class Checkpointer:
    """Folders `step-00000100` under `root`; rank 0 writes, every rank reads.

    `origin` (digests of data and config) is stored with each, and a checkpoint of another origin is refused.
    """

    def __init__(self, root: Path, world: World, origin: Mapping[str, str]) -> None:
        self.root, self.world, self.origin = root, world, dict(origin)

    def save(self, engines: Mapping[str, Stateful], state: TrainState, metrics: Mapping[str, float]) -> None:
        """Write a checkpoint; it appears under its name only when every byte is on the disk. All ranks call."""
        error: OSError | None = None
        if self.world.rank == 0:
            try:
                self._write(engines, state, metrics)
            except OSError as caught:
                shutil.rmtree(self._part(state.step), ignore_errors=True)
                error = caught
        failed = self.world.gather([int(error is not None)]).any()
        if error is not None:
            raise error
        if failed:
            raise PeerError(f"rank 0 could not save step {state.step}")

    def _write(self, engines: Mapping[str, Stateful], state: TrainState, metrics: Mapping[str, float]) -> None:
        part, final = self._part(state.step), step_folder(self.root, state.step)
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        files: dict[str, str] = {}
        for network, engine in engines.items():
            for kind, tensors in engine.state().items():
                path = part / f"{network}.{kind}.safetensors"
                write_tensors(path, tensors)
                files[path.name] = file_digest(path)
        record = asdict(state) | {"files": files, "world": self.world.size, "metrics": dict(metrics)} | self.origin
        write_json(part / "complete.json", record | {"digest": digest(record)})
        if final.exists():  # a step that was saved before and found damaged
            _remove(final)
        part.rename(final)
        sync(self.root)

    def latest(self) -> int | None:
        """The newest step whose every file is as it was written; rank 0 looks, all ranks get its answer."""
        found = -1
        if self.world.rank == 0:
            for stray in self.root.glob("*.part"):
                shutil.rmtree(stray, ignore_errors=True)
            found = next((step for step in steps_in(self.root) if self._sound(step)), -1)
        step = int(self.world.gather([found])[0, 0])
        return None if step < 0 else step

    def load(self, step: int, engines: Mapping[str, Stateful]) -> TrainState:
        """Fill the engines from a checkpoint that `latest` named. All ranks call; the world may be another one."""
        folder = step_folder(self.root, step)
        record = read_record(folder / "complete.json")
        for key, value in self.origin.items():
            if record[key] != value:
                raise ConfigError(
                    f"{folder} belongs to another {key} ({record[key][:12]}..., this run has {value[:12]}...); "
                    "choose another --name, or remove the train folder to start over"
                )
        for network, engine in engines.items():
            engine.load(read_tensors(folder, network))
        return TrainState(record["step"], record["position"], record["samples_digest"])

    def prune(self, keep: int, *, newest: int) -> None:
        """Remove all but `keep` up to the step `newest`; later ones were found damaged, or training would be there."""
        if self.world.rank == 0:
            steps = steps_in(self.root)
            kept = [step for step in steps if step <= newest][:keep]
            for step in set(steps).difference(kept):
                _remove(step_folder(self.root, step))

    def _part(self, step: int) -> Path:
        folder = step_folder(self.root, step)
        return folder.with_name(folder.name + ".part")

    def _sound(self, step: int) -> bool:
        try:
            verify_checkpoint(step_folder(self.root, step))
        except DamageError as error:
            say("train", f"skipping a damaged checkpoint: {error}")
            return False
        return True


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A safetensors file, flushed to the disk. Raises OSError, as every other way to write a file does."""
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        code = re.search(r"\(os error (\d+)\)", str(error))
        raise OSError(int(code[1]) if code else errno.EIO, str(error), str(path)) from None
    sync(path)


def read_tensors(folder: Path, network: str) -> dict[str, dict[str, Tensor]]:
    """The tensors of one network by kind, from the files that the record names; nothing in them is executed."""
    names = [name for name in read_record(folder / "complete.json")["files"] if name.startswith(f"{network}.")]
    return {name.split(".")[-2]: load_file(folder / name) for name in names}


def load_network(folder: Path, name: str, network: nn.Module, *, averaged: bool) -> nn.Module:
    """The network with a checkpoint's weights, the averaged ones if asked."""
    kinds = read_tensors(folder, name)
    load_weights(network, kinds["weights"] | (kinds["ema"] if averaged else {}))
    return network


def weights(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, a shared tensor once."""
    kept = network.state_dict().keys()
    named = [*network.named_parameters(), *network.named_buffers()]
    return {name: tensor.detach() for name, tensor in named if name in kept}


@torch.no_grad()
def load_weights(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into the network of the same names. Raises DamageError naming what is missing or misshapen."""
    own = weights(network)
    wrong = sorted(own.keys() ^ tensors.keys())
    wrong += [name for name in own.keys() & tensors.keys() if own[name].shape != tensors[name].shape]
    if wrong:
        raise DamageError(f"the weights are of another network: {', '.join(wrong[:5])} differ ({len(wrong)} in all)")
    for name, tensor in tensors.items():
        own[name].copy_(tensor)


def _remove(folder: Path) -> None:
    """Out of sight in one rename, then deleted: a kill in between leaves no half a checkpoint under its name."""
    doomed = folder.with_name(folder.name + ".old.part")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed)
