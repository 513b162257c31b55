"""Images from a trained network: the same ones for the same seed, however they are batched or shared out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from configs.diffusion import DrawingConfig
from configs.errors import UserError
from trainer.diffusion.samplers import DETERMINISTIC, Denoise, Found, ddpm, network_calls
from trainer.diffusion.schedules import Noise

_FIRST = 0  # the noise an image starts from; step i of an ancestral sampler draws number i + 1


@dataclass(frozen=True)
class Wish:
    """An image to draw."""

    number: int
    """Which noise it is made of"""
    label: int
    """Its class; the number of classes where none is asked for"""
    toward: int | None = None
    """The number of another noise to begin between the two"""
    share: float = 0.0
    """How far on the way to the other"""


def denoiser(network: nn.Module, noise: Noise, labels: Tensor | None, *, none: int, guidance: float) -> Denoise:
    """The network as what samplers ask: noisy images [B, C, H, W] and sigma to the images in them.

    labels [B] int64, `none` where there is no class, or None for a network without classes. Guidance moves the image
    away from what it would be without a class (Ho and Salimans, 2022, equation 6), at the price of a batch twice as
    large; at 1 and 0 there is nothing to compare. Images are cut off at -1 and 1, outside of which none lies.
    """
    if labels is not None and guidance == 0:
        labels = torch.full_like(labels, none)
    guided = labels is not None and guidance not in (0, 1)

    def denoise(x: Tensor, sigma: float) -> Found:
        scales = noise.scales(torch.tensor(sigma, dtype=torch.float64))
        inputs, told = x * float(scales.inside), labels
        if guided:
            assert labels is not None
            inputs, told = torch.cat([inputs, inputs]), torch.cat([labels, torch.full_like(labels, none)])
        level = torch.full((len(inputs),), noise.level(sigma), device=x.device)
        output = network(inputs, level, told).float()  # [B or 2 B, C or 2 C, H, W]
        output, share = _halves(output, noise)
        if guided:
            own, without = output.chunk(2)
            output = without + guidance * (own - without)
            share = share[: len(x)] if share is not None else None
        image = float(scales.skip) * x + float(scales.out) * output
        return Found(image.clamp(-1, 1), share)

    return denoise


def _halves(output: Tensor, noise: Noise) -> tuple[Tensor, Tensor | None]:
    if not noise.learned_variance:
        return output, None
    output, share = output.chunk(2, dim=1)
    return output, (share + 1) / 2


@torch.inference_mode()
def draw(
    network: nn.Module,
    noise: Noise,
    drawing: DrawingConfig,
    wishes: Sequence[Wish],
    *,
    shape: tuple[int, int, int],
    classes: int,
    seed: int,
    device: torch.device,
    called: Callable[[], None] = lambda: None,
) -> Tensor:
    """Images [B, C, H, W] float32 in [-1, 1] for the wishes, each a function of seed, wish and weights alone.

    shape is (C, H, W); classes 0: the network knows none. `called` hears of each of `network_calls`. Where the network
    says no numbers, an image has none either.
    """
    numbers = [wish.number for wish in wishes]
    labels = torch.tensor([wish.label for wish in wishes], device=device) if classes else None
    ask = denoiser(network, noise, labels, none=classes, guidance=drawing.guidance)

    def heard(x: Tensor, sigma: float) -> Found:
        called()
        return ask(x, sigma)

    sigmas = noise.visited(drawing.steps)
    first = torch.stack([_beginning(wish, seed, shape) for wish in wishes]).to(device)
    # so that what the network sees has variance 1: sqrt(1 + sigma^2) for levels in steps
    x = first / float(noise.scales(torch.tensor(sigmas[0], dtype=torch.float64)).inside)
    if drawing.sampler == "ddpm":
        x = ddpm(heard, x, sigmas, lambda step: normals(seed, numbers, step + 1, shape).to(device))
    else:
        x = DETERMINISTIC[drawing.sampler](heard, x, sigmas)
    return x.clamp(-1, 1)


def calls_for(drawing: DrawingConfig, images: int, batch: int) -> int:
    """How often `draw` asks the network for all images, in batches."""
    return -(-images // batch) * network_calls(drawing.sampler, drawing.steps)


def _beginning(wish: Wish, seed: int, shape: tuple[int, int, int]) -> Tensor:
    start = normals(seed, [wish.number], _FIRST, shape)[0]
    if wish.toward is None:
        return start
    return slerp(start, normals(seed, [wish.toward], _FIRST, shape)[0], wish.share)


def normals(seed: int, numbers: Sequence[int], step: int, shape: tuple[int, int, int]) -> Tensor:
    """Standard normal numbers [B, C, H, W] float32: each image's depend on seed, its number and the step alone.

    Philox counts instead of remembering (Salmon et al., 2011), so any image's noise is found without the others'.
    """
    return torch.from_numpy(
        np.stack([generator(seed, number, step).standard_normal(shape, np.float32) for number in numbers])
    )


def generator(*key: int) -> np.random.Generator:
    """A stream of random numbers of its own for each key of integers from 0."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def slerp(start: Tensor, end: Tensor, share: float) -> Tensor:
    """A share of the way from one noise to another along the sphere, so that it stays as long (Shoemake, 1985)."""
    flat, other = start.flatten().double(), end.flatten().double()
    angle = torch.acos((flat @ other / (flat.norm() * other.norm())).clamp(-1, 1))
    if angle.sin() < 1e-6:
        return torch.lerp(start, end, share)
    mixed = (torch.sin((1 - share) * angle) * flat + torch.sin(share * angle) * other) / torch.sin(angle)
    return mixed.view_as(start).to(start.dtype)


def finite(images: Tensor) -> Tensor:
    """Which of the images [B, ...] hold numbers alone, bool [B]."""
    return images.flatten(1).isfinite().all(1)


def to_pixels(images: Tensor) -> Tensor:
    """[B, C, H, W] in [-1, 1] to [B, H, W, C] uint8 on the CPU. Raises UserError for images without numbers."""
    if broken := int((~finite(images)).sum()):
        raise UserError(
            f"{broken} of {len(images)} drawn images are not finite: the network's weights or what it says are no "
            "numbers; look at the training's loss, and draw from an earlier checkpoint"
        )
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()


def from_pixels(pixels: Tensor) -> Tensor:
    """[B, H, W, C] uint8 to [B, C, H, W] float32 in [-1, 1]."""
    return (pixels.permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous()
