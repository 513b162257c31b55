"""Sequence classification: predict the class of each text."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn

from configs.errors import DataError
from configs.language import SequenceClassificationConfig
from data.manifest import Manifest
from trainer.evaluation.classes import class_figures, class_sums
from trainer.models.attention import PADDING
from trainer.models.heads import ClassHead
from trainer.models.transformer import Transformer
from trainer.task import Batch, Networks, Sample, Scalars, Sums
from trainer.tasks.labels import label_of, label_weights
from trainer.tasks.padding import padded

Ids = NDArray[np.int64]


class SequenceClassification:
    """Cross-entropy over the classes that the data names.

    With a config.prompt the tokenizer must be given before anything is collated. Raises DataError when the data names
    fewer than two classes, or the prompt leaves no room for the text.
    """

    turns = ("model",)

    def __init__(
        self, config: SequenceClassificationConfig, manifest: Manifest, tokenizer: Tokenizer | None = None
    ) -> None:
        if len(manifest.classes) < 2:
            got = ", ".join(manifest.classes) or "none"
            raise DataError(
                f"task.kind=sequence_classification needs texts of at least 2 classes, the data has {got}; name the "
                "column of the class with data.source.label_field, set data.packing=document and prepare again"
            )
        self.config, self.classes = config, len(manifest.classes)
        self.vocabulary_size, self.context_tokens = manifest.text.vocabulary_size, manifest.block_tokens
        self.pad = manifest.text.special.get("pad", 0)
        self.prompt = self._encode(tokenizer) if tokenizer else None
        self.weights = label_weights(config.class_weights, manifest)

    def _encode(self, tokenizer: Tokenizer) -> Ids:
        """The ids of the prompt."""
        ids = np.array(tokenizer.encode(self.config.prompt, add_special_tokens=False).ids, dtype=np.int64)
        if (room := self.context_tokens - 1 - len(ids)) < 1:
            raise DataError(
                f"task.prompt has {len(ids)} tokens, which with the first token leave {room} of "
                f"data.block_tokens={self.context_tokens} for the text; shorten it, or prepare longer blocks"
            )
        return ids

    def networks(self) -> dict[str, nn.Module]:
        shape, config = self.config.model, self.config
        head = ClassHead(
            shape.width, classes=self.classes, pooling=config.pooling, dropout=config.dropout, pooler=shape.pooler
        )
        return {
            "model": Transformer(
                shape, vocabulary_size=self.vocabulary_size, context_tokens=self.context_tokens, head=head
            )
        }

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """tokens [B, T] and labels [B] int64, the labels' weights [B].

        documents [B, T], PADDING past a sample's end and else 0, is there where lengths differ. A sample's first token,
        which the data put there for its class, stays first; then come the prompt and the text, of which the end is cut
        where all do not fit. Raises DamageError for a label that is no class.
        """
        rows = [self.read(sample) for sample in samples]
        labels = torch.tensor([label_of(sample, self.classes) for sample in samples])
        tensors = {"tokens": padded(rows, self.pad), "labels": labels, "weights": self.weights[labels]}
        if len({len(row) for row in rows}) > 1:
            tensors["documents"] = padded([np.zeros(len(row)) for row in rows], PADDING)
        return Batch(tensors, len(samples), tuple(sample["id"] for sample in samples))

    def read(self, sample: Sample) -> Ids:
        """What the model sees of a sample, [T] with T <= context_tokens."""
        ids = np.asarray(sample["tokens"], dtype=np.int64)
        if self.config.prompt:
            assert self.prompt is not None, "what collates with a prompt is built with the tokenizer"
            ids = np.concatenate([ids[:1], self.prompt, ids[1:]])
        return ids[: self.context_tokens]

    def loss(self, turn: str, nets: Networks, batch: Batch) -> tuple[Tensor, Scalars]:
        logits, labels = self.logits(nets[turn], batch), batch.tensors["labels"]
        smoothing = self.config.label_smoothing
        entropies = F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
        return (batch.tensors["weights"] * entropies).sum(), {"accuracy": (logits.argmax(1) == labels).sum()}

    def logits(self, model: Callable[..., Any], batch: Batch) -> Tensor:
        """[B, classes] float32."""
        logits: Tensor = model(batch.tensors["tokens"], documents=batch.tensors.get("documents"))
        return logits.float()

    def evaluate(self, nets: Networks, batch: Batch) -> Sums:
        """Sums of the negative log-likelihood in nats and of its square, texts and those found, by class too."""
        return class_sums(self.logits(nets["model"], batch), batch.tensors["labels"])

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        return class_figures(sums)
