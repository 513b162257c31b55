"""Tokens to blocks: the joined stream cut, whole documents fitted together, or one document each; and back."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Tokens = NDArray[Any]  # any unsigned or signed integers


def pack(documents: Iterable[Ids], *, length: int, context: int) -> Iterator[Ids]:
    """Cut the joined documents into blocks of `length` tokens to predict, each after one token of context.

    Yields int64 [length + 1]; the first is the token before the block (`context` for the first block), so each token
    is predicted once. The last block may be shorter; no token is dropped.
    """
    pending = [np.array([context], dtype=np.int64)]
    size = 1
    for document in documents:
        pending.append(document)
        size += len(document)
        if size <= length:
            continue
        stream = np.concatenate(pending)
        start = 0
        while start + length < len(stream):
            yield stream[start : start + length + 1]
            start += length
        pending, size = [stream[start:]], len(stream) - start
    rest = np.concatenate(pending)
    if len(rest) > 1:
        yield rest


def unpack(blocks: Iterable[Ids], end: int) -> list[Ids]:
    """The documents back out of all their blocks in order, each with its end-of-document token."""
    stream = np.concatenate([block[1:] for block in blocks])
    ends = np.flatnonzero(stream == end) + 1
    return [document for document in np.split(stream, ends) if len(document)]


def block_count(tokens: int, length: int) -> int:
    """How many blocks `pack` makes of so many tokens, the context before the first one not counted."""
    return -(-tokens // length)


def block_bounds(block: int, tokens: int, length: int) -> tuple[int, int]:
    """Where block k of `pack` lies in the stream of one context token and then `tokens` tokens: [begin, end)."""
    return block * length, min((block + 1) * length, tokens) + 1


@dataclass(frozen=True)
class Bins:
    """Chunks of documents, those of one block on end: of document d the tokens [begins, ends) are one chunk."""

    documents: NDArray[np.int64]
    begins: NDArray[np.int64]
    ends: NDArray[np.int64]
    firsts: NDArray[np.int64]
    """Block b has the chunks [firsts[b], firsts[b + 1])"""

    def __len__(self) -> int:
        return len(self.firsts) - 1


def best_fit(lengths: NDArray[np.int64], capacity: int) -> Bins:
    """Fill blocks by best-fit decreasing, so that no document that fits is cut (Ding et al., 2024, algorithm 1).

    Longer documents are cut every `capacity` tokens first. Blocks are in the order of their first chunk, as are the
    chunks in them, so that long documents do not all come first. O(n log n + n capacity / 64).
    """
    counts = -(-lengths // capacity)
    documents = np.repeat(np.arange(len(lengths)), counts)
    begins = (np.arange(len(documents)) - np.repeat(np.cumsum(counts) - counts, counts)) * capacity
    ends = np.minimum(begins + capacity, lengths[documents])
    bins = _fit(ends - begins, capacity)
    # A bin is known by its first chunk: chunks are in the order of documents, so a stable sort leaves them in it.
    first = np.full(len(documents), len(documents))
    np.minimum.at(first, bins, np.arange(len(documents)))
    order = np.argsort(first[bins], kind="stable")
    _, firsts = np.unique(first[bins][order], return_index=True)
    return Bins(documents[order], begins[order], ends[order], np.append(firsts, len(documents)))


def _fit(sizes: NDArray[np.int64], capacity: int) -> NDArray[np.int64]:
    """The bin of each size; of equal sizes the first is placed first."""
    bins = np.empty(len(sizes), np.int64)
    spare: list[list[int]] = [[] for _ in range(capacity + 1)]  # the bins with so much room left
    rooms = count = 0  # bit r of rooms: a bin has room r
    for place in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[place])
        if found := rooms >> size:
            room = size + (found & -found).bit_length() - 1
            chosen = spare[room].pop()
            if not spare[room]:
                rooms ^= 1 << room
        else:
            room, chosen, count = capacity, count, count + 1
        bins[place] = chosen
        if left := room - size:
            spare[left].append(chosen)
            rooms |= 1 << left
    return bins


def pack_best_fit(
    flat: Tokens, lengths: NDArray[np.int64], *, length: int, context: int
) -> tuple[Tokens, NDArray[np.int64]]:
    """Blocks of whole documents: one `context` token, then up to `length` tokens to predict.

    flat holds the documents on end; returns the blocks on end, in its dtype, and how many tokens each has, the context
    among them. Each token is predicted once; only a document of more than `length` tokens is cut.
    """
    bins = best_fit(lengths, length)
    starts = np.cumsum(lengths) - lengths
    begins, ends = starts[bins.documents] + bins.begins, starts[bins.documents] + bins.ends
    before = np.array([context], flat.dtype)
    parts: list[Tokens] = []
    opened = set(bins.firsts.tolist())
    for chunk, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
        if chunk in opened:
            parts.append(before)
        parts.append(flat[begin:end])
    sizes = np.add.reduceat(ends - begins, bins.firsts[:-1]) if len(bins) else np.empty(0, np.int64)
    return np.concatenate([before[:0], *parts]), sizes + 1


def pack_documents(
    flat: Tokens, lengths: NDArray[np.int64], *, length: int, context: int
) -> tuple[Tokens, NDArray[np.int64], int]:
    """One block per document: the `context` token (an end, or the class token), then its first `length` tokens.

    Takes and returns what `pack_best_fit` does, and how many tokens were cut off; with them goes the document's end.
    """
    kept = np.minimum(lengths, length)
    starts = np.cumsum(lengths) - lengths
    before = np.array([context], flat.dtype)
    bounds = zip(starts.tolist(), (starts + kept).tolist(), strict=True)
    parts = [part for begin, end in bounds for part in (before, flat[begin:end])]
    return np.concatenate([before[:0], *parts]), kept + 1, int((lengths - kept).sum())


def document_ids(block: Tokens, end: int) -> NDArray[np.int32]:
    """Which document of its block each input token, block[:-1], is of: int32, 0 for the first.

    An end token is the context of the document after it, so it opens that document: attention that stays inside
    documents then predicts each first token from the end token alone, as when the document stands alone. A block of
    the joined stream may begin inside a document, which is 0; a packed one begins with its context, which opens 0.
    """
    inputs = block[:-1]
    opened = np.cumsum(inputs == end, dtype=np.int32)
    return opened - opened[:1]
