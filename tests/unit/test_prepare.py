"""The data stage: byte-identical, continued after any interruption, and refused with a reason when it cannot be."""

import gc
import json
import os
import signal
import subprocess
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

import configs.folder
import data.journal
import data.prepare
from configs.errors import DamageError, DataError
from configs.folder import RunFolder, digest
from configs.stages import complete
from data.journal import Journal, Place
from data.manifest import Shard, read_manifest
from data.prepare import prepare
from data.shards import ShardReader, ShardWriter, decode
from data.splits import assign
from data.text import END_OF_DOCUMENT, normalise, unpack
from tests.corpus import changed, contents, prepared, sentences, tiny, write_paragraphs

# an interrupted writer cannot close its file, and webdataset leaves that to the collector
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*unclosed file.*:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_paragraphs(tmp_path_factory.mktemp("corpus") / "text.txt", 120)


@pytest.fixture(scope="module")
def run(corpus: Path):
    return tiny(corpus)


@pytest.fixture(scope="module")
def done(run, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """An uninterrupted data stage that the others are compared with."""
    return prepared(run, tmp_path_factory.mktemp("runs") / "done")[0]


def read_documents(folder: RunFolder, split: str) -> list[str]:
    """A split's documents, back from its shards."""
    manifest = read_manifest(folder.manifest)
    reader = ShardReader(folder.data, manifest.splits[split].shards, tuple(manifest.fields))
    tokenizer = Tokenizer.from_file(str(folder.tokenizer))
    blocks = [decode(sample)["tokens"].astype(np.int64) for sample in reader]
    found = unpack(blocks, manifest.tokenizer.end_of_document_id)
    return [tokenizer.decode(ids[:-1].tolist(), skip_special_tokens=False) for ids in found]


def test_every_document_comes_back_from_the_split_that_its_hash_names(run, done: RunFolder):
    expected: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for text in sentences(120):
        normal = normalise(text, run.data.text)
        expected[assign(normal, run.data.splits)].append(normal)
    assert {split: read_documents(done, split) for split in expected} == expected


def test_the_manifest_counts_what_the_shards_hold(run, done: RunFolder):
    manifest = read_manifest(done.manifest)
    tokenizer = Tokenizer.from_file(str(done.tokenizer))
    assert manifest.tokenizer.vocabulary_size == tokenizer.get_vocab_size() == 300
    assert manifest.source.documents == 120 == sum(split.documents for split in manifest.splits.values())
    for name, split in manifest.splits.items():
        texts = read_documents(done, name)
        assert split.documents == len(texts)
        assert split.bytes == sum(len(text.encode()) for text in texts)
        assert split.words == sum(len(text.split()) for text in texts)
        assert split.samples == sum(shard.samples for shard in split.shards) == -(-split.tokens // 8)
        assert [shard.samples for shard in split.shards[:-1]] == [16] * (len(split.shards) - 1)
    assert len(manifest.splits["train"].shards) > 3
    names = {shard.name for split in manifest.splits.values() for shard in split.shards}
    left = {"manifest.json", "tokenizer.json", ".lock", *names, *(f"{name}.index.npy" for name in names)}
    assert {path.name for path in done.data.iterdir()} == left


def test_webdataset_finds_the_manifests_counts(done: RunFolder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WDS_SECURE", "1")
    import webdataset

    for split in read_manifest(done.manifest).splits.values():
        urls = [str(done.data / shard.name) for shard in split.shards]
        samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())  # type: ignore[attr-defined]  # exported lazily
        assert len(samples) == split.samples
        assert sum(len(sample["tokens.npy"]) - 1 for sample in samples) == split.tokens
    gc.collect()


def test_two_runs_are_byte_identical(run, done: RunFolder, tmp_path: Path):
    assert contents(prepared(run, tmp_path / "again")[0].data) == contents(done.data)


def test_the_second_run_says_complete_and_touches_nothing(run, done: RunFolder, capsys: pytest.CaptureFixture[str]):
    before = {path: path.stat().st_mtime_ns for path in done.data.iterdir() if path.name != ".lock"}
    prepare(run, done)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("prepare | complete: 120 documents; tokens: train ")
    assert {path: path.stat().st_mtime_ns for path in done.data.iterdir() if path.name != ".lock"} == before


class Interruption(BaseException):
    """Stands for the end of the process."""


def interrupt_after(monkeypatch: pytest.MonkeyPatch, calls: int) -> Callable[[], int]:
    """Let `calls` steps that change the disk happen, then end; returns how many there were."""
    happened = 0

    def counted(step: Callable):
        def wrapper(*arguments, **options):
            nonlocal happened
            if happened == calls:
                raise Interruption
            happened += 1
            return step(*arguments, **options)

        return wrapper

    monkeypatch.setattr(os, "replace", counted(os.replace))
    monkeypatch.setattr(os, "fsync", counted(os.fsync))
    monkeypatch.setattr(Path, "unlink", counted(Path.unlink))
    return lambda: happened


def interrupted(run, folder: RunFolder, arm: Callable):
    """Prepare until what `arm` set up ends it; returns what `arm` counts with."""
    with pytest.MonkeyPatch.context() as patch:
        counted = arm(patch)
        with pytest.raises(Interruption):
            prepare(run, folder)
    gc.collect()
    return counted


def test_stopped_at_every_step_in_turn_and_run_again_it_ends_the_same(run, done: RunFolder, tmp_path: Path):
    """One folder is interrupted again and again, each time a little later than before."""
    folder = RunFolder(tmp_path / "run")
    folder.open(run)
    for calls in range(1, 10_000):
        with pytest.MonkeyPatch.context() as patch:
            interrupt_after(patch, calls)
            try:
                prepare(run, folder)
            except Interruption:
                continue
            break
    gc.collect()
    assert contents(folder.data) == contents(done.data)


@pytest.mark.parametrize("calls", [0, 3, 11, 12, 13, 14, 15, 16, 17, 60])
def test_stopped_at_any_one_step_and_run_again_it_ends_the_same(run, done: RunFolder, tmp_path: Path, calls: int):
    folder = RunFolder(tmp_path)
    folder.open(run)
    interrupted(run, folder, lambda patch: interrupt_after(patch, calls))
    assert not complete("prepare", run, folder)
    prepare(run, folder)
    assert contents(folder.data) == contents(done.data)


def close_counting(monkeypatch: pytest.MonkeyPatch, *, stop_at: str | None = None) -> Counter[str]:
    """Count the shards that are written; end before the one named is closed."""
    written: Counter[str] = Counter()
    close = ShardWriter.close

    def counting(self: ShardWriter) -> Shard:
        if self.path.name == stop_at:
            raise Interruption
        written[self.path.name] += 1
        return close(self)

    monkeypatch.setattr(ShardWriter, "close", counting)
    return written


@pytest.mark.parametrize("stop_at", ["train-00002.tar", "validation-00000.tar", "test-00000.tar"])
def test_finished_shards_and_the_tokenizer_are_not_made_again(
    run, done: RunFolder, tmp_path: Path, stop_at: str, monkeypatch: pytest.MonkeyPatch
):
    folder = RunFolder(tmp_path)
    folder.open(run)
    first = interrupted(run, folder, partial(close_counting, stop_at=stop_at))
    second = close_counting(monkeypatch)
    monkeypatch.setattr(data.prepare, "build_tokenizer", None)
    prepare(run, folder)
    shards = {shard.name for split in read_manifest(folder.manifest).splits.values() for shard in split.shards}
    assert set(first) | set(second) == shards
    assert set(first) & set(second) == set()
    assert contents(folder.data) == contents(done.data)


def test_a_shard_that_changed_while_interrupted_is_made_again(run, done: RunFolder, tmp_path: Path):
    folder = RunFolder(tmp_path)
    folder.open(run)
    for stop_at in ("test-00000.tar", "train-00001.tar", "train-00003.tar"):  # the second stop is in the repair
        interrupted(run, folder, partial(close_counting, stop_at=stop_at))
        (folder.data / "train-00000.tar").write_bytes(b"changed")
        (folder.data / "train-00001.tar").unlink(missing_ok=True)
    prepare(run, folder)
    assert contents(folder.data) == contents(done.data)


def test_a_journal_does_not_count_a_repaired_shard_twice(tmp_path: Path):
    """Shard 0 is lost and made again, then the program is killed: shard 0 stands in the journal once."""

    def shard(number: int) -> Shard:
        writer = ShardWriter(tmp_path / f"train-{number:05d}.tar", ("x.txt",))
        writer.write("k", {"x.txt": b"%d" % number})
        return writer.close()

    path = tmp_path / "journal.jsonl"
    journal = Journal(path, "key")
    for number in (0, 1):
        journal.add_shard("train", shard(number), Place(context=0, tokens=number))
    (tmp_path / "train-00000.tar").unlink()
    again = Journal(path, "key")
    assert again.shards("train") == []
    again.add_shard("train", shard(0), Place(context=0, tokens=0))
    assert [each.name for each, _ in Journal(path, "key").shards("train")] == ["train-00000.tar"]


@pytest.mark.parametrize("content", [b"", b"{", b'{"key": "other"}\n{"tokenizer": 1}\n', b"\xff", b"[]\n"])
def test_a_journal_that_says_nothing_of_this_data_is_begun_anew(run, done: RunFolder, tmp_path: Path, content: bytes):
    folder = RunFolder(tmp_path)
    folder.open(run)
    folder.data.mkdir()
    (folder.data / "journal.jsonl").write_bytes(content)
    (folder.data / "train-00099.tar").write_bytes(b"of an abandoned run")
    (folder.data / "train-00098.tar.index.npy").write_bytes(b"of an abandoned run")
    prepare(run, folder)
    assert contents(folder.data) == contents(done.data)


def test_text_that_changed_while_interrupted_is_read_anew(run, done: RunFolder, corpus: Path, tmp_path: Path):
    folder = RunFolder(tmp_path / "run")
    folder.open(run)
    with changed(corpus, write_paragraphs(tmp_path / "other.txt", 90, seed=5).read_bytes()):
        interrupted(run, folder, partial(close_counting, stop_at="validation-00000.tar"))
    prepare(run, folder)
    assert contents(folder.data) == contents(done.data)


STAGE = """
import os, signal, sys
from data.shards import ShardWriter
close = ShardWriter.close
def closing(self):
    if self.path.name == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)
    return close(self)
ShardWriter.close = closing
from configs.process import stage_main
from data.prepare import prepare
sys.exit(stage_main("prepare", prepare))
"""


def test_a_killed_process_leaves_a_folder_that_goes_on(run, done: RunFolder, tmp_path: Path):
    folder = RunFolder(tmp_path)
    folder.open(run)
    command = [sys.executable, "-c", STAGE, str(tmp_path), "train-00001.tar"]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -signal.SIGKILL
    assert (folder.data / "train-00000.tar").exists()
    assert not folder.manifest.exists()
    prepare(run, folder)
    assert contents(folder.data) == contents(done.data)


def test_the_same_text_in_another_unicode_form_is_in_the_same_split_with_the_same_tokens(tmp_path: Path):
    composed = write_paragraphs(tmp_path / "nfc.txt", 60)
    decomposed = tmp_path / "nfd.txt"
    text = unicodedata.normalize("NFD", composed.read_text(encoding="utf-8"))
    decomposed.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    first = read_manifest(prepared(tiny(composed), tmp_path / "a")[0].manifest)
    second = read_manifest(prepared(tiny(decomposed), tmp_path / "b")[0].manifest)
    assert first.splits == second.splits


def test_the_end_token_spelled_out_in_the_text_makes_no_boundary(tmp_path: Path):
    path = tmp_path / "a.txt"
    texts = [f"{text} {END_OF_DOCUMENT} {text}" for text in sentences(60)]
    path.write_text("\n\n".join(texts), encoding="utf-8")
    folder, manifest = prepared(tiny(path), tmp_path / "run")
    found = [text for split in manifest.splits for text in read_documents(folder, split)]
    assert sorted(found) == sorted(normalise(text, tiny(path).data.text) for text in texts)


def test_documents_in_a_loaded_tokenizer_of_more_than_65536_ids_keep_them(tmp_path: Path):
    vocabulary = {word: number for number, word in enumerate("abcdefgh", 70_000)} | {"[UNK]": 0, "<eos>": 1}
    added = [{"id": 1, "content": "<eos>", "special": True, **dict.fromkeys(FLAGS, False)}]
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"}
    splitter = {"type": "WhitespaceSplit"}
    empty = dict.fromkeys(("truncation", "padding", "normalizer", "post_processor", "decoder"))
    tokenizer = tmp_path / "tokenizer.json"
    whole = {"version": "1.0", **empty, "added_tokens": added, "pre_tokenizer": splitter, "model": model}
    tokenizer.write_text(json.dumps(whole))
    path = tmp_path / "a.txt"
    path.write_text("\n".join("abcdefgh"[n % 8] + " h" * n for n in range(60)))
    file = {"kind": "file", "path": str(tokenizer), "end_of_document": "<eos>"}
    run = tiny(path, data__tokenizer=file, data__source__document="line")
    folder, manifest = prepared(run, tmp_path / "run")
    assert manifest.tokenizer.vocabulary_size == 70_008
    reader = ShardReader(folder.data, manifest.splits["train"].shards, tuple(manifest.fields))
    ids = np.concatenate([decode(sample)["tokens"] for sample in reader])
    assert set(ids.tolist()) <= {1, *range(70_000, 70_008)}
    assert 70_007 in ids


FLAGS = ("single_word", "lstrip", "rstrip", "normalized")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no document with text in it"),
        (" \n\n \t\n", "no document with text in it"),
        ("one document", "1 document leaves the"),
        ("a\n\nb", "try smaller documents"),
    ],
)
def test_a_corpus_without_enough_documents_is_refused(tmp_path: Path, text: str, says: str):
    path = tmp_path / "a.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=says):
        prepared(tiny(path), tmp_path / "run")
    assert not (tmp_path / "run" / "data" / "manifest.json").exists()


def test_a_corpus_smaller_than_one_block_is_refused(tmp_path: Path):
    path = write_paragraphs(tmp_path / "a.txt", 40)
    run = tiny(path, data__block_tokens=100_000, data__splits={"validation": 0, "test": 0.3})
    with pytest.raises(DataError, match=r"the train split has \d+ tokens, fewer than one block of .*=100000"):
        prepared(run, tmp_path / "run")


def test_a_split_that_is_not_wanted_is_not_made(tmp_path: Path):
    path = write_paragraphs(tmp_path / "a.txt", 40)
    run = tiny(path, data__splits={"validation": 0, "test": 0.3})
    assert set(prepared(run, tmp_path / "run")[1].splits) == {"train", "test"}


def test_empty_documents_are_dropped_and_counted(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("\n\n".join(["  "] * 3 + sentences(60)), encoding="utf-8")
    manifest = prepared(tiny(path, data__source__document="line"), tmp_path / "run")[1]
    assert manifest.dropped["empty"] == 3 + (3 + 60 - 1)  # the blank lines between, too
    assert manifest.source.documents == 60


def test_adding_documents_moves_none_between_splits(done: RunFolder, tmp_path: Path):
    path = tmp_path / "more.txt"
    path.write_text("\n\n".join(sentences(40, seed=8) + sentences(120)), encoding="utf-8")
    folder, manifest = prepared(tiny(path), tmp_path / "run")
    for split in manifest.splits:
        assert set(read_documents(done, split)) <= set(read_documents(folder, split))


def test_a_tokenizer_that_changed_after_prepare_is_refused(run, done: RunFolder):
    text = done.tokenizer.read_bytes()
    for content in (text + b"\n", None):
        with changed(done.tokenizer, content), pytest.raises(DamageError, match="is not the tokenizer that made"):
            prepare(run, done)
    prepare(run, done)


def test_a_manifest_of_shards_that_are_gone_names_the_shard(run, done: RunFolder):
    with changed(done.data / "train-00001.tar", None), pytest.raises(DamageError, match=r"train-00001.tar: bytes is"):
        prepare(run, done)


def edited(manifest: Path, edit: Callable[[dict], object], *, seal: bool = False) -> bytes:
    record = json.loads(manifest.read_text(encoding="utf-8"))
    edit(record)
    if seal:
        record["digest"] = digest(record | {"digest": ""})
    return json.dumps(record).encode()


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda m: m["splits"]["train"].update(tokens=1), "was changed after it was written"),
        (lambda m: m.update(schema_version=2, more=1), "has schema_version=2, this trainworks reads 1"),
        (lambda m: m.pop("fields"), "is not a manifest: fields: field required"),
        (lambda m: m["splits"]["train"].update(more=1), "is not a manifest: splits.train.more"),
    ],
)
def test_an_edited_manifest_is_refused(done: RunFolder, edit: Callable[[dict], object], says: str):
    with changed(done.manifest, edited(done.manifest, edit)), pytest.raises(DamageError, match=f"(?i){says}"):
        read_manifest(done.manifest)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", None])
def test_a_file_that_is_no_manifest_is_refused(done: RunFolder, content: bytes | None):
    with changed(done.manifest, content), pytest.raises(DamageError, match="manifest"):
        read_manifest(done.manifest)


@pytest.mark.parametrize("splits", [[], None, {"train": {}}, {"train": {"shards": [{}]}}])
def test_a_manifest_without_its_parts_is_damage_not_a_crash(run, done: RunFolder, splits: object):
    content = edited(done.manifest, lambda m: m.update(splits=splits))
    with changed(done.manifest, content), pytest.raises(DamageError, match="is not a manifest"):
        complete("prepare", run, done)


def test_the_place_in_a_stream_is_where_reading_goes_on():
    documents = [np.arange(n, dtype=np.int64) + 100 * n for n in (3, 1, 7, 2, 5)]
    whole = np.concatenate(documents)
    stream = data.journal.Stream(iter(documents), Place(context=0))
    list(stream)
    places = [stream.place]
    for start in range(0, 18, 4):
        stream.take(np.concatenate([[0], whole[start : start + 4]]))
        places.append(stream.place)
    for place in places:
        rest = [*data.journal.Stream(iter(documents[place.document :]), place)]
        assert np.concatenate([*rest, np.empty(0, int)]).tolist() == whole[place.tokens :].tolist()
    assert [place.tokens for place in places] == [0, 4, 8, 12, 16, 18]
    assert all(before.document <= after.document for before, after in pairwise(places))


def test_the_lock_is_held_while_preparing(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = RunFolder(tmp_path)
    folder.open(run)
    entered = []
    survey = data.prepare.survey

    def refused(*arguments):
        with (
            pytest.raises(configs.folder.UserError, match=str(os.getpid())),
            configs.folder.locked(folder.data, wait_s=0),
        ):
            pass
        entered.append(True)
        return survey(*arguments)

    monkeypatch.setattr(data.prepare, "survey", refused)
    prepare(run, folder)
    assert entered == [True]
