"""Levels of noise: which there are, how training draws one, and which a sampler visits.

Everywhere a noisy image is written image + sigma x noise. The variance-preserving form of Ho et al. (2020),
sqrt(a) image + sqrt(1 - a) noise with a the product of 1 - beta, is the same divided by sqrt(a): sigma^2 = (1 - a) / a.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from configs.diffusion import CosineNoise, EdmNoise, LinearNoise, NoiseConfig
from trainer.diffusion.targets import Scales, Target, edm_scales, min_snr_weight, step_scales

LARGEST_BETA = 0.999  # of the cosine schedule, whose last level would have no signal (Nichol and Dhariwal, 2021, 3.2)


class Noise(Protocol):
    """Levels of noise and what a network predicts at them."""

    @property
    def learned_variance(self) -> bool:
        """Whether the network predicts the variance of a step too, in as many channels again."""
        ...

    def draw(self, share: Tensor) -> tuple[Tensor, Tensor]:
        """sigma and the network's level, [B] float64, at shares [B] in (0, 1) of training's distribution."""
        ...

    def level(self, sigma: float) -> float:
        """What the network is told of a sigma that a sampler visits."""
        ...

    def visited(self, steps: int) -> list[float]:
        """sigmas from the highest to the lowest, `steps` of them, then 0."""
        ...

    def scales(self, sigma: Tensor) -> Scales:
        """What goes into the network and what its output means, at sigma of any shape."""
        ...

    def weight(self, sigma: Tensor) -> Tensor:
        """What the squared error of the output counts for in training."""
        ...


@dataclass(frozen=True)
class StepNoise:
    """T levels, numbered from the least noise (Ho et al., 2020)."""

    sigmas: Tensor
    """[T] float64, rising"""
    target: Target
    learned_variance: bool
    min_snr: float | None

    def draw(self, share: Tensor) -> tuple[Tensor, Tensor]:
        steps = (share.double() * len(self.sigmas)).long()  # each level equally often
        return self.sigmas[steps], steps.double()

    def level(self, sigma: float) -> float:
        return float(torch.searchsorted(self.sigmas, sigma))

    def visited(self, steps: int) -> list[float]:
        """Evenly spaced levels, the highest and the lowest among them (Nichol and Dhariwal, 2021, 4)."""
        last = len(self.sigmas) - 1
        places = [round(last - place * last / (steps - 1)) for place in range(steps)] if steps > 1 else [last]
        return [*self.sigmas[places].tolist(), 0.0]

    def scales(self, sigma: Tensor) -> Scales:
        return step_scales(sigma, self.target)

    def weight(self, sigma: Tensor) -> Tensor:
        if self.min_snr is None:
            return torch.ones_like(sigma)
        return min_snr_weight(sigma, self.scales(sigma), self.min_snr)


@dataclass(frozen=True)
class LogNormalNoise:
    """Levels from a log-normal distribution (Karras et al., 2022, table 1); the loss is weighted evenly by design."""

    config: EdmNoise
    learned_variance: bool = False

    def draw(self, share: Tensor) -> tuple[Tensor, Tensor]:
        sigma = torch.exp(self.config.log_mean + self.config.log_std * torch.special.ndtri(share.double()))
        return sigma, sigma.log() / 4

    def level(self, sigma: float) -> float:
        return math.log(sigma) / 4

    def visited(self, steps: int) -> list[float]:
        """Evenly spaced in the rho-th root (Karras et al., 2022, equation 5)."""
        highest, lowest = (sigma ** (1 / self.config.rho) for sigma in (self.config.sigma_max, self.config.sigma_min))
        spacing = (lowest - highest) / max(1, steps - 1)
        return [*((highest + place * spacing) ** self.config.rho for place in range(steps)), 0.0]

    def scales(self, sigma: Tensor) -> Scales:
        return edm_scales(sigma, self.config.sigma_data)

    def weight(self, sigma: Tensor) -> Tensor:
        return torch.ones_like(sigma)


def build_noise(config: NoiseConfig) -> Noise:
    """The levels that a configuration names."""
    if isinstance(config, EdmNoise):
        return LogNormalNoise(config)
    betas = linear_betas(config) if isinstance(config, LinearNoise) else cosine_betas(config)
    return StepNoise(sigmas_of(betas), config.target, config.learned_variance, config.min_snr)


def linear_betas(config: LinearNoise) -> Tensor:
    """[T] float64: variances that rise in equal steps (Ho et al., 2020, 4)."""
    return torch.linspace(config.beta_first, config.beta_last, config.steps, dtype=torch.float64)


def cosine_betas(config: CosineNoise) -> Tensor:
    """[T] float64: variances under which the signal falls like a squared cosine (Nichol and Dhariwal, 2021, 17)."""
    shares = torch.linspace(0, 1, config.steps + 1, dtype=torch.float64)
    signal = torch.cos((shares + config.offset) / (1 + config.offset) * math.pi / 2) ** 2
    return (1 - signal[1:] / signal[:-1]).clamp(max=LARGEST_BETA)


def sigmas_of(betas: Tensor) -> Tensor:
    """[T] float64: noise over signal after each level, from the variances that the levels add."""
    signal = torch.cumprod(1 - betas, 0)
    return ((1 - signal) / signal).sqrt()
