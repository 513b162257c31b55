"""Random erasing, mixup and CutMix."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from configs.vision import AugmentConfig
from trainer.augment.draws import Numbers, Stream, symmetric_beta, uniform
from trainer.augment.geometry import Size

ERASED_AREA = (0.02, 0.4)
ERASED_ASPECT = (0.3, 1 / 0.3)
"""Of the image, and height over width (Zhong et al., 2020, 4.1)"""


@dataclass(frozen=True)
class Mixture:
    """What B images get of a partner: the whole of it, lightly, or a rectangle of it."""

    partners: tuple[int, ...]
    """[B] places in the batch; its own where an image has none"""
    shares: Numbers
    """[B] weight of the partner everywhere, for mixup; 0 where there is none"""
    boxes: Numbers
    """[B, 4] where the partner is put in, for CutMix"""


def draw_erased(config: AugmentConfig, positions: Sequence[int]) -> Numbers:
    """Rectangles [B, 4] to erase: top, left, bottom, right as shares of the sides; empty ones where nothing is."""
    due, share, tall, down, across = uniform(positions, 5, stream=Stream.ERASE).T
    area = ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * share
    low, high = np.log(ERASED_ASPECT)
    low, high = np.maximum(low, np.log(area)), np.minimum(high, -np.log(area))  # so that it fits in the image
    aspect = np.exp(low + (high - low) * tall)
    height, width = np.sqrt(area * aspect), np.sqrt(area / aspect)
    boxes = _boxes((1 - height) * down, (1 - width) * across, height, width)
    return boxes * (due < config.erase)[:, None]


def draw_mixture(config: AugmentConfig, positions: Sequence[int]) -> Mixture:
    """Each position with the one beside it (0 with 1, 2 with 3...), both by what their pair's number draws.

    Neighbours are in one micro-batch whatever its size and the world, so that the same images are mixed in all.
    """
    places = {position: place for place, position in enumerate(positions)}
    partners = tuple(places.get(position ^ 1, place) for place, position in enumerate(positions))
    paired = np.array([partner != place for place, partner in enumerate(partners)])
    cut, first, second, down, across = uniform([position // 2 for position in positions], 5, stream=Stream.MIX).T
    cuts = paired & (cut < 0.5 if config.mixup and config.cutmix else bool(config.cutmix))
    share = np.where(cuts, *(symmetric_beta(alpha or 1.0, first, second) for alpha in (config.cutmix, config.mixup)))
    side = np.sqrt(share)
    top, left = down - side / 2, across - side / 2  # a box may reach out of the image, which cuts it
    return Mixture(partners, share * (paired & ~cuts), _boxes(top, left, side, side) * cuts[:, None])


def _boxes(top: Numbers, left: Numbers, height: Numbers, width: Numbers) -> Numbers:
    return np.stack((top, left, top + height, left + width), axis=1)


def inside(boxes: Tensor, size: Size) -> Tensor:
    """Whether each pixel's middle is in its image's box: boxes [B, 4] in shares of the sides to [B, 1, H, W] bool."""
    rows, columns = ((torch.arange(side, device=boxes.device) + 0.5) / side for side in size)
    top, left, bottom, right = boxes[:, :, None].unbind(1)  # each [B, 1]
    down = (rows >= top) & (rows < bottom)  # [B, H]
    across = (columns >= left) & (columns < right)  # [B, W]
    return (down[:, :, None] & across[:, None, :])[:, None]


def mix(images: Tensor, partners: Tensor, shares: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """images [B, C, H, W] with their partners in them, and how much of each image is its partner's [B]."""
    size = (images.shape[2], images.shape[3])
    weights = torch.where(inside(boxes, size), 1.0, shares[:, None, None, None])  # [B, 1, H, W]
    return torch.lerp(images, images[partners], weights), weights.mean((1, 2, 3))
