"""Precision and recall of drawn images, by the nearest neighbours among features."""

import torch
from torch import Tensor

_CELLS = 1 << 24  # of distances at once


def covered(points: Tensor, centres: Tensor, *, neighbours: int) -> Tensor:
    """Which points lie in the manifold of other ones, bool [N] (Kynkäänniemi et al., 2019, equation 2).

    points [N, D], centres [M, D]: a point is in it when a centre is at most as far from it as from that centre's own
    k-th nearest. Drawn images covered by real ones are their precision, real ones covered by drawn ones their recall.
    """
    centres = centres.double()
    radii = squared_radii(centres, neighbours)
    rows = max(1, _CELLS // len(centres))
    return torch.cat([(_squared(part.double(), centres) <= radii).any(1) for part in points.split(rows)])


def squared_radii(features: Tensor, neighbours: int) -> Tensor:
    """The squared distance from each row of features [N, D] float64 to its k-th nearest, itself apart: [N]."""
    assert len(features) > neighbours, "the caller says that there are too few"
    radii, start = [], 0
    for part in features.split(max(1, _CELLS // len(features))):
        distances = _squared(part, features)
        own = torch.arange(len(part), device=features.device)
        distances[own, start + own] = torch.inf
        radii.append(distances.kthvalue(neighbours, dim=1).values)
        start += len(part)
    return torch.cat(radii)


def _squared(x: Tensor, y: Tensor) -> Tensor:
    """Distances [N, M] between rows of x and y, squared."""
    return (x * x).sum(1)[:, None] + (y * y).sum(1) - 2 * x @ y.T
