"""Text to tokens and back: nothing is lost, only the end of a document ends one, and speed changes no id."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import gigatoken
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from configs.dataset import TokenizerFile, TrainedTokenizer
from configs.errors import DataError
from data import tokens
from data.packing import pack, unpack
from data.tokens import Encoder
from data.vocabulary import (
    END_OF_DOCUMENT,
    UNKNOWN,
    build_tokenizer,
    end_token,
    id_of,
    load_tokenizer,
    special_ids,
    train_tokenizer,
    vocabulary_size,
)
from tests.corpus import sentences

END = 0
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
KINDS = ("bpe", "wordpiece", "unigram", "word")
Kind = Literal["bpe", "wordpiece", "unigram", "word"]
MASKED_IDS = {"end", "pad", "unknown", "class", "separator", "mask"}


def trained(kind: Kind = "bpe", size: int = 400, **others: Any) -> Tokenizer:
    return train_tokenizer(sentences(100), TrainedTokenizer(kind=kind, vocabulary_size=size, **others))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return trained()


@pytest.fixture(scope="module")
def encoder(tokenizer: Tokenizer) -> Encoder:
    found = Encoder(tokenizer, END_OF_DOCUMENT)
    assert found.accelerator == f"gigatoken {tokens.version('gigatoken')}"
    assert found.why_not == ""
    return found


def slow(tokenizer: Tokenizer, end: str = END_OF_DOCUMENT) -> Encoder:
    return Encoder(tokenizer, end, why_not="not wanted")


def lists(encoder: Encoder, texts: list[str]) -> list[list[int]]:
    flat, lengths = encoder.encode(texts)
    assert len(lengths) == len(texts)
    assert len(flat) == lengths.sum()
    return [ids.tolist() for ids in np.split(flat, np.cumsum(lengths)[:-1])] if texts else []


def reference(tokenizer: Tokenizer, texts: list[str], end: int = END) -> list[list[int]]:
    """What the library gives for one text at a time."""
    tokenizer.encode_special_tokens = True
    return [[*tokenizer.encode(text, add_special_tokens=False).ids, end] for text in texts]


@given(texts=st.lists(TEXT, max_size=5))
def test_every_text_comes_back_from_its_tokens(encoder: Encoder, tokenizer: Tokenizer, texts: list[str]):
    encoded = lists(encoder, texts)
    assert [ids[-1] for ids in encoded] == [END] * len(texts)
    assert [tokenizer.decode(ids[:-1], skip_special_tokens=False) for ids in encoded] == texts


@given(texts=st.lists(TEXT, min_size=1, max_size=5))
def test_both_ways_give_the_ids_of_the_library(encoder: Encoder, tokenizer: Tokenizer, texts: list[str]):
    expected = reference(tokenizer, texts)
    assert lists(encoder, texts) == expected
    flat, lengths = encoder._exact(texts)
    assert flat.tolist() == [number for ids in expected for number in ids]
    assert lengths.tolist() == [len(ids) for ids in expected]


@pytest.fixture(scope="module")
def every_kind() -> list[Tokenizer]:
    return [trained(kind, 350) for kind in KINDS]


@given(text=st.text(st.sampled_from("aéT's 1.,字 \n\t\r\x1c\u3000\u200b☃"), max_size=60), size=st.integers(1, 12))
def test_cutting_a_long_document_changes_no_id(every_kind: list[Tokenizer], text: str, size: int):
    for made in every_kind:
        found = slow(made)
        assert found._parts_words
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tokens, "_CHUNK_CHARACTERS", size)
            assert "".join(found._cut(text)) == text
            assert lists(found, [text, text]) == reference(made, [text, text], id_of(made, END_OF_DOCUMENT))


def test_a_long_document_is_cut_in_chunks_where_that_is_safe(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tokens, "_CHUNK_CHARACTERS", 8)
    text = "one two three  four\n\nfive\nsix"
    assert list(slow(tokenizer)._cut(text)) == ["one two three  four\n\nfive", "\nsix"]
    assert list(slow(tokenizer)._cut("a" * 20)) == ["a" * 20]
    joining = Tokenizer.from_str(tokenizer.to_str())
    joining.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    assert list(slow(joining)._cut(text)) == [text]


@pytest.mark.parametrize("threads", [1, 3])
def test_chunks_and_threads_do_not_change_the_tokens(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, threads: int
):
    texts = ["", *sentences(50, seed=3), ""]
    monkeypatch.setattr(tokens, "_CHUNK_CHARACTERS", 30)
    found = Encoder(tokenizer, END_OF_DOCUMENT, threads=threads, why_not="not wanted")
    assert lists(found, texts) == reference(tokenizer, texts)


def test_no_documents_have_no_tokens(encoder: Encoder, tokenizer: Tokenizer):
    for each in (encoder, slow(tokenizer)):
        flat, lengths = each.encode([])
        assert (flat.dtype, lengths.dtype, len(flat), len(lengths)) == (np.uint16, np.int64, 0, 0)


def test_a_large_vocabulary_takes_wider_ids():
    made = Tokenizer(models.WordLevel({"a": 0, "<eos>": 70_000}, unk_token="a"))
    flat, _ = Encoder(made, "<eos>").encode(["a"])
    assert (flat.dtype, flat.tolist()) == (np.uint32, [0, 70_000])


def test_the_end_token_spelled_out_in_a_text_makes_no_boundary(encoder: Encoder, tokenizer: Tokenizer):
    texts = [f"a {END_OF_DOCUMENT} b", END_OF_DOCUMENT, f"{END_OF_DOCUMENT}{END_OF_DOCUMENT}"]
    for each in (encoder, slow(tokenizer)):
        encoded = [np.array(ids) for ids in lists(each, texts)]
        assert all((ids == END).sum() == 1 for ids in encoded)
        blocks = list(pack(encoded, length=7, context=END))
        back = [tokenizer.decode(ids[:-1].tolist(), skip_special_tokens=False) for ids in unpack(blocks, END)]
        assert back == texts


def test_the_separator_of_the_accelerator_in_a_text_is_text(encoder: Encoder, tokenizer: Tokenizer):
    parts = tokens._SEPARATOR[0], tokens._SEPARATOR, tokens._SEPARATOR[-1]
    texts = [*parts, "".join(parts), "a" + tokens._SEPARATOR, tokens._SEPARATOR * 2]
    assert lists(encoder, texts) == reference(tokenizer, texts)
    assert encoder.accelerator


def test_forgetting_what_was_remembered_changes_nothing(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tokens, "_CACHE_BYTES", 0)
    grown = iter(range(10_000))
    monkeypatch.setattr(tokens, "_resident_bytes", lambda: next(grown))
    found, texts = Encoder(tokenizer, END_OF_DOCUMENT), sentences(20, seed=5)
    first = found._backend
    assert lists(found, texts) == reference(tokenizer, texts)
    assert found._backend is not first


class Wrong:
    """An accelerator that gives other ids for texts with a certain word."""

    def __init__(self, real: Any, word: bytes) -> None:
        self.real, self.word = real, word

    def encode_batch_padded(self, inputs: list[bytes], *rest: Any, **options: Any) -> Any:
        return self.real.encode_batch_padded([inputs[0].replace(self.word, b"?")], *rest, **options)


@pytest.mark.parametrize("word", ["they'll", "sentence of these documents"])
def test_an_accelerator_with_other_ids_is_not_used(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, word: str):
    real = gigatoken.Tokenizer.from_json
    monkeypatch.setattr(gigatoken.Tokenizer, "from_json", lambda layout: Wrong(real(layout), word.encode()))
    found, texts = Encoder(tokenizer, END_OF_DOCUMENT), ["a", "one sentence of these documents"]
    assert lists(found, texts) == reference(tokenizer, texts)
    assert found.accelerator is None
    assert "its ids differ in text that begins" in found.why_not
    again = Encoder(tokenizer, END_OF_DOCUMENT, why_not=found.why_not)
    assert (again.accelerator, again.why_not) == (None, found.why_not)


def test_documents_are_compared_once_and_only_where_nobody_did(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    texts = sentences(5)
    compared: list[str] = []
    for why_not in (None, ""):
        found = Encoder(tokenizer, END_OF_DOCUMENT, why_not=why_not)
        monkeypatch.setattr(found, "_compare", compared.extend)
        found.encode(texts)
        found.encode(texts)
        assert compared == texts  # the second encoder adds none


def test_the_first_documents_are_compared_up_to_a_size(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tokens, "_SAMPLE_CHARACTERS", 10)
    found = Encoder(tokenizer, END_OF_DOCUMENT)
    compared: list[str] = []
    monkeypatch.setattr(found, "_compare", compared.extend)
    found.compare(["", "abcde", "fghijkl", "mno"])
    assert compared == ["", "abcde", "fgh"]


def test_without_the_accelerator_the_library_encodes(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    found, texts = Encoder(tokenizer, END_OF_DOCUMENT), sentences(5)
    assert found.accelerator is None
    assert "cannot be imported" in found.why_not
    assert lists(found, texts) == reference(tokenizer, texts)


def test_bytes_train_as_they_always_did(tokenizer: Tokenizer):
    layout = json.loads(tokenizer.to_str())
    assert [token["content"] for token in layout["added_tokens"]] == [END_OF_DOCUMENT]
    assert list(layout["model"]["vocab"])[:3] == [END_OF_DOCUMENT, "!", '"']
    assert (layout["pre_tokenizer"]["type"], layout["pre_tokenizer"]["add_prefix_space"]) == ("ByteLevel", False)


TRAIN = """
import json, sys
from configs.dataset import TrainedTokenizer
from data.vocabulary import train_tokenizer
texts = sys.stdin.read().split("\\n")
configs = [TrainedTokenizer(kind=kind, vocabulary_size=300) for kind in sys.argv[1:]]
print(json.dumps([train_tokenizer(texts, config).to_str() for config in configs]))
"""


def test_training_in_another_process_gives_the_same_bytes():
    texts = [f"{text} {number}" for number, text in enumerate(sentences(60))]  # many ties
    command, root = [sys.executable, "-c", TRAIN, *KINDS], Path(tokens.__file__).parents[1]
    other = subprocess.run(command, input="\n".join(texts), capture_output=True, text=True, check=True, cwd=root).stdout
    for kind, made in zip(KINDS, json.loads(other), strict=True):
        config = TrainedTokenizer(kind=kind, vocabulary_size=300)
        assert train_tokenizer(iter(texts), config).to_str() == made


@pytest.mark.parametrize("special", ["causal", "masked"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_knows_its_special_tokens(kind: Kind, special: Literal["causal", "masked"]):
    config = TrainedTokenizer(kind=kind, vocabulary_size=350, special=special, extra_tokens=("<|user|>", "<|bot|>"))
    made, end = build_tokenizer(config, sentences(30))
    assert vocabulary_size(made) <= 350
    assert end == end_token(config) == {"causal": END_OF_DOCUMENT, "masked": "[SEP]"}[special]
    ids = special_ids(made, config)
    expected = MASKED_IDS if special == "masked" else {"end", "unknown"} - ({"unknown"} if kind == "bpe" else set())
    assert ids.keys() == expected | {"<|user|>", "<|bot|>"}
    assert ids["end"] == made.token_to_id(end) == ids.get("separator", ids["end"])
    assert len(set(ids.values())) == len(ids) - (special == "masked")
    spelled = f"a {end} [MASK] {UNKNOWN}<|user|>b"
    encoder = Encoder(made, end)
    flat, _ = encoder.encode([spelled])
    assert not set(flat[:-1].tolist()) & (set(ids.values()) - {ids.get("unknown")})
    assert flat[-1] == ids["end"]


@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "word"])
def test_unknown_tokens_are_counted(kind: Kind):
    encoder = Encoder(trained(kind), END_OF_DOCUMENT)
    encoder.encode([sentences(1)[0]])
    before = encoder.unknown
    encoder.encode(["\u4e00", "☃ ☃"])
    assert encoder.unknown == before + 3
    assert encoder.accelerator is None
    assert "cannot load this tokenizer" in encoder.why_not


def test_unigram_text_comes_back_with_its_spaces_and_lines():
    text = " two  words\n\n of the\tsame\n"
    made = train_tokenizer([text, *sentences(30)], TrainedTokenizer(kind="unigram", vocabulary_size=300))
    flat, _ = Encoder(made, END_OF_DOCUMENT).encode([text])
    assert made.decode(flat[:-1].tolist()) == text


def test_wordpieces_continue_words_and_decode_to_them():
    made = trained("wordpiece")
    found = made.encode(sentences(1)[0].split()[0])
    assert all(piece.startswith("##") for piece in found.tokens[1:])
    assert made.decode(found.ids) == sentences(1)[0].split()[0]


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_the_rarest_characters_give_way_to_a_small_vocabulary(kind: Kind):
    texts = ["common words " * 50, "".join(map(chr, range(0x4E00, 0x4E00 + 500)))]
    made = train_tokenizer(texts, TrainedTokenizer(kind=kind, vocabulary_size=100))
    assert vocabulary_size(made) <= 100
    assert made.token_to_id("w") is not None
    assert made.token_to_id("\u4e00") is not None
    assert made.token_to_id(chr(0x4E00 + 499)) is None


def test_nothing_to_learn_from_is_said():
    with pytest.raises(DataError, match="no unigram vocabulary of 300 can be learnt"):
        train_tokenizer([], TrainedTokenizer(kind="unigram", vocabulary_size=300))


def test_a_trained_vocabulary_has_every_byte_and_at_most_the_size_asked_for(tokenizer: Tokenizer):
    assert vocabulary_size(tokenizer) == tokenizer.get_vocab_size() == 400
    least = train_tokenizer(["a"], TrainedTokenizer(kind="bpe", vocabulary_size=5000))
    assert vocabulary_size(least) == 257


def test_the_vocabulary_of_a_tokenizer_with_holes_reaches_its_largest_id():
    assert vocabulary_size(Tokenizer(models.WordLevel({"a": 0, "<eos>": 70_000}, unk_token="a"))) == 70_001


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_tokenizer_encodes_as_the_trained_one(kind: Kind, tmp_path: Path):
    made, path = trained(kind), tmp_path / "tokenizer.json"
    made.save(str(path))
    loaded, end = build_tokenizer(TokenizerFile(kind="file", path=str(path)), [])
    assert end == END_OF_DOCUMENT
    texts = sentences(20, seed=9)
    assert lists(Encoder(loaded, end), texts) == lists(Encoder(made, end), texts)


def test_truncation_and_padding_of_a_loaded_tokenizer_are_off(tokenizer: Tokenizer):
    other, text = Tokenizer.from_str(tokenizer.to_str()), sentences(1)[0]
    other.enable_truncation(3)
    other.enable_padding(length=50)
    assert lists(Encoder(other, END_OF_DOCUMENT), [text]) == reference(tokenizer, [text])
    assert lists(slow(other), [text]) == reference(tokenizer, [text])


def test_special_names_of_a_loaded_tokenizer_are_those_it_adds(tmp_path: Path):
    made = Tokenizer(models.WordLevel({"[UNK]": 0, "<s>": 1, "</s>": 2, "a": 3}, unk_token="[UNK]"))
    made.add_special_tokens(["[UNK]", "</s>", "<mask>"])
    config = TokenizerFile(kind="file", path=str(tmp_path / "t.json"), end_of_document="</s>")
    assert special_ids(made, config) == {"end": 2, "unknown": 0, "separator": 2, "mask": 4}


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
        Encoder(words(), "<eos>").encode(["a b", "a <eos> b", "b"])


def test_the_accelerator_refuses_an_ordinary_end_in_a_document_too(tokenizer: Tokenizer):
    layout = json.loads(tokenizer.to_str())
    layout["added_tokens"][0]["special"] = False
    found = Encoder(Tokenizer.from_str(json.dumps(layout)), END_OF_DOCUMENT, why_not="")
    assert found.accelerator
    assert lists(found, ["a b"]) == reference(tokenizer, ["a b"])
    with pytest.raises(DataError, match="the document that begins 'a <|endoftext|> b'".replace("|", r"\|")):
        found.encode(["a b", f"a {END_OF_DOCUMENT} b", "b"])


def test_a_document_that_the_tokenizer_cannot_encode_is_refused(encoder: Encoder):
    with pytest.raises(DataError, match="cannot be encoded"):
        Encoder(words(), "<eos>").encode(["a c"])
    with pytest.raises(DataError, match="cannot be encoded"):
        encoder.encode(["a", "\ud800"])


def test_end_tokens_have_ids(tokenizer: Tokenizer):
    assert id_of(tokenizer, END_OF_DOCUMENT) == END
