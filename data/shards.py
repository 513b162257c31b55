"""Shards: plain tar files of samples, each with an index of offsets and checksums beside it."""

import io
import mmap
import os
import struct
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from configs.errors import DamageError
from configs.folder import sync, write_atomic
from configs.stages import check_size, damaged
from data.manifest import MANIFEST, Shard
from data.samples import npy_header

Ids = NDArray[np.int64]

_BLOCK = 512  # tar's unit
_RECORD = 10240  # tar files end on a multiple of this
_BUFFER = 1 << 20  # bytes gathered before they are hashed and written
_OPEN = 128  # shards kept open: each holds a file descriptor
_HEADER = struct.Struct("100s8s8s8s12s12s8s")  # name, mode, owner, group, size, mtime, checksum
_HEADER_REST = (b"0" + bytes(100) + b"ustar\x0000").ljust(_BLOCK - _HEADER.size, b"\0")  # a regular file, no link
_TEMPLATE = (
    _HEADER.pack(b"", b"0000444", b"0000000", b"0000000", b"0" * 11, b"0" * 11, b" " * 8) + _HEADER_REST
)  # belongs to nobody, made at time 0
_MIDDLE, _END = _TEMPLATE[100:124], _TEMPLATE[136:148]
_TEMPLATE_SUM = sum(_TEMPLATE) - 11 * ord("0")  # without the size's digits


class ShardWriter:
    """One WebDataset tar with `NAME.index.npy` beside it.

    The index holds two arrays, one after the other: offsets and sizes of the payloads [samples, fields, 2] int64, and
    the XXH3-64 of each sample's stretch of the tar, headers included, [samples] uint64. The bytes depend on keys and
    fields alone (mtime 0, owner 0). Files have their final names only after `close`.
    """

    def __init__(self, path: Path, fields: Sequence[str], part: str = "") -> None:
        self.path, self.fields, self.part = path, tuple(fields), part
        self._part = path.with_name(path.name + ".part")
        self._file = self._part.open("wb", buffering=0)
        self._hash = blake3()
        self._pending: list[bytes] = []
        self._waiting = 0
        self._offset = 0
        self._rows: list[NDArray[np.int64]] = []
        self._row: list[int] = []
        self._sums: list[int] = []

    def write(self, key: str, fields: Mapping[str, bytes]) -> None:
        """Append one sample; `fields` maps file extensions to payloads and must be the shard's fields."""
        if tuple(fields) != self.fields:
            raise ValueError(f"sample {key}: fields {tuple(fields)} are not the shard's {self.fields}")
        chunks = []
        for extension, payload in fields.items():
            size = len(payload)
            self._row += (self._offset + _BLOCK, size)
            chunks += (tar_header(f"{key}.{extension}", size), payload, bytes(-size % _BLOCK))
            self._offset += _BLOCK + size + -size % _BLOCK
        stretch = b"".join(chunks)
        self._sums.append(xxh3_64_intdigest(stretch))
        self._append(stretch)

    def write_blocks(self, prefix: str, first: int, blocks: NDArray[Any]) -> None:
        """Append samples PREFIX-000000007... of one field, the rows of [samples, tokens], as .npy payloads at once."""
        name = f"{prefix}-{0:09d}.{self.fields[0]}"
        count, head = len(blocks), npy_header(blocks.dtype, blocks.shape[1])
        size = len(head) + blocks.shape[1] * blocks.dtype.itemsize
        stretch = _BLOCK + size + -size % _BLOCK
        tar = np.zeros((count, stretch), dtype=np.uint8)
        tar[:, :_BLOCK] = np.frombuffer(tar_header(name, size), dtype=np.uint8)
        tar[:, _BLOCK : _BLOCK + len(head)] = np.frombuffer(head, dtype=np.uint8)
        tar[:, _BLOCK + len(head) : _BLOCK + size] = blocks.view(np.uint8).reshape(count, -1)
        _number(tar, len(prefix) + 1, first)
        offsets = self._offset + _BLOCK + np.arange(count, dtype=np.int64) * stretch
        self._gather()
        self._rows.append(np.stack([offsets, np.full(count, size)], axis=1))
        flat = tar.reshape(-1).data
        self._sums += [xxh3_64_intdigest(flat[at : at + stretch]) for at in range(0, count * stretch, stretch)]
        self._offset += count * stretch
        self._flush()
        self._hash.update(flat)
        self._file.write(flat)

    def close(self) -> Shard:
        """Finish, flush to the disk, rename; returns the shard's line in the manifest."""
        end = 2 * _BLOCK + -(self._offset + 2 * _BLOCK) % _RECORD
        self._append(bytes(end))
        self._offset += end
        self._flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._gather()
        buffer = io.BytesIO()
        rows = np.concatenate([np.empty((0, 2 * len(self.fields)), np.int64), *self._rows])
        np.save(buffer, rows.astype("<i8").reshape(-1, len(self.fields), 2))
        np.save(buffer, np.asarray(self._sums, dtype="<u8"))
        write_atomic(index_path(self.path), buffer.getvalue())
        os.replace(self._part, self.path)
        sync(self.path.parent)
        return Shard(
            name=self.path.name,
            blake3=self._hash.hexdigest(),
            bytes=self._offset,
            samples=len(self._sums),
            index_blake3=blake3(buffer.getvalue()).hexdigest(),
            part=self.part,
        )

    def _append(self, chunk: bytes) -> None:
        self._pending.append(chunk)
        self._waiting += len(chunk)
        if self._waiting >= _BUFFER:
            self._flush()

    def _flush(self) -> None:
        together = b"".join(self._pending)
        self._hash.update(together)
        self._file.write(together)
        self._pending, self._waiting = [], 0

    def _gather(self) -> None:
        self._rows.append(np.asarray(self._row, dtype=np.int64).reshape(-1, 2 * len(self.fields)))
        self._row = []


def _number(tar: NDArray[np.uint8], place: int, first: int) -> None:
    """Write the samples' numbers over the nine zeros in their names, tar [samples, bytes], and mend the checksums."""
    numbers = np.arange(first, first + len(tar), dtype=np.int64)
    digits = numbers[:, None] // 10 ** np.arange(8, -1, -1, dtype=np.int64) % 10  # [samples, 9]
    checksums = int(bytes(tar[0, 148:154]), 8) + digits.sum(1)
    tar[:, place : place + 9] += digits.astype(np.uint8)
    octal = checksums[:, None] // 8 ** np.arange(5, -1, -1, dtype=np.int64) % 8
    tar[:, 148:154] = octal.astype(np.uint8) + ord("0")


def index_path(shard: Path) -> Path:
    return shard.with_name(shard.name + ".index.npy")


def tar_header(name: str, size: int) -> bytes:
    """A POSIX ustar header of a read-only file that belongs to nobody and was made at time 0."""
    encoded, digits = name.encode(), b"%011o" % size
    if len(encoded) > 100:
        raise ValueError(f"{name}: a name in a shard has at most 100 bytes")
    if len(digits) > 11:
        raise ValueError(f"{name}: a field has at most 8 GiB, got {size} bytes")
    checksum = b"%06o\0 " % (_TEMPLATE_SUM + sum(encoded) + sum(digits))
    return b"".join((encoded.ljust(100, b"\0"), _MIDDLE, digits, b"\0", _END, checksum, _HEADER_REST))


def file_blake3(path: Path) -> str:
    """BLAKE3 of a file's bytes."""
    return blake3().update_mmap(path).hexdigest()


class Remote(Protocol):
    """Shards in an object store."""

    def get(self, name: str) -> bytes: ...

    def reader(self, shard: Shard) -> Callable[[int, int], memoryview]:
        """What gives a shard's bytes from one offset to another."""
        ...


@dataclass(frozen=True)
class _Opened:
    """A shard that was touched: lists, because a number out of one costs a tenth of one out of an array."""

    bounds: list[int]
    """Where samples begin, and where the last ends"""
    payloads: list[list[tuple[int, int]]]
    sums: list[int]
    read: Callable[[int, int], memoryview]

    @classmethod
    def of(cls, offsets: Ids, sums: NDArray[np.uint64], read: Callable[[int, int], memoryview]) -> Self:
        begins = (offsets[:, 0, 0] - _BLOCK).tolist()
        last, size = offsets[-1, -1].tolist() if len(offsets) else (0, 0)
        return cls([*begins, last + size + -size % _BLOCK], offsets.tolist(), sums.tolist(), read)


class ShardReader:
    """Random access to the samples of one split's shards, in a folder or an object store.

    reader[i] -> {"__key__": bytes, extension: payload}; local payloads are views of the mapped file, without a copy.
    Sizes are checked when opened, an index's digest when its shard is first touched, and each sample's checksum when it
    is read; what differs raises DamageError with the shard's name. Opening costs the same for any number of samples.
    """

    def __init__(
        self, folder: Path, shards: Sequence[Shard], fields: Sequence[str], remote: Remote | None = None
    ) -> None:
        self.folder, self.shards, self.fields = folder, tuple(shards), tuple(fields)
        self.sizes = tuple(shard.samples for shard in shards)
        self._find: list[int] = np.cumsum([0, *self.sizes]).tolist()
        self._remote = remote
        self._open: OrderedDict[int, _Opened] = OrderedDict()
        for shard in shards if remote is None else ():
            check_size(folder / shard.name, shard.bytes, folder / MANIFEST)

    def __len__(self) -> int:
        return self._find[-1]

    @property
    def is_remote(self) -> bool:
        """Whether the shards lie in an object store."""
        return self._remote is not None

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self._find[-1]:
            raise IndexError(f"sample {index} of {len(self)}")
        number = bisect_right(self._find, index) - 1
        opened = self._open.get(number) or self._touch(number)
        row = index - self._find[number]
        start, end = opened.bounds[row], opened.bounds[row + 1]
        stretch = opened.read(start, end)
        if xxh3_64_intdigest(stretch) != opened.sums[row]:
            raise self._flipped(number, row, start)
        sample: dict[str, Any] = {"__key__": bytes(stretch[:100]).partition(b".")[0]}
        for extension, (offset, size) in zip(self.fields, opened.payloads[row], strict=True):
            sample[extension] = stretch[offset - start : offset - start + size]
        return sample

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}  # each worker process opens its own

    def _touch(self, number: int) -> "_Opened":
        shard = self.shards[number]
        offsets, sums = self._index(shard)
        read = self._remote.reader(shard) if self._remote else self._map(shard)
        while len(self._open) >= _OPEN:
            self._open.popitem(last=False)
        self._open[number] = opened = _Opened.of(offsets, sums, read)
        return opened

    def _map(self, shard: Shard) -> Callable[[int, int], memoryview]:
        path = self.folder / shard.name
        check_size(path, shard.bytes, self.folder / MANIFEST)
        with path.open("rb") as file:
            mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return lambda start, end: mapped[start:end]

    def _index(self, shard: Shard) -> tuple[Ids, NDArray[np.uint64]]:
        """Offsets and checksums, once the index is what the manifest says."""
        path = index_path(self.folder / shard.name)
        local = path.read_bytes() if self._remote is None and path.is_file() else None
        payload = self._remote.get(path.name) if self._remote else local
        got = "no file" if payload is None else blake3(payload).hexdigest()
        if payload is None or got != shard.index_blake3:
            raise damaged(path, "blake3", got, shard.index_blake3, self.folder / MANIFEST)
        stream = io.BytesIO(payload)
        offsets, sums = np.load(stream, allow_pickle=False), np.load(stream, allow_pickle=False)
        if len(offsets) != shard.samples:
            raise damaged(self.folder / shard.name, "samples", len(offsets), shard.samples, self.folder / MANIFEST)
        return offsets, sums

    def _flipped(self, number: int, row: int, start: int) -> DamageError:
        shard = self.shards[number]
        return DamageError(
            f"shard {self.folder / shard.name}: sample {row} (at byte {start}) is not what was written: its checksum "
            f"differs; restore the file, or remove {self.folder / MANIFEST} and prepare again"
        )
