"""Which samples stand in which shard: counted from what the pieces hold, the same for any number of workers."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from configs.dataset import ImageData
from configs.errors import DataError, UserError
from configs.folder import write_atomic, write_json
from configs.stages import read_record
from data.phases.encoding import packing_of
from data.phases.work import Work
from data.samples import encode_array
from data.splits import trains
from data.view.decide import placements_of


@dataclass(frozen=True)
class Run:
    """The samples of one split from one source: which pieces have some, and how many (of a joined stream: tokens)."""

    split: str
    part: int
    pieces: tuple[int, ...]
    counts: tuple[int, ...]
    samples: int
    copies: int = 0

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Where each piece's samples or tokens begin, and where the last one's end."""
        return np.cumsum([0, *self.counts])

    def within(self, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
        """(piece, first, last) of the stretches that make up [begin, end)."""
        first = max(0, int(np.searchsorted(self.starts, begin, side="right")) - 1)
        for place in range(first, len(self.pieces)):
            start, stop = int(self.starts[place]), int(self.starts[place + 1])
            if start >= end:
                return
            if max(start, begin) < min(stop, end):
                yield self.pieces[place], max(start, begin) - start, min(stop, end) - start


@dataclass(frozen=True)
class Plan:
    """Every shard of the data set, in order."""

    runs: tuple[Run, ...]
    shards: tuple[tuple[int, int, int, int], ...]
    """(run, number in the run, first sample, end)"""


def make_plan(work: Work, splits: Sequence[str]) -> None:
    """Count what each piece gives to each split, and cut it into shards."""
    text = work.run.data.kind == "text"
    given = _given_tokens(work) if text else _given_images(work)
    runs = []
    for split in splits:
        for part in range(len(work.parts)):
            found = {n: count for (n, where), count in given.items() if where == split and work.pieces[n][0] == part}
            total = sum(found.values())
            joined = text and packing_of(work, split) == "concatenate"
            samples = -(-total // work.text.block_tokens) if joined else total
            if samples:
                runs.append(Run(split, part, tuple(found), tuple(found.values()), samples))
    _require_every_part(work, runs)
    if isinstance(work.run.data, ImageData) and work.run.data.images.rare_classes:
        runs = _with_copies(work, runs)
    size = work.run.data.shard_samples
    shards = [
        (number, place, begin, min(begin + size, run.samples + run.copies))
        for number, run in enumerate(runs)
        for place, begin in enumerate(range(0, run.samples + run.copies, size))
    ]
    write_json(work.plan, {"runs": [asdict(run) for run in runs], "shards": shards})


def _require_every_part(work: Work, runs: Sequence[Run]) -> None:
    """A part of a mixture with nothing to learn from would leave its share to the others."""
    there = {run.part for run in runs if trains(run.split)}
    if missing := [part.name for number, part in enumerate(work.parts) if part.name and number not in there]:
        raise DataError(
            f"data.source.parts: nothing of {', '.join(missing)} is left to train on; see in its data what was dropped "
            "(duplicates of an earlier part are), or take the part out"
        )


def _given_tokens(work: Work) -> dict[tuple[int, str], int]:
    given = {}
    for number in range(len(work.pieces)):
        for split, record in work.record("encode", number)["splits"].items():
            given[number, split] = record.get("samples", record["tokens"])
    return given


def _given_images(work: Work) -> dict[tuple[int, str], int]:
    counts: dict[tuple[int, str], int] = {}
    for number in range(len(work.pieces)):
        for split, count in Counter(placements_of(work.placements, number)["split"].to_pylist()).items():
            if split is not None:
                counts[number, split] = count
    return counts


def plan_of(path: Path) -> Plan:
    """The plan that a file holds, read again when it was written anew. Raises UserError when there is none."""
    if not path.exists():
        raise UserError("phase cut is not done; run it first")
    return _plan(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _plan(path: Path, written: int) -> Plan:
    record = read_record(path)
    runs = [each | {name: tuple(each[name]) for name in ("pieces", "counts")} for each in record["runs"]]
    return Plan(tuple(Run(**run) for run in runs), tuple(tuple(shard) for shard in record["shards"]))


def _with_copies(work: Work, runs: list[Run]) -> list[Run]:
    """The train split's last run with altered copies of rare classes after its samples; which ones, in copies.npy."""
    from data.phases.copies import choose_copies

    trains = [place for place, run in enumerate(runs) if run.split == "train"]
    copies = choose_copies(work, [piece for place in trains for piece in runs[place].pieces])
    write_atomic(work.copies, encode_array(np.asarray(copies, np.int64).reshape(-1)))
    runs[trains[-1]] = replace(runs[trains[-1]], copies=len(copies))
    return runs
