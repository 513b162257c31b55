"""Metrics of drawn images against real ones, and of real ones against other real ones beside them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from configs.metrics import Metric
from trainer.evaluation.classes import share_variance
from trainer.evaluation.contract import Units
from trainer.evaluation.generative.features.net import FeatureNet, Seen
from trainer.evaluation.generative.frechet import frechet_distance, frechet_stderr, moments
from trainer.evaluation.generative.inception_score import inception_score
from trainer.evaluation.generative.kernel import kernel_distance
from trainer.evaluation.generative.neighbours import covered
from trainer.evaluation.intervals import exact_interval

NEIGHBOURS = 3
"""k of the manifolds (Kynkäänniemi et al., 2019)"""

METHODS: Mapping[str, str] = {
    "frechet": "Fréchet distance of two Gaussians with the features' means and unbiased covariances (Heusel et al., "
    "2017), float64; biased upwards for few images",
    "kid": "squared maximum mean discrepancy under (x y / D + 1)^3, unbiased, over all pairs (Binkowski et al., 2018)",
    "inception_score": "exp of the mean divergence of an image's classes from those of all, one group (Salimans et "
    "al., 2016)",
    "precision_recall": f"share within a manifold of the others' {NEIGHBOURS} nearest neighbours (Kynkäänniemi et "
    "al., 2019)",
    "stderr": "other drawn images, the real ones as they are: infinitesimal jackknife (frechet), jackknife (kid), "
    "first order (inception_score), binomial (precision, and recall over the real images)",
    "interval": "of shares: exact binomial (Clopper and Pearson, 1934)",
}
"""Of the protocol: how each number is taken"""

Value = tuple[float, float | None]


@dataclass(frozen=True)
class Compared:
    """Images against the reference: the metrics, and which images lie among real ones."""

    metrics: tuple[Metric, ...]
    units: Mapping[str, Units]


def metric_names(net: FeatureNet) -> dict[str, str]:
    """The quantities' names: those of the literature for its net alone, else with the net's.

    Precision and recall were published with another net (VGG-16), so that they always name theirs.
    """
    names = {each: f"{each}_{net.name}" for each in ("frechet", "kid", "inception_score", "precision", "recall")}
    return names | ({"frechet": "fid", "kid": "kid", "inception_score": "inception_score"} if net.standard else {})


def compare(
    subject: str, net: FeatureNet, images: Seen, reference: Seen, protocol: str, *, flaw: str | None = None
) -> Compared:
    """All metrics of `images`, named below `subject`; one that cannot be had says why.

    flaw: why nothing can be said of the images, where that is known before.
    """
    n, m = len(images), len(reference)
    names = metric_names(net)
    broken = flaw or _broken(subject, images, reference)
    metrics, inside = [], torch.zeros(0)

    def take(
        quantity: str,
        unit: str,
        better: Literal["lower", "higher"],
        value: Callable[[], Value],
        refusal: str | None,
        *,
        size: int = n,
    ) -> None:
        reason = broken or refusal
        found, stderr = (None, None) if reason else value()
        name = f"{subject}/{names[quantity]}"
        interval = exact_interval(round(found * size), size) if found is not None and unit == "share" else None
        metrics.append(Metric(name, found, stderr, size, unit, better, protocol, interval, reason))

    def precision() -> Value:
        nonlocal inside
        inside = covered(images.features, reference.features, neighbours=NEIGHBOURS)
        return _share(inside)

    def recall() -> Value:
        return _share(covered(reference.features, images.features, neighbours=NEIGHBOURS))

    take("frechet", "squared distance", "lower", lambda: _frechet(images, reference), _too_few(images, reference))
    take("kid", "squared distance", "lower", lambda: _kernel(images, reference), _fewer_than(2, n, m))
    if images.logits is not None:
        logits = images.logits
        take("inception_score", "classes", "higher", lambda: inception_score(logits), _fewer_than(1, n, m))
    few = _fewer_than(NEIGHBOURS + 1, n, m)
    take("precision", "share", "higher", precision, few)
    take("recall", "share", "higher", recall, few, size=m)
    ones = np.ones(len(inside))
    units = Units(np.arange(len(inside)), inside.double().numpy(), ones)
    return Compared(tuple(metrics), {f"{subject}/{names['precision']}": units} if len(inside) else {})


def _frechet(images: Seen, reference: Seen) -> Value:
    ours, theirs = moments(images.features), moments(reference.features)
    return frechet_distance(ours, theirs), frechet_stderr(images.features, ours, theirs)


def _kernel(images: Seen, reference: Seen) -> Value:
    return kernel_distance(images.features, reference.features)


def _share(inside: torch.Tensor) -> Value:
    size, found = len(inside), float(inside.sum())
    variance = share_variance(found, size)
    return found / size, None if variance is None else math.sqrt(variance)


def _broken(subject: str, images: Seen, reference: Seen) -> str | None:
    for whose, seen in ((f"{subject} images", images), ("reference images", reference)):
        rows = (~seen.features.isfinite().all(1)).sum()
        if rows:
            return f"features of {int(rows)} of {len(seen)} {whose} are not finite"
    if images.logits is not None and not images.logits.isfinite().all():
        return f"logits of {subject} images are not finite"
    return None


def _too_few(images: Seen, reference: Seen) -> str | None:
    width, least = reference.features.shape[1], min(len(images), len(reference))
    if least > width:
        return None
    return (
        f"{len(images)} images against {len(reference)}: more than the {width} features are needed of both, or a "
        "covariance lacks full rank; draw more (task.evaluation.images) or take a net with fewer features"
    )


def _fewer_than(least: int, n: int, m: int) -> str | None:
    return None if min(n, m) >= least else f"{n} images against {m}: at least {least} of both are needed"


def undefined(subject: str, net: str, reason: str, *, n: int, protocol: str) -> Metric:
    """The distance by a net that could not be asked."""
    name = f"{subject}/frechet_{net}"
    return Metric(name, None, None, n, "squared distance", "lower", protocol, undefined=reason)
