"""The event log: append-only JSON lines with one writer and a checksum each; a run's other views are made from it."""

import contextlib
import errno
import json
import os
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from configs.errors import UserError

VERSION = 1
"""Of the log's lines. 0, from before there were versions, has no checksums"""
LOG = "log"
"""Name of the event that says the version; the first of a log"""
KEPT = 100_000
"""Lines that wait in memory for a disk that is full"""
_CHECKSUM = b',"crc":"'
_CRC = _CHECKSUM + b'%08x"}\n'
_TAIL = len(_CRC % 0)
_FIRST_LINE = 4096
Event = dict[str, Any]


class NewerLogError(UserError):
    """A log that a newer version of this program has written."""


def encode(event: Event) -> bytes:
    """The line of an event; the checksum, a CRC-32, is of the bytes before it. Numbers have to be finite."""
    body = orjson.dumps(event)[:-1]
    return body + _CRC % zlib.crc32(body)


def decode(line: bytes, *, checked: bool = True) -> Event:
    """The event of a line; an empty one for a line that is none, or not the one that was written."""
    body = line[:-_TAIL]
    if line[-_TAIL:] == _CRC % zlib.crc32(body):
        line = body + b"}"
    elif checked or line.startswith(_CHECKSUM, max(len(line) - _TAIL, 0)):
        return {}
    try:
        event = orjson.loads(line)
    except ValueError:
        event = None if checked else _with_nan(line)
    return event if isinstance(event, dict) else {}


def _with_nan(line: bytes) -> Any:
    """What a line of version 0 holds, which may name numbers that JSON does not know."""
    try:
        return json.loads(line)
    except ValueError:
        return None


class EventLog:
    """The writing side. Every line is in the system's hands when `write` returns, so a killed process loses none.

    A line torn by a kill is cut off when the log is opened again. Lines that a full disk does not take wait in memory,
    and `trouble` is told once: a log must not end a run. A log of a newer version is set aside, and `trouble` told.
    """

    def __init__(self, path: Path, trouble: Callable[[str], None] = lambda text: None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self._trouble = path, trouble
        self._waiting: deque[bytes] = deque(maxlen=KEPT)
        self._told = False
        self._lost = 0
        self._gathered: list[bytes] | None = None
        self._set_newer_aside()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._end = self._cut()
        if version_of(path) != VERSION:
            self.write(LOG, version=VERSION)

    def write(self, event: str, **fields: Any) -> None:
        """Append an event with the time, in seconds since 1970."""
        line = encode({"event": event, "time": round(time.time(), 3), **fields})
        if self._gathered is not None:
            self._gathered.append(line)
        else:
            self._write([line])

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Write the block's events at its end, in one go: for many that come at once."""
        self._gathered = []
        try:
            yield
        finally:
            lines, self._gathered = self._gathered, None
            self._write(lines)

    def _write(self, lines: Sequence[bytes]) -> None:
        if self._waiting or not self._put(b"".join(lines)):
            self._lost += max(0, len(self._waiting) + len(lines) - KEPT)
            self._waiting.extend(lines)
            self._write_waiting()

    def sync(self) -> None:
        """Make what was written last through a power cut."""
        os.fsync(self._file)

    def close(self) -> None:
        """Write what waits, if it can be, and end."""
        self._write_waiting()
        if lost := self._lost + len(self._waiting):
            self._trouble(f"{self.path}: {lost} events are lost, for the disk took them not")
        try:
            self.sync()
        except OSError as error:
            self._trouble(f"{self.path}: {error.strerror}; its last lines may not outlast a power cut")
        finally:
            os.close(self._file)

    def _write_waiting(self) -> None:
        while self._waiting and self._put(self._waiting[0]):
            self._waiting.popleft()

    def _put(self, line: bytes) -> bool:
        """Whether the whole line, or all of several, are written; where they are not, nothing of them stays."""
        try:
            written = os.write(self._file, line)
            reason = os.strerror(errno.ENOSPC)
        except OSError as error:
            written, reason = 0, error.strerror or str(error)
        if written < len(line):
            if written:
                os.ftruncate(self._file, self._end)
            if not self._told:
                self._trouble(f"{self.path}: {reason}; events wait in memory until it can be written again")
            self._told = True
            return False
        self._end += written
        return True

    def _cut(self) -> int:
        """Cut a torn last line off; returns the length."""
        end, block = os.lseek(self._file, 0, os.SEEK_END), 1 << 16
        whole = end
        while whole:
            start = max(0, whole - block)
            found = os.pread(self._file, whole - start, start).rfind(b"\n") + 1
            if found or not start:
                whole = start + found
                break
            whole = start
        if whole < end:
            os.ftruncate(self._file, whole)
        return whole

    def _set_newer_aside(self) -> None:
        version = version_of(self.path)
        if version > VERSION:
            aside = self.path.with_name(f"{self.path.stem}-version-{version}{self.path.suffix}")
            os.replace(self.path, aside)
            self._trouble(
                f"{self.path} is of version {version}, and this program writes {VERSION}: it is kept as {aside.name}, "
                "and a new one begins"
            )


def version_of(path: Path) -> int:
    """The version that a log's first line says; 0 where it says none, and for no log."""
    try:
        with path.open("rb") as file:
            first = decode(file.readline(_FIRST_LINE), checked=False)
    except OSError:
        return 0
    version = first.get("version") if first.get("event") == LOG else 0
    return version if isinstance(version, int) else 0


def read_events(path: Path) -> Iterator[Event]:
    """The events of a log in order; an empty one stands for a line that is damaged. A torn last line is left out.

    Raises NewerLogError for a log of a newer version, OSError where there is none.
    """
    with path.open("rb") as file:
        reader = Reader(path)
        for line in file:
            if not line.endswith(b"\n"):
                return  # torn by a kill, or being written now
            yield reader.take(line)


class Reader:
    """Makes events of a log's whole lines, from the first one on."""

    def __init__(self, path: Path) -> None:
        self.path, self._checked = path, False

    def take(self, line: bytes) -> Event:
        """The event of the next line; an empty one where it is damaged. Raises NewerLogError."""
        event = decode(line, checked=self._checked)
        if event.get("event") == LOG:
            version = event.get("version", 0)
            if version > VERSION:
                raise NewerLogError(
                    f"{self.path} is of version {version}, and this program reads versions up to {VERSION}: read it "
                    "with the trainworks that wrote it, or a newer one"
                )
            self._checked = True
        return event


class Tail:
    """Reads a log that is being written, whether it is there yet or not."""

    def __init__(self, path: Path, *, from_end: bool = False) -> None:
        self.path = path
        self.damaged = 0
        """Lines so far that are no events"""
        self._reader = Reader(path)
        self._read = 0
        if from_end:
            for _ in self.new():
                pass

    @property
    def left_bytes(self) -> int:
        """How much has been written and not read."""
        try:
            return self.path.stat().st_size - self._read
        except FileNotFoundError:
            return 0

    def new(self) -> Iterator[Event]:
        """The events that were written since the last call; the damaged are counted. Raises NewerLogError."""
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._read += len(line)
                if event := self._reader.take(line):
                    yield event
                else:
                    self.damaged += 1
