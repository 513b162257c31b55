"""What the global view left of a piece: its documents or images by split, batch by batch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from configs.errors import DamageError
from data.phases.reading import batches_of
from data.phases.work import Work
from data.view.decide import placements_of


@dataclass(frozen=True)
class Kept:
    """Part of one split: rows of a piece in their order."""

    split: str
    rows: NDArray[np.int32]
    bytes: int
    words: int
    table: pa.RecordBatch
    """Their spilled columns"""

    @property
    def contents(self) -> list[Any]:
        return self.table["content"].to_pylist()

    @property
    def labels(self) -> list[str | None]:
        return self.table["label"].to_pylist()

    @property
    def tags(self) -> list[list[dict[str, Any]]]:
        """Tagged stretches of each document: begin, end, name."""
        return self.table["tags"].to_pylist()


def kept(work: Work, number: int) -> Iterator[Kept]:
    """A piece's batches, each divided by split; what overlaps with the test split is gone once that was looked for."""
    placements = placements_of(work.placements, number)
    facts = pq.read_table(work.file("read", number, "facts.parquet"), columns=["row", "bytes", "words"])
    rows, split_of = facts["row"].to_numpy(), placements["split"].to_pylist()
    if not np.array_equal(rows, placements["row"].to_numpy()):
        raise DamageError(f"{work.placements} is of other documents than piece {number}; remove {work.path}")
    splits = np.array([split or "" for split in split_of])
    if work.done("overlap", number):
        splits[np.isin(rows, work.record("overlap", number)["rows"])] = ""
    sizes, words, done = facts["bytes"].to_numpy(), facts["words"].to_numpy(), 0
    for batch in batches_of(work.file("read", number, "arrow")):
        here = slice(done, done + len(batch))
        done += len(batch)
        for split in sorted(set(splits[here].tolist()) - {""}):
            mask = splits[here] == split
            total, counted = int(sizes[here][mask].sum()), int(words[here][mask].sum())
            yield Kept(split, rows[here][mask], total, counted, batch.filter(pa.array(mask)))
