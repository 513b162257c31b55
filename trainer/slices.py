"""Tensor parallelism: which runs of each matrix a rank holds, and checkpoints that know whole matrices alone."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainer.models.attention import Attention
from trainer.models.transformer import FeedForward, GatedFeedForward
from trainer.pieces import Piece, State, Stored


@dataclass(frozen=True)
class Cut:
    """How a linear layer is shared: by rows of its weight, each of several blocks alike, or by columns."""

    layer: str
    blocks: tuple[int, ...] | None
    """Rows of each block, such as those of queries, keys and values; None: by columns"""


@dataclass(frozen=True)
class Slice:
    """A rank's part of a tensor, as runs of the whole one, row by row, in the order in which the rank holds them."""

    whole: tuple[int, ...]
    own: tuple[int, ...]
    """Shapes"""
    runs: tuple[tuple[int, int], ...]
    """Where each begins in the whole tensor, and how many numbers it has"""

    def overlaps(self, start: int, count: int) -> Iterator[tuple[int, int]]:
        """The numbers [start, start + count) of this part as runs of the whole tensor."""
        begin = 0
        for place, size in self.runs:
            first, last = max(start, begin), min(start + count, begin + size)
            if first < last:
                yield place + first - begin, last - first
            begin += size


def cuts_of(network: nn.Module) -> list[Cut]:
    """The layers to share: into heads and hidden features by rows, out of them by columns (Shoeybi et al., 2020)."""
    cuts: list[Cut] = []
    for name, module in network.named_modules():
        if isinstance(module, Attention):
            heads, kv_heads = (count * module.head_width for count in (module.num_heads, module.num_kv_heads))
            cuts += [Cut(f"{name}.query_key_value", (heads, kv_heads, kv_heads)), Cut(f"{name}.output", None)]
        elif isinstance(module, GatedFeedForward):
            hidden = module.down.in_features
            cuts += [Cut(f"{name}.gate_up", (hidden, hidden)), Cut(f"{name}.down", None)]
        elif isinstance(module, FeedForward):
            cuts += [Cut(f"{name}.up", (module.up.out_features,)), Cut(f"{name}.down", None)]
    return cuts


def autotp_section(cuts: Sequence[Cut], degree: int) -> dict[str, Any]:
    """DeepSpeed's `tensor_parallel` for these cuts; its own guesses go by other libraries' names."""

    def spec(cut: Cut) -> dict[str, Any]:
        named = {"patterns": [f"{re.escape(cut.layer)}\\.weight$"]}
        if cut.blocks is None:
            return named | {"partition_type": "row"}  # DeepSpeed names the product: rows of the input
        blocks = {"shape": [list(cut.blocks), -1], "partition_dim": 0} if len(cut.blocks) > 1 else {}
        return named | {"partition_type": "column"} | blocks

    return {
        "autotp_size": degree,
        "partition_config": {"use_default_specs": False, "layer_specs": [spec(cut) for cut in cuts]},
    }


class Slices:
    """What rank `index` of the `degree` that share a network holds of each tensor; of those not named, all."""

    def __init__(self, network: nn.Module, cuts: Sequence[Cut], *, index: int, degree: int) -> None:
        self.index, self._slices = index, dict[str, Slice]()
        parameters = dict(network.named_parameters())
        for cut in cuts:
            weight, bias = f"{cut.layer}.weight", f"{cut.layer}.bias"
            shape = tuple(parameters[weight].shape)
            if cut.blocks is None:
                self._slices[weight] = by_columns(shape, index, degree)
                continue
            self._slices[weight] = by_rows(shape, cut.blocks, index, degree)
            if bias in parameters:
                self._slices[bias] = by_rows(shape[:1], cut.blocks, index, degree)

    def whole_shape(self, name: str, own: tuple[int, ...]) -> tuple[int, ...]:
        """Of a parameter of which this rank holds this much."""
        return self._slices[name].whole if name in self._slices else own

    def spread(self, state: State) -> State:
        """Pieces of what this rank holds as pieces of whole tensors; those that all hold are saved by the first."""
        if not self._slices:
            return state
        return {kind: [run for piece in pieces for run in self._spread(kind, piece)] for kind, pieces in state.items()}

    def _spread(self, kind: str, piece: Piece) -> Iterator[Piece]:
        part = self.part_of(kind, piece.name, piece.shape)
        if part is None:
            if self.index == 0:
                yield piece
            return
        values, taken = piece.values.detach().reshape(-1), 0
        for start, count in part.overlaps(piece.start, len(values)):
            yield Piece(piece.name, part.whole, start, values.narrow(0, taken, count))
            taken += count

    def part_of(self, kind: str, name: str, shape: tuple[int, ...]) -> Slice | None:
        """The slice that a tensor of this rank's, or a whole one, is of or has; None where every rank has all of it."""
        part = self._slices.get(name.rsplit("/", 1)[0] if kind == "optimizer" else name)
        return part if part is not None and shape in (part.own, part.whole) else None

    def of(self, stored: Stored) -> Stored:
        """A checkpoint as this rank is to read it."""
        return SlicedStored(stored, self) if self._slices else stored


class SlicedStored:
    """A checkpoint of whole tensors that reads as if it held one rank's slices."""

    def __init__(self, stored: Stored, slices: Slices) -> None:
        self._stored, self._slices = stored, slices

    def kinds(self) -> Sequence[str]:
        return self._stored.kinds()

    def names(self, kind: str) -> Sequence[str]:
        return self._stored.names(kind)

    def shape(self, kind: str, name: str) -> tuple[int, ...]:
        whole = self._stored.shape(kind, name)
        part = self._slices.part_of(kind, name, whole)
        return part.own if part is not None and whole == part.whole else whole

    def read(self, kind: str, name: str, start: int = 0, count: int | None = None) -> Tensor:
        whole = self._stored.shape(kind, name)
        part = self._slices.part_of(kind, name, whole)
        if part is None or whole != part.whole:
            return self._stored.read(kind, name, start, count)
        wanted = math.prod(part.own) - start if count is None else count
        runs = [self._stored.read(kind, name, *run) for run in part.overlaps(start, wanted)]
        return torch.cat(runs) if runs else self._stored.read(kind, name, 0, 0)


def by_rows(shape: tuple[int, ...], blocks: Sequence[int], index: int, degree: int) -> Slice:
    """The rows of one rank, as many of each block."""
    width, begin, runs = math.prod(shape[1:]), 0, []
    for rows in blocks:
        each = rows // degree
        runs.append(((begin + index * each) * width, each * width))
        begin += rows
    return Slice(shape, (sum(blocks) // degree, *shape[1:]), tuple(runs))


def by_columns(shape: tuple[int, ...], index: int, degree: int) -> Slice:
    """The columns of one rank: a run of every row."""
    rows, columns = shape
    each = columns // degree
    return Slice(shape, (rows, each), tuple((row * columns + index * each, each) for row in range(rows)))


def slices_of(network: nn.Module, index: int, degree: int) -> tuple[Slices, dict[str, Any]]:
    """What this rank will hold of a whole network, and the section by which DeepSpeed cuts it; {} where it does not."""
    if degree == 1:
        return Slices(network, [], index=0, degree=1), {}
    cuts = cuts_of(network)
    section = {"tensor_parallel": autotp_section(cuts, degree)}
    return Slices(network, cuts, index=index, degree=degree), section
