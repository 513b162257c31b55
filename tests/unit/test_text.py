"""Text to tokens and back: nothing is lost, and only the end of a document ends one."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from configs.errors import DataError
from configs.schema import TextConfig, TokenizerFile, TrainedTokenizer
from data.text import (
    END_OF_DOCUMENT,
    build_tokenizer,
    encode,
    id_of,
    load_tokenizer,
    normalise,
    pack,
    train_tokenizer,
    unpack,
    vocabulary_size,
)
from tests.corpus import sentences

END = 0
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(sentences(100), TrainedTokenizer(kind="bpe", vocabulary_size=400))


def documents(lengths: list[int]) -> list[NDArray[np.int64]]:
    """Distinct ids from 1 on, so that no token can be taken for another, with END after each document."""
    ids, found = iter(range(1, 10_000)), []
    for length in lengths:
        found.append(np.array([*(next(ids) for _ in range(length)), END]))
    return found


@given(lengths=st.lists(st.integers(0, 30), max_size=12), length=st.integers(2, 20))
def test_packing_predicts_each_token_once_and_unpacking_gives_the_documents_back(lengths: list[int], length: int):
    given_ones = documents(lengths)
    blocks = list(pack(given_ones, length=length, context=END))
    stream = np.concatenate([*given_ones, np.empty(0, np.int64)])
    predicted = np.concatenate([*(block[1:] for block in blocks), np.empty(0, np.int64)])
    assert predicted.tolist() == stream.tolist()
    assert all(len(block) == length + 1 for block in blocks[:-1])
    assert all(1 < len(block) <= length + 1 for block in blocks)
    contexts = [END, *stream.tolist()]
    assert [int(block[0]) for block in blocks] == [contexts[place * length] for place in range(len(blocks))]
    if blocks:
        assert [each.tolist() for each in unpack(blocks, END)] == [each.tolist() for each in given_ones]


def test_packing_nothing_makes_no_block():
    assert list(pack([], length=4, context=END)) == []


def test_packing_a_long_document_does_not_wait_for_the_next():
    def endless():
        yield np.arange(1, 100)
        raise AssertionError("a block was ready before this document was asked for")

    assert next(pack(endless(), length=10, context=END)).tolist() == [0, *range(1, 11)]


@given(text=TEXT, form=st.sampled_from(["NFC", "NFKC", "NFD", "NFKD"]))
def test_normal_text_is_in_its_form_without_carriage_returns(text: str, form: str):
    got = normalise(text, TextConfig(unicode_form=form))  # type: ignore[arg-type]
    assert unicodedata.is_normalized(form, got)  # type: ignore[arg-type]
    assert "\r" not in got
    assert got == got.strip()


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("\ufeffa", "a"),
        ("a\r\nb\rc\nd", "a\nb\nc\nd"),
        ("\ufeff\r\n a \r\n", "a"),
        ("e\u0301", "é"),
        ("a\ufeffb", "a\ufeffb"),
        (" \t\n", ""),
    ],
)
def test_normalising_removes_marks_of_files_not_of_texts(raw: str, expected: str):
    assert normalise(raw, TextConfig()) == expected


def test_each_unicode_form_is_its_own():
    forms = {form: normalise("ﬁé", TextConfig(unicode_form=form)) for form in ("NFC", "NFD", "NFKC", "NFKD")}  # type: ignore[arg-type]
    assert forms == {"NFC": "ﬁé", "NFD": "ﬁe\u0301", "NFKC": "fié", "NFKD": "fie\u0301"}


@given(texts=st.lists(TEXT, max_size=5))
def test_every_text_comes_back_from_its_tokens(tokenizer: Tokenizer, texts: list[str]):
    end = id_of(tokenizer, END_OF_DOCUMENT)
    encoded = list(encode(tokenizer, texts, end))
    assert [int(ids[-1]) for ids in encoded] == [end] * len(texts)
    assert [tokenizer.decode(ids[:-1].tolist(), skip_special_tokens=False) for ids in encoded] == texts


def test_chunks_do_not_change_the_tokens(tokenizer: Tokenizer):
    texts = sentences(50, seed=3)
    whole = [ids.tolist() for ids in encode(tokenizer, texts, END)]
    assert [ids.tolist() for ids in encode(tokenizer, texts, END, chunk_characters=1)] == whole


def test_the_end_token_spelled_out_in_a_text_makes_no_boundary(tokenizer: Tokenizer):
    end = id_of(tokenizer, END_OF_DOCUMENT)
    texts = [f"a {END_OF_DOCUMENT} b", END_OF_DOCUMENT, f"{END_OF_DOCUMENT}{END_OF_DOCUMENT}"]
    encoded = list(encode(tokenizer, texts, end))
    assert all((ids == end).sum() == 1 for ids in encoded)
    blocks = list(pack(encoded, length=7, context=end))
    back = [tokenizer.decode(ids[:-1].tolist(), skip_special_tokens=False) for ids in unpack(blocks, end)]
    assert back == texts


def test_training_twice_gives_the_same_tokenizer():
    config = TrainedTokenizer(kind="bpe", vocabulary_size=350)
    assert train_tokenizer(sentences(80), config).to_str() == train_tokenizer(sentences(80), config).to_str()


def test_a_trained_vocabulary_has_every_byte_and_at_most_the_size_asked_for(tokenizer: Tokenizer):
    assert vocabulary_size(tokenizer) == tokenizer.get_vocab_size() == 400
    least = train_tokenizer(["a"], TrainedTokenizer(kind="bpe", vocabulary_size=5000))
    assert vocabulary_size(least) == 257


def test_the_vocabulary_of_a_tokenizer_with_holes_reaches_its_largest_id():
    assert vocabulary_size(Tokenizer(models.WordLevel({"a": 0, "<eos>": 70_000}, unk_token="a"))) == 70_001


def test_a_saved_tokenizer_encodes_as_the_trained_one(tokenizer: Tokenizer, tmp_path: Path):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    loaded, end = build_tokenizer(TokenizerFile(kind="file", path=str(path)), [])
    assert end == END_OF_DOCUMENT
    texts = sentences(20, seed=9)
    expected = [ids.tolist() for ids in encode(tokenizer, texts, END)]
    assert [ids.tolist() for ids in encode(loaded, texts, END)] == expected


def test_truncation_and_padding_of_a_loaded_tokenizer_are_off(tokenizer: Tokenizer, tmp_path: Path):
    other = Tokenizer.from_str(tokenizer.to_str())
    other.enable_truncation(3)
    other.enable_padding(length=50)
    text = sentences(1)[0]
    assert next(encode(other, [text], END)).tolist() == next(encode(tokenizer, [text], END)).tolist()


def test_a_tokenizer_file_is_refused_by_what_it_lacks(tokenizer: Tokenizer, tmp_path: Path):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(DataError, match="does not exist"):
        load_tokenizer(path, "<eos>")
    path.write_text("{")
    with pytest.raises(DataError, match="is not a tokenizer"):
        load_tokenizer(path, "<eos>")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="is not a tokenizer"):
        load_tokenizer(path, "<eos>")
    path.write_text(json.dumps({"model": {"type": "BPE"}}))
    with pytest.raises(DataError, match="is not a tokenizer"):
        load_tokenizer(path, "<eos>")
    tokenizer.save(str(path))
    with pytest.raises(DataError, match=r"'<eos>' is not in the vocabulary.*special tokens are: <\|endoftext\|>"):
        load_tokenizer(path, "<eos>")


def words(*special: str) -> Tokenizer:
    """A tokenizer of whole words that knows two and an end, which is a word like others unless it is special."""
    made = Tokenizer(models.WordLevel({"a": 0, "b": 1, "<eos>": 2}))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens([AddedToken(token, special=True) for token in special])
    return made


def test_a_document_that_holds_the_end_as_an_ordinary_token_is_refused():
    with pytest.raises(DataError, match="the document that begins 'a <eos> b' holds '<eos>' as text"):
        list(encode(words(), ["a b", "a <eos> b"], 2))


def test_a_document_that_the_tokenizer_cannot_encode_is_refused():
    with pytest.raises(DataError, match="cannot be encoded"):
        list(encode(words(), ["a c"], 2))
