"""What a network predicts: noise, image or velocity, as one linear form of its input and output."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Target = Literal["epsilon", "x0", "v"]


@dataclass(frozen=True)
class Scales:
    """image = skip x noisy + out x network(inside x noisy), the form of Karras et al. (2022, equation 7).

    All float64 and of the shape of sigma.
    """

    skip: Tensor
    out: Tensor
    inside: Tensor


def step_scales(sigma: Tensor, target: Target) -> Scales:
    """Of a network whose input is variance preserving: it has variance 1 where images have.

    epsilon: the noise (Ho et al., 2020); x0: the image; v: sqrt(a) noise - sqrt(1 - a) image (Salimans and Ho, 2022).
    """
    root = (1 + sigma**2).sqrt()
    if target == "epsilon":
        return Scales(torch.ones_like(sigma), -sigma, 1 / root)
    if target == "x0":
        return Scales(torch.zeros_like(sigma), torch.ones_like(sigma), 1 / root)
    return Scales(1 / root**2, -sigma / root, 1 / root)


def edm_scales(sigma: Tensor, sigma_data: float) -> Scales:
    """Of a network whose input and target both have variance 1 (Karras et al., 2022, table 1)."""
    root = (sigma**2 + sigma_data**2).sqrt()
    return Scales(sigma_data**2 / root**2, sigma * sigma_data / root, 1 / root)


def wanted(scales: Scales, sigma: Tensor, image: Tensor, noise: Tensor) -> Tensor:
    """The output that would give back the image [B, C, H, W]; scales and sigma [B].

    Solved for the output by hand: at high sigma the noisy image is too large to subtract from.
    """
    of_image = (1 - scales.skip) / scales.out
    of_noise = -scales.skip * sigma / scales.out
    return over(of_image, image) * image + over(of_noise, noise) * noise


def over(values: Tensor, images: Tensor) -> Tensor:
    """values [B] float64 as [B, 1, 1, 1] of the images' type."""
    return values.to(images).view(-1, 1, 1, 1)


def min_snr_weight(sigma: Tensor, scales: Scales, most: float) -> Tensor:
    """Weight of the output's squared error that makes min(SNR, most) that of the image's (Hang et al., 2023, 3.4)."""
    return torch.minimum(sigma**-2, torch.full_like(sigma, most)) * scales.out**2


# --- the variance of a step ---


def step_variances(sigma: Tensor, below: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest variance of a step from sigma down to `below`, of image + below x noise.

    That of the step back when the image is known, and that of the noise added between the two (Ho et al., 2020, 3.2);
    both in units of the image.
    """
    added = sigma**2 - below**2
    return below**2 * added / sigma**2, added * (1 + below**2) / (1 + sigma**2)


def log_variance(share: Tensor, smallest: Tensor, largest: Tensor) -> Tensor:
    """Between the two by a learned share in [0, 1], on the scale of logarithms (Nichol and Dhariwal, 2021, 15)."""
    return share * largest.log() + (1 - share) * smallest.log()


def variational_bits(sigmas: Tensor, steps: Tensor, image: Tensor, found: Tensor, share: Tensor) -> Tensor:
    """The bound's term of each image's level, in bits per pixel and channel, [B] (Ho et al., 2020, 5).

    sigmas [T] rising, steps [B] int64; image, the image found and the share of the log-variance [B, C, H, W].
    The lowest level's term is the likelihood of each pixel's grey value, the others' a divergence between Gaussians.
    """
    sigma, below = sigmas[steps], torch.where(steps > 0, sigmas[(steps - 1).clamp(min=0)], 0.0)
    smallest, largest = step_variances(sigma, below)
    # the lowest level ends at the image itself: its smallest variance is that of the next, in variance-preserving units
    next_smallest, _ = step_variances(sigmas[1], sigmas[0])
    smallest = torch.where(steps > 0, smallest, next_smallest / (1 + sigmas[0] ** 2))
    theirs = log_variance(share, over(smallest, image), over(largest, image))
    ours = over(smallest.log(), image)
    apart = over(1 - (below / sigma) ** 2, image) * (image - found)
    divergence = 0.5 * (theirs - ours - 1 + torch.exp(ours - theirs) + apart**2 * torch.exp(-theirs))
    bits = torch.where(over(steps, image) > 0, divergence, grey_nats(image, found, theirs / 2)) / math.log(2)
    return bits.flatten(1).mean(1)


def grey_nats(image: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Negative log-probability under a Gaussian of each pixel's value, one of 256 in [-1, 1] (Ho et al., 2020, 13)."""
    half = 1 / 255
    upper, lower = ((image - mean + side) * torch.exp(-log_std) for side in (half, -half))
    inside = (torch.special.ndtr(upper) - torch.special.ndtr(lower)).clamp(min=1e-12).log()
    logs = torch.where(image > 0.999, torch.special.log_ndtr(-lower), inside)
    return -torch.where(image < -0.999, torch.special.log_ndtr(upper), logs)


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """[B]: the mean over each image's pixels, in float32."""
    return F.mse_loss(output.float(), target, reduction="none").flatten(1).mean(1)
