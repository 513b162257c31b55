"""Masked language model: predict hidden tokens from those around them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn

from configs.errors import DataError
from configs.language import MaskedLMConfig
from data.manifest import Manifest
from data.packing import document_ids
from data.vocabulary import word_starts
from trainer.evaluation.contract import cluster_sums
from trainer.models.attention import PADDING
from trainer.models.cross_entropy import IGNORE
from trainer.models.heads import LanguageHead
from trainer.models.transformer import Transformer
from trainer.task import Batch, Networks, Sample, Scalars, Sums
from trainer.tasks.padding import padded

Ids = NDArray[np.int64]
Flags = NDArray[np.bool_]
HIDDEN, REPLACED = 0.8, 0.1
"""Of the chosen tokens: shares that become the mask token, and a random one (Devlin et al., 2019, 3.1)"""
_STREAM = int.from_bytes(b"maskedlm", "big")
"""Keeps these draws apart from others that start from the same positions"""


class MaskedLM:
    """Cross-entropy of hidden tokens (Devlin et al., 2019). Raises DataError where the vocabulary has no mask token.

    With config.whole_words the tokenizer, which knows where words begin, must be given before anything is collated.
    """

    turns = ("model",)

    def __init__(self, config: MaskedLMConfig, manifest: Manifest, tokenizer: Tokenizer | None = None) -> None:
        text = manifest.text
        if "mask" not in text.special:
            got = ", ".join(sorted(text.special)) or "none"
            raise DataError(
                f"task.kind=masked_lm needs a mask token, the vocabulary's special tokens are: {got}; set "
                "data.tokenizer.special=masked, or choose a tokenizer file with [MASK] or <mask>, and prepare again"
            )
        self.config, self.vocabulary_size, self.context_tokens = config, text.vocabulary_size, manifest.block_tokens
        self.mask, self.pad = text.special["mask"], text.special.get("pad", 0)
        self.end = text.end_of_document_id if manifest.document_ids else None
        self.ordinary: Flags = np.ones(self.vocabulary_size, dtype=np.bool_)
        self.ordinary[list(text.special.values())] = False
        self.substitutes = np.flatnonzero(self.ordinary)
        self.word_starts = word_starts(tokenizer) if config.whole_words and tokenizer else None

    def networks(self) -> dict[str, nn.Module]:
        shape, vocabulary = self.config.model, self.vocabulary_size
        head = LanguageHead(shape, vocabulary_size=vocabulary)
        return {"model": Transformer(shape, vocabulary_size=vocabulary, context_tokens=self.context_tokens, head=head)}

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """tokens [B, T] with some hidden, and targets [B, T], IGNORE where nothing is to be predicted.

        What is hidden depends on a sample's ids and its position alone. A sample's first token is context for models
        that read one way, and left out. documents [B, T] is there when attention has to stay inside documents or away
        from padding: the document of each token, PADDING past a sample's end.
        """
        rows = [_row(sample) for sample in samples]
        hidden = [self.hide(row[1:], sample["position"]) for row, sample in zip(rows, samples, strict=True)]
        return self._batch(samples, rows, hidden)

    def collate_alone(self, samples: Sequence[Sample], places: Ids) -> Batch:
        """The same of samples each of whose tokens one is hidden: that at its place, after the first token."""
        rows, hidden = [_row(sample) for sample in samples], []
        for row, place in zip(rows, places.tolist(), strict=True):
            inputs, targets = row[1:].copy(), np.full(len(row) - 1, IGNORE)
            inputs[place], targets[place] = self.mask, inputs[place]
            hidden.append((inputs, targets))
        return self._batch(samples, rows, hidden)

    def _batch(self, samples: Sequence[Sample], rows: Sequence[Ids], hidden: Sequence[tuple[Ids, Ids]]) -> Batch:
        """From each sample's ids, and its inputs and targets."""
        tokens = padded([inputs for inputs, _ in hidden], self.pad)
        targets = padded([wanted for _, wanted in hidden], IGNORE)
        tensors = {"tokens": tokens, "targets": targets}
        if self.end is not None or len({len(row) for row in rows}) > 1:
            # of an input of a one-way model the document is that of the token it predicts
            owners = [np.zeros(len(row) - 1) if self.end is None else document_ids(row, self.end) for row in rows]
            tensors["documents"] = padded(owners, PADDING)
        return Batch(tensors, int((targets != IGNORE).sum()), tuple(sample["id"] for sample in samples))

    def hide(self, ids: Ids, position: int) -> tuple[Ids, Ids]:
        """The ids [T] with some hidden, and the targets [T], IGNORE elsewhere.

        Special tokens are never chosen; of others at least one is.
        """
        choice, fate, other = draws(position, 3, len(ids))
        chosen = choose(self._words(ids), choice, self.config.masked)
        inputs, targets = ids.copy(), np.where(chosen, ids, IGNORE)
        inputs[chosen & (fate < HIDDEN)] = self.mask
        replaced = chosen & (fate >= HIDDEN) & (fate < HIDDEN + REPLACED)
        inputs[replaced] = self.substitutes[(other[replaced] * len(self.substitutes)).astype(np.int64)]
        return inputs, targets

    def _words(self, ids: Ids) -> Ids:
        """The word of each token, numbered from 0; a token is a word where they are hidden alone, a special one -1."""
        ordinary = self.ordinary[ids]
        begins = ordinary.copy()
        if self.config.whole_words:
            assert self.word_starts is not None, "what collates whole words is built with the tokenizer"
            follows = np.append(False, ordinary[:-1])
            begins &= self.word_starts[ids] | ~follows
        return np.where(ordinary, np.cumsum(begins) - 1, -1)

    def loss(self, turn: str, nets: Networks, batch: Batch) -> tuple[Tensor, Scalars]:
        tensors = batch.tensors
        nll: Tensor = nets[turn](tensors["tokens"], tensors["targets"], tensors.get("documents"))  # [B, T]
        return nll.sum(), {}

    def evaluate(self, nets: Networks, batch: Batch) -> Sums:
        """Sums over hidden tokens of the negative log-likelihood in nats and of those found, with what errors need."""
        found = self.score(nets, batch)
        tokens = (batch.tensors["targets"] != IGNORE).sum(1).double()  # [B]
        return masked_sums(found[..., 0].sum(1), found[..., 2].sum(1), tokens)

    def score(self, nets: Networks, batch: Batch) -> Tensor:
        """What the head says of each hidden token, [B, T, 3] float64, 0 elsewhere; see `LanguageHead`."""
        tensors = batch.tensors
        found: Tensor = nets["model"](tensors["tokens"], tensors["targets"], tensors.get("documents"), scores=True)
        return found.double()

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        loss = sums["nll"] / sums["tokens"]
        accuracy = sums["correct"] / sums["tokens"]
        return {"loss": loss, "accuracy": accuracy, "masked_perplexity": math.exp(min(loss, 700.0))}


def _row(sample: Sample) -> Ids:
    return np.asarray(sample["tokens"], dtype=np.int64)


def draws(position: int, kinds: int, count: int) -> NDArray[np.float64]:
    """Numbers in [0, 1), [kinds, count], from Philox's raw stream, which no version of numpy may change."""
    raw = np.random.Philox(key=_STREAM << 64 | position).random_raw(kinds * count)
    return (raw >> 11).reshape(kinds, count) / 2.0**53


def choose(words: Ids, choice: NDArray[np.float64], share: float) -> Flags:
    """Which tokens [T] are to be predicted: whole words in the order of their draws, up to `share` of the tokens.

    words [T] numbers each token's word from 0 on without a gap, -1 stands for tokens that are never chosen. The first
    word is taken whatever its length.
    """
    counted = words >= 0
    sizes = np.bincount(words[counted])
    if not len(sizes):
        return counted
    firsts = np.searchsorted(np.maximum.accumulate(words), np.arange(len(sizes)))
    order = np.argsort(choice[firsts], kind="stable")
    wanted = max(1, round(share * int(sizes.sum())))
    taken = np.zeros(len(sizes) + 1, dtype=np.bool_)  # the last is that of -1
    taken[order[np.cumsum(sizes[order]) <= wanted]] = True
    taken[order[0]] = True
    return taken[words]


def hidden_logits(model: Any, batch: Batch) -> Tensor:
    """Logits of the tokens to predict alone, [hidden, V] float32: those of all would fill the memory."""
    tensors = batch.tensors
    features = model.features(tensors["tokens"], tensors.get("documents"))  # [B, T, D]
    return model.head(features[tensors["targets"] != IGNORE][None])[0].float()


def masked_sums(nll: Tensor, correct: Tensor, tokens: Tensor) -> Sums:
    """Additive statistics of samples: nll, hidden tokens found, hidden tokens, each [N] float64."""
    found = {name.replace("nll", "correct"): value for name, value in cluster_sums(correct, tokens).items()}
    return found | cluster_sums(nll, tokens)
