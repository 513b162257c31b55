"""What an evaluation returns, and the standard error of a ratio."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from configs.metrics import Metric
from trainer.task import Sums


@dataclass(frozen=True)
class Units:
    """A metric by independent draws, such as images or documents, for paired tests.

    The metric, or what it is a monotone function of, is sum(sums) / sum(sizes).
    """

    ids: NDArray[np.int64]
    """[N], rising"""
    sums: NDArray[np.float64]
    sizes: NDArray[np.float64]


@dataclass(frozen=True)
class Result:
    """What an evaluation returns: metrics, their protocols by id, and what the report shows of them."""

    metrics: tuple[Metric, ...]
    protocols: Mapping[str, Mapping[str, Any]]
    samples: tuple[Mapping[str, Any], ...] = ()
    """To look at"""
    figures: tuple[Mapping[str, Any], ...] = ()
    """To be drawn: records of the kinds that pipelines/figures.py knows"""
    units: Mapping[str, Units] = field(default_factory=dict)
    """By the metric's name, on rank 0"""

    def record(self) -> dict[str, Any]:
        return {"metrics": [asdict(metric) for metric in self.metrics], "protocols": dict(self.protocols)}


def cluster_sums(nll: Tensor, tokens: Tensor) -> Sums:
    """nll [N] and tokens [N], float64, of N clusters of neighbouring tokens, as additive sums."""
    return {
        "nll": nll.sum(),
        "tokens": tokens.sum(),
        "clusters": torch.tensor(float(len(nll)), dtype=torch.float64, device=nll.device),
        "nll_nll": (nll * nll).sum(),
        "nll_tokens": (nll * tokens).sum(),
        "tokens_tokens": (tokens * tokens).sum(),
    }


def ratio_stderr(sums: Mapping[str, float]) -> float | None:
    """Standard error of nll / tokens from sums over clusters; None for fewer than two clusters.

    Tokens of one document are not independent, so whole clusters are the unit (ratio estimator: Cochran, 1977, 6.3).
    """
    clusters, tokens = sums["clusters"], sums["tokens"]
    if clusters < 2:
        return None
    mean = sums["nll"] / tokens
    squares = sums["nll_nll"] - 2 * mean * sums["nll_tokens"] + mean**2 * sums["tokens_tokens"]
    return math.sqrt(max(squares, 0.0) * clusters / (clusters - 1)) / tokens
