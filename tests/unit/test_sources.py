"""Local files to documents: what each kind of file holds, and what is wrong with one that cannot be used."""

import gzip
import os
from pathlib import Path
from typing import Any

import pytest

from configs.errors import DataError
from data.records import Drop
from data.sources import files as files_module
from data.sources import open_source
from tests.raw import Folder, read


@pytest.fixture
def files(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(files_module, "PIECE_BYTES", 7)
    return 7


def test_a_text_file_is_one_document_or_its_paragraphs_or_its_lines(files: Folder):
    path = files.write("a.txt", "one\ntwo\n\nthree\u2028still three")
    assert files.documents(path) == ["one\ntwo\n\nthree\u2028still three"]
    assert files.documents(path, document="paragraph") == ["one\ntwo", "three\u2028still three"]
    assert files.documents(path, document="line") == ["one", "two", "", "three\u2028still three"]


def test_carriage_returns_separate_paragraphs_too(files: Folder):
    path = files.write("a.md", "one\r\ntwo\r\n\r\nthree\r\n")
    assert files.documents(path, document="paragraph") == ["one\ntwo", "three"]


@pytest.mark.parametrize("name", ["a.html", "a.xml", "a.json"])
def test_a_marked_up_file_is_one_document_however_prose_is_cut(files: Folder, name: str):
    assert files.documents(files.write(name, "a\n\nb"), document="line") == ["a\n\nb"]


def test_files_of_all_kinds_are_read_together_from_a_folder(files: Folder):
    files.write("b/two.md", "md")
    files.write("a.txt", "txt")
    files.write("c.jsonl", '{"text": "jsonl"}\n')
    files.parquet("d.parquet", text=["parquet"])
    files.write("e.csv", "text\ncsv\n")
    files.write("f.txt.gz", gzip.compress(b"gz"))
    files.write("ignored.png", "png")
    files.write("ignored.docx", "docx")
    assert files.documents(files.path) == ["txt", "md", "jsonl", "parquet", "csv", "gz"]


def test_a_file_named_twice_is_read_once(files: Folder, monkeypatch: pytest.MonkeyPatch):
    path = files.write("a.txt", "a")
    monkeypatch.chdir(files.path)
    assert files.documents(path, files.path, f"{files.path}/*.txt", "a.txt") == ["a"]


@pytest.mark.parametrize(
    "name",
    [
        "a[1].txt",
        "a*b.txt",
        "a?.txt",
        "{a,b}.txt",
        "a, b#c%20.txt",
        ".a.txt",
        "__a__/x.txt",
        "~a.txt",
        "zip:é字.txt",
        "a::b.txt",
        "A.TXT",
    ],
)
def test_special_characters_in_a_file_name_are_plain(files: Folder, name: str):
    path = files.write(name, "this one")
    for other in ("a1.txt", "ab.txt", "aXb.txt", "b.txt"):
        files.write(other, "another")
    assert files.documents(path) == ["this one"]


def test_a_glob_pattern_finds_files_in_order(files: Folder):
    for name in ("x/2.txt", "x/1.txt", "y/z/0.txt", "x/3.md"):
        files.write(name, name)
    assert files.documents(f"{files.path}/**/*.txt") == ["x/1.txt", "x/2.txt", "y/z/0.txt"]


def test_a_relative_path_is_from_the_working_directory(files: Folder, monkeypatch: pytest.MonkeyPatch):
    files.write("sub/a.txt", "a")
    monkeypatch.chdir(files.path)
    assert files.documents("sub/a.txt") == files.documents("sub") == files.documents("*/*.txt") == ["a"]


def test_whole_files_have_their_folder_and_path_as_columns(files: Folder):
    path = files.write("poem/a.txt", "one\n\ntwo")
    options: dict[str, Any] = {"label_field": "folder", "group_field": "file"}
    assert [(r.label, r.group) for r in files.records(path, **options)] == [("poem", str(path))]
    found = files.records(path, document="paragraph", **options)
    assert [(r.content, r.label, r.group) for r in found] == [("one", "poem", str(path)), ("two", "poem", str(path))]
    assert "no column 'author'; there are text, folder, file: set data.source.label_field" in files.refusal(
        path, label_field="author"
    )


def test_an_empty_file_is_an_empty_document_and_has_no_lines(files: Folder):
    path = files.write("empty.txt", "")
    assert files.documents(path) == [""]
    assert files.documents(path, document="line") == files.documents(path, document="paragraph") == []
    assert files.documents(files.write("blank.txt", "\n \n"), document="paragraph") == []
    assert files.documents(path, files.write("a.txt", "a"), document="line") == ["a"]


def test_small_files_are_read_together_in_pieces(files: Folder, small_pieces: int):
    for number, size in enumerate((3, 3, 3, 9, 0, 1)):
        files.write(f"{number}.txt", "x" * size)
    pieces = open_source(files.source(files.path), "text", files.scratch).pieces()
    assert [piece.bytes for piece in pieces] == [6, 3, 9, 1]
    assert [len(text) for text in files.documents(files.path)] == [3, 3, 3, 9, 0, 1]


def test_a_piece_has_few_files(files: Folder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files_module, "PIECE_FILES", 2)
    for number in range(5):
        files.write(f"{number}.txt", "")
    assert len(open_source(files.source(files.path), "text", files.scratch).pieces()) == 3


@pytest.mark.parametrize("document", ["file", "line", "paragraph"])
def test_every_raw_byte_is_digested_once_and_in_order(files: Folder, document: str, monkeypatch: pytest.MonkeyPatch):
    path = files.write("a.txt", "one\ntwo three four\n\nfive six\n seven")
    whole = read(files.source(path, document=document), "text", files.scratch)
    monkeypatch.setattr(files_module, "PIECE_BYTES", 5)
    cut = read(files.source(path, document=document), "text", files.scratch)
    assert cut == whole
    monkeypatch.undo()
    packed = files.write("b.txt.gz", gzip.compress(path.read_bytes()) + gzip.compress(b"!"))
    _, digest = read(files.source(packed, document=document), "text", files.scratch)
    assert digest != whole[1]
    assert files.documents(packed, document=document)[-1].endswith("seven!")


@pytest.mark.parametrize(
    ("content", "offset", "byte"),
    [
        (b"abc\xe9d", 3, "e9"),
        (b"\xff\xfea\x00", 0, "ff"),
        (b"ab\xe2\x82", 2, "e2"),
        (b"x" * ((1 << 20) - 1) + b"\xe2(", (1 << 20) - 1, "e2"),  # across the border of two reads
        (b"x" * ((1 << 20) - 1) + b"\xe2\x82\xac" + b"\x80", (1 << 20) + 2, "80"),
        (b"\xed\xa0\x80", 0, "ed"),  # a surrogate
        (b"good\n\ngood\n\nbad \xe9", 16, "e9"),
    ],
)
@pytest.mark.parametrize("document", ["file", "line", "paragraph"])
@pytest.mark.parametrize("encodings", [("utf-8",), ("utf-8", "ascii")])
def test_a_byte_that_is_not_utf_8_is_named_with_its_offset(
    files: Folder, content: bytes, offset: int, byte: str, document: str, encodings: tuple[str, ...]
):
    path = files.write("a.txt", content)
    message = files.refusal(path, document=document, encodings=encodings)
    assert message.startswith(f"{path}: byte {offset} (0x{byte}) is not UTF-8")
    assert ("ascii did not fit either" in message) == (len(encodings) == 2)
    assert "iconv" in message


def test_a_character_across_two_reads_or_pieces_is_utf_8(files: Folder, monkeypatch: pytest.MonkeyPatch):
    text = "x" * ((1 << 20) - 1) + "€"
    assert files.documents(files.write("a.txt", text)) == [text]
    monkeypatch.setattr(files_module, "PIECE_BYTES", 3)
    assert files.documents(files.write("b.txt", "a€\n€€\n€"), document="line") == ["a€", "€€", "€"]


@pytest.mark.parametrize("document", ["file", "line", "paragraph"])
def test_the_first_encoding_that_fits_a_whole_file_is_taken_for_all_of_its_pieces(
    files: Folder, document: str, small_pieces: int
):
    latin = files.write("a.txt", "plain ascii\n\nplain ascii\n\ncafé".encode("latin-1"))
    utf = files.write("b.txt", "café")
    found = files.documents(latin, utf, document=document, encodings=("utf-8", "latin-1"))
    assert "".join(found).endswith("cafécafé")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "cp037", "shift_jis", "gb18030", "utf-7"])
@pytest.mark.parametrize("packed", [False, True])
def test_every_encoding_can_be_cut_into_lines(files: Folder, encoding: str, packed: bool, small_pieces: int):
    if encoding == "cp037":
        expected = ["Aa", "", "z"]
    else:
        expected = ["表ソ一", "Āऊ", "", "終"] if encoding not in ("shift_jis",) else ["表ソ一", "", "終"]
    content = "\n".join(expected).encode(encoding)
    path = files.write("a.txt.gz" if packed else "a.txt", gzip.compress(content) if packed else content)
    assert files.documents(path, document="line", encodings=(encoding,)) == expected


@pytest.mark.parametrize("name", ["nonsense", "rot13", "base64", "zlib", "a b", "\0"])
def test_an_encoding_that_is_none_is_refused(files: Folder, name: str):
    with pytest.raises(DataError, match="is no encoding that Python knows"):
        open_source(files.source(files.path, encodings=("utf-8", name)), "text", files.scratch)


@pytest.mark.parametrize("document", ["file", "line", "paragraph"])
def test_a_document_over_the_limit_is_dropped_with_its_beginning(files: Folder, document: str, small_pieces: int):
    path = files.write("a.txt", "x" * 50 + "\n")
    good = files.write("b.txt", "y" * 20)
    dropped, kept = files.read(path, good, document=document, max_document_bytes=20)
    assert isinstance(dropped, Drop)
    assert (dropped.reason, dropped.excerpt.strip()) == ("over max_document_bytes", "x" * 50)
    assert dropped.origin.startswith(str(path))
    assert not isinstance(kept, Drop)
    assert kept.content == "y" * 20


def test_a_pattern_that_matches_nothing_names_what_is_expected(files: Folder):
    assert "'none.txt' does not exist" in files.refusal(files.path / "none.txt").replace(f"{files.path}/", "")
    for pattern in ("*.txt", "deep/**/*.md"):
        message = files.refusal(files.path / pattern)
        assert "matches no file; expected .txt .md .html .xml .json .jsonl .csv .parquet" in message
    assert "matches no file" in files.refusal(files.path)
    assert "is not a path or glob pattern" in files.refusal("**x")


@pytest.mark.parametrize("name", ["a.doc", "a", "a.parquet.gz", "a.zip", "a.png"])
def test_an_unknown_suffix_is_refused_with_those_allowed(files: Folder, name: str):
    message = files.refusal(files.write(name, "a"))
    assert message.endswith("allowed are .txt .md .html .xml .json .jsonl .csv .parquet")


@pytest.mark.parametrize(
    "path", ["pipe:echo bad", "http://host/a.txt", "file:///etc/passwd", "S3://b/a.txt", "pipe://x"]
)
def test_a_url_of_another_kind_is_refused(files: Folder, path: str):
    assert "neither a path nor one of s3:// gs:// az://; nothing was run or fetched" in files.refusal(path)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.txt.gz"])
def test_a_file_that_changed_or_vanished_since_it_was_listed_is_named(files: Folder, name: str):
    content = b"text\nsome rows\n" if name != "a.jsonl" else b'{"text": "a"}\n'
    path = files.write(name, gzip.compress(content) if name.endswith("gz") else content)
    source = open_source(files.source(path), "text", files.scratch)
    (piece,) = source.pieces()
    os.utime(path, ns=(1, 1))
    with pytest.raises(DataError, match="has changed since it was listed: its modification time is another"):
        list(source.read(piece, _Nothing()))
    path.write_bytes(b"\xff" * 5)
    with pytest.raises(DataError, match=r"has changed since it was listed: it had \d+ bytes and has 5"):
        list(source.read(piece, _Nothing()))
    path.unlink()
    with pytest.raises(DataError, match="has vanished since it was listed"):
        list(source.read(piece, _Nothing()))


def test_a_file_that_changes_while_it_is_read_is_named(files: Folder):
    path = files.write("a.txt", "one\ntwo\n")
    source = open_source(files.source(path, document="line"), "text", files.scratch)
    records = source.read(source.pieces()[0], _Nothing())
    next(records)
    path.write_text("other")
    with pytest.raises(DataError, match="has changed since it was listed"):
        list(records)


class _Nothing:
    def update(self, data: bytes, /) -> None: ...


def test_the_fingerprint_changes_with_names_sizes_and_times(files: Folder):
    path = files.write("a.txt", "a")

    def fingerprint() -> str:
        return open_source(files.source(files.path), "text", files.scratch).fingerprint

    seen = [fingerprint()]
    assert fingerprint() == seen[0]
    os.utime(path, ns=(1, 1))
    seen.append(fingerprint())
    files.write("a.txt", "ab")
    os.utime(path, ns=(1, 1))
    seen.append(fingerprint())
    path.rename(path.with_name("b.txt"))
    seen.append(fingerprint())
    assert len(set(seen)) == 4


@pytest.mark.parametrize("cut", [1, 5, 20, -9, -1])
def test_a_cut_or_damaged_gzip_file_is_named(files: Folder, cut: int):
    whole = gzip.compress(bytes(range(256)) * 8, mtime=0)
    path = files.write("a.txt.gz", whole[:cut])
    assert files.refusal(path, encodings=("latin-1",)).startswith(f"{path}: is not readable as gzip")
    assert "is empty" in files.refusal(files.write("empty.txt.gz", b""))
    damaged = bytearray(whole)
    damaged[len(whole) - 6] ^= 1
    assert "not readable as gzip" in files.refusal(files.write("b.txt.gz", bytes(damaged)), encodings=("latin-1",))


def test_images_are_read_from_a_folder_of_classes(files: Folder):
    a, b = files.write("cat/1.png", b"one"), files.write("dog/2.JPG", b"two")
    files.write("notes.txt", "not an image")
    found = files.records(files.path, kind="images", label_field="folder", group_field="file")
    assert [(r.content, r.label, r.group) for r in found] == [(b"one", "cat", str(a)), (b"two", "dog", str(b))]
    assert "allowed are .jpg" in files.refusal(files.path / "notes.txt", kind="images")


def test_an_empty_image_is_left_to_the_decoder_to_count(files: Folder):
    assert files.documents(files.write("a.png", b""), kind="images") == [b""]


def test_a_folder_of_images_and_tables_is_ambiguous(files: Folder):
    files.write("a.png", b"one")
    files.write("metadata.csv", "image\na.png\n")
    assert "name one of them by a pattern, such as" in files.refusal(files.path, kind="images")
    assert files.documents(f"{files.path}/*.csv", kind="images") == [b"one"]


@pytest.mark.parametrize(
    ("encoding", "tried", "fits"),
    [
        ("utf-16", ["utf-8", "cp1252"], False),
        ("utf-16", ["utf-8", "utf-16", "cp1252"], True),
        ("utf-8", ["utf-16", "utf-8"], True),
        ("utf-8-sig", ["utf-8"], True),
        ("cp1252", ["utf-16", "utf-8", "cp1252"], True),
    ],
)
def test_a_byte_order_mark_and_an_encoding_must_agree(files: Folder, encoding: str, tried: list[str], fits: bool):
    text = "Là où le café est bon, on reste."
    path = files.path / "a.txt"
    path.write_bytes(text.encode(encoding))
    if fits:
        (record,) = files.records(path, encodings=tried)
        assert isinstance(record.content, str)
        assert record.content.removeprefix("\ufeff") == text
    else:
        assert "is not UTF-8, and cp1252 did not fit either" in files.refusal(path, encodings=tried)


def test_a_notation_is_no_encoding(files: Folder):
    (files.path / "a.txt").write_text("a")
    assert "'unicode_escape' is no encoding" in files.refusal(files.path / "a.txt", encodings=["unicode_escape"])
