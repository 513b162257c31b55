"""How well classes are told apart while a model trains: additive sums of a batch, and metrics from them."""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.evaluation.confusion import Counts, accuracy, f1, macro, recall
from trainer.task import Sums

TOP = 5
"""Guesses that top-5 accuracy allows; it is taken where there are more classes"""


def class_sums(logits: Tensor, labels: Tensor) -> Sums:
    """Of logits [B, classes] float32 for labels [B]: the negative log-likelihood in nats; by class the samples, those
    predicted and those found; those among the five likeliest classes."""
    classes = logits.shape[1]
    predicted = logits.argmax(1)
    sums = {"nll": F.cross_entropy(logits, labels, reduction="sum").double()}
    for name, chosen in (("samples", labels), ("predicted", predicted), ("correct", labels[predicted == labels])):
        by_class = torch.bincount(chosen, minlength=classes).double()
        sums |= {f"{name}/{index}": count for index, count in enumerate(by_class.unbind())}
    if classes > TOP:
        sums["top5"] = (logits.topk(TOP).indices == labels[:, None]).any(1).double().sum()
    return sums


def class_figures(sums: Mapping[str, float]) -> dict[str, float]:
    """loss, accuracy, balanced_accuracy, f1_macro and, with more than five classes, top5_accuracy."""
    counts = Counts(*(_by_class(sums, name) for name in ("samples", "predicted", "correct")))
    size = float(counts.true.sum())
    figures = {
        "loss": sums["nll"] / size,
        "accuracy": float(accuracy(counts)),
        "balanced_accuracy": float(macro(recall(counts), counts)),
        "f1_macro": float(macro(f1(counts), counts)),
    }
    return figures | ({"top5_accuracy": sums["top5"] / size} if "top5" in sums else {})


def _by_class(sums: Mapping[str, float], name: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    number = sum(key.startswith(f"{name}/") for key in sums)
    return np.array([sums[f"{name}/{index}"] for index in range(number)])


def share_variance(correct: float, samples: float) -> float | None:
    """Estimated variance of the share correct / samples; None for a single sample."""
    share = correct / samples
    return share * (1 - share) / (samples - 1) if samples > 1 else None
