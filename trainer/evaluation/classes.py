"""How well classes are told apart, whatever is classified: additive sums of a batch, and metrics from them."""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from configs.metrics import Metric
from trainer.task import Sums

TOP = 5
"""Guesses that top-5 accuracy allows; it is taken where there are more classes"""


def class_sums(logits: Tensor, labels: Tensor) -> Sums:
    """Of logits [B, classes] float32 for labels [B]: the negative log-likelihood in nats and its square, samples and
    those found, by class too, and those among the five likeliest classes."""
    classes = logits.shape[1]
    nll = F.cross_entropy(logits, labels, reduction="none").double()  # [B]
    hits = logits.argmax(1) == labels
    sums = {"nll": nll.sum(), "nll_nll": (nll * nll).sum()}
    for name, chosen in (("samples", labels), ("correct", labels[hits])):
        by_class = torch.bincount(chosen, minlength=classes).double()
        sums |= {name: by_class.sum()} | {f"{name}/{index}": count for index, count in enumerate(by_class.unbind())}
    if classes > TOP:
        sums["top5"] = (logits.topk(TOP).indices == labels[:, None]).any(1).double().sum()
    return sums


def class_figures(sums: Mapping[str, float]) -> dict[str, float]:
    """loss, accuracy and, with more than five classes, top5_accuracy."""
    size = sums["samples"]
    figures = {"loss": sums["nll"] / size, "accuracy": sums["correct"] / size}
    return figures | ({"top5_accuracy": sums["top5"] / size} if "top5" in sums else {})


def classification_metrics(
    prefix: str, sums: Mapping[str, float], classes: int, protocol: str, *, each: str
) -> list[Metric]:
    """accuracy, balanced accuracy (Brodersen et al., 2010), top-5 accuracy where there are more classes, and loss.

    `each` is what one sample is: image, document. Standard errors are those of independent samples. Classes without a
    sample in the split have no share in the balanced accuracy.
    """
    size = round(sums["samples"])

    def metric(name: str, value: float, variance: float | None, unit: str) -> Metric:
        stderr = None if variance is None else math.sqrt(variance)
        better = "higher" if unit == "share" else "lower"
        return Metric(f"{prefix}/{name}", value, stderr, size, unit, better, protocol)

    def share(name: str, found: float) -> Metric:
        return metric(name, found / size, share_variance(found, size), "share")

    loss = sums["nll"] / size
    loss_variance = max(0.0, sums["nll_nll"] / size - loss**2) / (size - 1) if size > 1 else None
    return [
        share("accuracy", sums["correct"]),
        metric("balanced_accuracy", *balanced_accuracy(sums, classes), "share"),
        *([share("top5_accuracy", sums["top5"])] if "top5" in sums else []),
        metric("loss", loss, loss_variance, f"nats/{each}"),
    ]


def balanced_accuracy(sums: Mapping[str, float], classes: int) -> tuple[float, float | None]:
    """The mean over classes of the share that is found, and its variance; None where a class has a single sample."""
    counts = [(sums[f"correct/{index}"], sums[f"samples/{index}"]) for index in range(classes)]
    seen = [(correct, samples) for correct, samples in counts if samples]
    variances = [share_variance(*each) for each in seen]
    known = [variance for variance in variances if variance is not None]
    value = sum(correct / samples for correct, samples in seen) / len(seen)
    return value, sum(known) / len(seen) ** 2 if len(known) == len(seen) else None


def share_variance(correct: float, samples: float) -> float | None:
    """Estimated variance of the share correct / samples; None for a single sample."""
    share = correct / samples
    return share * (1 - share) / (samples - 1) if samples > 1 else None


def majority_sums(sums: Mapping[str, float], training: Sequence[int]) -> dict[str, float]:
    """`class_sums` of a model that knows nothing but the number of training samples of each class.

    Every class is counted once more than it was seen (Laplace), so that an unseen one has a probability.
    """
    total = sum(training) + len(training)
    nll = [-math.log((count + 1) / total) for count in training]
    samples = [sums[f"samples/{index}"] for index in range(len(training))]
    likeliest = sorted(range(len(training)), key=lambda index: -training[index])
    top = {"top5": sum(samples[index] for index in likeliest[:TOP])} if len(training) > TOP else {}
    return {
        "nll": math.fsum(n * x for n, x in zip(samples, nll, strict=True)),
        "nll_nll": math.fsum(n * x * x for n, x in zip(samples, nll, strict=True)),
        "samples": sums["samples"],
        "correct": samples[likeliest[0]],
        **{f"samples/{index}": n for index, n in enumerate(samples)},
        **{f"correct/{index}": n if index == likeliest[0] else 0.0 for index, n in enumerate(samples)},
        **top,
    }
