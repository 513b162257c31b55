"""In which order samples are read: a pure function of (seed, epoch, position), whatever the world and however mixed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


def order(shard_sizes: Sequence[int], seed: int, epoch: int, window: int) -> Ids:
    """The sample ids of one epoch, a permutation that depends on the arguments alone.

    Shards are shuffled, then samples within windows of that sequence, so that reading stays near few shards at a time.
    """
    shards = Shards.of(shard_sizes)
    windows = range(-(-shards.samples // window))
    return np.concatenate([np.empty(0, np.int64)] + [_window(shards, (seed, epoch), window, w) for w in windows])


@dataclass(frozen=True)
class Shards:
    """Runs of sample ids: how many, and from which on. A repeated shard stands there several times."""

    sizes: tuple[int, ...]
    starts: tuple[int, ...]

    @classmethod
    def of(cls, sizes: Sequence[int]) -> Self:
        """Shards that follow each other."""
        return cls(tuple(sizes), tuple(int(start) for start in np.cumsum([0, *sizes])[:-1]))

    @property
    def samples(self) -> int:
        return sum(self.sizes)

    def times(self, count: int) -> "Shards":
        return Shards(self.sizes * count, self.starts * count)

    def __add__(self, other: "Shards") -> "Shards":
        return Shards(self.sizes + other.sizes, self.starts + other.starts)


@lru_cache(maxsize=16)
def _shard_sequence(shards: Shards, key: tuple[int, int]) -> tuple[Ids, Ids]:
    sequence = np.random.Generator(np.random.Philox(key=list(key))).permutation(len(shards.sizes))
    sizes, starts = np.asarray(shards.sizes, dtype=np.int64), np.asarray(shards.starts, dtype=np.int64)
    return starts[sequence], np.concatenate([[0], np.cumsum(sizes[sequence])])


@lru_cache(maxsize=32)
def _window(shards: Shards, key: tuple[int, int], window: int, number: int) -> Ids:
    """Ids of one window: the only part of an epoch that must be in memory. `key` is (seed, epoch)."""
    starts, ends = _shard_sequence(shards, key)
    places = np.arange(number * window, min((number + 1) * window, int(ends[-1])), dtype=np.int64)
    slots = np.searchsorted(ends, places, side="right") - 1
    generator = np.random.Generator(np.random.Philox(key=list(key), counter=[0, 0, 0, number + 1]))
    return generator.permutation(starts[slots] + places - ends[slots])


@dataclass(frozen=True, eq=False)
class Stream:
    """One component of a mixture: an endless sequence of its own epochs."""

    shards: Shards
    weight: float
    ids: Ids | None = None
    """What the shards' ids stand for, where that is not themselves: the samples of a class"""

    def take(self, begin: int, end: int, key: tuple[int, int], window: int) -> Ids:
        """Sample ids from place `begin` to `end` of the sequence; `key` tells it from other streams."""
        seed, number = key
        samples, taken = self.shards.samples, [np.empty(0, np.int64)]
        while begin < end:
            epoch, place = divmod(begin, samples)
            at, offset = divmod(place, window)
            run = _window(self.shards, (seed, (number + 1 << 40) + epoch), window, at)[offset : offset + end - begin]
            taken.append(run)
            begin += len(run)
        ids = np.concatenate(taken)
        return ids if self.ids is None else self.ids[ids]


class Order:
    """Which sample stands at a position: epochs of one set of shards, or streams mixed by weight.

    Mixed: window k of the whole takes from each stream what its weight is due after k + 1 windows less what it was due
    after k, so every stretch has the weights' shares within one sample a window, and any position is found at once.
    """

    def __init__(self, shards: Shards, *, seed: int, window: int, streams: Sequence[Stream] = ()) -> None:
        self.shards, self.seed, self.window, self.streams = shards, seed, window, tuple(streams)
        self.samples = shards.samples
        weights = np.array([0.0, *(stream.weight for stream in streams)])
        self._shares = np.cumsum(weights) / max(weights.sum(), 1e-300)

    def window_of(self, position: int) -> int:
        """The number of the window that holds a position."""
        if self.streams:
            return position // self.window
        epoch, place = divmod(position, self.samples)
        return epoch * -(-self.samples // self.window) + place // self.window

    def ids(self, number: int) -> tuple[int, Ids]:
        """A window of the endless order: the position where it begins, and its sample ids."""
        if self.streams:
            return number * self.window, self._mixed(number)
        epoch, place = divmod(number, -(-self.samples // self.window))
        return epoch * self.samples + place * self.window, _window(self.shards, (self.seed, epoch), self.window, place)

    def _mixed(self, number: int) -> Ids:
        begin, end = self._due(number), self._due(number + 1)
        generator = np.random.Generator(np.random.Philox(key=[self.seed, number], counter=[0, 0, 1, 0]))
        places = np.split(generator.permutation(self.window), np.cumsum(end - begin)[:-1])
        mixed = np.empty(self.window, dtype=np.int64)
        for place, stream in enumerate(self.streams):  # each keeps its own order
            key = (self.seed, place)
            mixed[np.sort(places[place])] = stream.take(int(begin[place]), int(end[place]), key, self.window)
        return mixed

    def _due(self, windows: int) -> Ids:
        """Samples that each stream has given after so many windows: non-decreasing, and adding up."""
        bounds = np.floor(self._shares * windows * self.window + 0.5).astype(np.int64)
        bounds[-1] = windows * self.window
        return np.diff(bounds)


class Sampler:
    """Endless micro-batches of (position, sample id) for one rank.

    position counts samples drawn by the whole world since the start; which sample stands there is the order's alone, so
    `position` resumes on any number of ranks. Micro-batch k of rank r covers the `micro` positions from
    position + (k x world + r) x micro; every rank gets equally many.
    """

    def __init__(self, order: Order, *, micro: int, rank: int, world: int, position: int = 0) -> None:
        self.order, self.micro, self.rank, self.world, self.position = order, micro, rank, world, position
        self._windows: dict[int, tuple[int, Ids]] = {}

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        start = self.position + self.rank * self.micro
        while True:
            yield [(place, self.at(place)) for place in range(start, start + self.micro)]
            start += self.world * self.micro

    def at(self, position: int) -> int:
        """The sample id at a position."""
        number = self.order.window_of(position)
        if number not in self._windows:
            while len(self._windows) > 1:  # the one before may still be read from; older ones never are
                self._windows.pop(next(iter(self._windows)))
            self._windows[number] = self.order.ids(number)
        begin, ids = self._windows[number]
        return int(ids[position - begin])
