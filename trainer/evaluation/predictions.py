"""What a classifier says of every sample of a split: gathered over ranks in the order of the samples."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.loader import sequential
from trainer.distributed import World
from trainer.evaluation.view import View
from trainer.task import Batch

Ids = NDArray[np.int64]
Numbers = NDArray[np.float64]
MOST_SCORES = 50_000_000
"""Samples x classes whose scores are kept, of 4 bytes each"""


@dataclass(frozen=True)
class Predictions:
    """Of N samples, by rising id."""

    ids: Ids
    labels: Ids
    predicted: Ids
    """The class of the largest logit, of equal ones the first"""
    nll: Numbers
    """Negative log-likelihood of the label, in nats"""
    confidence: Numbers
    """Probability of the predicted class"""
    placed: Ids
    """Classes before the label as logits fall, equal ones as they are numbered: 0 where the label is predicted"""
    scores: NDArray[np.float32] | None
    """[N, classes], log-probabilities: unlike probabilities, they tell sure predictions apart in 4 bytes. None where
    they would be more than MOST_SCORES"""

    @property
    def correct(self) -> NDArray[np.bool_]:
        return self.predicted == self.labels

    @property
    def broken(self) -> int:
        """Samples whose scores are not numbers."""
        return int(np.isnan(self.confidence).sum())


@torch.no_grad()
def predict(
    logits: Callable[[Batch], Tensor], batches: Iterable[Batch], world: World, *, samples: int, classes: int
) -> Predictions | None:
    """What `logits`, [B, classes] of a batch, say of each sample of this rank's batches and of other ranks'.

    Batches have `labels`; samples is how many there are on all ranks. Returns None on all ranks but the first.
    """
    kept = samples * classes <= MOST_SCORES
    facts, scores = [np.zeros((0, 6))], [np.zeros((0, classes if kept else 0), np.float32)]
    for batch in batches:
        labels = batch.tensors["labels"].numpy()
        rows, shares = describe(logits(batch.to(world.device)).double().cpu().numpy(), labels)
        facts.append(np.column_stack([np.array(batch.ids, np.float64), rows]))
        scores.append(shares.astype(np.float32)[:, : classes if kept else 0])
    every = world.collect(torch.from_numpy(np.concatenate(facts))).numpy()
    shares = world.collect(torch.from_numpy(np.concatenate(scores))).numpy()
    if world.rank:
        return None
    order = np.argsort(every[:, 0])
    return from_facts(every[order], shares[order] if kept else None)


def predict_some(view: View, logits: Callable[[Batch], Tensor]) -> Predictions:
    """The same of a few samples, evenly spaced in the split, in the middle of a training."""
    number = min(view.settings.number, len(view.reader))
    batches = sequential(view.reader, view.task.collate, size=max(1, number), limit=number or None, part=0, parts=1)
    found = predict(logits, batches, view.world, samples=number, classes=len(view.manifest.classes))
    assert found is not None, "this rank is the first of one"
    return found


def from_facts(facts: Numbers, scores: NDArray[np.float32] | None) -> Predictions:
    """facts [N, 6]: id, label and the columns of `describe`."""
    ids, labels, predicted, placed = facts[:, [0, 1, 2, 5]].astype(np.int64).T
    return Predictions(ids, labels, predicted, facts[:, 3], facts[:, 4], placed, scores)


def describe(logits: Numbers, labels: Ids) -> tuple[Numbers, Numbers]:
    """Of logits [B, classes] for labels [B]: label, predicted class, nll, confidence and place, [B, 5]; and the
    log-probabilities [B, classes]. Where a logit is NaN or infinitely large, the sample's numbers are NaN."""
    with np.errstate(invalid="ignore", divide="ignore"):
        shifted = logits - logits.max(1, keepdims=True)
        shares = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    rows = np.arange(len(labels))
    predicted = logits.argmax(1)
    columns = (labels, predicted, -shares[rows, labels], np.exp(shares[rows, predicted]), places(logits, labels))
    return np.column_stack(columns).astype(np.float64), shares


def places(scores: NDArray[Any], labels: Ids) -> Ids:
    """Classes that come before the label as scores [N, classes] fall, equal ones as they are numbered, [N]."""
    own = np.take_along_axis(scores, labels[:, None], 1)
    before = (scores > own) | ((scores == own) & (np.arange(scores.shape[1]) < labels[:, None]))
    return before.sum(1)


def majority(predictions: Predictions, training: Sequence[int]) -> Predictions:
    """What a model says of the same samples that knows nothing but the number of training samples of each class.

    Every class is counted once more than it was seen (Laplace), so that an unseen one has a probability.
    """
    logits = np.log(np.array(training, np.float64) + 1)[None]  # [1, classes]
    facts, shares = describe(np.repeat(logits, len(training), 0), np.arange(len(training)))  # of each label
    labels = predictions.labels
    scores = np.broadcast_to(shares[0].astype(np.float32), (len(labels), len(training)))
    every = np.column_stack([predictions.ids.astype(np.float64), facts[labels]])
    return from_facts(every, None if predictions.scores is None else scores)


def worst_mistakes(predictions: Predictions, number: int) -> list[int]:
    """Places of the wrongly classified samples whose label the model found least likely, the worst first."""
    wrong = np.flatnonzero(~predictions.correct & ~np.isnan(predictions.nll))
    return wrong[np.argsort(-predictions.nll[wrong], kind="stable")][:number].tolist()


def mistake(predictions: Predictions, place: int, classes: Sequence[str]) -> dict[str, str]:
    """What the report says of one wrongly classified sample."""
    return {
        "label": classes[int(predictions.labels[place])],
        "taken for": classes[int(predictions.predicted[place])],
        "probability of the label": f"{np.exp(-predictions.nll[place]):.2g}",
    }
