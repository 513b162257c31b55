"""Files in an object store: found by folder and pattern, fetched once, and refused when they were replaced."""

from pathlib import Path
from typing import Any

import pytest

import data.store
from configs.dataset import FileSource, TarSource
from configs.errors import DataError, UserError
from data.records import Record
from data.sources import files as files_module
from data.sources import open_source
from data.sources.listing import glob_matcher
from data.store import Object, Store, open_store
from tests.raw import Folder, Kind, read


class Bucket:
    """An S3 bucket that is this process's memory."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.store, self.fetched = folder, open_store(f"memory://{name}"), []

    def put(self, path: str, content: bytes | str) -> None:
        source = self.folder / "upload"
        source.write_bytes(content if isinstance(content, bytes) else content.encode())
        self.store.upload(source, path)

    def read(self, *paths: str, kind: Kind = "text", **options: Any) -> list[Any]:
        config = FileSource(kind="files", paths=paths, **options)
        return [record.content for record in self.records(config, kind)]

    def records(self, config: FileSource | TarSource, kind: Kind = "text") -> list[Record]:
        return [each for each in read(config, kind, self.folder / "scratch")[0] if isinstance(each, Record)]


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    made = Bucket(tmp_path, tmp_path.name)
    download = Store.download

    def counted(store: Store, object: Object, target: Path) -> None:
        made.fetched.append(object.path)
        download(store, object, target)

    def opened(url: str, *, endpoint: str | None = None, region: str | None = None) -> Store:
        assert (url, endpoint, region) == ("s3://bucket", "http://host:1", "eu")
        return made.store

    monkeypatch.setattr(Store, "download", counted)
    monkeypatch.setattr(data.store, "open_store", opened)
    return made


SERVER: dict[str, Any] = {"endpoint": "http://host:1", "region": "eu"}


def test_objects_are_found_by_name_folder_and_pattern(bucket: Bucket):
    for path in ("a/2.txt", "a/1.txt", "a/b/3.txt", "a/4.md", "ab/5.txt", "a/6.docx"):
        bucket.put(path, path)
    assert bucket.read("s3://bucket/a/1.txt", **SERVER) == ["a/1.txt"]
    assert bucket.read("s3://bucket/a", **SERVER) == ["a/1.txt", "a/2.txt", "a/4.md", "a/b/3.txt"]
    assert bucket.read("s3://bucket/a/*.txt", **SERVER) == ["a/1.txt", "a/2.txt"]
    assert bucket.read("s3://bucket/a/**/*.txt", **SERVER) == ["a/1.txt", "a/2.txt", "a/b/3.txt"]
    assert bucket.read("s3://bucket/a*/[15].txt", "s3://bucket/ab/5.txt", **SERVER) == ["a/1.txt", "ab/5.txt"]
    assert len(bucket.read("s3://bucket", **SERVER)) == 5
    for nothing in ("s3://bucket/b", "s3://bucket/a/1", "s3://bucket/*.txt"):
        with pytest.raises(DataError, match=r"matches no file; expected \.txt"):
            bucket.read(nothing, **SERVER)
    with pytest.raises(DataError, match=r"s3://bucket/a/6.docx has suffix '.docx'; allowed are"):
        bucket.read("s3://bucket/a/6.docx", **SERVER)


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("a/*.txt", ["a/b.txt", "a/.txt"], ["a/b/c.txt", "a/bxtxt", "b/a/b.txt"]),
        ("**/x", ["x", "a/x", "a/b/x"], ["ax", "x/y"]),
        ("a?[!b]c", ["a-xc"], ["a/xc", "a-bc"]),
        ("a**", ["a", "a/b/c"], ["b"]),
        ("a[b", ["a[b"], ["ab"]),
        ("a\nb*", ["a\nbc"], ["ab"]),
    ],
)
def test_a_pattern_matches_whole_paths(pattern: str, matching: list[str], other: list[str]):
    matches = glob_matcher(pattern)
    assert all(map(matches, matching))
    assert not any(map(matches, other))


def test_an_object_is_fetched_once_for_all_of_its_pieces_and_later_runs(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(files_module, "PIECE_BYTES", 10)
    bucket.put("a.txt", "\n".join(map(str, range(100))))
    assert bucket.read("s3://bucket/a.txt", document="line", **SERVER) == list(map(str, range(100)))
    assert bucket.fetched == ["a.txt"]
    assert len(bucket.read("s3://bucket/a.txt", document="line", **SERVER)) == 100
    assert bucket.fetched == ["a.txt"]


def test_nothing_is_fetched_to_plan_the_pieces(bucket: Bucket):
    bucket.put("a.txt", "text")
    bucket.put("b.parquet", "not even looked at")
    config = FileSource(kind="files", paths=("s3://bucket/",), **SERVER)
    source = open_source(config, "text", bucket.folder / "scratch")
    assert (source.files, source.bytes, len(source.pieces())) == (2, 22, 2)
    assert bucket.fetched == []
    before = source.fingerprint
    bucket.put("a.txt", "tex!")
    assert open_source(config, "text", bucket.folder / "scratch").fingerprint != before


def test_an_object_that_was_replaced_or_removed_is_named(bucket: Bucket):
    bucket.put("a.txt", "text")
    config = FileSource(kind="files", paths=("s3://bucket/a.txt",), **SERVER)
    (piece,) = open_source(config, "text", bucket.folder / "scratch").pieces()
    bucket.put("a.txt", "tex!")
    with pytest.raises(DataError, match=r"a\.txt: replaced since it was listed"):
        list(open_source(config, "text", bucket.folder / "scratch").read(piece, _Nothing()))


class _Nothing:
    def update(self, data: bytes, /) -> None: ...


def test_tables_and_images_are_read_remotely_too(bucket: Bucket, tmp_path: Path):
    folder = Folder(tmp_path)
    bucket.put("t/a.parquet", folder.parquet("a.parquet", rows=1, text=["x", "y"]).read_bytes())
    bucket.put("i/cat/1.png", b"one")
    assert bucket.read("s3://bucket/t/*", **SERVER) == ["x", "y"]
    config = FileSource(kind="files", paths=("s3://bucket/i",), label_field="folder", group_field="file", **SERVER)
    (record,) = bucket.records(config, "images")
    assert (record.content, record.label, record.group) == (b"one", "cat", "s3://bucket/i/cat/1.png")
    bucket.put("rows.jsonl", '{"image": "i/cat/1.png"}')
    with pytest.raises(DataError, match="only files on this machine can name others"):
        bucket.read("s3://bucket/rows.jsonl", kind="images", **SERVER)


def test_credentials_in_a_url_are_refused_and_not_repeated(tmp_path: Path):
    folder = Folder(tmp_path)
    with pytest.raises(UserError) as caught:
        folder.read("s3://key:secret@bucket/a.txt")
    assert "secret" not in str(caught.value)
