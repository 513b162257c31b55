"""Shards: plain tar files of samples with an offset index, and the order in which they are read."""

import hashlib
import io
import mmap
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.errors import DamageError
from configs.folder import file_digest, sync, write_atomic
from configs.stages import check_size, damaged
from data.manifest import MANIFEST, Shard

Ids = NDArray[np.int64]
_BLOCK = 512  # tar's unit
_RECORD = 10240  # tar files end on a multiple of this
_HEADER = struct.Struct("100s8s8s8s12s12s8s")  # name, mode, owner, group, size, mtime, checksum
_HEADER_REST = (b"0" + bytes(100) + b"ustar\x0000").ljust(_BLOCK - _HEADER.size, b"\0")  # a regular file, no link


class ShardWriter:
    """One WebDataset tar with `NAME.index.npy` beside it: [samples, fields, 2] int64 offsets and sizes of the payloads.

    The bytes depend on keys and fields alone (mtime 0, owner 0). Files have their final names only after `close`.
    """

    def __init__(self, path: Path, fields: Sequence[str]) -> None:
        self.path, self.fields = path, tuple(fields)
        self._part = path.with_name(path.name + ".part")
        self._file = self._part.open("wb")
        self._sha256 = hashlib.sha256()
        self._offset = 0
        self._index: list[list[tuple[int, int]]] = []

    def write(self, key: str, fields: Mapping[str, bytes]) -> None:
        """Append one sample; `fields` maps file extensions to payloads and must be the shard's fields."""
        if tuple(fields) != self.fields:
            raise ValueError(f"sample {key}: fields {tuple(fields)} are not the shard's {self.fields}")
        row = []
        for extension, payload in fields.items():
            padding = bytes(-len(payload) % _BLOCK)
            row.append((self._offset + _BLOCK, len(payload)))
            self._append(tar_header(f"{key}.{extension}", len(payload)) + payload + padding)
        self._index.append(row)

    def close(self) -> Shard:
        """Finish, flush to the disk, rename; returns the shard's line in the manifest."""
        self._append(bytes(2 * _BLOCK))
        self._append(bytes(-self._offset % _RECORD))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        buffer = io.BytesIO()
        np.save(buffer, np.asarray(self._index, dtype="<i8").reshape(-1, len(self.fields), 2))
        index = index_path(self.path)
        write_atomic(index, buffer.getvalue())
        os.replace(self._part, self.path)
        sync(self.path.parent)
        return Shard(
            name=self.path.name,
            sha256=self._sha256.hexdigest(),
            bytes=self._offset,
            samples=len(self._index),
            index_sha256=hashlib.sha256(buffer.getvalue()).hexdigest(),
        )

    def _append(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self._sha256.update(chunk)
        self._offset += len(chunk)


def index_path(shard: Path) -> Path:
    return shard.with_name(shard.name + ".index.npy")


def tar_header(name: str, size: int) -> bytes:
    """A POSIX ustar header of a read-only file that belongs to nobody and was made at time 0."""
    encoded = name.encode()
    if len(encoded) > 100:
        raise ValueError(f"{name}: a name in a shard has at most 100 bytes")
    header = _HEADER.pack(encoded, b"0000444", b"0000000", b"0000000", b"%011o" % size, b"%011o" % 0, b" " * 8)
    header += _HEADER_REST
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


class ShardReader:
    """Random access to the samples of one split's shards.

    reader[i] -> {"__key__": bytes, extension: payload}. Sizes are checked when opened, digests and counts when a shard
    is first touched; what differs from the manifest raises DamageError with the shard's name.
    """

    def __init__(self, folder: Path, shards: Sequence[Shard], fields: Sequence[str]) -> None:
        self.folder, self.shards, self.fields = folder, tuple(shards), tuple(fields)
        self.sizes = tuple(shard.samples for shard in shards)
        self._starts = np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)
        self._open: dict[int, tuple[mmap.mmap, Ids]] = {}
        for shard in shards:
            check_size(folder / shard.name, shard.bytes, folder / MANIFEST)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> dict[str, bytes]:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        if number not in self._open:
            self._open[number] = self._verify(self.shards[number])
        payload, offsets = self._open[number]
        row = offsets[index - self._starts[number]]
        start = int(row[0, 0])
        name = payload[start - _BLOCK : start - _BLOCK + 100].split(b"\0", 1)[0]
        sample = {"__key__": name.split(b".", 1)[0]}
        for extension, (offset, size) in zip(self.fields, row.tolist(), strict=True):
            sample[extension] = payload[offset : offset + size]
        return sample

    def __iter__(self) -> Iterator[dict[str, bytes]]:
        return (self[index] for index in range(len(self)))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}  # each worker process opens and verifies its own

    def _verify(self, shard: Shard) -> tuple[mmap.mmap, Ids]:
        path = self.folder / shard.name
        check_size(path, shard.bytes, self.folder / MANIFEST)
        if (got := file_digest(path)) != shard.sha256:
            raise damaged(path, "sha256", got, shard.sha256, self.folder / MANIFEST)
        index = index_path(path)
        if not index.is_file() or (got := file_digest(index)) != shard.index_sha256:
            raise damaged(
                index, "sha256", got if index.is_file() else "no file", shard.index_sha256, self.folder / MANIFEST
            )
        offsets = np.load(index, allow_pickle=False)
        if len(offsets) != shard.samples:
            raise damaged(path, "samples", len(offsets), shard.samples, self.folder / MANIFEST)
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), offsets


def encode_array(array: NDArray[Any]) -> bytes:
    """An array as the bytes of a .npy file, which webdataset's own decoder reads too."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def decode_array(payload: bytes) -> NDArray[Any]:
    """A one-dimensional .npy payload; pickled objects and anything else raise DamageError."""
    size = 10 + int.from_bytes(payload[8:10], "little")
    dtype, count = _header(payload[:size])
    if len(payload) != size + count * dtype.itemsize:
        raise DamageError(f"a sample's .npy field has {len(payload) - size} bytes for {count} numbers of {dtype}")
    return np.frombuffer(payload, dtype=dtype, offset=size)


@lru_cache(maxsize=64)
def _header(header: bytes) -> tuple[np.dtype[Any], int]:
    stream = io.BytesIO(header)
    try:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise DamageError("a sample's .npy field is not of version 1.0")
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    except ValueError as error:
        raise DamageError(f"a sample's .npy field has no header: {error}") from None
    if len(shape) != 1 or dtype.hasobject:
        raise DamageError(
            f"a sample's .npy field has shape {shape} and type {dtype}; expected one dimension of numbers"
        )
    return dtype, shape[0]


def order(shard_sizes: Sequence[int], seed: int, epoch: int, window: int) -> Ids:
    """The sample ids of one epoch, a permutation that depends on the arguments alone.

    Shards are shuffled, then samples within windows of that sequence, so that reading stays near few shards at a time.
    """
    samples = sum(shard_sizes)
    windows = range(-(-samples // window))
    return np.concatenate(
        [np.empty(0, np.int64)] + [_window(tuple(shard_sizes), seed, epoch, window, w) for w in windows]
    )


@lru_cache(maxsize=4)
def _shard_sequence(shard_sizes: tuple[int, ...], seed: int, epoch: int) -> tuple[Ids, Ids, Ids]:
    sizes = np.asarray(shard_sizes, dtype=np.int64)
    starts = np.cumsum(sizes) - sizes
    sequence = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(len(sizes))
    return sequence, starts, np.concatenate([[0], np.cumsum(sizes[sequence])])


def _window(shard_sizes: tuple[int, ...], seed: int, epoch: int, window: int, number: int) -> Ids:
    """Ids of one window: the only part of an epoch that must be in memory."""
    sequence, starts, ends = _shard_sequence(shard_sizes, seed, epoch)
    places = np.arange(number * window, min((number + 1) * window, int(ends[-1])), dtype=np.int64)
    slots = np.searchsorted(ends, places, side="right") - 1
    ids = starts[sequence[slots]] + places - ends[slots]
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, 0, number + 1]))
    return generator.permutation(ids)


class Sampler:
    """Endless micro-batches of (position, sample id) for one rank.

    position counts samples drawn by the whole world since the start; sample `order(epoch)[position % samples]` stands
    there whatever the world, so `position` alone resumes on any number of ranks. Micro-batch k of rank r covers the
    `micro` positions from position + (k x world + r) x micro; every rank gets equally many.
    """

    def __init__(
        self, sizes: Sequence[int], *, seed: int, window: int, micro: int, rank: int, world: int, position: int = 0
    ) -> None:
        self.sizes, self.seed, self.window, self.micro = tuple(sizes), seed, window, micro
        self.rank, self.world, self.position = rank, world, position
        self.samples = sum(sizes)
        self._windows: dict[tuple[int, int], Ids] = {}

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        start = self.position + self.rank * self.micro
        while True:
            yield [(place, self.at(place)) for place in range(start, start + self.micro)]
            start += self.world * self.micro

    def at(self, position: int) -> int:
        """The sample id at a position."""
        epoch, place = divmod(position, self.samples)
        number, offset = divmod(place, self.window)
        if (epoch, number) not in self._windows:
            while len(self._windows) > 1:  # the one before may still be read from; older ones never are
                self._windows.pop(next(iter(self._windows)))
            self._windows[epoch, number] = _window(self.sizes, self.seed, epoch, self.window, number)
        return int(self._windows[epoch, number][offset])


class Positioned:
    """Decoded samples by (position, id): what a DataLoader indexes."""

    def __init__(self, reader: ShardReader) -> None:
        self.reader = reader

    def __getitem__(self, place: tuple[int, int]) -> dict[str, Any]:
        position, index = place
        return {"position": position, "id": index} | decode(self.reader[index])

    def __len__(self) -> int:
        return len(self.reader)


def decode(sample: Mapping[str, bytes]) -> dict[str, Any]:
    """A sample's fields by name: `tokens.npy` becomes the array `tokens`."""
    return {name.removesuffix(".npy"): decode_array(data) for name, data in sample.items() if name.endswith(".npy")}
