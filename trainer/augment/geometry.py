"""Crops, shifts, turns and flips: one affine map per image, drawn on the CPU and applied to the batch at once."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from configs.vision import AugmentConfig
from trainer.augment.draws import Numbers, Stream, uniform

ASPECT = 4 / 3
"""Of random crops, largest: the smallest is its inverse"""

Size = tuple[int, int]
"""Height and width in pixels"""


def draw_flips(config: AugmentConfig, positions: Sequence[int]) -> NDArray[np.bool_]:
    """Whether each image is mirrored left to right."""
    return uniform(positions, 1, stream=Stream.FLIP)[:, 0] < 0.5 * config.flip


def draw_maps(
    config: AugmentConfig, positions: Sequence[int], operations: Numbers, *, image: Size, seen: Size
) -> Numbers:
    """Affine maps [B, 2, 3] from places of the image that the network sees to places of the stored one.

    Both are in units of half a side about the middle, as `torch.nn.functional.affine_grid` has them. Read from left to
    right: a place in the crop is enlarged, altered by the policy's `operations` [B, 3, 3], turned, shifted, mirrored.
    """
    place = _crops(config, positions, image=image, seen=seen)
    maps = place @ operations @ _moves(config, positions, seen) @ _mirrors(draw_flips(config, positions))
    to_pixels, from_pixels = np.diag([seen[1] / 2, seen[0] / 2, 1]), np.diag([2 / image[1], 2 / image[0], 1])
    return (from_pixels @ maps @ to_pixels)[:, :2]


def _crops(config: AugmentConfig, positions: Sequence[int], *, image: Size, seen: Size) -> Numbers:
    """Pixels of what is seen, counted from its middle, to pixels of the image [B, 3, 3].

    Without `crop_area` the window is as large as what is seen and lies on whole pixels, so that nothing is blurred.
    """
    area, aspect, across, down = uniform(positions, 4, stream=Stream.CROP).T
    if config.crop_area < 1:
        height, width = crop_sides(config.crop_area + (1 - config.crop_area) * area, aspect, image)
        x, y = (across - 0.5) * (image[1] - width), (down - 0.5) * (image[0] - height)
    else:
        height, width = (np.full(len(area), float(side)) for side in seen)
        x, y = (
            np.floor(number * (whole - part + 1)) - (whole - part) / 2
            for number, whole, part in ((across, image[1], seen[1]), (down, image[0], seen[0]))
        )
    return affine(a=width / seen[1], e=height / seen[0], x=x, y=y)


def crop_sides(share: Numbers, number: Numbers, image: Size) -> tuple[Numbers, Numbers]:
    """Heights and widths of crops that cover a share of the image, their aspect as near 3:4 to 4:3 as fits in it.

    The aspect's logarithm is uniform over what fits, by `number` in 0..1 (random-resized crop: Szegedy et al., 2015).
    """
    height, width = image
    tallest, widest = np.log(share * width / height), np.log(width / (height * share))
    low, high = (np.clip(limit, tallest, widest) for limit in (-np.log(ASPECT), np.log(ASPECT)))
    aspect = np.exp(low + (high - low) * number)
    pixels = share * height * width
    return np.sqrt(pixels / aspect), np.sqrt(pixels * aspect)


def _moves(config: AugmentConfig, positions: Sequence[int], seen: Size) -> Numbers:
    """Turns and shifts about the middle [B, 3, 3]."""
    turn, across, down = 2 * uniform(positions, 3, stream=Stream.MOVE).T - 1
    shifts = affine(x=across * config.shift * seen[1], y=down * config.shift * seen[0])
    return rotations(turn * config.rotate_degrees) @ shifts


def rotations(degrees: Numbers) -> Numbers:
    """[B, 3, 3]"""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return affine(a=cosine, b=-sine, d=sine, e=cosine)


def _mirrors(flips: NDArray[np.bool_]) -> Numbers:
    return affine(a=np.where(flips, -1.0, 1.0))


def affine(
    a: Numbers | float = 1.0,
    b: Numbers | float = 0.0,
    x: Numbers | float = 0.0,
    d: Numbers | float = 0.0,
    e: Numbers | float = 1.0,
    y: Numbers | float = 0.0,
) -> Numbers:
    """Matrices [B, 3, 3] of the maps (u, v) -> (a u + b v + x, d u + e v + y)."""
    columns = np.broadcast_arrays(a, b, x, d, e, y, 0.0, 0.0, 1.0)
    return np.stack(columns, axis=-1).reshape(-1, 3, 3)


def warp(images: Tensor, maps: Tensor, size: Size) -> Tensor:
    """images [B, C, H, W] read at the places that maps [B, 2, 3] give for an image of `size`; bilinear.

    Places outside an image read what it shows mirrored at its edge.
    """
    grid = F.affine_grid(maps, [len(images), images.shape[1], *size], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def flip(images: Tensor, flips: Tensor) -> Tensor:
    """Those images [B, C, H, W] mirrored left to right of which flips [B] says so."""
    return torch.where(flips[:, None, None, None], images.flip(3), images)


def resize(images: Tensor, size: Size) -> Tensor:
    """images [B, C, H, W] at another size; bilinear, over as many pixels as become one."""
    if images.shape[2:] == size:
        return images
    return F.interpolate(images, list(size), mode="bilinear", antialias=True, align_corners=False)


def centre(images: Tensor, size: Size) -> Tensor:
    """The middle of images [B, C, H, W]."""
    top, left = ((whole - part) // 2 for whole, part in zip(images.shape[2:], size, strict=True))
    return images[:, :, top : top + size[0], left : left + size[1]]
