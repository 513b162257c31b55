"""What passes from a source to the cleaning: pieces of it that one worker reads, and the records in them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

PIECE_BYTES = 16 << 20  # about what a worker reads at a time


@dataclass(frozen=True)
class Piece:
    """A part of a source, cut by its content alone so that any number of workers makes the same ones."""

    origin: str
    """Where it is, for people"""
    bytes: int
    """About how much there is to read"""
    reading: dict[str, Any]
    """What the source needs to find it again: plain JSON values"""


@dataclass(frozen=True)
class Tag:
    """A named stretch of a text, characters [begin, end)."""

    begin: int
    end: int
    name: str


@dataclass(frozen=True)
class Record:
    """One document or encoded image."""

    content: str | bytes
    origin: str
    """File and place in it"""
    label: str | None = None
    group: str | None = None
    tags: tuple[Tag, ...] = ()
    """In order, without overlap"""


@dataclass(frozen=True)
class Drop:
    """Something that was left out, and why."""

    reason: str
    """One of few fixed phrases: what is counted"""
    origin: str
    excerpt: str
    """Its beginning, or what is wrong with it"""


class Digest(Protocol):
    """A hash that takes every raw byte in the order it is read."""

    def update(self, data: bytes, /) -> Any: ...


class Source(Protocol):
    """Raw data. Raises DataError or UserError that names the file and what to do."""

    @property
    def description(self) -> str:
        """What it is, for people and the manifest."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes when names, sizes, modification times or entity tags do: cheap, and enough to go on or start anew."""
        ...

    @property
    def files(self) -> int: ...

    @property
    def bytes(self) -> int: ...

    def pieces(self) -> list[Piece]:
        """All of them, in order."""
        ...

    def read(self, piece: Piece, digest: Digest) -> Iterator[Record | Drop]:
        """The piece's records in order; every raw byte goes through `digest`."""
        ...
