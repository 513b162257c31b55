"""Tars of samples: what is read of them, and everything that is wrong with one, by tar and member."""

import gzip
import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.dataset import TarSource
from configs.errors import DataError
from data.records import Drop, Record
from data.sources import open_source
from data.sources import tars as tars_module
from tests.raw import Kind, read

LONG = "folder/" + "long name " * 30


def member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(content), kind, "/etc/passwd" if kind != tarfile.REGTYPE else ""
    return info, content


def tar(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


class Tars:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "a.tar"

    def read(self, content: bytes | None, kind: Kind = "text", **options: Any) -> list[Record | Drop]:
        if content is not None:
            self.path.write_bytes(content)
        options = {"text_field": "txt"} | options
        config = TarSource(kind="webdataset", paths=(str(self.path),), **options)
        return read(config, kind, self.folder / "scratch")[0]

    def refusal(self, content: bytes, kind: Kind = "text", **options: Any) -> str:
        with pytest.raises(DataError) as caught:
            self.read(content, kind, **options)
        message = str(caught.value)
        assert message.startswith(str(self.path))
        return message.removeprefix(str(self.path))


@pytest.fixture
def tars(tmp_path: Path) -> Tars:
    return Tars(tmp_path)


def three() -> bytes:
    return tar(*(member(f"{n}.{field}", f"{field} {n}".encode()) for n in range(3) for field in ("txt", "cls", "npy")))


def test_members_of_one_name_are_one_sample(tars: Tars):
    found = tars.read(three(), label_field="cls")
    assert [(r.content, r.label, r.origin) for r in found if isinstance(r, Record)] == [
        (f"txt {n}", f"cls {n}", f"{tars.path} {n}") for n in range(3)
    ]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tgz"])
def test_tars_of_every_format_are_read(tars: Tars, form: int, suffix: str):
    long = "folder/short" if form == tarfile.USTAR_FORMAT else LONG
    content = tar(member(f"{long}.TXT", "é".encode() * 3000), member("b.c.txt"), member("b.txt"), form=form)
    tars.path = tars.folder / f"a.{suffix}"
    found = tars.read(content if suffix == "tar" else gzip.compress(content))
    assert [(r.content, r.origin) for r in found if isinstance(r, Record)] == [
        ("é" * 3000, f"{tars.path} {long}"),
        ("", f"{tars.path} b"),
    ]


def test_folders_and_patterns_of_tars_are_read_in_order(tars: Tars):
    for number in (2, 1):
        (tars.folder / f"{number}.tar").write_bytes(tar(member("a.txt", str(number).encode())))
    (tars.folder / "other.txt").write_text("no tar")
    for path in (tars.folder, tars.folder / "*.tar"):
        tars.path = path
        assert [r.content for r in tars.read(None) if isinstance(r, Record)] == ["1", "2"]
    tars.path = tars.folder / "other.txt"
    with pytest.raises(DataError, match=r"allowed are .tar .tar.gz .tgz"):
        tars.read(None)


def test_values_are_read_from_a_json_field(tars: Tars):
    value = {"text": "body", "meta": {"class": 3, "author": "x"}}
    content = tar(member("a.json", json.dumps(value).encode()))
    options: dict[str, Any] = {
        "text_field": "json.text",
        "label_field": "json.meta.class",
        "group_field": "json.meta.author",
    }
    (record,) = tars.read(content, **options)
    assert isinstance(record, Record)
    assert (record.content, record.label, record.group) == ("body", "3", "x")
    assert tars.refusal(content, text_field="json.body") == " a.json: has no 'json.body'; set data.source.text_field"
    assert "'json.meta.class' is not text" in tars.refusal(content, text_field="json.meta.class")
    assert "not readable as JSON" in tars.refusal(tar(member("a.json", b"{")), text_field="json.text")
    assert "byte 1 (0xff) is not UTF-8" in tars.refusal(tar(member("a.json", b"{\xff")), text_field="json.text")


def test_an_image_is_any_or_the_named_one(tars: Tars):
    content = tar(member("a.jpg", b"jpg"), member("a.cls", b"3\n"), member("b.png", b"png"), member("b.cls", b"4"))
    found = tars.read(content, "images", label_field="cls")
    assert [(r.content, r.label) for r in found if isinstance(r, Record)] == [(b"jpg", "3"), (b"png", "4")]
    two = tar(member("a.jpg", b"jpg"), member("a.png", b"png"))
    assert " a: has the images jpg, png; choose one" in tars.refusal(two, "images")
    (record,) = tars.read(two, "images", image_field="PNG")
    assert isinstance(record, Record)
    assert record.content == b"png"


def test_a_sample_without_a_declared_field_is_named(tars: Tars):
    content = tar(member("a.txt", b"a"), member("a.cls", b"1"), member("b.txt", b"b"))
    assert tars.refusal(content, label_field="cls") == " b: no field 'cls'; there are txt: set data.source.label_field"
    assert " a: no field 'image'; there are cls, txt" in tars.refusal(content, "images")
    empty = tar(member("a.txt", b"a"), member("a.cls", b" \n"))
    assert "a: field 'cls' is empty; every sample needs a class" in tars.refusal(empty, label_field="cls")


def test_text_that_is_not_utf_8_is_named(tars: Tars):
    assert " a.txt: byte 1 (0xff) is not UTF-8" in tars.refusal(tar(member("a.txt", b"a\xff")))


def test_a_key_or_field_that_comes_twice_is_named(tars: Tars):
    again = tar(member("a.txt"), member("b.txt"), member("a.cls"))
    assert ": the sample 'a' comes twice, at 'a.cls' again" in tars.refusal(again)
    assert ": 'a.txt' comes twice; a field stands once in a sample" in tars.refusal(
        tar(member("a.txt"), member("a.txt"))
    )
    folders = tar(member("x/a.txt", b"1"), member("y/a.txt", b"2"), member("x.b/a.txt", b"3"))
    assert [r.content for r in tars.read(folders) if isinstance(r, Record)] == ["1", "2", "3"]


def test_members_that_are_no_field_are_counted_and_folders_passed_over(tars: Tars):
    content = tar(member("x", kind=tarfile.DIRTYPE), member("README", b"r"), member(".hidden", b"h"), member("a.txt"))
    found = tars.read(content)
    assert [r.reason if isinstance(r, Drop) else r.origin for r in found] == [
        "not part of a sample",
        "not part of a sample",
        f"{tars.path} a",
    ]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, b"S"])
def test_links_and_devices_are_refused(tars: Tars, kind: bytes):
    message = tars.refusal(tar(member("a.txt", b"good"), member("b.txt", kind=kind)))
    assert "'b.txt' is a link, device or the like" in message


@pytest.mark.parametrize("name", ["/etc/passwd.txt", "../a.txt", "x/../../a.txt", "x/.."])
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT])
def test_names_that_leave_the_archive_are_refused(tars: Tars, name: str, form: int):
    info, content = member("placeholder.txt", b"a")
    info.name = name + ("" if form == tarfile.USTAR_FORMAT else "/" + "é" * 90 + ".txt")
    assert "leaves the archive; nothing of it is read" in tars.refusal(tar((info, content), form=form))


class _Trap:
    """Pickled, it makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("field", ["pyd", "pickle", "pkl", "pth", "pt", "npz", "npy", "a.PYD"])
def test_a_poisoned_tar_executes_nothing(tars: Tars, field: str):
    mark = tars.folder / "executed"
    content = tar(member("a.txt", b"text"), member(f"a.{field}", pickle.dumps(_Trap(mark))))
    assert [r.content for r in tars.read(content) if isinstance(r, Record)] == ["text"]
    with pytest.raises(DataError, match="can hold a pickle, which is never read"):
        tars.read(content, text_field=field)
    tars.path = Path(f"pipe:touch {mark}")
    with pytest.raises(DataError, match="nothing was run or fetched"):
        tars.read(None)
    assert not mark.exists()


def test_a_tar_cut_anywhere_is_named_or_whole(tars: Tars):
    content = three() + bytes(512)
    for cut in range(0, len(content), 512):
        for size in (cut, cut + 7):
            if not content[size:].strip(b"\0") and size >= 9 * 1024 + 1024:
                continue  # what was cut is padding
            message = tars.refusal(content[:size])
            assert "fetch it again" in message


def test_a_tar_cut_on_a_record_of_ten_kibibytes_is_named(tars: Tars):
    content = tar(*(member(f"{n}.txt", b"x" * 512) for n in range(100)))
    assert len(content) % 10240 == 0
    for size in range(0, len(content), 10240):
        assert ": has no end-of-archive mark; it is cut, fetch it again" in tars.refusal(content[:size])


@given(at=st.integers(0, 511), bit=st.integers(0, 7))
def test_a_flipped_bit_in_a_header_is_named(at: int, bit: int, tmp_path_factory: pytest.TempPathFactory):
    tars, content = Tars(tmp_path_factory.mktemp("tar")), bytearray(three())
    content[1024 + at] ^= 1 << bit
    assert "fetch it again" in tars.refusal(bytes(content))


def test_what_follows_the_end_is_refused_but_padding(tars: Tars):
    assert "are several tars joined in it?" in tars.refusal(three() + three())
    assert len(tars.read(three() + bytes(100_000))) == 3
    assert "has half an end-of-archive mark" in tars.refusal(three()[: 9 * 1024 + 512] + b"x" * 512)


def test_a_file_that_is_no_tar_is_named(tars: Tars):
    assert "has a damaged header at byte 0" in tars.refusal(b"no tar" * 1000)
    assert "has no end-of-archive mark" in tars.refusal(b"")


@pytest.mark.parametrize("records", [b"x", b"5 a=", b"99 path=a\n", b"12 size=abc\n", b"0 a=b\n", b"-1 a=b\n"])
def test_a_damaged_extended_header_is_named(tars: Tars, records: bytes):
    content = tar(member("x", records, kind=tarfile.XHDTYPE), member("a.txt", b"a"))
    assert "damaged extended header" in tars.refusal(content)


def test_an_extended_header_that_is_huge_or_global_is_refused(tars: Tars):
    huge = tar(member("x", bytes(1 << 17), kind=tarfile.GNUTYPE_LONGNAME), member("a.txt", b"a"))
    assert "a name of 131072 bytes" in tars.refusal(huge)
    everyone = tar(member("x", b"15 path=/etc/x\n", kind=tarfile.XGLTYPE), member("a.txt", b"a"))
    assert "a global header names or sizes all members" in tars.refusal(everyone)
    comment = tar(member("x", b"13 comment=a\n", kind=tarfile.XGLTYPE), member("a.txt", b"a"))
    assert len(tars.read(comment)) == 1


def test_a_field_that_is_too_long_is_dropped_unless_it_is_not_read(tars: Tars, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tars_module, "FIELD_BYTES", 10)
    content = tar(member("a.txt", b"x" * 11), member("b.txt", b"y" * 10), member("b.bin", b"z" * 5000))
    dropped, kept = tars.read(content)
    assert isinstance(dropped, Drop)
    assert (dropped.reason, dropped.origin) == ("over max_document_bytes", f"{tars.path} a")
    assert isinstance(kept, Record)
    assert kept.content == "y" * 10


def test_every_raw_byte_is_digested(tars: Tars):
    tars.path.write_bytes(three())
    config = TarSource(kind="webdataset", paths=(str(tars.path),), text_field="txt")
    source = open_source(config, "text", tars.folder)
    (piece,) = source.pieces()
    seen = bytearray()

    class Seen:
        def update(self, data: bytes, /) -> None:
            seen.extend(data)

    assert len(list(source.read(piece, Seen()))) == 3
    assert bytes(seen) == three()
    assert (source.files, source.bytes) == (1, len(three()))
