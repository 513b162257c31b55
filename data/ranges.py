"""Reads of any place in remote objects, through a bounded cache of chunks."""

from collections import OrderedDict

from data.store import Object, Store


class RangeCache:
    """Reads of any place in a store's objects, through the most recently used chunks of them.

    It holds `cache_bytes` at most, and at least one chunk; a read of more than that passes through.
    """

    def __init__(self, store: Store, cache_bytes: int, chunk_bytes: int = 1 << 20) -> None:
        self.store, self.chunk_bytes = store, chunk_bytes
        self.most = max(1, cache_bytes // chunk_bytes)
        self.chunks: OrderedDict[tuple[str, str | None, int], bytes] = OrderedDict()

    def read(self, object: Object, offset: int, size: int) -> memoryview:
        """`size` bytes from `offset`; neighbouring chunks that are missing come by one request."""
        if size <= 0 or not 0 <= offset <= object.size - size:
            return memoryview(self.store.range(object, offset, offset + size))  # nothing, or its error
        first, last = offset // self.chunk_bytes, (offset + size - 1) // self.chunk_bytes
        parts: list[bytes] = []
        while (place := first + len(parts)) <= last:
            key = (object.path, object.etag, place)
            if key in self.chunks:
                self.chunks.move_to_end(key)
                parts.append(self.chunks[key])
            else:
                parts += self._fetch(object, place, last)
        whole = memoryview(parts[0] if len(parts) == 1 else b"".join(parts))
        return whole[offset - first * self.chunk_bytes :][:size]

    def _fetch(self, object: Object, first: int, last: int) -> list[bytes]:
        """The chunks from `first` to before the next one that is here, `last` at most; the newest are kept."""
        end = first + 1
        while end <= last and (object.path, object.etag, end) not in self.chunks:
            end += 1
        data = self.store.range(object, first * self.chunk_bytes, min(end * self.chunk_bytes, object.size))
        chunks = [data[at : at + self.chunk_bytes] for at in range(0, len(data), self.chunk_bytes)]
        for place, chunk in enumerate(chunks, first):
            self.chunks[object.path, object.etag, place] = chunk
            if len(self.chunks) > self.most:
                self.chunks.popitem(last=False)
        return chunks
