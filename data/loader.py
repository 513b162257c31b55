"""Batches: the reader's samples in the sampler's order, collated by the task."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from torch.utils.data import DataLoader

from configs.errors import DamageError, OutageError, UserError
from data.order import Sampler
from data.packing import document_ids
from data.samples import decode
from data.shards import ShardReader

Sample = dict[str, Any]
BatchT = TypeVar("BatchT")


class Positioned:
    """Decoded samples by (position, id): what a DataLoader indexes."""

    def __init__(self, reader: ShardReader, end: int | None) -> None:
        self.reader, self.end = reader, end

    def __getitem__(self, place: tuple[int, int]) -> Sample:
        position, index = place
        sample: Sample = {"position": position, "id": index} | decode(self.reader[index])
        if self.end is not None:
            sample["documents"] = document_ids(sample["tokens"], self.end)
        return sample

    def __len__(self) -> int:
        return len(self.reader)


def loader(
    reader: ShardReader,
    sampler: Sampler,
    collate: Callable[[Sequence[Sample]], BatchT],
    *,
    workers: int,
    end: int | None = None,
) -> Iterator[BatchT]:
    """Endless batches; the same ones for any number of worker processes. Raises DamageError.

    `end` is the token after each document, when samples are to say which document each token is of.
    """
    return _with_plain_errors(
        DataLoader(
            Positioned(reader, end),  # type: ignore[arg-type]  # indexed by (position, id)
            batch_sampler=sampler,  # type: ignore[arg-type]  # endless, so without a length
            collate_fn=collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            multiprocessing_context="spawn" if workers and reader.is_remote else None,  # its client survives no fork
        )
    )


def _with_plain_errors(batches: Iterable[BatchT]) -> Iterator[BatchT]:
    """A worker's error comes wrapped in its traceback; the person needs its last paragraph alone."""
    try:
        yield from batches
    except (DamageError, OutageError, UserError) as error:
        raise type(error)(str(error).rpartition(f"{type(error).__name__}: ")[2].strip()) from None


def sequential(
    reader: ShardReader,
    collate: Callable[[Sequence[Sample]], BatchT],
    *,
    size: int,
    limit: int | None,
    part: int,
    parts: int,
) -> Iterator[BatchT]:
    """One pass over a split, or `limit` samples evenly spaced in it; part `part` of `parts`, in batches of `size`."""
    count = len(reader) if limit is None else min(limit, len(reader))
    mine = [place * len(reader) // count for place in range(part, count, parts)]
    return in_batches(reader, collate, (mine[start : start + size] for start in range(0, len(mine), size)))


def in_batches(
    reader: ShardReader, collate: Callable[[Sequence[Sample]], BatchT], batches: Iterable[Sequence[int]]
) -> Iterator[BatchT]:
    """The samples at these places of a split, batch by batch."""
    for places in batches:
        yield collate([{"position": place, "id": place} | decode(reader[place]) for place in places])
