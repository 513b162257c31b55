"""What is done for rare classes: weights, numbers of altered copies, and the copies."""

import hashlib
import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from configs.dataset import RareClasses


def class_weights(counts: Mapping[str, int]) -> dict[str, float]:
    """Weights by inverse frequency whose mean over all samples is 1 (King and Zeng, 2001); 0 where there are none."""
    samples, classes = sum(counts.values()), sum(count > 0 for count in counts.values())
    return {name: samples / (classes * count) if count else 0.0 for name, count in counts.items()}


def plan_copies(counts: Mapping[str, int], config: RareClasses) -> dict[str, int]:
    """Copies that each class needs for its share of the largest one; none where there is nothing to copy."""
    # 0.1 x 30 is a little more than 3 in floating point, which is no reason for a fourth
    least = math.ceil(round(config.share * max(counts.values(), default=0), 6))
    return {name: max(0, least - count) if count else 0 for name, count in counts.items()}


def altered(pixels: NDArray[np.uint8], config: RareClasses, key: tuple[int, ...]) -> NDArray[np.uint8]:
    """A mirrored, turned and brighter or darker copy [H, W, C], drawn from the integers of `key` alone.

    What a turn brings in from outside is the picture mirrored at its edge.
    """
    flip, turn, light = _uniform(key, 3)
    if config.flip and flip < 0.5:
        pixels = pixels[:, ::-1]
    if config.rotate_degrees:
        pixels = _rotated(pixels, (2 * turn - 1) * config.rotate_degrees)
    factor = 1 + (2 * light - 1) * config.brightness
    table = np.clip(np.rint(np.arange(256) * factor), 0, 255).astype(np.uint8)
    return table[pixels]


def _uniform(key: tuple[int, ...], count: int) -> list[float]:
    """Numbers in [0, 1) from Philox's raw stream, which no version of numpy may change (Salmon et al., 2011)."""
    digest = hashlib.sha256(",".join(str(int(part)) for part in key).encode()).digest()
    raw = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(count)
    return [(int(each) >> 11) / 2**53 for each in raw]


def _rotated(pixels: NDArray[np.uint8], degrees: float) -> NDArray[np.uint8]:
    """Turned about the centre, bilinear, same size."""
    height, width = pixels.shape[:2]
    margin = math.ceil((math.hypot(height, width) - min(height, width)) / 2) + 1  # how far a corner swings out
    wide = np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)), mode="symmetric")
    image = Image.fromarray(wide if wide.shape[2] == 3 else wide[:, :, 0])
    turned = np.asarray(image.rotate(degrees, Image.Resampling.BILINEAR)).reshape(wide.shape)
    return np.ascontiguousarray(turned[margin : margin + height, margin : margin + width])
