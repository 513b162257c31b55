"""Tagged text: what rows may hold, where stretches end up once cleaned, and which tag each token gets."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from configs.dataset import TextConfig
from configs.errors import ConfigError, DataError
from configs.folder import RunFolder
from configs.load import load
from data.cleaning.places import place_tags
from data.cleaning.text import clean
from data.manifest import read_manifest
from data.packing import pack_documents
from data.phases.tagging import UNTAGGED, encode_tagged
from data.prepare import prepare
from data.records import Tag
from data.sources.plays import unmarked
from data.sources.tagged import Unusable, tagged
from tests.tiny import CONFIGS, open_readers, read_samples

DEMO = next(str(path) for path in CONFIGS if path.stem == "demo-tags")


def test_stretches_are_sorted_and_those_of_no_name_left_out():
    text, tags = tagged("Anna met Bo", [[9, 11, "PER"], {"start": 0, "end": 4, "name": "PER"}, [5, 8, "O"]], "tags")
    assert text == "Anna met Bo"
    assert tags == (Tag(0, 4, "PER"), Tag(9, 11, "PER"))


def test_stretches_may_be_json_in_a_cell_of_text():
    assert tagged("Anna", '[[0, 4, "PER"]]', "tags")[1] == (Tag(0, 4, "PER"),)
    assert tagged("Anna", None, "tags")[1] == ()


def test_words_with_a_name_each_become_a_text():
    text, tags = tagged(["EU", "rejects", "German", "call"], ["B-ORG", "O", 7, 0], "tags")
    assert text == "EU rejects German call"
    assert [(text[tag.begin : tag.end], tag.name) for tag in tags] == [("EU", "B-ORG"), ("German", "7")]


@pytest.mark.parametrize(
    ("text", "tags", "says"),
    [
        ("Anna", "[[0, 4", "not readable as JSON"),
        ("Anna", 5, "holds int, expected a list"),
        ("Anna", [[0, 4]], r"expected \[begin, end, name\]"),
        ("Anna", [[0, 5, "PER"]], r"\[0, 5\] is no part of a text of 4 characters"),
        ("Anna", [[2, 2, "PER"]], r"\[2, 2\] is no part"),
        ("Anna", [[0, 3, "PER"], [2, 4, "LOC"]], "'PER' ends at 3, 'LOC' begins at 2"),
        ("Anna", [[0, 3, ""]], "holds the name ''"),
        (["Anna"], ["PER", "O"], "2 names for 1 words"),
        (["Anna", 3], ["PER", "O"], "hold 3, expected text"),
    ],
)
def test_what_is_no_tag_is_refused(text: Any, tags: Any, says: str):
    with pytest.raises(Unusable, match=says):
        tagged(text, tags, "tags")


@given(
    st.lists(st.tuples(st.text("aé \u00a0Bi\u0301\n\r", max_size=8), st.booleans()), max_size=6),
    st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]),
    st.booleans(),
    st.sampled_from(["keep", "collapse"]),
)
def test_a_stretch_of_the_cleaned_text_is_the_cleaned_stretch(
    parts: list[tuple[str, bool]], form: Any, lower: bool, space: Any
):
    config = TextConfig(unicode_form=form, lower_case=lower, white_space=space)
    raw, tags = "", []
    for text, marked in parts:
        word = f"q{text}q"  # letters at both ends: no character belongs half to what is outside
        if marked:
            tags.append(Tag(len(raw), len(raw) + len(word), "x"))
        raw += word + " "
    cleaned, placed = clean(raw, config), place_tags(raw, tags, config)
    assert len(placed) == len(tags)
    for before, after in zip(tags, placed, strict=True):
        assert cleaned[after.begin : after.end] == clean(raw[before.begin : before.end], config)


def test_a_stretch_that_is_cleaned_away_is_gone():
    assert place_tags("a !! b", [Tag(2, 4, "x")], TextConfig(punctuation="remove")) == []


def words() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({"?": 0, "to": 1, "be": 2, "or": 3, "$": 4}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def test_a_token_is_of_the_stretch_in_which_it_begins():
    stretches = [{"begin": 3, "end": 8, "name": "x"}, {"begin": 9, "end": 11, "name": "y"}]
    ids, lengths, tags = encode_tagged(words(), ["to be or to", "be"], [stretches, []], {"x": 1, "y": 2}, 4)
    assert ids.tolist() == [1, 2, 3, 1, 4, 2, 4]
    assert lengths.tolist() == [5, 2]
    assert tags.tolist() == [0, 1, 1, 2, UNTAGGED, 0, UNTAGGED]
    assert pack_documents(tags, lengths, length=3, context=UNTAGGED)[0].tolist() == [-100, 0, 1, 1, -100, 0, -100]


def test_a_token_that_begins_with_its_space_is_of_the_word_after_it():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = Tokenizer(models.BPE(vocab={"Ġ": 0, "a": 1, "b": 2, "Ġb": 3, "$": 4}, merges=[("Ġ", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False)
    _, _, tags = encode_tagged(tokenizer, ["a b"], [[{"begin": 2, "end": 3, "name": "x"}]], {"x": 1}, 4)
    assert tags.tolist() == [0, 1, UNTAGGED]


def test_a_play_without_its_marks_says_what_they_marked():
    text, tags = unmarked("## ACT I\n\n_Enter GHOST_\n\n**BERNARDO**  \nWho's there?")
    assert text == "ACT I\n\nEnter GHOST\n\nBERNARDO\nWho's there?"
    assert [(text[tag.begin : tag.end], tag.name) for tag in tags] == [
        ("ACT I", "heading"),
        ("Enter GHOST", "direction"),
        ("BERNARDO", "speaker"),
    ]


def write_rows(folder: Path) -> Path:
    folder.mkdir()
    rows = []
    for number in range(40):
        names = [f"Name{number}x{place}" for place in range(4)]
        found = " and ".join(names) + " met."
        tags = [[found.index(name), found.index(name) + len(name), "B-PER"] for name in names]
        rows.append(json.dumps({"text": found, "tags": tags}))
    (folder / "rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return folder


def tagged_run(folder: Path, *more: str) -> Any:
    source = f"data.source={{kind: files, paths: ['{folder}'], tags_field: tags}}"
    small = ["data.tokenizer={kind: bpe, special: masked, vocabulary_size: 300}", "data.block_tokens=64"]
    return load([DEMO, source, *small, "wandb.mode=disabled", *more])


def test_tagged_rows_become_samples_whose_tags_stand_beside_their_tokens(tmp_path: Path):
    run, folder = tagged_run(write_rows(tmp_path / "raw")), RunFolder(tmp_path / "run")
    folder.logs.mkdir(parents=True)
    prepare(run, folder)
    manifest = read_manifest(folder.manifest)
    assert manifest.tags == ("O", "B-PER")
    assert manifest.fields == ("tokens.npy", "tags.npy")
    tokenizer = Tokenizer.from_file(str(folder.tokenizer))
    readers = open_readers(folder, manifest)
    counts = {"O": 0, "B-PER": 0}
    for sample in read_samples(readers["train"], range(len(readers["train"]))):
        assert len(sample["tags"]) == len(sample["tokens"])
        assert sample["tags"][0] == UNTAGGED
        assert sample["tags"][-1] == UNTAGGED
        named = sample["tokens"][sample["tags"] == 1].tolist()
        assert tokenizer.decode(named).lower().replace(" ", "").count("name") == 4
        assert "and" not in tokenizer.decode(named)
        counts["B-PER"] += len(named)
        counts["O"] += int((sample["tags"] == 0).sum())
    assert manifest.splits["train"].tags == counts


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("data.packing=concatenate", "packing is concatenate; choose document"),
        ("data.text.denoise=[html]", "text.denoise changes words, and their tags would be lost"),
        ("data.text.words=stem", "text.words changes words"),
    ],
)
def test_what_would_lose_the_tags_is_refused(tmp_path: Path, override: str, says: str):
    with pytest.raises(ConfigError, match=says):
        tagged_run(tmp_path, override)


def test_a_row_whose_tags_do_not_fit_is_named(tmp_path: Path):
    folder = write_rows(tmp_path / "raw")
    with (folder / "rows.jsonl").open("a", encoding="utf-8") as file:
        file.write('\n{"text": "short", "tags": [[0, 99, "PER"]]}')
    run_folder = RunFolder(tmp_path / "run")
    run_folder.logs.mkdir(parents=True)
    with pytest.raises(DataError, match=r"rows.jsonl:41: column 'tags': \[0, 99\] is no part of a text of 5"):
        prepare(tagged_run(folder), run_folder)
