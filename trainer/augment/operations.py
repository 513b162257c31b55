"""The operations of RandAugment that change levels and move nothing, each image its own, without a loop over images.

They are those of Pillow to the last level: the papers' results were found with it.
"""

import torch
from torch import Tensor

from trainer.augment.policy import BLENDS, LEVELS, OPERATIONS

WHITE = LEVELS - 1
LUMA = (19595, 38470, 7471)
"""Red, green and blue in a grey of ITU-R 601, in 65536ths"""


def alter(images: Tensor, operations: Tensor, amounts: Tensor) -> Tensor:
    """images [B, C, H, W] of whole levels 0..255 in float32, after the operation [B] of each by its amount [B].

    Every image goes through every operation, with no effect for those it did not draw: which drew what is known on the
    device alone, and asking it would make the host wait.
    """
    blended = _blend(images, operations, amounts)
    return _look_up(blended, _tables(blended, operations, amounts))


def drew(operations: Tensor, name: str) -> Tensor:
    """[B, 1, 1, 1] bool"""
    return (operations == OPERATIONS.index(name))[:, None, None, None]


def _blend(images: Tensor, operations: Tensor, amounts: Tensor) -> Tensor:
    """Colour, contrast, brightness, sharpness: on the line from a poorer image (amount 0) through this one (1)."""
    luma = grey(images)
    poorer = torch.where(drew(operations, "colour"), luma, torch.zeros_like(images))
    mean = (luma.mean((1, 2, 3), keepdim=True) + 0.5).floor()
    poorer = torch.where(drew(operations, "contrast"), mean, poorer)
    poorer = torch.where(drew(operations, "sharpness"), smooth(images), poorer)
    blends = torch.stack([drew(operations, name) for name in BLENDS]).any(0)
    factor = torch.where(blends, amounts[:, None, None, None], 1.0)
    return (poorer + factor * (images - poorer)).clamp(0, WHITE).floor()


def grey(images: Tensor) -> Tensor:
    """Luma [B, 1, H, W] in whole levels of images [B, 1 or 3, H, W]."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, 1)
    weighted = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue  # below 2^24, so exact in float32
    return ((weighted + 0x8000) / 0x10000).floor()


def smooth(images: Tensor) -> Tensor:
    """Each pixel with its eight neighbours in it, five times as heavy as they, in whole levels; those at the edge stay.

    Sums of slices: on a CPU a convolution of each channel alone takes longer.
    """
    if min(images.shape[2:]) < 3:
        return images
    rows = images[:, :, :-2] + images[:, :, 1:-1] + images[:, :, 2:]
    nine = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    result = images.clone()
    inner = result[:, :, 1:-1, 1:-1]
    inner.copy_(((nine + 4 * inner) / 13 + 0.5).floor())
    return result


def _tables(images: Tensor, operations: Tensor, amounts: Tensor) -> Tensor:
    """What becomes of each level [B, C, 256]: posterize, solarize, auto-contrast, equalize."""
    counts = histograms(images)  # [B, C, 256]
    levels = torch.arange(LEVELS, device=images.device).expand_as(counts)
    chosen, amount = operations[:, None, None], amounts[:, None, None]
    step = 2 ** (8 - amount)
    cases = {
        "posterize": (levels / step).floor() * step,
        "solarize": torch.where(levels < amount, levels, WHITE - levels),
        "auto_contrast": _stretched(counts, levels),
        "equalize": _equalized(counts, levels),
    }
    tables = levels.float()
    for name, table in cases.items():
        tables = torch.where(chosen == OPERATIONS.index(name), table.float(), tables)
    return tables


def histograms(images: Tensor) -> Tensor:
    """Pixels of each level [B, C, 256] int64 of images [B, C, H, W]."""
    places = images.flatten(2).long()
    counts = torch.zeros(*places.shape[:2], LEVELS, dtype=torch.int64, device=images.device)
    return counts.scatter_add_(2, places, torch.ones_like(places))


def _stretched(counts: Tensor, levels: Tensor) -> Tensor:
    """The darkest level to 0 and the lightest to 255."""
    present = counts > 0
    low = torch.where(present, levels, WHITE).amin(2, keepdim=True)
    high = torch.where(present, levels, 0).amax(2, keepdim=True)
    scale = torch.full_like(levels, WHITE).double() / (high - low).clamp(min=1)
    table = (levels * scale - low * scale).trunc().clamp(0, WHITE)
    return torch.where(high > low, table, levels)


def _equalized(counts: Tensor, levels: Tensor) -> Tensor:
    """Levels as nearly equally often as they can be."""
    last = torch.where(counts > 0, levels, 0).amax(2, keepdim=True)
    step = (counts.sum(2, keepdim=True) - counts.gather(2, last)) // WHITE
    below = counts.cumsum(2) - counts
    table = ((step // 2 + below) // step.clamp(min=1)).clamp(max=WHITE)
    return torch.where(step > 0, table, levels)


def _look_up(images: Tensor, tables: Tensor) -> Tensor:
    return tables.gather(2, images.flatten(2).long()).view_as(images)
