"""Rows of JSON lines, CSV and parquet files."""

import csv
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from configs.errors import DataError
from data.records import Digest, Drop, Record
from data.sources.columns import EXCERPT_CHARACTERS, TOO_LONG, Columns, Unusable
from data.sources.encodings import decode
from data.sources.lines import Span
from data.sources.listing import File, scheme_of
from data.sources.raw import CHUNK_BYTES

BATCH_BYTES, BATCH_ROWS = 1 << 20, 1024  # of a table that are held at a time


@dataclass(frozen=True)
class Job:
    """A file of rows or lines that is being read."""

    file: File
    path: Path
    """Where it is on this machine"""
    columns: Columns
    encodings: Sequence[str]
    limit: int
    """Bytes of the longest document"""
    digest: Digest

    def record(self, row: dict[str, Any], origin: str, where: Callable[[], str]) -> Record | Drop:
        """The row's record. Raises DataError with `where` it is."""
        for name, value in self.defaults:
            row.setdefault(name, value)
        try:
            return self.columns.record(row, origin, self.beside)
        except Unusable as error:
            raise DataError(f"{where()}: {error}") from None

    @cached_property
    def defaults(self) -> list[tuple[str, str]]:
        return [(name, self.extra[name]) for name in self.columns.names if name in self.extra]

    @cached_property
    def extra(self) -> dict[str, str]:
        """Columns of every file, for rows that have none of that name."""
        return {"folder": self.file.folder, "file": self.file.name}

    def text(self, span: Span) -> str:
        found = decode(span.content, self.encodings, self.file.name, span.offset)
        return found if span.offset else found.removeprefix("\ufeff")

    def long(self, span: Span) -> Drop:
        excerpt = span.content.decode(self.encodings[0], "replace")[:EXCERPT_CHARACTERS]
        return Drop(TOO_LONG, f"{self.file.name} byte {span.offset}", excerpt)

    def beside(self, name: str) -> bytes:
        """An image that a row names by its path from the file's folder, which it may not leave. Raises Unusable."""
        if scheme_of(self.file.name):
            raise Unusable(f"names the image {name!r}; only files on this machine can name others: put its bytes in")
        folder = self.path.parent.resolve()
        try:
            target = (folder / name).resolve()
            if not target.is_relative_to(folder):
                raise Unusable(f"names the image {name!r}, which is outside {self.path.parent}; that is refused")
            with target.open("rb") as file:
                content = file.read(self.limit + 1)
        except (OSError, ValueError) as error:
            if isinstance(error, Unusable):
                raise
            reason = getattr(error, "strerror", None) or error
            raise Unusable(f"names the image {name!r}, which cannot be read: {reason}") from None
        self.digest.update(content)
        return content


def jsonl(spans: Iterator[Span], job: Job) -> Iterator[Record | Drop]:
    """A record of each line that is not blank. Raises DataError with the number of the line."""
    first: int | None = None
    for number, span in enumerate(spans):
        first = span.offset if first is None else first
        if span.blank:
            continue
        if span.long:
            yield job.long(span)
            continue
        where = _line_of(job, first, number)
        try:
            row = json.loads(job.text(span))
        except (ValueError, RecursionError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{where()}: not readable as JSON: {error}") from None
        if not isinstance(row, dict):
            raise DataError(f"{where()}: not readable as JSON lines: expected an object {{...}} with columns")
        yield job.record(row, f"{job.file.name} byte {span.offset}", where)


def _line_of(job: Job, first: int, number: int) -> Callable[[], str]:
    """Says which line of the file is `number` lines after offset `first`; counted only for an error's sake."""

    def where() -> str:
        left, before = first, 0
        with job.path.open("rb") as file:
            while left and (chunk := file.read(min(CHUNK_BYTES, left))):
                before, left = before + chunk.count(b"\n"), left - len(chunk)
        return f"{job.file.name}:{before + number + 1}"

    return where


def csv_rows(spans: Iterator[Span], job: Job) -> Iterator[Record | Drop]:
    """A record of each row after the header. Raises DataError with the number of the row's first line."""
    csv.field_size_limit(sys.maxsize)  # the feed limits whole rows
    feed = _Feed(spans, job)
    reader = csv.reader(feed, strict=True)
    header: list[str] = []
    while True:
        feed.next_row()
        where = f"{job.file.name}:{feed.line}"
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            raise DataError(f"{where}: not readable as CSV: {error}; is a quote not closed or not doubled?") from None
        if feed.long:
            if not header:
                raise DataError(f"{where}: the header is longer than max_document_bytes={job.limit}")
            yield Drop(TOO_LONG, where, feed.excerpt)
        elif not header:
            header = _header(row, job, where)
        elif row:
            if len(row) != len(header):
                raise DataError(f"{where}: has {len(row)} fields, the header has {len(header)}")
            yield job.record(dict(zip(header, row, strict=True)), where, lambda where=where: where)


def _header(row: list[str], job: Job, where: str) -> list[str]:
    if twice := sorted({name for name in row if row.count(name) > 1} & set(job.columns.names)):
        raise DataError(f"{where}: two columns are named {twice[0]!r}; names that are read must differ")
    try:
        if row:
            job.columns.check([*row, *job.extra])
    except Unusable as error:
        raise DataError(f"{where}: {error}") from None
    return row


class _Feed:
    """Lines for the CSV reader, which takes as many as a row has.

    Once a row is longer than the limit, only its quotes are fed, as many as decide whether a field stays open: so the
    row's end is found without holding it.
    """

    def __init__(self, spans: Iterator[Span], job: Job) -> None:
        self.spans, self.job, self.number = spans, job, 0
        self.next_row()

    def next_row(self) -> None:
        self.line, self.bytes, self.long, self.excerpt = self.number + 1, 0, False, ""

    def __iter__(self) -> "_Feed":
        return self

    def __next__(self) -> str:
        span = next(self.spans)
        self.number += 1
        if not self.bytes:
            self.excerpt = span.content.decode("utf-8", "replace")[:EXCERPT_CHARACTERS]
        self.bytes += span.end - span.offset
        self.long = self.long or span.long or self.bytes > self.job.limit + 2  # and the end of its line
        if not self.long:
            return self.job.text(span) + "\n"
        return '"' * ((span.quotes if span.long else span.content.count(b'"')) % 2)


def row_groups(path: Path, file: File, piece_bytes: int) -> list[tuple[int, int, int]]:
    """Runs of row groups of about piece_bytes as (first, end, bytes). Raises DataError."""
    runs: list[tuple[int, int, int]] = []
    with _parquet(path, file) as table:
        sizes = [table.metadata.row_group(n).total_byte_size for n in range(table.num_row_groups)]
    first, size = 0, 0
    for number, more in enumerate(sizes, 1):
        size += more
        if size >= piece_bytes or number == len(sizes):
            runs.append((first, number, size))
            first, size = number, 0
    return runs or [(0, 0, 0)]


def parquet(job: Job, first: int, end: int | None) -> Iterator[Record | Drop]:
    """A record of each row of row groups first to before end, or to the last one. Raises DataError."""
    import pyarrow

    with _parquet(job.path, job.file) as table:
        _check_columns(table.schema_arrow, job)
        groups = range(first, table.num_row_groups if end is None else end)
        before = sum(table.metadata.row_group(n).num_rows for n in range(first))
        rows = sum(table.metadata.row_group(n).num_rows for n in groups)
        size = sum(table.metadata.row_group(n).total_byte_size for n in groups)
        names = [name for name in job.columns.names if name in table.schema_arrow.names]
        at_once = max(1, min(BATCH_ROWS, BATCH_BYTES * rows // max(1, size)))
        try:
            number = before
            for batch in table.iter_batches(at_once, row_groups=list(groups), columns=names) if rows else ():
                for row in batch.to_pylist():
                    number += 1
                    origin = f"{job.file.name} row {number}"
                    yield job.record(row, origin, lambda origin=origin: origin)
        except (pyarrow.ArrowException, OSError) as error:
            raise _unreadable(job.file, error) from None


def _parquet(path: Path, file: File) -> Any:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        # without pre_buffer and with a small buffer a row group is read bit by bit
        return ParquetFile(path, pre_buffer=False, buffer_size=CHUNK_BYTES, page_checksum_verification=True)
    except (pyarrow.ArrowException, OSError) as error:
        raise _unreadable(file, error) from None


def _unreadable(file: File, error: Exception) -> DataError:
    return DataError(f"{file.name}: not readable as parquet: {error}; fetch or write it again")


def _check_columns(schema: Any, job: Job) -> None:
    from pyarrow import types

    try:
        job.columns.check([*schema.names, *job.extra])
    except Unusable as error:
        raise DataError(f"{job.file.name}: {error}") from None
    name = job.columns.content
    kind = schema.field(name).type if name in schema.names else None
    while kind is not None and types.is_dictionary(kind):
        kind = kind.value_type
    text = (types.is_string, types.is_large_string, types.is_string_view, types.is_null)
    if job.columns.tags and kind is not None and (types.is_list(kind) or types.is_large_list(kind)):
        kind = kind.value_type  # words
    if job.columns.kind == "text" and kind is not None and not any(is_kind(kind) for is_kind in text):
        raise DataError(f"{job.file.name}: column {name!r} holds {kind}, expected text; set {job.columns.setting}")
