"""The Fréchet distance between features of two sets of images, and its standard error."""

import math
from dataclasses import dataclass

import torch
from scipy.linalg import get_lapack_funcs
from torch import Tensor

_ROWS = 4096  # of features that are float64 at once


@dataclass(frozen=True)
class Moments:
    """Of features, float64."""

    mean: Tensor
    """[D]"""
    covariance: Tensor
    """[D, D], the unbiased estimate"""


def moments(features: Tensor) -> Moments:
    """Of features [N, D], N of at least 2, in two passes: the covariance is summed about the mean."""
    count, width = features.shape
    mean = sum((rows.double().sum(0) for rows in features.split(_ROWS)), features.new_zeros(width, dtype=torch.float64))
    mean = mean / count
    outer = features.new_zeros((width, width), dtype=torch.float64)
    for rows in features.split(_ROWS):
        centred = rows.double() - mean
        outer.addmm_(centred.T, centred)
    return Moments(mean, outer / (count - 1))


def frechet_distance(ours: Moments, theirs: Moments) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)): Dowson and Landau, 1982; of images, Heusel et al., 2017.

    S1 = L L^T, and S1 S2 has the eigenvalues of the symmetric L^T S2 L, whose roots add up to the last trace. No
    root of a matrix is taken, and covariances without full rank do no harm; what rounding puts below 0 is 0.
    """
    apart = ours.mean - theirs.mean
    product = _symmetric_product(ours.covariance, theirs.covariance)
    shared = torch.linalg.eigvalsh(product).clamp(min=0).sqrt().sum()
    distance = apart @ apart + ours.covariance.trace() + theirs.covariance.trace() - 2 * shared
    return 0.0 if distance < 0 else float(distance)  # of rounding; what is no number stays none


def _symmetric_product(first: Tensor, second: Tensor) -> Tensor:
    """L^T S2 L with L L^T = S1, of which only the lower triangle is to be read.

    Where S1 has full rank, L is triangular, and LAPACK's sygst takes a quarter of the products that there would be.
    """
    factor, failed = torch.linalg.cholesky_ex(first)
    if not failed:
        (sygst,) = get_lapack_funcs(("sygst",), dtype="float64")
        product, _ = sygst(second.numpy(), factor.numpy(), itype=2, lower=1)
        return torch.from_numpy(product)
    values, vectors = torch.linalg.eigh(first)
    factor = vectors * values.clamp(min=0).sqrt()
    return factor.T @ second @ factor


def frechet_stderr(features: Tensor, ours: Moments, theirs: Moments) -> float:
    """One standard error of the distance for features [N, D] drawn anew, of which `ours` are the moments.

    The infinitesimal jackknife (Jaeckel, 1972): the distance changes with S1 as I - T, where T carries one Gaussian to
    the other (Rippl et al., 2016), and so each image x by 2 (m1 - m2)(x - m1) + (x - m1)^T (I - T) (x - m1). The other
    set stays as it is. The distance's bias, which falls as 1 / N, is not in it.
    """
    slope = torch.eye(len(ours.mean), dtype=torch.float64, device=features.device) - _transport(ours, theirs)
    apart = ours.mean - theirs.mean
    influence = []
    for rows in features.split(_ROWS):
        centred = rows.double() - ours.mean
        influence.append(2 * centred @ apart + ((centred @ slope) * centred).sum(1))
    return float(torch.cat(influence).std()) / math.sqrt(len(features))


def _transport(ours: Moments, theirs: Moments) -> Tensor:
    """S1^(-1/2) (S1^(1/2) S2 S1^(1/2))^(1/2) S1^(-1/2) within what S1 spans, where all of its samples lie."""
    values, vectors = torch.linalg.eigh(ours.covariance)
    spanned = values > values[-1] * len(values) * torch.finfo(torch.float64).eps
    roots, vectors = values[spanned].sqrt(), vectors[:, spanned]
    factor = vectors * roots  # [D, rank]
    inner, turns = torch.linalg.eigh(factor.T @ theirs.covariance @ factor)
    outer = (vectors / roots) @ turns  # [D, rank]
    return (outer * inner.clamp(min=0).sqrt()) @ outer.T
