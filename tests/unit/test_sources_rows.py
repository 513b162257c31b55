"""Rows of JSON lines, CSV and parquet: columns by name, and each row that cannot be used by file and line."""

import csv
import gzip
import io
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.records import Drop, Record
from data.sources import files as files_module
from data.sources import open_source
from tests.raw import Folder, read


@pytest.fixture
def files(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_a_row_is_a_document_in_jsonl_csv_and_parquet(files: Folder):
    lines = files.write("a.jsonl", '{"text": "a\\n\\nb", "other": 1}\n\n{"text": null}\r\n{"text": "字"}')
    table = files.parquet("b.parquet", text=["x", None, "y"])
    rows = files.write("c.csv", 'other,text\r\n1,"a ""b"",\r\nc"\r\n\r\n2,\n3,é')
    assert files.documents(lines) == ["a\n\nb", "", "字"]
    assert files.documents(table) == ["x", "", "y"]
    assert files.documents(rows) == ['a "b",\nc', "", "é"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.csv.gz"])
def test_packed_rows_and_a_byte_order_mark_change_nothing(files: Folder, name: str):
    content = "\ufefftext\nä\n" if "csv" in name else '\ufeff{"text": "ä"}\n'
    path = files.write(name, gzip.compress(content.encode()) if name.endswith("gz") else content)
    assert files.documents(path) == ["ä"]


def test_columns_are_chosen_by_name(files: Folder):
    options: dict[str, Any] = {"text_field": "body", "label_field": "class", "group_field": "who"}
    expected = [("a", "3", "x"), ("b", "cat", None)]
    rows = [{"body": "a", "class": 3, "who": "x", "text": 1}, {"body": "b", "class": "cat", "who": None, "text": 2}]
    paths = [
        files.write("a.jsonl", "\n".join(map(json.dumps, rows))),
        files.write("b.csv", "text,body,class,who\n1,a,3,x\n2,b,cat,\n"),
        files.parquet("c.parquet", None, text=[1, 2], body=["a", "b"], who=["x", None], **{"class": ["3", "cat"]}),
    ]
    for path in paths:
        assert [(r.content, r.label, r.group) for r in files.records(path, **options)] == expected, path


def test_a_row_can_be_grouped_by_its_file_unless_it_has_such_a_column(files: Folder):
    path = files.write("x/a.jsonl", '{"text": "a"}\n{"text": "b", "file": "other"}\n')
    assert [r.group for r in files.records(path, group_field="file")] == [str(path), "other"]
    assert [r.label for r in files.records(path, label_field="folder")] == ["x", "x"]
    table = files.parquet("b.parquet", text=["a"])
    assert [r.group for r in files.records(table, group_field="file")] == [str(table)]


@pytest.mark.parametrize(
    ("value", "label"), [("cat", "cat"), (3, "3"), (3.0, "3"), (True, "true"), (-1, "-1"), (10**20, str(10**20))]
)
def test_a_label_is_a_name_or_a_whole_number(files: Folder, value: Any, label: str):
    path = files.write("a.jsonl", json.dumps({"text": "a", "y": value}))
    assert [r.label for r in files.records(path, label_field="y")] == [label]


@pytest.mark.parametrize(
    ("value", "says"), [(0.5, "a number"), ([1], "a nested value"), (None, "is empty"), ("", "is empty")]
)
def test_a_row_without_a_usable_label_is_named(files: Folder, value: Any, says: str):
    path = files.write("a.jsonl", '{"text": "a", "y": 1}\n' + json.dumps({"text": "a", "y": value}))
    message = files.refusal(path, label_field="y")
    assert message.startswith(f"{path}:2: column 'y'")
    assert says in message
    assert "data.source.label_field" in message


@pytest.mark.parametrize("kind", [pyarrow.large_string(), pyarrow.string_view(), pyarrow.null()])
def test_every_kind_of_text_column_is_read(files: Folder, kind: pyarrow.DataType):
    values = [None, None] if kind == pyarrow.null() else ["x", None]
    assert files.documents(files.parquet("a.parquet", text=pyarrow.array(values, kind))) == [values[0] or "", ""]
    repeated = pyarrow.array(["x", "y", "x"]).dictionary_encode()
    assert files.documents(files.parquet("b.parquet", text=repeated)) == ["x", "y", "x"]


def test_files_without_a_row_hold_no_documents(files: Folder):
    none = files.parquet("none.parquet", text=pyarrow.array([], pyarrow.string()))
    assert files.documents(none) == []
    assert files.documents(none, files.parquet("some.parquet", text=["x"])) == ["x"]
    assert files.documents(files.write("blank.jsonl", "\n\n")) == []
    assert files.documents(files.write("empty.jsonl", "")) == []
    assert files.documents(files.write("empty.csv", "")) == []
    assert files.documents(files.write("header.csv", "text\n")) == []


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"body": "a", "title": "b"}', "no column 'text'; there are body, title"),
        ("{}", "no column 'text'; there are"),
        ('{"text": 1}', "column 'text' holds a number, expected text; set data.source.text_field"),
        ('{"text": true}', "column 'text' holds a number, expected text"),
        ('{"text": ["a"]}', "column 'text' holds a nested value, expected text"),
        ('{"text": {"a": 1}}', "column 'text' holds a nested value, expected text"),
        ('{"text": "a"', "not readable as JSON: "),
        ('{"text": "a"} {"text": "b"}', "not readable as JSON: Extra data"),
        ('"a"', "not readable as JSON lines: expected an object"),
        ("[" * 100_000, "not readable as JSON: "),
        ('{"text": ' + "1" * 5000 + "}", "not readable as JSON: "),
    ],
)
@pytest.mark.parametrize("piece_bytes", [3, 1 << 20])
def test_a_jsonl_row_without_text_is_named_by_its_line_wherever_the_file_is_cut(
    files: Folder, content: str, says: str, piece_bytes: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(files_module, "PIECE_BYTES", piece_bytes if len(content) < 100 else 1 << 20)
    path = files.write("a.jsonl", f'{{"text": "good"}}\n\n{{"text": "good"}}\r\n{content}\n{{"text": "good"}}\n')
    message = files.refusal(path)
    assert message.startswith(f"{path}:4: ")
    assert says in message


def test_the_one_file_of_many_that_cannot_be_read_is_named(files: Folder):
    good, bad = files.write("a.jsonl", '{"text": "a"}\n'), files.write("b.jsonl", "{")
    assert files.refusal(good, bad).startswith(f"{bad}:1: not readable as JSON")


def test_half_a_surrogate_pair_in_json_is_left_to_the_cleaning(files: Folder):
    assert files.documents(files.write("a.jsonl", '{"text": "\\ud800"}\n')) == ["\ud800"]


def test_a_byte_of_a_row_that_is_not_utf_8_is_named_with_its_offset(files: Folder):
    lines = files.write("a.jsonl", b'{"text": "a"}\n{"text": "\xe9"}\n')
    rows = files.write("b.csv", b"text\na\n\xe9\n")
    assert files.refusal(lines).startswith(f"{lines}: byte 24 (0xe9) is not UTF-8")
    assert files.refusal(rows).startswith(f"{rows}: byte 7 (0xe9) is not UTF-8")
    assert files.documents(lines, rows, encodings=("utf-8", "latin-1")) == ["a", "é", "a", "é"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("body,title\na,b\n", ":1: no column 'text'; there are body, title"),
        ("text,text\na,b\n", ":1: two columns are named 'text'"),
        ("text,n\na,1\nb\n", ":3: has 1 fields, the header has 2"),
        ('text,n\n"a\nb",1\n\nc,2,3\n', ":5: has 3 fields, the header has 2"),
        ('text,n\n"a\nb",1\n"c,2\nd,3\n', ":4: not readable as CSV: unexpected end of data; is a quote not closed"),
        ('text,n\n"a"b,1\n', ":2: not readable as CSV: ',' expected after '\"'"),
        ("text,n\na\rb,1\n", ":2: not readable as CSV"),
    ],
)
def test_a_csv_row_that_cannot_be_used_is_named_by_its_first_line(files: Folder, content: str, says: str):
    path = files.write("a.csv", content)
    assert files.refusal(path).startswith(f"{path}{says}")


CELL = st.lists(st.sampled_from(['"', ",", "\n", "a", "é", " ", "long" * 6]), max_size=12).map("".join)


@given(rows=st.lists(st.tuples(CELL, CELL), max_size=12), limit=st.sampled_from([30, 60, 1 << 20]))
def test_csv_rows_are_those_of_the_csv_module_and_long_ones_are_dropped_in_their_place(
    rows: list[tuple[str, str]], limit: int, tmp_path_factory: pytest.TempPathFactory
):
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(("n", "text"))
    ends = [buffer.tell()]
    for row in rows:
        writer.writerow(row)
        ends.append(buffer.tell())
    content = buffer.getvalue()
    folder = Folder(tmp_path_factory.mktemp("csv"))
    found = folder.read(folder.write("a.csv", content), max_document_bytes=limit)
    sizes = [len(content[a:b].removesuffix("\r\n").encode()) for a, b in pairwise(ends)]
    assert len(found) == len(rows)
    for item, row, size in zip(found, rows, sizes, strict=True):
        if size > limit:
            assert isinstance(item, Drop)
            assert item.reason == "over max_document_bytes"
        else:
            assert isinstance(item, Record)
            assert item.content == row[1]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_a_row_over_the_limit_is_dropped_with_its_beginning(files: Folder, name: str):
    texts = ["small", "x" * 5000, "字" * 20, "small too"]
    if name == "a.parquet":
        path = files.parquet(name, text=texts)
    elif name == "a.csv":
        path = files.write(name, "text\n" + "\n".join(f'"{text}"' for text in texts))
    else:
        path = files.write(name, "\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in texts))
    found = files.read(path, max_document_bytes=50)
    assert [item.reason if isinstance(item, Drop) else item.content for item in found] == [
        "small",
        "over max_document_bytes",
        "over max_document_bytes",
        "small too",
    ]
    assert isinstance(found[1], Drop)
    assert "xxxx" in found[1].excerpt
    assert len(found[1].excerpt) <= 200


@pytest.mark.parametrize("content", [b"", b"PAR1", b"garbage that is long enough to have a footer"])
def test_a_damaged_parquet_file_is_named(files: Folder, content: bytes):
    path = files.write("a.parquet", content)
    assert files.refusal(path).startswith(f"{path}: not readable as parquet")


@pytest.mark.parametrize("start", [4, -40])
def test_a_parquet_file_with_changed_bytes_is_named(files: Folder, start: int):
    path = files.parquet("a.parquet", text=[str(number) for number in range(2000)])
    content = bytearray(path.read_bytes())
    content[start : start + 30] = b"\xff" * 30
    assert files.refusal(files.write("a.parquet", bytes(content))).startswith(f"{path}: not readable as parquet")


def test_a_parquet_column_without_text_is_named(files: Folder):
    path = files.parquet("a.parquet", text=[b"x"], n=[1])
    assert files.refusal(path) == f"{path}: column 'text' holds binary, expected text; set data.source.text_field"
    assert "column 'n' holds int64, expected text" in files.refusal(path, text_field="n")
    assert f"{path}: no column 'body'; there are text, n" in files.refusal(path, text_field="body")
    assert "no column 'y'" in files.refusal(files.parquet("b.parquet", text=["a"]), label_field="y")


def test_row_groups_are_pieces_that_digest_every_byte_once(files: Folder, monkeypatch: pytest.MonkeyPatch):
    path = files.parquet("a.parquet", rows=10, text=[f"row {n}" for n in range(95)])
    source = files.source(path)
    whole = read(source, "text", files.scratch)
    monkeypatch.setattr(files_module, "PIECE_BYTES", 150)
    assert len(open_source(source, "text", files.scratch).pieces()) > 3
    assert read(source, "text", files.scratch) == whole
    origins = [item.origin for item in whole[0]]
    assert (origins[0], origins[94]) == (f"{path} row 1", f"{path} row 95")


@pytest.mark.parametrize(
    "column",
    [
        [b"one", b"two", None],
        [{"bytes": b"one", "path": "a.png"}, {"bytes": b"two", "path": None}, {"bytes": None, "path": None}],
        ["1.png", "deep/2.png", None],
        [{"bytes": None, "path": "1.png"}, {"bytes": b"two", "path": None}, None],
    ],
)
def test_an_image_in_a_row_is_bytes_or_a_path_beside_the_file(files: Folder, column: list[Any]):
    files.write("1.png", b"one")
    files.write("deep/2.png", b"two")
    path = files.parquet("a.parquet", image=column, y=[0, 1, 2])
    found = files.records(path, kind="images", label_field="y")
    assert [(r.content, r.label) for r in found] == [(b"one", "0"), (b"two", "1"), (b"", "2")]


def test_images_are_named_by_jsonl_and_csv_rows_and_digested(files: Folder):
    files.write("1.png", b"one")
    lines = files.write("a.jsonl", '{"image": "1.png"}\n{"image": {"bytes": null, "path": "1.png"}}\n')
    rows = files.write("a.csv", "image\n1.png\n")
    assert files.documents(lines, rows, kind="images") == [b"one"] * 3
    first = read(files.source(rows), "images", files.scratch)[1]
    files.write("1.png", b"two")
    assert read(files.source(rows), "images", files.scratch)[1] != first


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "link.png", "folder/../../secret.png"])
def test_an_image_path_that_leaves_the_folder_is_refused(files: Folder, name: str):
    (files.path.parent / "secret.png").write_bytes(b"secret")
    (files.path / "link.png").symlink_to(files.path.parent / "secret.png")
    path = files.write("a.jsonl", json.dumps({"image": name}))
    message = files.refusal(path, kind="images")
    assert message.startswith(f"{path}:1: names the image {name!r}, which is outside")
    assert message.endswith("that is refused")


@pytest.mark.parametrize(
    ("name", "says"), [("none.png", "No such file"), ("a\0b", "embedded null"), (".", "directory")]
)
def test_an_image_path_without_a_file_is_named(files: Folder, name: str, says: str):
    path = files.write("a.jsonl", json.dumps({"image": name}))
    assert f"{path}:1: names the image {name!r}, which cannot be read: " in files.refusal(path, kind="images")
    assert says in files.refusal(path, kind="images")


def test_a_column_that_holds_no_image_is_named(files: Folder):
    path = files.write("a.jsonl", '{"image": 1}')
    assert "column 'image' holds a number, expected an encoded image or its path" in files.refusal(path, kind="images")
