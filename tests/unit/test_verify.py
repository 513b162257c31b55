"""verify: what is whole passes with its totals, and whatever is not is named, all of it."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from configs.dataset import StoreConfig
from configs.errors import OutageError
from configs.folder import RunFolder
from configs.load import dump
from data.card.pictures import png
from data.found import Found, find
from data.manifest import SCHEMA_VERSION, Manifest
from data.samples import encode_array
from data.shards import ShardWriter
from data.store import open_store
from data.verify import main, verify
from tests.corpus import changed, sentences, tiny
from tests.handmade import BLOCK, finish, image_set, seal, text_set, with_split, write_shards

Prepared = tuple[RunFolder, Manifest]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return text_set(tmp_path_factory.mktemp("text") / "run", sentences(35))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return image_set(tmp_path_factory.mktemp("images") / "run")


@pytest.fixture
def copied(text: Prepared, tmp_path: Path) -> Prepared:
    """A data set to spoil."""
    shutil.copytree(text[0].path, tmp_path / "run")
    return RunFolder(tmp_path / "run"), text[1]


@pytest.fixture
def copied_images(images: Prepared, tmp_path: Path) -> Prepared:
    shutil.copytree(images[0].path, tmp_path / "images")
    return RunFolder(tmp_path / "images"), images[1]


def wrong(folder: RunFolder, **options) -> list[str]:
    """Everything that verify finds."""
    found: list[str] = []
    verify(find(folder.path), found.append, **options)
    return found


def shard_paths(folder: RunFolder, manifest: Manifest) -> list[Path]:
    return [folder.data / shard.name for split in manifest.splits.values() for shard in split.shards]


@pytest.mark.parametrize("options", [[], ["--fast"], ["--workers", "1"]])
def test_a_whole_data_set_passes_with_one_line_of_totals(
    text: Prepared, images: Prepared, options: list[str], capsys: pytest.CaptureFixture[str]
):
    for (folder, manifest), data in ((text, text[0].path), (images, images[0].data)):
        assert main([str(data), *options]) == 0
        (line,) = capsys.readouterr().out.splitlines()
        samples = sum(split.samples for split in manifest.splits.values())
        shards = len(shard_paths(folder, manifest))
        assert line.startswith(f"all is as it was written: {shards} shards, {samples} samples, ")
        assert line.endswith("; no sample was decoded") == (options == ["--fast"])


@pytest.mark.slow
def test_several_processes_find_what_one_finds(copied: Prepared):
    folder, manifest = copied
    first, second = shard_paths(folder, manifest)[:2]
    first.unlink()
    os.truncate(second, 10240)
    alone = wrong(folder, workers=1)
    assert len(alone) == 2
    assert sorted(wrong(folder, workers=2)) == sorted(alone)


def test_a_shard_cut_at_a_10_kib_boundary_is_named(text: Prepared):
    folder, manifest = text
    path = shard_paths(folder, manifest)[0]
    whole = path.read_bytes()
    for end in range(0, len(whole), 10240):
        with changed(path, whole[:end]):
            assert wrong(folder) == [f"{path}: bytes is {end}, the manifest says {len(whole)}"]


@given(data=st.data())
def test_a_flipped_byte_anywhere_is_named(text: Prepared, images: Prepared, data: st.DataObject):
    folder, _ = data.draw(st.sampled_from([text, images]))
    beside = (folder.manifest, folder.data / "card.html")  # one that is no JSON is an error of its own
    path = data.draw(st.sampled_from(sorted(set(folder.data.iterdir()) - set(beside))))
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with changed(path, bytes(content)):
        found = wrong(folder, fast=True)
        assert found
        assert all(path.name in problem for problem in found)


def test_a_flipped_byte_names_its_sample_and_one_in_the_padding_says_so(text: Prepared):
    folder, manifest = text
    path = shard_paths(folder, manifest)[0]
    content = path.read_bytes()
    with changed(path, content[:600] + b"\xff" + content[601:]):
        assert wrong(folder)[1:] == [f"{path}: sample 0 is not what was written, its checksum differs"]
    with changed(path, content[:-1] + b"\x01"):
        assert "the bytes that differ stand after the last one" in wrong(folder)[1]


def test_a_missing_shard_and_a_missing_index_are_named_both(copied: Prepared):
    folder, manifest = copied
    first, second, *_ = shard_paths(folder, manifest)
    first.unlink()
    index = second.with_name(second.name + ".index.npy")
    index.unlink()
    size, digest = manifest.splits["train"].shards[0].bytes, manifest.splits["train"].shards[1].index_blake3
    assert wrong(folder) == [
        f"{first}: bytes is no file, the manifest says {size}",
        f"{index}: blake3 is no file, the manifest says {digest[:12]}",
    ]


def test_a_swapped_pair_of_shards_is_recognised(copied: Prepared):
    folder, manifest = copied
    first, second = shard_paths(folder, manifest)[:2]
    for suffix in ("", ".index.npy"):
        one, other = (path.with_name(path.name + suffix) for path in (first, second))
        content = one.read_bytes()
        other.replace(one)
        other.write_bytes(content)
    found = wrong(folder)
    assert f"{first}: these are the bytes of {second.name}" in found
    assert f"{second}: these are the bytes of {first.name}" in found


@pytest.mark.parametrize("field", ["samples", "tokens"])
def test_a_wrong_count_in_the_manifest_is_named_even_with_the_right_digest(copied: Prepared, field: str):
    folder, manifest = copied
    count = getattr(manifest.splits["test"], field)
    seal(folder, with_split(manifest, "test", **{field: count + 1}))
    (problem,) = wrong(folder)
    assert problem.startswith(f"{folder.manifest}: test: {field} is {count + 1}, its ")


def test_a_wrong_count_of_a_shard_is_named(copied: Prepared):
    folder, manifest = copied
    first, *rest = manifest.splits["train"].shards
    shard = first.model_copy(update={"samples": first.samples - 1})
    seal(folder, with_split(manifest, "train", shards=(shard, *rest)))
    problems = wrong(folder)
    assert f"{folder.data / first.name}: samples is 10, the manifest says 9" in problems
    assert any(f"{folder.manifest}: train: samples is" in problem for problem in problems)


def test_a_changed_manifest_is_named_and_the_rest_is_still_read(copied: Prepared):
    folder, manifest = copied
    text = folder.manifest.read_text()
    folder.manifest.write_text(text.replace("made up", "made upon"))
    shard_paths(folder, manifest)[0].unlink()
    changed_one, missing = wrong(folder)
    assert changed_one == f"{folder.manifest}: it was changed after it was written, its digest differs"
    assert "train-00000.tar: bytes is no file" in missing


def test_files_beside_the_shards_are_read_too(copied_images: Prepared, copied: Prepared):
    folder, _ = copied_images
    for name in ("statistics.json", "test.labels.npy"):
        path = folder.data / name
        with changed(path, None):
            assert wrong(folder)[0].startswith(f"{path}: its blake3 is no file, the manifest says ")
    with changed(copied[0].tokenizer, b"{}"):
        assert wrong(copied[0])[0].startswith(f"{copied[0].tokenizer}: its sha256 is 44136fa355b3, the manifest says")


def test_labels_that_are_not_those_of_the_samples_are_named(copied_images: Prepared):
    folder, manifest = copied_images
    split = manifest.splits["test"]
    payload = encode_array(np.asarray([1, 0, 1, 0, 0], "<i4"))
    path = folder.data / split.labels[0].file
    path.write_bytes(payload)
    labels = (split.labels[0].model_copy(update={"blake3": blake3(payload).hexdigest()}),)
    seal(folder, with_split(manifest, "test", labels=labels))
    assert wrong(folder) == [f"{path}: these are not the labels of the samples of test"]


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (np.full(5, 300, "<u2"), "token 300, the vocabulary has 300"),
        (np.zeros(BLOCK + 2, "<u2"), "10 tokens, expected 2 to 9"),
        (np.zeros(1, "<u2"), "1 tokens, expected 2 to 9"),
        (np.zeros(5, "<i8"), "tokens of type int64"),
    ],
)
def test_tokens_that_cannot_be_are_named(text: Prepared, tmp_path: Path, tokens: np.ndarray, words: str):
    folder, manifest = text
    other = RunFolder(tmp_path / "run")
    shutil.copytree(folder.path, other.path)
    shards = write_shards(other, "test", [{"tokens.npy": encode_array(tokens)}] * 3)
    seal(other, with_split(manifest, "test", shards=shards, samples=3))
    found = wrong(other)
    path = other.data / "test-00000.tar"
    assert found == [f"{path}: sample {n} (test-{n:09d}): {words}" for n in range(3)]
    assert wrong(other, fast=True) == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"png": None, "cls": b"2"}, "label 2, the manifest has 2 classes"),
        ({"png": None, "cls": b"-1"}, "a sample's label is b'-1'; expected the number of a class"),
        ({"png": b"", "cls": b"0"}, ""),
        ({"png": "tall", "cls": b"0"}, "an image of (7, 4, 3) uint8, the manifest says (6, 4, 3) uint8"),
    ],
)
def test_images_and_labels_that_cannot_be_are_named(copied_images: Prepared, fields: dict, words: str):
    folder, manifest = copied_images
    pixels = np.zeros((7 if fields["png"] == "tall" else 6, 4, 3), np.uint8)
    sample = fields | ({"png": png(pixels)} if fields["png"] != b"" else {})
    shards = write_shards(folder, "test", [sample] * 5)
    seal(folder, with_split(manifest, "test", shards=shards))
    found = wrong(folder)
    assert len(found) == 4
    assert found[0].startswith(f"{folder.data}/test-00000.tar: sample 0 (test-000000000): {words}")
    assert found[3] == f"{folder.data}/test-00000.tar: and 2 more of its samples"


def test_a_key_that_stands_twice_is_named(tmp_path: Path):
    folder, manifest = text_set(tmp_path / "run", sentences(35))
    writer = ShardWriter(folder.data / "test-00000.tar", ("tokens.npy",))
    for _ in range(2):
        writer.write("test-000000000", {"tokens.npy": encode_array(np.zeros(3, "<u2"))})
    split = manifest.splits["test"].model_copy(update={"shards": (writer.close(),), "samples": 2, "tokens": 4})
    finish(
        folder,
        manifest.splits | {"test": split},
        {},
        **{name: getattr(manifest, name) for name in ("kind", "tokenizer", "block_tokens", "fields")},
    )
    assert wrong(folder) == [f"{folder.data}/test-00000.tar: 1 of its samples have the key of another one"]


def test_all_that_is_wrong_is_said_and_the_exit_code_is_1(copied: Prepared, capsys: pytest.CaptureFixture[str]):
    folder, manifest = copied
    for path in shard_paths(folder, manifest):
        os.truncate(path, 10240)
    folder.tokenizer.unlink()
    assert main([str(folder.path)]) == 1
    *lines, last = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"wrong: {folder.tokenizer}: its sha256 is no file")
    assert len(lines) >= 2
    assert all(line.startswith("wrong: ") for line in lines)
    assert last.startswith(f"{folder.data} is not as it was written; ")


def test_what_is_no_data_set_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "file").write_text("x")
    for path, words in (("none", "is not there"), ("", "holds no manifest.json"), ("file", "is no folder")):
        assert main([str(tmp_path / path)]) == 2
        assert f"{tmp_path / path} {words}; give a run folder" in capsys.readouterr().err


def test_what_is_no_manifest_is_exit_code_1(copied: Prepared, capsys: pytest.CaptureFixture[str]):
    for content, words in (
        ("[", "cannot be read"),
        ("{}", "has schema_version=None"),
        (f'{{"schema_version": {SCHEMA_VERSION}}}', "digest"),
    ):
        copied[0].manifest.write_text(content)
        assert main([str(copied[0].path)]) == 1
        assert words in capsys.readouterr().err


def test_an_outage_is_one_line_and_exit_code_1(
    text: Prepared, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def stay_away(path: Path) -> Found:
        raise OutageError("s3://bucket: no answer in time")

    monkeypatch.setattr("data.verify.find", stay_away)
    assert main([str(text[0].path)]) == 1
    assert capsys.readouterr().err == "trainworks verify: s3://bucket: no answer in time\n"


def test_a_manifest_that_names_files_elsewhere_is_refused(copied: Prepared, capsys: pytest.CaptureFixture[str]):
    folder, manifest = copied
    shard = manifest.splits["test"].shards[0].model_copy(update={"name": "../secret.tar"})
    seal(folder, with_split(manifest, "test", shards=(shard,)))
    assert main([str(folder.path)]) == 1
    assert "'../secret.tar', which is no file of its folder" in capsys.readouterr().err


# --- in an object store ---


@pytest.fixture
def stored(copied: Prepared, tmp_path: Path) -> tuple[Found, Path]:
    """A data set whose shards lie in a store alone, and the store's folder."""
    folder, manifest = copied
    url = f"file://{tmp_path}/store"
    store = open_store(url)
    for path in shard_paths(folder, manifest):
        for each in (path, path.with_name(path.name + ".index.npy")):
            store.upload(each, each.name)
            each.unlink()
    return Found(folder.data, StoreConfig(url=url)), tmp_path / "store"


def test_shards_in_a_store_are_fetched_and_read(stored: tuple[Found, Path]):
    found, place = stored
    problems: list[str] = []
    assert verify(found, problems.append).samples > 50
    assert problems == []
    content = bytearray((place / "train-00001.tar").read_bytes())
    content[700] ^= 1
    (place / "train-00001.tar").write_bytes(content)
    (place / "train-00000.tar").unlink()
    os.truncate(place / "test-00000.tar", 10)
    (place / "train-00002.tar.index.npy").unlink()
    verify(found, problems.append)
    url = f"file://{place}"
    for words in (
        f"{url}/train-00000.tar: there is no such object",
        f"{url}/train-00001.tar: sample 0 is not what was written, its checksum differs",
        f"{url}/test-00000.tar: bytes is 10, the manifest says ",
        f"{url}/train-00002.tar.index.npy: there is no such object",
    ):
        assert any(problem.startswith(words) for problem in problems), (words, problems)
    assert len(problems) == 5


def test_the_run_beside_the_data_names_the_store(stored: tuple[Found, Path], capsys: pytest.CaptureFixture[str]):
    found, place = stored
    assert main([str(found.folder)]) == 1
    assert "if they lie in an object store, give the run folder, whose run.yaml names it" in capsys.readouterr().out
    run = tiny(Path("a.txt"), data__store={"url": f"file://{place}"})
    RunFolder(found.folder.parent).config.write_text(dump(run))
    assert main([str(found.folder)]) == 0
    assert main([str(found.folder.parent)]) == 0
