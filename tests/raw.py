"""Raw data for tests of sources: files written into a folder, and what a source reads from them."""

import hashlib
from pathlib import Path
from typing import Any, Literal

import pyarrow
import pyarrow.parquet
import pytest

from configs.dataset import FileSource, PlainSource
from configs.errors import DataError
from data.records import Drop, Record
from data.sources import open_source

Kind = Literal["text", "images"]


def read(config: PlainSource, kind: Kind, scratch: Path) -> tuple[list[Record | Drop], str]:
    """Every record in order, each piece by a source of its own as in a worker, and the digest of the raw bytes."""
    found: list[Record | Drop] = []
    digest = hashlib.sha256()
    for piece in open_source(config, kind, scratch).pieces():
        found += open_source(config, kind, scratch).read(piece, digest)
    return found, digest.hexdigest()


class Folder:
    """Writes files and reads records from them."""

    def __init__(self, path: Path) -> None:
        self.path, self.scratch = path / "raw files", path / "scratch"
        self.path.mkdir()

    def write(self, name: str, content: bytes | str) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def parquet(self, name: str, rows: int | None = None, **columns: Any) -> Path:
        """A table, in row groups of `rows`."""
        path = self.path / name
        pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=rows)
        return path

    def source(self, *paths: Path | str, **options: Any) -> FileSource:
        return FileSource(kind="files", paths=tuple(map(str, paths)), **options)

    def read(self, *paths: Path | str, kind: Kind = "text", **options: Any) -> list[Record | Drop]:
        return read(self.source(*paths, **options), kind, self.scratch)[0]

    def records(self, *paths: Path | str, kind: Kind = "text", **options: Any) -> list[Record]:
        found = self.read(*paths, kind=kind, **options)
        assert all(isinstance(each, Record) for each in found)
        return [each for each in found if isinstance(each, Record)]

    def documents(self, *paths: Path | str, kind: Kind = "text", **options: Any) -> list[Any]:
        return [each.content for each in self.records(*paths, kind=kind, **options)]

    def refusal(self, *paths: Path | str, kind: Kind = "text", **options: Any) -> str:
        with pytest.raises(DataError) as caught:
            self.read(*paths, kind=kind, **options)
        return str(caught.value)
