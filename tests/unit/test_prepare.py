"""The data stage: every document in its split, counted, refused with a reason when it cannot be."""

import gc
import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

import configs.folder
import data.prepare
from configs.dataset import TextConfig
from configs.errors import DamageError, DataError
from configs.folder import RunFolder
from configs.schema import RunConfig
from configs.stages import complete
from data.cleaning.text import clean
from data.dataset import open_dataset, read_labels
from data.manifest import read_manifest
from data.prepare import prepare
from data.samples import decode
from data.shards import ShardReader
from data.splits import assign
from data.vocabulary import END_OF_DOCUMENT
from tests.corpus import contents, prepared, read_documents, sentences, tiny, write_paragraphs

# webdataset leaves files to the collector
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*unclosed file.*:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def test_every_document_comes_back_from_the_split_that_its_hash_names(run, done: RunFolder):
    expected: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for text in sentences(120):
        normal = clean(text, run.data.text)
        expected[assign(normal, run.data.splits)].append(normal)
    assert {split: read_documents(done, split) for split in expected} == expected


def test_the_manifest_counts_what_the_shards_hold(run, done: RunFolder):
    manifest = read_manifest(done.manifest)
    tokenizer = Tokenizer.from_file(str(done.tokenizer))
    assert manifest.text.vocabulary_size == tokenizer.get_vocab_size() == 300
    assert manifest.sources[0].documents == 120 == sum(split.documents for split in manifest.splits.values())
    for name, split in manifest.splits.items():
        texts = read_documents(done, name)
        assert split.documents == len(texts)
        assert split.bytes == sum(len(text.encode()) for text in texts)
        assert split.words == sum(len(text.split()) for text in texts)
        assert split.samples == sum(shard.samples for shard in split.shards) == -(-split.tokens // 8)
        assert [shard.samples for shard in split.shards[:-1]] == [16] * (len(split.shards) - 1)
    assert len(manifest.splits["train"].shards) > 3
    names = {shard.name for split in manifest.splits.values() for shard in split.shards}
    about = {"manifest.json", "tokenizer.json", "statistics.json", "card.html", "assignments.parquet", ".lock"}
    left = {*about, *names, *(f"{name}.index.npy" for name in names)}
    assert {path.name for path in done.data.iterdir()} == left


def test_webdataset_finds_the_manifests_counts(done: RunFolder, monkeypatch: pytest.MonkeyPatch):
    import webdataset

    monkeypatch.setattr("webdataset.utils.enforce_security", True)  # not the variable, which the first import reads
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
    assert sorted(found) == sorted(clean(text, TextConfig()) for text in texts)


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
    assert manifest.text.vocabulary_size == 70_008
    reader = ShardReader(folder.data, manifest.splits["train"].shards, manifest.fields)
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
    assert manifest.sources[0].documents - sum(manifest.dropped.values()) == 60


def test_adding_documents_moves_none_between_splits(done: RunFolder, tmp_path: Path):
    path = tmp_path / "more.txt"
    path.write_text("\n\n".join(sentences(40, seed=8) + sentences(120)), encoding="utf-8")
    folder, manifest = prepared(tiny(path), tmp_path / "run")
    for split in manifest.splits:
        assert set(read_documents(done, split)) <= set(read_documents(folder, split))


def test_the_lock_is_held_while_preparing(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = RunFolder(tmp_path)
    folder.open(run)
    entered = []
    decide = data.prepare.decide

    def refused(*arguments, **options):
        with (
            pytest.raises(configs.folder.UserError, match=str(os.getpid())),
            configs.folder.locked(folder.data, wait_s=0),
        ):
            pass
        entered.append(True)
        return decide(*arguments, **options)

    monkeypatch.setattr(data.prepare, "decide", refused)
    prepare(run, folder)
    assert entered == [True]


def test_a_mixture_with_labels_in_one_part_alone_is_refused_where_labels_count(tmp_path: Path):
    one, other = tmp_path / "one.jsonl", tmp_path / "other.txt"
    one.write_text("\n".join(json.dumps({"text": text, "label": "a"}) for text in sentences(40)), encoding="utf-8")
    write_paragraphs(other, 40, seed=5)
    parts = [
        {"name": "one", "repeat": 1, "source": {"kind": "files", "paths": [str(one)], "label_field": "label"}},
        {"name": "other", "repeat": 2, "source": {"kind": "files", "paths": [str(other)], "document": "paragraph"}},
    ]
    run = tiny(data__source={"kind": "mixture", "parts": parts})
    manifest = prepared(run, tmp_path / "joined")[1]
    assert manifest.classes == ()
    assert [source.repeat for source in manifest.sources] == [1, 2]
    packed = tiny(data__source={"kind": "mixture", "parts": parts}, data__packing="document")
    with pytest.raises(DataError, match="40 of 80 samples have no label; set label_field in every source"):
        prepared(packed, tmp_path / "packed")


def test_documents_with_labels_are_samples_of_their_own(tmp_path: Path):
    path = tmp_path / "a.csv"
    rows = [f'"{text}",{"odd" if n % 2 else "even"}' for n, text in enumerate(sentences(60))]
    path.write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    source = {"kind": "files", "paths": [str(path)], "label_field": "label"}
    folder, manifest = prepared(tiny(data__source=source, data__packing="document"), tmp_path / "run")
    assert manifest.classes == ("even", "odd")
    assert manifest.fields == ("tokens.npy", "cls")
    for name, split in manifest.splits.items():
        reader = ShardReader(folder.data, split.shards, manifest.fields)
        assert len(reader) == split.documents == sum(split.classes.values())
        assert all(len(decode(sample)["tokens"]) <= 9 for sample in reader)
        labels = [decode(sample)["label"] for sample in reader]
        assert [labels.count(k) for k in (0, 1)] == list(split.classes.values()), name


def test_more_classes_than_a_window_has_room_for_are_not_drawn_equally_often(tmp_path: Path):
    path = tmp_path / "a.csv"
    rows = [f'"{text}",{"rare" if n % 5 == 0 else "common"}' for n, text in enumerate(sentences(60))]
    path.write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    source = {"kind": "files", "paths": [str(path)], "label_field": "label"}

    def balanced(window: int) -> RunConfig:
        reading = {"data__balance": "classes", "data__shuffle_window_samples": window}
        return tiny(data__source=source, data__packing="document", **reading)

    folder, manifest = prepared(balanced(4), tmp_path / "run")
    labels = read_labels(folder.data, manifest.splits["train"])
    order = open_dataset(balanced(4), folder).order
    drawn = np.concatenate([order.ids(window)[1] for window in range(10)])
    assert np.bincount(labels[drawn]).tolist() == [20, 20]
    with pytest.raises(DataError, match=r"draws 2 classes .*shuffle_window_samples=3; set it to 4 or more"):
        open_dataset(balanced(3), folder)


def test_folds_take_turns_to_be_scored_over_one_data_set(tmp_path: Path):
    path = write_paragraphs(tmp_path / "a.txt", 90)
    folds = {"count": 3, "held_out": 1}
    run = tiny(path, data__splits={"validation": 0, "test": 0.2, "folds": folds})
    folder, manifest = prepared(run, tmp_path / "run")
    assert list(manifest.splits) == ["test", "fold-0", "fold-1", "fold-2"]
    data = open_dataset(run, folder)
    assert {name: len(reader) for name, reader in data.readers.items()} == {
        "train": manifest.splits["fold-0"].samples + manifest.splits["fold-2"].samples,
        "test": manifest.splits["fold-1"].samples,
    }
    other = tiny(path, data__splits={"validation": 0, "test": 0.2, "folds": folds | {"held_out": 2}})
    assert complete("prepare", other, folder), "one data set serves every fold"
    assert len(open_dataset(other, folder).readers["test"]) == manifest.splits["fold-2"].samples


def test_a_part_by_weight_is_drawn_by_its_weight(tmp_path: Path):
    parts = [
        {"name": name, "weight": weight, "source": {"kind": "files", "paths": [str(path)], "document": "paragraph"}}
        for name, weight, path in (
            ("small", 3.0, write_paragraphs(tmp_path / "small.txt", 30, seed=1)),
            ("large", 1.0, write_paragraphs(tmp_path / "large.txt", 90, seed=2)),
        )
    ]
    run = tiny(data__source={"kind": "mixture", "parts": parts}, data__shuffle_window_samples=40)
    folder, manifest = prepared(run, tmp_path / "run")
    assert {shard.part for shard in manifest.splits["train"].shards} == {"small", "large"}
    order = open_dataset(run, folder).order
    small = sum(shard.samples for shard in manifest.splits["train"].shards if shard.part == "small")
    drawn = np.concatenate([order.ids(window)[1] for window in range(10)])
    assert (drawn < small).sum() == 300


def test_overlap_that_leaves_nothing_to_train_on_is_refused(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("\n\n".join(f"the same words in all of them {n}" for n in range(60)), encoding="utf-8")
    run = tiny(path, data__text__decontaminate={"ngram_words": 3}, data__packing="document")
    with pytest.raises(DataError, match="the train split has 0 tokens"):
        prepared(run, tmp_path / "run")


def test_an_earlier_data_set_that_was_changed_is_no_previous(tmp_path: Path):
    path = write_paragraphs(tmp_path / "a.txt", 90)
    folder, _ = prepared(tiny(path), tmp_path / "first")
    again = tiny(path, data__splits={"validation": 0.2, "test": 0.2, "seed": 5, "previous": str(folder.data)})
    other, _ = prepared(again, tmp_path / "second")
    assert read_documents(other, "test") == read_documents(folder, "test"), "the earlier run decides, not the seed"
    assignments = folder.data / "assignments.parquet"
    assignments.write_bytes(assignments.read_bytes()[:-1] + b"2")
    with pytest.raises(DamageError, match=r"assignments.parquet is not what was written"):
        prepared(again, tmp_path / "third")


def test_a_part_that_has_nothing_left_is_named(tmp_path: Path):
    path = write_paragraphs(tmp_path / "a.txt", 90)
    source = {"kind": "files", "paths": [str(path)], "document": "paragraph"}
    parts = [{"name": name, "weight": 1.0, "source": source} for name in ("one", "same")]
    with pytest.raises(DataError, match="nothing of same is left to train on"):
        prepared(tiny(data__source={"kind": "mixture", "parts": parts}), tmp_path / "run")


def test_a_very_long_word_does_not_hold_up_the_tokenizer(tmp_path: Path):
    path = write_paragraphs(tmp_path / "a.txt", 60)
    path.write_text(
        path.read_text(encoding="utf-8") + "\n\n" + "[" * 300_000 + "\n\n" + " " * 9 + "x", encoding="utf-8"
    )
    folder, manifest = prepared(tiny(path), tmp_path / "run")
    assert sum(len(text) for split in manifest.splits for text in read_documents(folder, split)) > 300_000


def test_what_was_left_out_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "a.txt"
    path.write_text("\n\n".join([*sentences(60), sentences(60)[0]]), encoding="utf-8")
    prepared(tiny(path), tmp_path / "run")
    assert "prepare | left out: 1 duplicate" in capsys.readouterr().out
