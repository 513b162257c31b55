"""The kernel distance between features of two sets of images (KID), and its standard error."""

import math

import torch
from torch import Tensor

_CELLS = 1 << 24  # of a kernel's matrix at once


def kernel_distance(drawn: Tensor, real: Tensor) -> tuple[float, float | None]:
    """The unbiased squared maximum mean discrepancy under (x y / D + 1)^3 (Binkowski et al., 2018), over all pairs.

    drawn [N, D] and real [M, D], at least 2 of each. Being unbiased it may be below 0. Beside it one standard error for
    other drawn images: the jackknife (Efron and Stein, 1981), each image left out in turn; None for fewer than 3.
    """
    n, m = len(drawn), len(real)
    own, across, others = row_sums(drawn, drawn), row_sums(drawn, real), row_sums(real, real)
    own = own - _kernel((drawn.double() ** 2).sum(1), drawn.shape[1])  # an image with itself is no pair
    others = others - _kernel((real.double() ** 2).sum(1), real.shape[1])
    constant = others.sum() / (m * (m - 1))
    value = own.sum() / (n * (n - 1)) - 2 * across.sum() / (n * m) + constant
    if n < 3:
        return float(value), None
    without = (own.sum() - 2 * own) / ((n - 1) * (n - 2)) - 2 * (across.sum() - across) / ((n - 1) * m)  # [N]
    return float(value), float(without.std(correction=0)) * math.sqrt(n - 1)


def row_sums(x: Tensor, y: Tensor) -> Tensor:
    """Of each row of x [N, D] the kernel summed over those of y [M, D], float64 [N]."""
    y = y.double()
    rows = max(1, _CELLS // len(y))
    return torch.cat([_kernel(part.double() @ y.T, x.shape[1]).sum(1) for part in x.split(rows)])


def _kernel(products: Tensor, width: int) -> Tensor:
    return (products / width + 1) ** 3
