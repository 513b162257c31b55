"""What a rank saves in one file: a resident copy, taken before the next update and written from another thread."""

import errno
import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.pieces import Piece

CHUNK_BYTES = 8 << 20
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Names of number formats in a safetensors file"""


class Snapshot:
    """The image of a safetensors file in memory that stays between saves; pinned where there is a GPU to copy from.

    Each piece has a view into it, so that taking a copy is one pass over the numbers and nothing else.
    """

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._like = _signature(pieces)
        # wide numbers first, so that each view is aligned though a safetensors file leaves no gaps
        self._order = sorted(
            range(len(pieces)), key=lambda i: (-pieces[i].values.itemsize, pieces[i].name, pieces[i].start)
        )
        ordered = [pieces[i] for i in self._order]
        size = sum(piece.values.nbytes for piece in ordered)
        pinned = torch.cuda.is_available() and size > 0
        self.bytes = torch.empty(size, dtype=torch.uint8, pin_memory=pinned).zero_()  # which touches every page
        self._views: list[tuple[str, Tensor]] = []
        end = 0
        for piece in ordered:
            begin, end = end, end + piece.values.nbytes
            view = self.bytes[begin:end].view(piece.values.dtype).view(piece.values.shape)
            self._views.append((piece.name, view))
        self.header = header_of(ordered)

    def fits(self, pieces: Sequence[Piece]) -> bool:
        """Whether these have the names, places and formats of those that it was made for."""
        return self._like == _signature(pieces)

    @torch.no_grad()
    def take(self, pieces: Sequence[Piece], *, still: bool) -> None:
        """Copy the pieces that are still, or those that are not; from a GPU they have arrived after synchronisation."""
        for place, (_, view) in zip(self._order, self._views, strict=True):
            if pieces[place].still == still:
                view.copy_(pieces[place].values, non_blocking=True)

    def not_finite(self) -> str | None:
        """The first tensor that holds a NaN or an infinity. A sum finds both and is far quicker than a mask."""
        for name, view in self._views:
            if not view.is_floating_point():
                continue
            numbers = view.float() if view.itemsize == 1 else view  # torch adds no numbers of 8 bits
            if not bool(numbers.sum().isfinite()) and not bool(
                numbers.isfinite().all()
            ):  # finite ones can add up to inf
                return name
        return None

    def write(self, path: Path) -> str:
        """Write the file, flush it, read it back from the disk; returns its sha256. Raises OSError with its path."""
        contents = [memoryview(self.header), self.bytes.numpy().data]
        try:
            found = _write(path, contents)
            same = _reads_back(path, contents)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
        if not same:
            raise OSError(errno.EIO, "the disk gives back other bytes than were written", str(path))
        return found


def header_of(ordered: Sequence[Piece]) -> bytearray:
    """A safetensors header for pieces in the order of their bytes, padded to 8.

    The runs that a rank holds of a tensor make one entry, in the tensor's shape if that is all of it, else flat; the
    metadata then has, under `cuts`, the shape of the whole and the start and length of each run.
    """
    entries: dict[str, Any] = {}
    cuts: dict[str, Any] = {}
    end = 0
    for name, group in groupby(ordered, key=lambda piece: piece.name):
        runs = list(group)
        dtype, shape = runs[0].values.dtype, list(runs[0].shape)
        if dtype not in DTYPES:
            raise TypeError(
                f"{name} is {dtype}, which a checkpoint cannot hold; allowed: {', '.join(map(str, DTYPES))}"
            )
        assert name not in entries, f"{name} has two number formats"
        assert all(run.values.dtype == dtype for run in runs), f"{name} has two number formats"
        count = sum(run.values.numel() for run in runs)
        whole = count == math.prod(shape)
        begin, end = end, end + count * dtype.itemsize
        entries[name] = {"dtype": DTYPES[dtype], "shape": shape if whole else [count], "data_offsets": [begin, end]}
        if not whole:
            cuts[name] = {"shape": shape, "runs": [[run.start, run.values.numel()] for run in runs]}
    metadata = {"format": "pt"} | ({"cuts": json.dumps(cuts)} if cuts else {})
    text = json.dumps({"__metadata__": metadata} | entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return bytearray(len(text).to_bytes(8, "little") + text)


def _signature(pieces: Sequence[Piece]) -> list[Any]:
    return [(each.name, each.shape, each.start, each.values.shape, each.values.dtype) for each in pieces]


def _chunks(contents: Sequence[memoryview]) -> Iterator[memoryview]:
    for content in contents:
        for begin in range(0, len(content), CHUNK_BYTES):
            yield content[begin : begin + CHUNK_BYTES]


def _write(path: Path, contents: Sequence[memoryview]) -> str:
    hashed = hashlib.sha256()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        for chunk in _chunks(contents):
            hashed.update(chunk)
            while chunk:  # the kernel may take less than it is given
                chunk = chunk[os.write(descriptor, chunk) :]
        os.fsync(descriptor)
        if hasattr(os, "posix_fadvise"):  # so that what is read back comes from the disk, not from memory
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
    return hashed.hexdigest()


def _reads_back(path: Path, contents: Sequence[memoryview]) -> bool:
    """Whether a file holds these bytes and no more. Compared by torch, which lets other threads run meanwhile."""
    room = torch.empty(CHUNK_BYTES, dtype=torch.uint8)
    with path.open("rb", buffering=0) as file:
        for chunk in _chunks(contents):
            told = room.numpy().data[: len(chunk)]
            while told and (count := file.readinto(told)):
                told = told[count:]
            if told or not torch.equal(room[: len(chunk)], torch.frombuffer(chunk, dtype=torch.uint8)):
                return False
        return not file.read(1)
