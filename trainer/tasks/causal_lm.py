"""Causal language model: predict each token from those before it."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from configs.language import CausalLMConfig
from data.manifest import Manifest
from trainer.evaluation.calibration import confidence_sums
from trainer.evaluation.contract import cluster_sums
from trainer.models.cross_entropy import IGNORE
from trainer.models.heads import LanguageHead
from trainer.models.transformer import Transformer
from trainer.task import Batch, Networks, Sample, Scalars, Sums


class CausalLM:
    """Next-token cross-entropy over blocks or windows of token ids."""

    turns = ("model",)

    def __init__(self, config: CausalLMConfig, manifest: Manifest) -> None:
        self.config = config
        self.vocabulary_size = manifest.text.vocabulary_size
        self.context_tokens = manifest.block_tokens

    def networks(self) -> dict[str, nn.Module]:
        shape, vocabulary = self.config.model, self.vocabulary_size
        head = LanguageHead(shape, vocabulary_size=vocabulary)
        return {"model": Transformer(shape, vocabulary_size=vocabulary, context_tokens=self.context_tokens, head=head)}

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """tokens [B, T] and targets [B, T], the ids one place on; IGNORE past a sample's end.

        A sample's "tokens" are one of context and those to predict; "scored", when present, counts from the end how
        many of them are targets, the rest is context too. "documents", when present, says which document of its block
        each input is of: documents [B, T], -1 past a sample's end, keeps attention inside them.
        """
        rows = [np.asarray(sample["tokens"], dtype=np.int64) for sample in samples]
        length = max(len(row) for row in rows) - 1
        tokens = torch.zeros(len(rows), length, dtype=torch.int64)
        targets = torch.full((len(rows), length), IGNORE)
        documents = torch.full((len(rows), length), -1) if "documents" in samples[0] else None
        for row, ids, sample in zip(range(len(rows)), rows, samples, strict=True):
            scored = sample.get("scored", len(ids) - 1)
            tokens[row, : len(ids) - 1] = torch.from_numpy(ids[:-1])
            targets[row, len(ids) - 1 - scored : len(ids) - 1] = torch.from_numpy(ids[len(ids) - scored :])
            if documents is not None:
                documents[row, : len(ids) - 1] = torch.from_numpy(np.asarray(sample["documents"], dtype=np.int64))
        tensors = {"tokens": tokens, "targets": targets} | ({} if documents is None else {"documents": documents})
        return Batch(tensors, int((targets != IGNORE).sum()), tuple(sample["id"] for sample in samples))

    def loss(self, turn: str, nets: Networks, batch: Batch) -> tuple[Tensor, Scalars]:
        return _nll(nets[turn], batch).sum(), {}

    def evaluate(self, nets: Networks, batch: Batch) -> Sums:
        """Sums of the negative log-likelihood in nats, with what its standard error over samples needs."""
        per_sample = _nll(nets["model"], batch).sum(1, dtype=torch.float64)  # [B]
        return cluster_sums(per_sample, (batch.tensors["targets"] != IGNORE).sum(1).double())

    def score(self, nets: Networks, batch: Batch) -> tuple[Tensor, Sums]:
        """The negative log-likelihood of each sample's targets in nats [B] float64, and how calibrated the model is.

        The output layer computes logits of the targets alone.
        """
        tensors = batch.tensors
        targets, documents = tensors["targets"], tensors.get("documents")
        found: Tensor = nets["model"](tensors["tokens"], targets, documents, scores=True)  # [B, T, 3]
        likeliest = found[targets != IGNORE]  # [N, 3]
        return found[..., 0].sum(1, dtype=torch.float64), confidence_sums(likeliest[:, 1].exp(), likeliest[:, 2])

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        loss = sums["nll"] / sums["tokens"]
        return {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}


def _nll(model: Callable[..., Any], batch: Batch) -> Tensor:
    """Each token's negative log-likelihood [B, T], 0 where nothing is to be predicted."""
    tensors = batch.tensors
    nll: Tensor = model(tensors["tokens"], tensors["targets"], tensors.get("documents"))
    return nll
