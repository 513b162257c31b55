"""Metrics over steps as arrays: a million events of ten metrics take a tenth of a gigabyte, not two."""

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
BESIDE = ("event", "time", "step", "position")
"""Fields of a step that are not metrics"""


class Series(Mapping[int, float]):
    """The values of one metric by step, in order; NaN stands for what is no number."""

    def __init__(self, steps: Array, numbers: Array) -> None:
        self.steps, self.numbers = steps, numbers

    @classmethod
    def of(cls, values: Mapping[int, float]) -> "Series":
        steps = sorted(values)
        return cls(np.array(steps, dtype=np.float64), np.array([values[step] for step in steps], dtype=np.float64))

    @property
    def known(self) -> "Series":
        """Without what is no number."""
        finite = np.isfinite(self.numbers)
        return self if finite.all() else Series(self.steps[finite], self.numbers[finite])

    @property
    def lost(self) -> list[int]:
        """Steps whose value is no number."""
        return [int(step) for step in self.steps[~np.isfinite(self.numbers)]]

    def __getitem__(self, step: int) -> float:
        place = int(np.searchsorted(self.steps, step))
        if place == len(self.steps) or self.steps[place] != step:
            raise KeyError(step)
        return float(self.numbers[place])

    def __iter__(self) -> Iterator[int]:
        return map(int, self.steps)

    def __len__(self) -> int:
        return len(self.steps)


NONE = Series.of({})
SHARES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
"""Of the numbers in a histogram: `quantiles` says below which number each lies"""


def quantiles(edges: Sequence[float], counts: Sequence[int]) -> tuple[float, ...]:
    """The numbers below which SHARES of those in a histogram lie, even within each bin."""
    ends, lower = np.cumsum(counts), np.asarray(edges)
    wanted = np.multiply(SHARES, ends[-1])
    bins = np.searchsorted(
        ends, np.maximum(wanted, np.finfo(float).tiny)
    )  # the first that holds so many: not an empty one
    within = (wanted - ends[bins]) / np.asarray(counts)[bins] + 1
    return tuple((lower[bins] + within * (lower[bins + 1] - lower[bins])).tolist())


@dataclass
class Columns:
    """Takes events in, and gives the series of their numbers; events with the same fields are rows of one table."""

    _tables: dict[tuple[str, ...], "_Table"] = field(default_factory=dict)
    _count: int = 0

    def add(self, step: int, event: Mapping[str, Any]) -> None:
        """Take in the next event; of two of one step and metric the later counts."""
        names = tuple(event)
        table = self._tables.get(names)
        if table is None:
            table = self._tables[names] = _Table.of(event)
        self._count += 1
        try:
            table.rows += table.pack(self._count, step, *table.pick(event))
        except struct.error:  # a value that is no number
            table.rows += table.pack(self._count, step, *map(_number, table.pick(event)))

    def series(self) -> dict[str, Series]:
        """Each metric's, in the order in which they came up."""
        holders: dict[str, list[_Table]] = {}
        for table in self._tables.values():
            for name in table.names:
                holders.setdefault(name, []).append(table)
        chosen: dict[tuple[int, ...], tuple[Array, Any]] = {}  # most metrics stand in the same tables
        found = {}
        for name, tables in holders.items():
            key = tuple(map(id, tables))
            if key not in chosen:
                chosen[key] = _last_of_each_step(tables)
            steps, order = chosen[key]
            numbers = np.concatenate([table.column(table.names.index(name) + 2) for table in tables])
            found[name] = Series(steps, numbers[order])
        return found


@dataclass
class _Table:
    """What came of events whose fields are the same: rows of doubles, the event's number, its step and its metrics."""

    names: tuple[str, ...]
    pick: Callable[[Mapping[str, Any]], Sequence[Any]]
    pack: Callable[..., bytes]
    rows: bytearray = field(default_factory=bytearray)

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> "_Table":
        names = tuple(
            name
            for name, value in event.items()
            if name not in BESIDE and (isinstance(value, int | float) or (value is None and "/" in name))
        )
        pick = itemgetter(*names) if len(names) > 1 else lambda each: tuple(each[name] for name in names)
        return cls(names, pick, struct.Struct(f"={2 + len(names)}d").pack)

    def column(self, place: int) -> Array:
        return np.frombuffer(self.rows, dtype=np.float64).reshape(-1, 2 + len(self.names))[:, place].copy()


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


def _last_of_each_step(tables: Sequence[_Table]) -> tuple[Array, Any]:
    """The steps of the tables' rows, in order, and the places of the rows that count."""
    events = np.concatenate([table.column(0) for table in tables])
    steps = np.concatenate([table.column(1) for table in tables])
    if (np.diff(steps) > 0).all():
        return steps, slice(None)
    order = np.lexsort((events, steps))
    last = order[np.append(np.diff(steps[order]) > 0, True)]
    return steps[last], last
