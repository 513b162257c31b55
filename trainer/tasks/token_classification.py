"""Token classification: predict the tag of each token of a text."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from configs.errors import DamageError, DataError
from configs.language import TokenClassificationConfig
from data.manifest import Manifest
from trainer.evaluation.contract import cluster_sums
from trainer.models.attention import PADDING
from trainer.models.cross_entropy import IGNORE
from trainer.models.heads import TokenHead
from trainer.models.transformer import Transformer
from trainer.task import Batch, Networks, Sample, Scalars, Sums
from trainer.tasks.labels import label_weights
from trainer.tasks.padding import padded


class TokenClassification:
    """Cross-entropy over the tags that the data names. Raises DataError when it has none."""

    turns = ("model",)

    def __init__(self, config: TokenClassificationConfig, manifest: Manifest) -> None:
        if len(manifest.tags) < 2:
            raise DataError(
                "task.kind=token_classification needs tagged text, and the data has no tag; name the column of the "
                "tags with data.source.tags_field and prepare again"
            )
        self.config, self.tags = config, manifest.tags
        self.vocabulary_size, self.context_tokens = manifest.text.vocabulary_size, manifest.block_tokens
        self.pad = manifest.text.special.get("pad", 0)
        self.weights = label_weights(config.class_weights, manifest, tags=True)
        self.kinds, self.openings = span_kinds(self.tags)

    def networks(self) -> dict[str, nn.Module]:
        model = self.config.model
        head = TokenHead(model.width, classes=len(self.tags), dropout=self.config.dropout)
        sizes = {"vocabulary_size": self.vocabulary_size, "context_tokens": self.context_tokens}
        return {"model": Transformer(model, **sizes, head=head)}

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """tokens [B, T] without the one of context, and their tags [B, T], IGNORE where none is asked for.

        documents [B, T] is there when lengths differ: PADDING past a sample's end. Raises DamageError for a number that
        is no tag.
        """
        rows = [np.asarray(sample["tokens"][1:], np.int64) for sample in samples]
        tensors = {"tokens": padded(rows, self.pad), "tags": padded([self._tags(each) for each in samples], IGNORE)}
        if len({len(row) for row in rows}) > 1:
            tensors["documents"] = padded([np.zeros(len(row)) for row in rows], PADDING)
        return Batch(tensors, int((tensors["tags"] != IGNORE).sum()), tuple(sample["id"] for sample in samples))

    def _tags(self, sample: Sample) -> NDArray[np.int64]:
        tags = np.asarray(sample["tags"][1:], np.int64)
        if tags.max() < len(self.tags):
            return tags
        raise DamageError(
            f"sample {sample['id']} has tag {tags.max()}, the data has {len(self.tags)}, numbered from 0; "
            "prepare it again"
        )

    def loss(self, turn: str, nets: Networks, batch: Batch) -> tuple[Tensor, Scalars]:
        logits = tag_logits(nets[turn], batch)
        tags = batch.tensors["tags"]
        weights = self.weights.to(logits.device)
        nll = F.cross_entropy(logits.flatten(0, 1), tags.flatten(), weights, ignore_index=IGNORE, reduction="sum")
        return nll, {"accuracy": (logits.argmax(2) == tags).sum()}

    def evaluate(self, nets: Networks, batch: Batch) -> Sums:
        """Sums over samples of the negative log-likelihood, of tags found, and of spans found."""
        logits = tag_logits(nets["model"], batch)
        tags = batch.tensors["tags"]
        nll = F.cross_entropy(logits.flatten(0, 1), tags.flatten(), ignore_index=IGNORE, reduction="none")
        return self.sums(nll.view(tags.shape).sum(1, dtype=torch.float64), logits.argmax(2), tags)

    def sums(self, nll: Tensor, predicted: Tensor, tags: Tensor) -> Sums:
        """Sums over samples from each one's negative log-likelihood [B], predicted tags [B, T] and true ones [B, T]."""
        asked = tags != IGNORE
        size = asked.sum(1).double()
        right = (asked & (predicted == tags)).sum(1).double()
        sums = cluster_sums(nll, size)
        sums |= {f"correct/{name}": value for name, value in cluster_sums(right, size).items()}
        true, guessed, found = ((kind > 0).sum(1).double() for kind in self.begun_spans(predicted, tags))
        return sums | {f"f1/{name}": value for name, value in cluster_sums(2 * found, true + guessed).items()}

    def begun_spans(self, predicted: Tensor, tags: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where spans begin their kind, elsewhere 0, each [B, T]: true, predicted, and those that are both."""
        asked = tags != IGNORE
        truth = spans(torch.where(asked, tags, 0), self.kinds, self.openings)
        guess = spans(torch.where(asked, predicted, 0), self.kinds, self.openings)
        return truth[0], guess[0], torch.where((truth == guess).all(0), truth[0], 0)

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        spans_in_all = sums["f1/tokens"]
        return {
            "loss": sums["nll"] / sums["tokens"],
            "accuracy": sums["correct/nll"] / sums["tokens"],
            "f1": sums["f1/nll"] / spans_in_all if spans_in_all else 0.0,
        }


def tag_logits(model: Callable[..., Tensor], batch: Batch) -> Tensor:
    """Scores of every tag for every token, [B, T, tags] float32."""
    return model(batch.tensors["tokens"], documents=batch.tensors.get("documents")).float()


def span_kinds(tags: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Each tag's kind of span, 0 for none, and whether it opens one: B-x and I-x are of kind x, as plain x is."""
    plain = [name[2:] if name[:2] in ("B-", "I-") else name for name in tags]
    names = list(dict.fromkeys(plain))  # the first tag is that of what has none
    return torch.tensor([names.index(name) for name in plain]), torch.tensor([name[:2] == "B-" for name in tags])


def kind_names(tags: Sequence[str]) -> list[str]:
    """Names of the kinds of spans, in the order of `span_kinds`, without that of none."""
    return list(dict.fromkeys(name[2:] if name[:2] in ("B-", "I-") else name for name in tags))[1:]


def spans(tags: Tensor, kinds: Tensor, openings: Tensor) -> Tensor:
    """tags [B, T] to [2, B, T]: where a span begins its kind and its end, elsewhere 0 and 0.

    A span is as many tokens on end of one kind as there are; one that opens a span ends the one before it.
    """
    kind, opens = kinds.to(tags.device)[tags], openings.to(tags.device)[tags]  # [B, T]
    before = F.pad(kind, (1, 0))[:, :-1]
    breaks = (kind != before) | opens
    places = torch.arange(tags.shape[1], device=tags.device).expand_as(tags)
    following = torch.where(breaks, places, tags.shape[1])  # a break's own place, else past the end
    next_break = F.pad(following, (0, 1), value=tags.shape[1])[:, 1:].flip(1).cummin(1).values.flip(1)
    begins = breaks & (kind > 0)
    return torch.stack([torch.where(begins, kind, 0), torch.where(begins, next_break, 0)])
