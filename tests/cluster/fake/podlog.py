"""What a container prints: kept line by line with its time, and read as `kubectl logs` asks for it."""

import threading
from collections import deque
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta

from tests.cluster.fake.objects import StatusError, stamp

LOOK_S = 0.5
MICROSECONDS = 26
"""Characters of a time up to its microseconds"""


class PodLog:
    """The lines of one container; written by whoever reads its pipe, read by many."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, bytes]] = []
        """With their times"""
        self.ended = False
        self._news = threading.Condition()

    def add(self, line: bytes) -> None:
        with self._news:
            self.lines.append((stamp(), line))
            self._news.notify_all()

    def end(self) -> None:
        with self._news:
            self.ended = True
            self._news.notify_all()

    def read(self, query: Mapping[str, str]) -> Iterator[bytes]:
        """Lines as they come; an empty one now and then while there is none. Raises StatusError 400 at once."""
        try:
            since, tail = _since(query), int(query["tailLines"]) if "tailLines" in query else None
            limit = int(query["limitBytes"]) if "limitBytes" in query else None
        except ValueError as error:
            raise StatusError(400, "BadRequest", f"invalid log options: {error}") from None
        lines = self._lines(since, tail, follow=_flag(query, "follow"))
        return _limited(_shown(lines, stamps=_flag(query, "timestamps")), limit)

    def _lines(self, since: str, tail: int | None, *, follow: bool) -> Iterator[tuple[str, bytes] | None]:
        given = 0
        if tail is not None:
            with self._news:
                given = len(self.lines)
                yet = [each for each in self.lines[:given] if each[0][:MICROSECONDS] >= since]
            yield from deque(yet, maxlen=tail)
        while True:
            with self._news:
                if given >= len(self.lines):
                    if self.ended or not follow:
                        return
                    self._news.wait(LOOK_S)
                fresh = self.lines[given:]
            given += len(fresh)
            yield from (each for each in fresh if each[0][:MICROSECONDS] >= since)
            yield None


def _since(query: Mapping[str, str]) -> str:
    """The least time of a line, with microseconds."""
    if "sinceSeconds" in query:
        moment = datetime.now(UTC) - timedelta(seconds=int(query["sinceSeconds"]))
    elif query.get("sinceTime"):
        moment = datetime.fromisoformat(query["sinceTime"].replace(" ", "+")).astimezone(UTC)
    else:
        return ""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f")


def _flag(query: Mapping[str, str], name: str) -> bool:
    return query.get(name, "").lower() in ("true", "1")


def _shown(lines: Iterator[tuple[str, bytes] | None], *, stamps: bool) -> Iterator[bytes]:
    for each in lines:
        yield b"" if each is None else (each[0].encode() + b" " if stamps else b"") + each[1] + b"\n"


def _limited(lines: Iterator[bytes], limit: int | None) -> Iterator[bytes]:
    for line in lines:
        yield line if limit is None else line[:limit]
        if limit is not None:
            limit -= len(line)
            if limit <= 0:
                return
