"""Shards: tars that others can read, byte-identical, and refused by name when they are not what was written."""

import gc
import io
import os
import pickle
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import DamageError
from data.loader import Sample, loader, sequential
from data.manifest import Shard
from data.order import Order, Sampler, Shards
from data.samples import decode, decode_array, encode_array
from data.shards import ShardReader, ShardWriter, index_path, tar_header
from tests.corpus import changed

FIELDS = ("tokens.npy", "text.txt")


def payloads(count: int, *, seed: int = 0) -> list[dict[str, bytes]]:
    """Samples of many lengths, among them nothing and exact multiples of tar's 512 bytes."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 700, count)
    return [
        {"tokens.npy": encode_array(rng.integers(0, 999, n, dtype="<u2")), "text.txt": rng.bytes(n // 256 * 256)}
        for n in lengths.tolist()
    ]


def write(path: Path, samples: list[dict[str, bytes]], *, first: int = 0) -> Shard:
    writer = ShardWriter(path, FIELDS)
    for number, fields in enumerate(samples, first):
        writer.write(f"train-{number:09d}", fields)
    return writer.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shards")


@pytest.fixture(scope="module")
def shards(folder: Path) -> tuple[Shard, ...]:
    samples = payloads(50)
    ranges = ((0, 20), (20, 40), (40, 50))
    return tuple(write(folder / f"train-{k:05d}.tar", samples[a:b], first=a) for k, (a, b) in enumerate(ranges))


@pytest.fixture
def reader(folder: Path, shards: tuple[Shard, ...]) -> ShardReader:
    return ShardReader(folder, shards, FIELDS)


def test_the_bytes_depend_on_the_samples_alone(tmp_path: Path):
    first, second = (write(tmp_path / name, payloads(9)) for name in ("a.tar", "b.tar"))
    assert first.blake3 == second.blake3 == blake3((tmp_path / "a.tar").read_bytes()).hexdigest()
    assert first.index_blake3 == second.index_blake3
    assert first.bytes == (tmp_path / "a.tar").stat().st_size
    assert write(tmp_path / "c.tar", payloads(9, seed=1)).blake3 != first.blake3


def test_tarfile_reads_the_samples_and_finds_no_date_or_owner(tmp_path: Path):
    samples = payloads(9)
    write(tmp_path / "a.tar", samples)
    with tarfile.open(tmp_path / "a.tar", format=tarfile.USTAR_FORMAT) as tar:
        members = tar.getmembers()
        assert [m.name for m in members] == [f"train-{n:09d}.{field}" for n in range(9) for field in FIELDS]
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.isfile()) for m in members} == {(0, 0, 0, "", "", True)}
        contents = [tar.extractfile(member).read() for member in members]  # type: ignore[union-attr]
    assert contents == [payload for sample in samples for payload in sample.values()]


def test_headers_are_what_the_tarfile_library_writes():
    info = tarfile.TarInfo("train-000000001.tokens.npy")
    info.size, info.mode = 12345, 0o444
    ours, theirs = tar_header(info.name, info.size), info.tobuf(tarfile.USTAR_FORMAT)
    assert tarfile.TarInfo.frombuf(ours, "utf-8", "strict").get_info() == (
        tarfile.TarInfo.frombuf(theirs, "utf-8", "strict").get_info()
    )


@pytest.mark.filterwarnings("ignore:.*unclosed file.*:ResourceWarning")  # webdataset leaves them to the collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_the_samples(folder: Path, shards: tuple[Shard, ...], monkeypatch: pytest.MonkeyPatch):
    import webdataset

    monkeypatch.setattr("webdataset.utils.enforce_security", True)  # not the variable, which the first import reads
    urls = [str(folder / shard.name) for shard in shards]
    found = list(webdataset.WebDataset(urls, shardshuffle=False))  # type: ignore[attr-defined]  # exported lazily
    assert len(found) == 50
    for sample, expected in zip(found, payloads(50), strict=True):
        assert {name: sample[name] for name in FIELDS} == expected
    gc.collect()


def test_the_reader_gives_every_sample_at_random(reader: ShardReader):
    samples = payloads(50)
    assert len(reader) == 50
    assert reader.sizes == (20, 20, 10)
    for index in (49, 0, 20, 19, 39, 40):
        sample = reader[index]
        assert sample.pop("__key__") == f"train-{index:09d}".encode()
        assert sample == samples[index]
    assert [sample["text.txt"] for sample in reader] == [sample["text.txt"] for sample in samples]


@pytest.mark.parametrize("index", [-1, 50])
def test_a_sample_outside_the_shards_is_an_index_error(reader: ShardReader, index: int):
    with pytest.raises(IndexError):
        reader[index]


def test_a_pickled_reader_opens_its_own_files(reader: ShardReader):
    first = reader[0]
    assert pickle.loads(pickle.dumps(reader))[0] == first


def test_files_have_their_names_only_when_complete(tmp_path: Path):
    writer = ShardWriter(tmp_path / "a.tar", FIELDS)
    writer.write("k", payloads(1)[0])
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.part"]
    writer.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "a.tar.index.npy"]


@given(first=st.integers(0, 10**9 - 4), tokens=st.integers(0, 600), dtype=st.sampled_from(["<u2", "<u4"]))
def test_blocks_written_at_once_are_the_same_bytes_as_one_by_one(first: int, tokens: int, dtype: str):
    blocks = np.random.default_rng(tokens).integers(0, 60000, (3, tokens)).astype(dtype)
    with tempfile.TemporaryDirectory() as name:
        together, single = (ShardWriter(Path(name) / f"{n}.tar", ("tokens.npy",)) for n in "ab")
        together.write_blocks("fold-3-wiki", first, blocks)
        for number, block in enumerate(blocks, first):
            single.write(f"fold-3-wiki-{number:09d}", {"tokens.npy": encode_array(block)})
        one, other = together.close(), single.close()
    assert (one.blake3, one.index_blake3) == (other.blake3, other.index_blake3)


def test_every_flipped_bit_of_a_sample_is_found(tmp_path: Path):
    shard = write(tmp_path / "a.tar", payloads(3))
    content = (tmp_path / "a.tar").read_bytes()
    end = sum(512 + len(p) + -len(p) % 512 for sample in payloads(3) for p in sample.values())
    for place in range(0, end, 97):
        (tmp_path / "a.tar").write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(DamageError, match="is not what was written"):
            list(ShardReader(tmp_path, [shard], FIELDS))


def test_local_payloads_are_views_of_the_file(reader: ShardReader):
    payload = reader[3]["tokens.npy"]
    assert isinstance(payload, memoryview)
    assert payload.readonly
    assert np.shares_memory(decode_array(payload), np.frombuffer(payload, np.uint8))


def test_many_shards_are_read_with_few_open_files(tmp_path: Path):
    shards = [write(tmp_path / f"{n:03d}.tar", payloads(1)) for n in range(140)]
    reader = ShardReader(tmp_path, shards, FIELDS)
    assert [sample["__key__"] for sample in reader] == [b"train-000000000"] * 140
    assert len(reader._open) <= 128


def test_other_fields_than_the_shards_are_refused(tmp_path: Path):
    writer = ShardWriter(tmp_path / "a.tar", FIELDS)
    with pytest.raises(ValueError, match="are not the shard's"):
        writer.write("k", {"tokens.npy": b""})
    writer.close()


def test_a_long_name_is_refused():
    assert len(tar_header("x" * 100, 0)) == 512
    with pytest.raises(ValueError, match="at most 100 bytes"):
        tar_header("é" * 51, 0)


def flip(content: bytes) -> bytes:
    return content[:1000] + bytes([content[1000] ^ 1]) + content[1001:]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda old: old[:-512], r"train-00001.tar: bytes is"),
        (lambda old: old + bytes(512), r"train-00001.tar: bytes is"),
        (lambda old: b"", r"train-00001.tar: bytes is 0"),
        (lambda old: None, r"train-00001.tar: bytes is no file"),
        (flip, r"train-00001.tar: sample 0 \(at byte 0\) is not what was written"),
    ],
    ids=["truncated", "longer", "empty", "missing", "flipped"],
)
def test_a_damaged_shard_is_refused_by_name(folder: Path, shards: tuple[Shard, ...], content, says: str):
    path = folder / shards[1].name
    with changed(path, content(path.read_bytes())), pytest.raises(DamageError, match=says) as caught:
        list(ShardReader(folder, shards, FIELDS))
    assert "restore the file, or remove" in str(caught.value)


def test_damage_to_another_shard_does_not_stop_the_reading_of_this_one(folder: Path, shards: tuple[Shard, ...]):
    path = folder / shards[1].name
    with changed(path, flip(path.read_bytes())):
        reader = ShardReader(folder, shards, FIELDS)
        assert reader[0]["__key__"] == b"train-000000000"
        with pytest.raises(DamageError, match="train-00001"):
            reader[20]


def test_a_shard_that_shrinks_after_opening_is_refused(folder: Path, shards: tuple[Shard, ...], reader: ShardReader):
    path = folder / shards[2].name
    with changed(path, path.read_bytes()[:-512]), pytest.raises(DamageError, match=r"train-00002.tar: bytes"):
        reader[45]


@pytest.mark.parametrize("content", [lambda old: None, lambda old: old[:-8], lambda old: old[:-1] + b"\x01"])
def test_a_changed_index_is_refused_by_name(folder: Path, shards: tuple[Shard, ...], content):
    path = index_path(folder / shards[0].name)
    with (
        changed(path, content(path.read_bytes())),
        pytest.raises(DamageError, match=r"train-00000.tar.index.npy: blake3 is"),
    ):
        ShardReader(folder, shards, FIELDS)[0]


@pytest.mark.parametrize("count", [19, 21])
def test_another_count_than_the_manifests_is_refused_by_name(folder: Path, shards: tuple[Shard, ...], count: int):
    wrong = (shards[0].model_copy(update={"samples": count}), *shards[1:])
    with pytest.raises(DamageError, match=f"train-00000.tar: samples is 20, the manifest says {count}"):
        ShardReader(folder, wrong, FIELDS)[0]


@given(st.lists(st.integers(0, 65535), max_size=40), st.sampled_from(["<u2", "<u4", "<i8"]))
def test_arrays_come_back(values: list[int], dtype: str):
    array = np.asarray(values, dtype=dtype)
    back = decode_array(encode_array(array))
    assert back.dtype == array.dtype
    assert back.tolist() == values
    assert not back.flags.writeable


def npy(array: np.ndarray, *, allow_pickle: bool = False, version: tuple[int, int] = (1, 0)) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=version, allow_pickle=allow_pickle)
    return buffer.getvalue()


def spring() -> None:
    os.environ["TRAINWORKS_TRAP"] = "sprung"


class Trap:
    """Unpickling it would leave a mark."""

    def __reduce__(self):
        return spring, ()


@pytest.mark.parametrize(
    "payload",
    [
        npy(np.array([Trap()], dtype=object), allow_pickle=True),
        npy(np.zeros((2, 2))),
        npy(np.zeros(())),
        npy(np.zeros(3), version=(2, 0)),
        npy(np.zeros(3))[:-1],
        npy(np.zeros(3)) + b"more",
        npy(np.zeros(3))[:40],
        npy(np.zeros(3))[:9],
        b"",
        pickle.dumps(Trap()),
        b"\x93NUMPY\x01\x00\x10\x00{'descr': 'x'}  \n",
        b"\x93NUMPY\x01\x00\x10\x00__import__('os')",
    ],
    ids="objects matrix scalar version short long header magic empty pickle keys code".split(),  # noqa: SIM905
)
def test_a_field_that_is_no_row_of_numbers_is_refused(payload: bytes):
    with pytest.raises(DamageError, match="npy field"):
        decode_array(payload)
    assert "TRAINWORKS_TRAP" not in os.environ


def test_decoding_names_fields_without_their_decoder():
    sample = {"__key__": b"k", "tokens.npy": encode_array(np.arange(3)), "text.txt": b"x"}
    assert list(decode(sample)) == ["tokens"]


def collate(samples: Sequence[Sample]) -> tuple[list[int], list[int], torch.Tensor]:
    tokens = torch.cat([torch.from_numpy(sample["tokens"].astype("i8")) for sample in samples])
    return [sample["position"] for sample in samples], [sample["id"] for sample in samples], tokens


def batches(reader: ShardReader, workers: int, position: int) -> list[tuple[list[int], list[int], list[int]]]:
    order = Order(Shards.of(reader.sizes), seed=3, window=16)
    sampler = Sampler(order, micro=4, rank=1, world=2, position=position)
    stream: Iterator = loader(reader, sampler, collate, workers=workers)
    return [(positions, ids, tokens.tolist()) for positions, ids, tokens in islice(stream, 15)]


def test_workers_do_not_change_the_batches(reader: ShardReader):
    alone = batches(reader, 0, 0)
    assert batches(reader, 2, 0) == alone
    assert alone[0][0] == [4, 5, 6, 7]
    assert batches(reader, 0, 80) == [*alone[10:], *batches(reader, 0, 120)[:10]]


@pytest.mark.parametrize("workers", [0, 1])
def test_damage_reaches_the_caller_in_one_line(folder: Path, shards: tuple[Shard, ...], workers: int):
    path = folder / shards[1].name
    with changed(path, flip(path.read_bytes())), pytest.raises(DamageError) as caught:
        batches(ShardReader(folder, shards, FIELDS), workers, 0)
    assert str(caught.value).startswith(f"shard {path}: sample ")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("limit", [None, 1, 7, 50, 100])
@pytest.mark.parametrize("parts", [1, 2, 3, 60])
def test_the_parts_of_a_pass_cover_it_once(reader: ShardReader, limit: int | None, parts: int):
    ids: list[int] = []
    for part in range(parts):
        for _, some, _ in sequential(reader, collate, size=4, limit=limit, part=part, parts=parts):
            assert 1 <= len(some) <= 4
            ids += some
    count = min(50, limit or 50)
    assert sorted(ids) == [place * 50 // count for place in range(count)]
