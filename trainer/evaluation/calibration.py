"""Whether probabilities are what they say: expected calibration error and the reliability diagram, from sums."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from configs.metrics import Metric
from trainer.task import Sums

BINS = 15
"""Of equal width over the probability of the likeliest class (Guo et al., 2017)"""
BIASED = "biased upwards where few are in a bin, so that equal n alone compare, and resamples of it are biased twice"
"""Why the error has a standard error at most, and no interval; as protocols have it"""
_PARTS = ("count", "correct", "confidence")
_ROUNDING = 1e-12
"""Of what a bin holds: where its two sums are nearer each other, they are the same but for rounding"""


def confidence_sums(confidence: Tensor, correct: Tensor) -> Sums:
    """How many predictions fell into each bin, how many of them were right, and their probabilities, as additive sums.

    confidence [N] is the probability of the likeliest class, in (0, 1]; correct [N], 0 or 1, whether it was the right
    one. Returns 3 x BINS scalars, float64, under names that begin with `calibration/`. A bin holds its upper edge.
    """
    exact, bins = confidence.double(), bins_of(confidence)
    weights = (torch.ones_like(exact), correct.double(), exact)
    return {
        name: total
        for part, weight in zip(_PARTS, weights, strict=True)
        for name, total in zip(_names(part), torch.bincount(bins, weight, BINS).unbind(), strict=True)
    }


def bins_of(confidence: Tensor) -> Tensor:
    """The bin of each probability, [N] int64; of one that is no number the first, in whose sum it stays."""
    return ((confidence.double() * BINS).ceil() - 1).clamp(0, BINS - 1).nan_to_num(0).long()


def sum_gaps(confidence: Tensor, right: Tensor, asked: Tensor) -> Tensor:
    """Predictions that are right less their probabilities, by sample and bin, [B, BINS].

    confidence and right [N] are of the tokens that are asked [B, T].
    """
    cells = asked.nonzero()[:, 0] * BINS + bins_of(confidence)
    return torch.bincount(cells, right.double() - confidence, len(asked) * BINS).view(len(asked), BINS)


def calibration_error(sums: Mapping[str, float]) -> float:
    """Mean over predictions of |share right - mean probability| of their bin (Naeini et al., 2015; Guo et al., 2017).

    NaN where a probability was. Raises ValueError when nothing was counted.
    """
    count, correct, confidence = _bins(sums)
    if not count.sum():
        raise ValueError("no prediction was counted: there is no calibration error of none")
    gaps = np.abs(correct - confidence)
    return float(np.where(gaps <= _ROUNDING * count, 0.0, gaps).sum() / count.sum())


def calibration_metric(sums: Mapping[str, float], loss: Metric, stderr: float | None = None) -> Metric:
    """The expected calibration error over the tokens of a loss, undefined where that is."""
    value = calibration_error(sums) if loss.undefined is None else None
    name = f"{loss.name.rpartition('/')[0]}/calibration_error"
    error = None if value is None else stderr
    return Metric(name, value, error, loss.n, "share", "lower", loss.protocol, undefined=loss.undefined)


def reliability(sums: Mapping[str, float], title: str) -> dict[str, Any]:
    """The reliability diagram as a figure: share right by probability, with the mean probability for reference."""
    count, correct, confidence = _bins(sums)
    held = np.flatnonzero(count)
    return {
        "kind": "bars",
        "title": title,
        "x": [f"{place / BINS:.2f} to {(place + 1) / BINS:.2f}" for place in held],
        "y": (correct[held] / count[held]).tolist(),
        "x_title": "probability of the likeliest",
        "y_title": "share right",
        "reference": (confidence[held] / count[held]).tolist(),
        "note": f"{BINS} bins of equal width, those without a prediction left out; the reference is the mean "
        "probability, which the share right equals where probabilities are what they say.",
    }


def _names(part: str) -> list[str]:
    return [f"calibration/{part}/{place:02d}" for place in range(BINS)]


def _bins(sums: Mapping[str, float]) -> tuple[np.ndarray[Any, Any], ...]:
    """Predictions, those that were right and probabilities by bin, each [BINS]."""
    return tuple(np.array([sums[name] for name in _names(part)]) for part in _PARTS)
