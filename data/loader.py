"""Batches: the reader's samples in the sampler's order, collated by the task."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from torch.utils.data import DataLoader

from configs.errors import DamageError
from data.shards import Positioned, Sampler, ShardReader, decode

Sample = dict[str, Any]
BatchT = TypeVar("BatchT")


def loader(
    reader: ShardReader, sampler: Sampler, collate: Callable[[Sequence[Sample]], BatchT], *, workers: int
) -> Iterator[BatchT]:
    """Endless batches; the same ones for any number of worker processes. Raises DamageError."""
    return _with_plain_errors(
        DataLoader(
            Positioned(reader),  # type: ignore[arg-type]  # indexed by (position, id)
            batch_sampler=sampler,  # type: ignore[arg-type]  # endless, so without a length
            collate_fn=collate,
            num_workers=workers,
            persistent_workers=workers > 0,
        )
    )


def _with_plain_errors(batches: Iterable[BatchT]) -> Iterator[BatchT]:
    """A worker's DamageError comes wrapped in its traceback; the person needs its last paragraph alone."""
    try:
        yield from batches
    except DamageError as error:
        raise DamageError(str(error).rpartition("DamageError: ")[2].strip()) from None


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
    for start in range(0, len(mine), size):
        yield collate([{"position": i, "id": i} | decode(reader[i]) for i in mine[start : start + size]])
