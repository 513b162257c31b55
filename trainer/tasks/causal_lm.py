"""Causal language model: predict each token from those before it."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.schema import CausalLMConfig
from data.manifest import Manifest
from trainer.evaluation.contract import cluster_sums
from trainer.models.decoder import Decoder
from trainer.task import Batch, Networks, Sample, Scalars, Sums

IGNORE = -100


class CausalLM:
    """Next-token cross-entropy over blocks or windows of token ids."""

    turns = ("model",)

    def __init__(self, config: CausalLMConfig, manifest: Manifest) -> None:
        self.config = config
        self.vocabulary_size = manifest.text.vocabulary_size
        self.context_tokens = manifest.block_tokens

    def networks(self) -> dict[str, nn.Module]:
        model = self.config.model
        return {"model": Decoder(model, vocabulary_size=self.vocabulary_size, context_tokens=self.context_tokens)}

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """tokens [B, T] and targets [B, T], the ids one place on; IGNORE past a sample's end.

        A sample's "tokens" are one of context and those to predict; "scored", when present, counts from the end how
        many of them are targets, the rest is context too.
        """
        rows = [np.asarray(sample["tokens"], dtype=np.int64) for sample in samples]
        length = max(len(row) for row in rows) - 1
        tokens = torch.zeros(len(rows), length, dtype=torch.int64)
        targets = torch.full((len(rows), length), IGNORE)
        for row, ids, sample in zip(range(len(rows)), rows, samples, strict=True):
            scored = sample.get("scored", len(ids) - 1)
            tokens[row, : len(ids) - 1] = torch.from_numpy(ids[:-1])
            targets[row, len(ids) - 1 - scored : len(ids) - 1] = torch.from_numpy(ids[len(ids) - scored :])
        count = int((targets != IGNORE).sum())
        return Batch({"tokens": tokens, "targets": targets}, count, tuple(sample["id"] for sample in samples))

    def loss(self, turn: str, nets: Networks, batch: Batch) -> tuple[Tensor, Scalars]:
        logits = nets[turn](batch.tensors["tokens"]).float()  # [B, T, V]
        targets = batch.tensors["targets"]
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum"), {}

    def evaluate(self, nets: Networks, batch: Batch) -> Sums:
        """Sums of the negative log-likelihood in nats, with what its standard error over samples needs."""
        logits = nets["model"](batch.tensors["tokens"]).float()  # [B, T, V]
        targets = batch.tensors["targets"]
        nll = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="none")
        per_sample = nll.view(targets.shape).sum(1, dtype=torch.float64)  # [B]
        return cluster_sums(per_sample, (targets != IGNORE).sum(1).double())

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        loss = sums["nll"] / sums["tokens"]
        return {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}
