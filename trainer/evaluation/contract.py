"""A metric is a value with its error, its size and the protocol that produced it."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from configs.folder import digest
from trainer.task import Sums


@dataclass(frozen=True)
class Metric:
    """One line of metrics.json."""

    name: str
    value: float
    stderr: float | None
    """One standard error of the value, same unit"""
    n: int
    """What it was taken over: tokens, images"""
    unit: str
    better: Literal["lower", "higher"]
    protocol: str
    """Id of the protocol it was taken under: values under unlike protocols must not be compared"""


@dataclass(frozen=True)
class Result:
    """What an evaluation returns: metrics, their protocols by id, and samples to look at."""

    metrics: tuple[Metric, ...]
    protocols: Mapping[str, Mapping[str, Any]]
    samples: tuple[Mapping[str, Any], ...] = ()

    def record(self) -> dict[str, Any]:
        return {"metrics": [asdict(metric) for metric in self.metrics], "protocols": dict(self.protocols)}


def protocol_id(protocol: Mapping[str, Any]) -> str:
    """Sixteen hex digits of the digest of everything that changes the number."""
    return digest(dict(protocol))[:16]


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

    Neighbouring tokens are not independent, so whole clusters are the unit (ratio estimator: Cochran, 1977, 6.3).
    """
    clusters, tokens = sums["clusters"], sums["tokens"]
    if clusters < 2:
        return None
    mean = sums["nll"] / tokens
    squares = sums["nll_nll"] - 2 * mean * sums["nll_tokens"] + mean**2 * sums["tokens_tokens"]
    return math.sqrt(max(squares, 0.0) * clusters / (clusters - 1)) / tokens
