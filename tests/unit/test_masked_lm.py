"""The masked language model: which tokens are hidden, and that batches do not change what is learned of a sample."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from torch import Tensor, nn

from configs.dataset import TrainedTokenizer
from configs.errors import DataError
from configs.language import EncoderConfig, MaskedLMConfig
from data.manifest import Manifest, TokenizerRecord
from data.vocabulary import special_ids, train_tokenizer, word_starts
from trainer.distributed import add, seed_all
from trainer.models.attention import PADDING
from trainer.models.cross_entropy import IGNORE, linear_scores
from trainer.task import Sample
from trainer.tasks.masked_lm import MaskedLM, choose, draws

TEXT = "the king of night and the queen of day met where rivers bend; they spoke no word, but sang unending songs"
MASK, END = 4, 3
BLOCK = 24


def vocabulary(kind: Any = "wordpiece", size: int = 90) -> tuple[Tokenizer, TokenizerRecord]:
    config = TrainedTokenizer(kind=kind, vocabulary_size=size, special="masked")
    tokenizer = train_tokenizer([TEXT], config)
    record = TokenizerRecord(
        file="tokenizer.json",
        sha256="0" * 64,
        vocabulary_size=tokenizer.get_vocab_size(),
        end_of_document="[SEP]",
        end_of_document_id=END,
        special=special_ids(tokenizer, config),
    )
    return tokenizer, record


def about(record: TokenizerRecord, **more: Any) -> Manifest:
    fields: dict[str, Any] = {"tokenizer": record, "block_tokens": BLOCK, "document_ids": False}
    return Manifest.model_construct(**(fields | more))


def build(manifest: Manifest | None = None, tokenizer: Tokenizer | None = None, **config: Any) -> MaskedLM:
    shape = EncoderConfig(kind="encoder", num_layers=1, width=16, num_heads=2, activation="geglu")
    manifest = manifest or about(vocabulary()[1])
    return MaskedLM(MaskedLMConfig(kind="masked_lm", model=shape, **config), manifest, tokenizer)


def sample(ids: Any, position: int = 0) -> Sample:
    """The ids after a token of context."""
    return {"id": position, "position": position, "tokens": np.array([END, *ids], dtype="<u2")}


def test_of_the_chosen_tokens_80_in_100_are_hidden_10_replaced_and_10_stay() -> None:
    task, ids = build(), np.full(100, 7)
    hidden = [task.hide(ids, position) for position in range(1000)]
    inputs = np.concatenate([inputs[targets != IGNORE] for inputs, targets in hidden])
    assert len(inputs) == 15 * 1000
    shares = [np.mean(inputs == MASK), np.mean((inputs != MASK) & (inputs != 7)), np.mean(inputs == 7)]
    # one of about 80 substitutes is the token itself; 0.01 is three standard errors of the largest share
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.01)
    assert all((inputs[targets == IGNORE] == 7).all() for inputs, targets in hidden)


def test_substitutes_are_all_tokens_but_special_ones() -> None:
    task, ids = build(), np.full(100, 7)
    put = np.unique(np.concatenate([task.hide(ids, position)[0] for position in range(2000)]))
    assert set(put) == {MASK, *range(5, task.vocabulary_size)}


def test_every_place_is_chosen_equally_often() -> None:
    task, ids = build(), np.full(20, 7)
    times = sum((task.hide(ids, position)[1] != IGNORE).astype(int) for position in range(4000))
    assert np.abs(times / 4000 - 0.15).max() < 4 * (0.15 * 0.85 / 4000) ** 0.5


@settings(max_examples=100, deadline=None)
@given(ids=st.lists(st.integers(0, 60), min_size=1, max_size=30), position=st.integers(0, 2**40))
def test_special_tokens_are_never_chosen_and_of_others_one_always_is(ids: list[int], position: int) -> None:
    inputs, targets = build().hide(np.array(ids), position)
    special, chosen = np.array(ids) < 5, targets != IGNORE
    assert not (special & chosen).any()
    assert chosen.sum() == (max(1, round(0.15 * (~special).sum())) if not special.all() else 0)
    assert (inputs[~chosen] == np.array(ids)[~chosen]).all()
    assert (targets[chosen] == np.array(ids)[chosen]).all()


@pytest.mark.parametrize(("kind", "size"), [("wordpiece", 90), ("bpe", 300), ("unigram", 60)])
def test_words_are_hidden_whole(kind: str, size: int) -> None:
    tokenizer, record = vocabulary(kind, size)
    task = build(about(record), tokenizer, whole_words=True, masked=0.3)
    encoding = tokenizer.encode(TEXT)
    ids, text = np.array([END, *encoding.ids, END]), TEXT
    words = [text[:end].count(" ") for _, end in encoding.offsets]  # a space belongs to the word after it
    for position in range(50):
        chosen = task.hide(ids, position)[1][1:-1] != IGNORE
        for word in set(words):
            letters = [
                flag
                for flag, place, (begin, end) in zip(chosen, words, encoding.offsets, strict=True)
                if place == word and any(each.isalnum() for each in text[begin:end])
            ]
            assert len(set(letters)) <= 1, (kind, position)
    assert len(set(words)) < len(ids) - 2, "no word had two tokens"


def test_a_token_after_a_special_one_begins_a_word() -> None:
    tokenizer, record = vocabulary()
    task = build(about(record), tokenizer, whole_words=True)
    inside = int(np.flatnonzero(~word_starts(tokenizer))[0])
    assert task._words(np.array([inside, inside, END, inside])).tolist() == [0, 0, -1, 1]


def test_words_fill_the_share_and_the_first_is_taken_whatever_its_length() -> None:
    words = np.array([0, 0, 0, 1, -1, 2, 2, 3])
    draw = np.array([0.9, 0.0, 0.0, 0.5, 0.0, 0.1, 0.0, 0.2])
    assert np.flatnonzero(choose(words, draw, 0.45)).tolist() == [5, 6, 7]
    assert np.flatnonzero(choose(words, draw, 0.15)).tolist() == [5, 6]
    assert np.flatnonzero(choose(words, draw, 0.6)).tolist() == [3, 5, 6, 7]
    assert not choose(np.array([-1, -1]), draw[:2], 0.5).any()


@pytest.mark.parametrize(
    ("kind", "size", "begin", "inside"),
    [("wordpiece", 90, "the", "##e"), ("bpe", 300, "Ġ", "e"), ("unigram", 60, "▁", "e"), ("word", 30, "night", None)],
)
def test_word_starts_follow_the_marks_of_the_vocabulary(kind: str, size: int, begin: str, inside: str | None) -> None:
    tokenizer, _ = vocabulary(kind, size)
    starts = word_starts(tokenizer)
    assert starts[tokenizer.token_to_id(begin)]
    assert inside is None or not starts[tokenizer.token_to_id(inside)]
    assert len(starts) == tokenizer.get_vocab_size()


def test_what_is_hidden_depends_on_the_position_alone() -> None:
    task = build()
    ids = np.arange(10, 30)
    first = task.collate([sample(ids, 5), sample(ids[:9], 6)])
    again = task.collate([sample(ids[:9], 6), sample(ids, 7), sample(ids, 5)])
    assert torch.equal(first.tensors["tokens"][0], again.tensors["tokens"][2])
    assert torch.equal(first.tensors["targets"][1], again.tensors["targets"][0])
    assert not torch.equal(again.tensors["targets"][1], again.tensors["targets"][2])


def test_draws_are_those_of_philox_whatever_the_version_of_numpy() -> None:
    assert draws(3, 2, 2).tolist() == [
        pytest.approx([0.07543949651161375, 0.8726434892440831], abs=1e-15),
        pytest.approx([0.9451622285857512, 0.6442713491808868], abs=1e-15),
    ]
    assert draws(3, 1, 2).tolist() != draws(4, 1, 2).tolist()


def test_the_token_of_context_is_left_out_and_short_samples_are_padded() -> None:
    task = build()
    batch = task.collate([sample([10, 11, 12, 13, END], 0), sample([14, END], 9)])
    tokens, targets, documents = (batch.tensors[name] for name in ("tokens", "targets", "documents"))
    restored = torch.where(targets == IGNORE, tokens, targets)
    assert restored.tolist() == [[10, 11, 12, 13, END], [14, END, 0, 0, 0]]
    assert documents.tolist() == [[0] * 5, [0, 0, PADDING, PADDING, PADDING]]
    assert (batch.count, batch.ids) == (int((targets != IGNORE).sum()), (0, 9))
    assert "documents" not in task.collate([sample([10, 11], 0), sample([12, 13], 1)]).tensors


def test_blocks_of_several_documents_say_which_document_each_token_is_of() -> None:
    task = build(about(vocabulary()[1], document_ids=True))
    batch = task.collate([sample([10, END, 11, 12, END, 13]), sample([END, 14])])
    assert batch.tensors["documents"].tolist() == [[0, 0, 1, 1, 1, 2], [0, 1, *[PADDING] * 4]]


def test_loss_and_sums_of_a_batch_are_those_of_its_samples_one_by_one() -> None:
    task = build()
    rng = np.random.default_rng(0)
    samples = [sample(rng.integers(5, 60, length), place) for place, length in enumerate((24, 3, 11, 24))]
    seed_all(0)
    nets = {name: network.eval() for name, network in task.networks().items()}
    with torch.inference_mode():
        whole = task.evaluate(nets, task.collate(samples))
        total, scalars = task.loss("model", nets, task.collate(samples))
        sums: dict[str, Any] = {}
        for each in samples:
            sums = add(sums, task.evaluate(nets, task.collate([each])))
    assert scalars == {}
    assert float(total) == pytest.approx(float(whole["nll"]), rel=1e-5)
    assert float(whole["tokens"]) == task.collate(samples).count
    for name, value in whole.items():
        assert float(sums[name]) == pytest.approx(float(value), rel=1e-5), name


class AlwaysSeven(nn.Module):
    """A network whose largest logit is that of token 7."""

    def forward(self, tokens: Tensor, targets: Tensor, documents: Tensor | None, *, scores: bool) -> Tensor:
        assert scores
        hidden, weight = torch.ones(targets.numel(), 1), (torch.arange(90) == 7).float()[:, None]
        found = linear_scores(hidden, weight, None, targets.clamp(min=0).flatten())
        return found.view(*targets.shape, 3) * (targets != IGNORE)[..., None]


def test_accuracy_is_the_share_of_hidden_tokens_that_the_model_finds() -> None:
    task = build(masked=0.5)
    batch = task.collate([sample([7] * 20), sample([8] * 6, 1)])
    sums = task.evaluate({"model": AlwaysSeven()}, batch)
    metrics = task.metrics({name: float(value) for name, value in sums.items()})
    assert (float(sums["correct"]), float(sums["tokens"])) == (10, 13)
    assert metrics["accuracy"] == pytest.approx(10 / 13)
    losses = math.log(89 + math.e) - 1, math.log(89 + math.e)
    assert metrics["loss"] == pytest.approx((10 * losses[0] + 3 * losses[1]) / 13)
    assert metrics["masked_perplexity"] == pytest.approx(math.exp(metrics["loss"]))


def test_a_vocabulary_without_a_mask_token_is_refused() -> None:
    record = vocabulary()[1].model_copy(update={"special": {"end": 0}})
    with pytest.raises(DataError, match=r"special tokens are: end; set data.tokenizer.special=masked"):
        build(about(record))
