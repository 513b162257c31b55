"""A tar's members from front to end: every header checked, nothing unpacked, no link followed."""

import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath

from configs.errors import DataError
from data.sources.raw import CHUNK_BYTES

_NAME_BYTES = 1 << 16  # of the headers that hold long names
_BLOCK = 512


class Archive:
    """A tar's members from front to end; every header is checked, and so is that the end is there."""

    def __init__(self, stream: Iterator[bytes], name: str) -> None:
        self.stream, self.name = stream, name
        self.chunk, self.at, self.offset = b"", 0, 0

    def take(self, size: int) -> bytes:
        """The next bytes; fewer at the end of the file."""
        taken = self.chunk[self.at : self.at + size]
        self.at += len(taken)
        if len(taken) < size:
            parts, left = [taken], size - len(taken)
            while left and (chunk := next(self.stream, b"")):
                self.chunk, self.at = chunk, min(left, len(chunk))
                parts.append(chunk[: self.at])
                left -= self.at
            taken = b"".join(parts)
        self.offset += len(taken)
        return taken

    def body(self, member: str, size: int, limit: int) -> bytes:
        """A member's bytes, `limit` of them at most, and past the padding."""
        kept = self.take(min(size, limit))
        left = size - len(kept) + -size % _BLOCK
        while left and (chunk := self.take(min(left, CHUNK_BYTES))):
            left -= len(chunk)
        if left or len(kept) < min(size, limit):
            raise DataError(f"{self.name}: ends in the middle of {member!r}; it is cut, fetch it again")
        return kept

    def headers(self) -> Iterator[tuple[str, tarfile.TarInfo]]:
        """Each regular file's name and header; its body must be taken before the next. Raises DataError."""
        name: str | None = None
        size: int | None = None
        while (info := self._header()) is not None:
            if info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
                extra = self._pax(info)
                name, size = extra.get("path", name), int(extra["size"]) if "size" in extra else size
            elif info.type == tarfile.GNUTYPE_LONGNAME:
                name = self._short(info).rstrip(b"\0").decode("utf-8", "surrogateescape")
            elif info.type == tarfile.XGLTYPE:
                if {"path", "size"} & self._pax(info).keys():
                    raise DataError(f"{self.name}: a global header names or sizes all members; write the tar again")
            else:
                info.name, info.size = name or info.name, info.size if size is None else size
                name = size = None
                self._check(info)
                if info.type == tarfile.DIRTYPE:
                    self.body(info.name, info.size, 0)
                else:
                    yield info.name, info
        self._check_end()

    def _header(self) -> tarfile.TarInfo | None:
        at, block = self.offset, self.take(_BLOCK)
        if block == bytes(_BLOCK):
            return None
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            cut = len(block) < _BLOCK
            why = "has no end-of-archive mark" if cut else f"has a damaged header at byte {at} ({error})"
            raise DataError(f"{self.name}: {why}; it is {'cut' if cut else 'no tar'}, fetch it again") from None
        if info.size < 0:
            raise DataError(f"{self.name}: has a damaged header at byte {at} (negative size); fetch it again")
        return info

    def _check_end(self) -> None:
        if self.take(_BLOCK) != bytes(_BLOCK):
            raise DataError(f"{self.name}: has half an end-of-archive mark; it is cut or damaged, fetch it again")
        while chunk := self.take(CHUNK_BYTES):
            if chunk.count(0) != len(chunk):
                raise DataError(f"{self.name}: goes on after its end-of-archive mark; are several tars joined in it?")

    def _check(self, info: tarfile.TarInfo) -> None:
        path = PurePosixPath(info.name)
        if path.is_absolute() or ".." in path.parts or not info.name or "\0" in info.name:
            raise DataError(f"{self.name}: the name {info.name!r} leaves the archive; nothing of it is read")
        if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE):
            raise DataError(f"{self.name}: {info.name!r} is a link, device or the like; only regular files are read")
        try:
            info.name.encode()
        except UnicodeEncodeError:
            raise DataError(f"{self.name}: the name {info.name!r} is not UTF-8; write the tar again") from None

    def _short(self, info: tarfile.TarInfo) -> bytes:
        if info.size > _NAME_BYTES:
            raise DataError(f"{self.name}: a name of {info.size} bytes; it is damaged, fetch it again")
        return self.body(info.name, info.size, info.size)

    def _pax(self, info: tarfile.TarInfo) -> dict[str, str]:
        """The records of an extended header: `LENGTH KEY=VALUE\\n` each."""
        left, found = self._short(info), {}
        while left:
            length, _, rest = left.partition(b" ")
            record = rest[: int(length) - len(length) - 1] if length.isdigit() else b""
            key, equals, value = record[:-1].partition(b"=")
            if not equals or not record.endswith(b"\n") or len(record) != int(length) - len(length) - 1:
                raise DataError(f"{self.name}: a damaged extended header at byte {self.offset}; fetch it again")
            found[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
            left = left[int(length) :]
        if not found.get("size", "0").isdecimal():
            raise DataError(f"{self.name}: a damaged extended header at byte {self.offset}; fetch it again")
        return found
