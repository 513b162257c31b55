"""Raw bytes of listed files: fetched where they are remote, refused when they changed, digested as they are read."""

import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Protocol

from configs.errors import DataError
from configs.folder import locked
from data.records import Digest
from data.sources.listing import File, Server, scheme_of, split_url

CHUNK_BYTES = 1 << 18
FETCH_WAIT_S = 3600.0  # for another worker that fetches the same file: its lock ends with it, its retries are bounded


class Stream(Protocol):
    """What can be read from the front to the end."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True)
class Reach:
    """How listed files are got at."""

    root: Path
    """What local names are relative to"""
    scratch: Path
    """Where remote files are kept once they were fetched"""
    server: Server

    def path(self, file: File) -> Path:
        """Where the file is on this machine; fetches a remote one, once for all processes."""
        if not scheme_of(file.name):
            return self.root / file.name
        from data.store import Object, open_store

        bucket, path = split_url(file.name)
        key = sha256(repr(file.reading()).encode()).hexdigest()[:32]
        folder = self.scratch / "raw" / key
        target = folder / "object"
        if not target.exists():
            store = open_store(bucket, endpoint=self.server.endpoint, region=self.server.region)
            with locked(folder, wait_s=FETCH_WAIT_S):
                if not target.exists():
                    store.download(Object(path, file.size, None if file.version is None else str(file.version)), target)
        return target

    @contextmanager
    def open(self, file: File) -> Iterator[BinaryIO]:
        """The file, which must be the listed one before and after it is read. Raises DataError."""
        path = self.path(file)
        try:
            handle = path.open("rb")
        except OSError as error:
            raise _gone(file, error) from None
        with handle:
            _same(file, os.fstat(handle.fileno()))
            try:
                yield handle
            except DataError:
                self._check(file, path)  # a change explains every other fault
                raise
            except OSError as error:
                raise DataError(f"{file.name}: cannot be read: {error.strerror or error}") from None
        self._check(file, path)

    def _check(self, file: File, path: Path) -> None:
        try:
            _same(file, path.stat())
        except OSError as error:
            raise _gone(file, error) from None


def _gone(file: File, error: OSError) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(f"{file.name}: has vanished since it was listed; restore it, or start a new run without it")
    return DataError(f"{file.name}: cannot be read: {error.strerror}")


def _same(file: File, found: os.stat_result) -> None:
    if found.st_size != file.size:
        what = f"it had {file.size} bytes and has {found.st_size}"
    elif isinstance(file.version, int) and found.st_mtime_ns != file.version:
        what = "its modification time is another"
    else:
        return
    raise DataError(
        f"{file.name}: has changed since it was listed: {what}; start a new run with data that stays as it is"
    )


class Digested:
    """A file whose bytes go through the digest as they are read."""

    def __init__(self, file: BinaryIO, digest: Digest) -> None:
        self.file, self.digest = file, digest

    def read(self, size: int = -1, /) -> bytes:
        data = self.file.read(size)
        self.digest.update(data)
        return data


def chunks(stream: Stream) -> Iterator[bytes]:
    while chunk := stream.read(CHUNK_BYTES):
        yield chunk


def contents(file: File, stream: Stream, *, packed: bool) -> Iterator[bytes]:
    """All of the stream in chunks, out of gzip where it is packed. Raises DataError when that is damaged."""
    if packed:
        yield from _unpacked(file, stream)
    yield from chunks(stream)  # what is left of a packed one has no content, but goes through the digest


def _unpacked(file: File, stream: Stream) -> Iterator[bytes]:
    if not file.size:
        raise DataError(f"{file.name}: is empty, not even gzip's header is there; fetch it again")
    try:
        yield from chunks(gzip.GzipFile(fileobj=stream))  # type: ignore[arg-type]
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{file.name}: is not readable as gzip: {error}; it is damaged or cut, fetch it again"
        ) from None


def digest_range(file: BinaryIO, start: int, end: int, digest: Digest) -> None:
    """Digest the bytes from start to before end."""
    file.seek(start)
    while start < end and (chunk := file.read(min(4 * CHUNK_BYTES, end - start))):
        digest.update(chunk)
        start += len(chunk)
