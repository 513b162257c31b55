"""From noise to images, all on image + sigma x noise; `sigmas` fall and end in 0.

`denoise(x, sigma)` is the image that the network expects in x. Each step goes from sigmas[i] to sigmas[i + 1].
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from trainer.diffusion.targets import log_variance, step_variances


class Found(NamedTuple):
    """What a network sees in noisy images."""

    image: Tensor
    share: Tensor | None = None
    """Of the step's largest log-variance, where it is learned"""


Denoise = Callable[[Tensor, float], Found]
Fresh = Callable[[int], Tensor]
"""New noise of the images' shape for a step's number"""


def ddpm(denoise: Denoise, x: Tensor, sigmas: Sequence[float], fresh: Fresh) -> Tensor:
    """Ancestral sampling (Ho et al., 2020, algorithm 2), over levels left out too (Nichol and Dhariwal, 2021, 4).

    The variance is the learned one, else that of the step back when the image is known.
    """
    for step, (sigma, below) in enumerate(pairwise(sigmas)):
        found = denoise(x, sigma)
        x = found.image + (below / sigma) ** 2 * (x - found.image)
        if below > 0:
            smallest, largest = step_variances(*(torch.tensor(each, dtype=torch.float64) for each in (sigma, below)))
            share = torch.zeros_like(x) if found.share is None else found.share
            x = x + torch.exp(log_variance(share, smallest.to(x), largest.to(x)) / 2) * fresh(step)
    return x


def ddim(denoise: Denoise, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Implicit sampling, without noise (Song et al., 2021, equation 12 with eta = 0): Euler's method in sigma."""
    for sigma, below in pairwise(sigmas):
        image = denoise(x, sigma).image
        x = image + below / sigma * (x - image)
    return x


def dpm_solver(denoise: Denoise, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """DPM-Solver++ 2M (Lu et al., 2022, algorithm 2); the first step and the one to 0 are of first order."""
    last, last_width = None, 0.0
    for sigma, below in pairwise(sigmas):
        image = denoise(x, sigma).image
        if below == 0:
            return image
        width = math.log(sigma / below)  # of the step in half the logarithm of the signal-to-noise ratio
        aim = image if last is None else image + (image - last) * (width / (2 * last_width))
        x = below / sigma * x - math.expm1(-width) * aim
        last, last_width = image, width
    return x


def heun(denoise: Denoise, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Heun's method (Karras et al., 2022, algorithm 1 without churn): two calls a step, one for the step to 0."""
    for sigma, below in pairwise(sigmas):
        slope = (x - denoise(x, sigma).image) / sigma
        ahead = x + (below - sigma) * slope
        if below > 0:
            slope = (slope + (ahead - denoise(ahead, below).image) / below) / 2
            ahead = x + (below - sigma) * slope
        x = ahead
    return x


DETERMINISTIC = {"ddim": ddim, "dpm_solver": dpm_solver, "heun": heun}


def network_calls(sampler: str, steps: int) -> int:
    """How often a sampler asks the network."""
    return 2 * steps - 1 if sampler == "heun" else steps
