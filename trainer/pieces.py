"""A network's state as named runs of numbers, which any number of ranks can save and any other number load."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Piece:
    """Numbers of a named tensor that this rank saves. Over all ranks the pieces of a tensor cover it exactly once."""

    name: str
    shape: tuple[int, ...]
    """Of the whole tensor"""
    start: int
    """The first of its numbers, counted row by row, that this piece holds"""
    values: Tensor
    """The whole tensor in its shape, or a flat run of it; not a copy"""
    still: bool = True
    """Whether its numbers stay as they are until the next update; a batch norm's statistics do not"""


State = Mapping[str, Sequence[Piece]]
"""Pieces by kind: weights (buffers too), optimizer, ema, scale"""


class Stored(Protocol):
    """The state of one network in a checkpoint, read as far as it is asked for."""

    def kinds(self) -> Sequence[str]: ...
    def names(self, kind: str) -> Sequence[str]: ...
    def shape(self, kind: str, name: str) -> tuple[int, ...]: ...
    def read(self, kind: str, name: str, start: int = 0, count: int | None = None) -> Tensor:
        """A flat run of a tensor; all of it when no count is given."""
        ...


class Stateful(Protocol):
    """What a checkpoint saves and fills."""

    def state(self) -> State: ...
    def load(self, stored: Stored) -> None: ...
