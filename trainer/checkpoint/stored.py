"""Reading checkpoints: only what is asked for, by any number of ranks, whatever number wrote them; nothing executed."""

import json
import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from configs.errors import DamageError
from configs.stages import read_record


@dataclass(frozen=True)
class Run:
    """Numbers of a tensor that one file holds."""

    start: int
    """The first of them, counted row by row in the whole tensor"""
    count: int
    file: Path
    offset: int
    """Where they begin among the numbers that the file has of this tensor"""


@dataclass(frozen=True)
class Whole:
    """A tensor of a checkpoint: its shape, and the runs that make it up, in their order."""

    shape: tuple[int, ...]
    runs: Sequence[Run]


class StoredNetwork:
    """The state of one network in a checkpoint folder, as `trainer.pieces.Stored` asks for it.

    `files` are the names that the folder's record lists. Raises DamageError when the files of a kind cannot be read, or
    do not cover each of its tensors exactly once.
    """

    def __init__(self, folder: Path, network: str, files: Sequence[str]) -> None:
        self.folder, self.network = folder, network
        self._paths: dict[str, list[Path]] = {}
        for name in sorted(files):
            owner, kind, *rest = name.rsplit(".", 3)  # NETWORK.KIND.rank-00000.safetensors
            if owner == network and len(rest) == 2:
                self._paths.setdefault(kind, []).append(folder / name)
        if not self._paths:
            raise DamageError(f"{folder} holds nothing of the network {network}; it has {', '.join(sorted(files))}")
        self._files: dict[Path, Any] = {}
        self._index: dict[str, dict[str, Whole]] = {}

    def kinds(self) -> list[str]:
        return sorted(self._paths)

    def names(self, kind: str) -> list[str]:
        return sorted(self._tensors(kind))

    def shape(self, kind: str, name: str) -> tuple[int, ...]:
        return self._tensor(kind, name).shape

    def read(self, kind: str, name: str, start: int = 0, count: int | None = None) -> Tensor:
        """A flat run of a tensor; all of it when no count is given. Raises IndexError outside of the tensor."""
        tensor = self._tensor(kind, name)
        size = math.prod(tensor.shape)
        end = size if count is None else start + count
        if not 0 <= start <= end <= size:
            raise IndexError(f"{kind} {name} has {size} numbers, asked for those from {start} to {end}")
        parts: list[Tensor] = []
        for run in tensor.runs[bisect_right(tensor.runs, start, key=lambda run: run.start) - 1 :]:
            first, last = max(start, run.start), min(end, run.start + run.count)
            if first >= last and parts:
                break
            parts.append(self._cut(run, name, first - run.start, max(0, last - first)))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def tensors(self, kind: str) -> dict[str, Tensor]:
        """Every tensor of a kind, in its shape."""
        return {name: self.read(kind, name).view(self.shape(kind, name)) for name in self.names(kind)}

    def _cut(self, run: Run, name: str, start: int, count: int) -> Tensor:
        """`count` numbers of a run, flat."""
        part = self._open(run.file).get_slice(name)
        shape = part.get_shape()
        if not shape:
            return part[...].reshape(-1)[start : start + count]
        row = math.prod(shape[1:])
        if not row or not count:
            return part[0:0].reshape(-1)
        begin, end = run.offset + start, run.offset + start + count
        first = begin // row
        return part[first : -(-end // row)].reshape(-1)[begin - first * row : end - first * row]

    def _tensor(self, kind: str, name: str) -> Whole:
        found = self._tensors(kind).get(name)
        if found is None:
            raise DamageError(f"{self.folder} holds no {kind} {name} of the network {self.network}")
        return found

    def _tensors(self, kind: str) -> dict[str, Whole]:
        if kind not in self._index:
            self._index[kind] = self._join(kind)
        return self._index[kind]

    def _join(self, kind: str) -> dict[str, Whole]:
        """The tensors of a kind from the parts in all its files."""
        shapes: dict[str, tuple[tuple[int, ...], str]] = {}
        runs: dict[str, list[Run]] = {}
        for path in self._paths.get(kind, ()):
            for name, shape, dtype, found in self._parts(path):
                if shapes.setdefault(name, (shape, dtype)) != (shape, dtype):
                    raise DamageError(f"{path}: {name} is {dtype} {list(shape)}, in another file {shapes[name]}")
                runs.setdefault(name, []).extend(found)
        return {
            name: Whole(shape, covering(shape, runs[name], f"{self.folder}: {kind} {name} of {self.network}"))
            for name, (shape, _) in shapes.items()
        }

    def _parts(self, path: Path) -> Iterator[tuple[str, tuple[int, ...], str, list[Run]]]:
        """What a file holds: name, shape of the whole tensor, number format, runs."""
        file = self._open(path)
        try:
            cuts = json.loads((file.metadata() or {}).get("cuts", "{}"))
            for name in file.keys():  # noqa: SIM118  a file is no dictionary
                held = file.get_slice(name)
                size = math.prod(held.get_shape())
                cut = cuts.get(name, {"shape": held.get_shape(), "runs": [[0, size]]})
                found, offset = [], 0
                for start, count in cut["runs"]:
                    found.append(Run(int(start), int(count), path, offset))
                    offset += int(count)
                if offset != size:
                    raise ValueError(f"{name} has {size} numbers, its runs {offset}")
                yield name, tuple(map(int, cut["shape"])), held.get_dtype(), found
        except (AttributeError, KeyError, TypeError, ValueError, SafetensorError) as error:
            raise DamageError(f"{path}: its header cannot be read: {error}") from None

    def _open(self, path: Path) -> Any:
        if path not in self._files:
            try:
                self._files[path] = safe_open(path, "pt")
            except (SafetensorError, FileNotFoundError) as error:
                raise DamageError(f"{path} cannot be read: {error}") from None
        return self._files[path]


def covering(shape: tuple[int, ...], runs: Sequence[Run], what: str) -> Sequence[Run]:
    """Runs in their order, empty ones left out. Raises DamageError unless they cover the tensor exactly once."""
    ordered = [run for run in sorted(runs, key=lambda run: run.start) if run.count] or runs[:1]
    end, size = 0, math.prod(shape)
    for run in ordered:
        if run.start != end:
            fault = "twice" if run.start < end else "not at all"
            raise DamageError(f"{what} has number {min(end, run.start)} {fault}")
        end += run.count
    if end != size or not ordered:
        raise DamageError(f"{what} has {end} numbers of {size}")
    return ordered


def open_stored(folder: Path, network: str) -> StoredNetwork:
    """One network of a checkpoint that somebody has verified."""
    return StoredNetwork(folder, network, list(read_record(folder / "complete.json")["files"]))


def read_tensors(folder: Path, network: str, *kinds: str) -> dict[str, dict[str, Tensor]]:
    """The tensors of one network, by kind; those of these kinds that are there, or of all when none is named."""
    stored = open_stored(folder, network)
    return {kind: stored.tensors(kind) for kind in stored.kinds() if kind in kinds or not kinds}


def load_network(folder: Path, name: str, network: nn.Module, *, averaged: bool) -> nn.Module:
    """The network with a checkpoint's weights, the averaged ones if asked."""
    stored = open_stored(folder, name)
    load_weights(network, stored.tensors("weights") | (stored.tensors("ema") if averaged else {}))
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
