"""Documents in a range of bytes: lines or paragraphs, of which a range owns those that begin in it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

from data.sources.raw import CHUNK_BYTES, chunks

EXCERPT_BYTES = 400  # of a document that is too long to hold


class Span(NamedTuple):
    """A line or paragraph."""

    offset: int
    content: bytes
    """Without its end; only its beginning when it is too long"""
    end: int
    """Where what follows begins"""
    blank: bool
    """Nothing but white space"""
    long: bool
    """Longer than the limit"""
    quotes: int = 0
    """Of a long line: how many double quotes it has"""


def lines(stream: Iterator[bytes], offset: int, limit: int) -> Iterator[Span]:
    """Lines of a stream that begins at `offset` with one. LF or CRLF ends them; long ones are not held in memory."""
    line = _Open(limit)
    for chunk in stream:
        *ended, last = chunk.split(b"\n")
        for content in ended:
            if line.size or len(content) > limit:
                line.add(content)
                yield line.close(offset, ended=1)
                offset, line = offset + line.size + 1, _Open(limit)
            else:
                end = offset + len(content) + 1
                yield Span(offset, content.removesuffix(b"\r"), end, not content.strip(), False)
                offset = end
        if last:
            line.add(last)
    if line.size:
        yield line.close(offset, ended=0)


@dataclass
class _Open:
    """A line of which more may come."""

    limit: int
    kept: list[bytes] = field(default_factory=list)
    size: int = 0
    quotes: int = 0
    blank: bool = True

    def add(self, content: bytes) -> None:
        self.kept.append(content)
        self.size += len(content)
        self.quotes += content.count(b'"')
        self.blank = self.blank and not content.strip()
        if self.size > self.limit + 1:  # one more than the limit may be the CR of its end
            self.kept = [b"".join(self.kept)[:EXCERPT_BYTES]]

    def close(self, offset: int, *, ended: int) -> Span:
        content, end = b"".join(self.kept), offset + self.size + ended
        if self.size <= self.limit + 1:
            content = content.removesuffix(b"\r")
            if len(content) <= self.limit:
                return Span(offset, content, end, self.blank, False)
        return Span(offset, content[:EXCERPT_BYTES], end, self.blank, True, self.quotes)


def paragraphs(spans: Iterator[Span], end: int | None, limit: int, *, fresh: bool) -> Iterator[Span]:
    """Runs of lines that are not blank, if they begin before `end`, with LF between the lines.

    `fresh` says whether the line before the first one is blank, or is none.
    """
    kept: _Paragraph | None = None
    for line in spans:
        if line.blank:
            if kept:
                yield kept.close()
            kept = None
        elif kept:
            kept.add(line, limit)
        elif fresh and (end is None or line.offset < end):
            kept = _Paragraph(line.offset)
            kept.add(line, limit)
        fresh = line.blank
        if end is not None and not kept and line.end >= end:
            return
    if kept:
        yield kept.close()


@dataclass
class _Paragraph:
    """One of which more lines may come."""

    offset: int
    content: bytearray = field(default_factory=bytearray)
    end: int = 0
    long: bool = False

    def add(self, line: Span, limit: int) -> None:
        if not self.long or len(self.content) < EXCERPT_BYTES:
            self.content += b"\n" + line.content if self.content else line.content
        self.end = line.end
        if line.long or len(self.content) > limit:
            self.long = True
            del self.content[EXCERPT_BYTES:]

    def close(self) -> Span:
        return Span(self.offset, bytes(self.content), self.end, False, self.long)


def owned_lines(file: BinaryIO, start: int, end: int, limit: int) -> Iterator[Span]:
    """Lines that begin in [start, end); the last is read to its end beyond it."""
    if (first := _first_line(file, start, end)) is None:
        return
    file.seek(first)
    for line in lines(chunks(file), first, limit):
        yield line
        if line.end >= end:
            return


def owned_paragraphs(file: BinaryIO, start: int, end: int, limit: int) -> Iterator[Span]:
    """Paragraphs that begin in [start, end); the last is read to its end beyond it."""
    if (first := _first_line(file, start, end)) is None:
        return
    fresh = _blank_before(file, first)
    file.seek(first)
    yield from paragraphs(lines(chunks(file), first, limit), end, limit, fresh=fresh)


def _first_line(file: BinaryIO, start: int, end: int) -> int | None:
    """Where the first line begins that does so in [start, end); no byte from `end` on is read to find it."""
    if start == 0:
        return 0 if end else None
    position = start - 1  # the byte before may end a line
    file.seek(position)
    while chunk := file.read(min(CHUNK_BYTES, end - 1 - position)):
        if (at := chunk.find(b"\n")) >= 0:
            return position + at + 1
        position += len(chunk)
    return None


def _blank_before(file: BinaryIO, first: int) -> bool:
    """Whether the line that ends before `first` is blank, or there is none."""
    position = max(0, first - 1)
    while position:
        size = min(CHUNK_BYTES, position)
        file.seek(position - size)
        chunk = file.read(size).rstrip(b" \t\r\v\f")
        if chunk:
            return chunk.endswith(b"\n")
        position -= size
    return True
