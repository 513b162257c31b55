"""Images brought to the side that a feature net sees: this decides a Fréchet distance as much as its weights do."""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Pixels = NDArray[np.uint8]
Resize = Literal["clean", "legacy"]

WORDS = {
    "clean": "each channel as float by Pillow's bicubic filter with antialiasing, cut off at 0 and 255 (Parmar et al., "
    "2022)",
    "legacy": "bilinear without antialiasing, from each place's corner, as TensorFlow 1 does",
}


def resized(images: Pixels, side: int, mode: Resize) -> Tensor:
    """images [B, H, W, C] uint8 as [B, 3, side, side] float32 of levels 0..255, not rounded; grey ones three times."""
    small = clean(images, side) if mode == "clean" else legacy(images, side)
    return small.expand(-1, 3, -1, -1)


def clean(images: Pixels, side: int) -> Tensor:
    """[B, H, W, C] to [B, C, side, side]."""
    levels = images.astype(np.float32)
    channels = [
        [np.asarray(Image.fromarray(image[..., place]).resize((side, side), Image.Resampling.BICUBIC))]
        for image in levels
        for place in range(images.shape[3])
    ]
    whole = np.stack(channels).reshape(len(images), images.shape[3], side, side)
    return torch.from_numpy(whole.clip(0, 255))


def legacy(images: Pixels, side: int) -> Tensor:
    """[B, H, W, C] to [B, C, side, side]: place p is read at p x given / side, between two neighbours."""
    levels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    for axis in (2, 3):
        given = levels.shape[axis]
        places = torch.arange(side, dtype=torch.float32) * (given / side)
        low = places.long()
        share = (places - low).view(-1, *[1] * (3 - axis))
        high = (low + 1).clamp(max=given - 1)
        levels = torch.lerp(levels.index_select(axis, low), levels.index_select(axis, high), share)
    return levels
