"""RandAugment and TrivialAugment: which operations each image gets, and how strong they are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from configs.vision import AugmentConfig
from trainer.augment.draws import Numbers, Stream, uniform
from trainer.augment.geometry import Size, affine, rotations

OPERATIONS = (
    "identity",
    "auto_contrast",
    "equalize",
    "rotate",
    "solarize",
    "colour",
    "posterize",
    "contrast",
    "brightness",
    "sharpness",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)
"""The fourteen of RandAugment (Cubuk et al., 2020, 3), in its order"""

BLENDS = ("colour", "contrast", "brightness", "sharpness")
LEVELS, BITS = 256, 8


@dataclass(frozen=True)
class Strongest:
    """What an operation does at full strength."""

    shear: float
    """Pixels aside per pixel up"""
    translate: float
    """Share of the side"""
    rotate_degrees: float
    fewest_bits: int
    """Of posterize"""
    blend: float
    """How far colour, contrast, brightness and sharpness go from 1, up or down"""


RANDAUGMENT = Strongest(shear=0.3, translate=150 / 331, rotate_degrees=30, fewest_bits=4, blend=0.9)
"""Of AutoAugment, from which RandAugment takes them (Cubuk et al., 2019, table 6)"""
TRIVIALAUGMENT = Strongest(shear=0.99, translate=32 / 224, rotate_degrees=135, fewest_bits=2, blend=0.99)
"""The wide space (Mueller and Hutter, 2021, table 1), its 32 pixels as a share of 224"""


@dataclass(frozen=True)
class Choice:
    """What happens to B images, N operations each, one after the other."""

    operations: NDArray[np.int64]
    """[B, N] places in OPERATIONS"""
    amounts: Numbers
    """[B, N] in each operation's own unit: blends 1 + how far, posterize bits, solarize the darkest level it turns;
    0 for the others"""
    maps: Numbers
    """[B, 3, 3] what rotate, shear and translate do to places about the middle, in pixels"""


def choose(config: AugmentConfig, positions: Sequence[int], size: Size) -> Choice:
    """The policy's operations for each position, on images of this size."""
    trivial = config.policy == "trivialaugment"
    number = {"none": 0, "randaugment": config.operations, "trivialaugment": 1}[config.policy]
    numbers = uniform(positions, 3 * number, stream=Stream.POLICY).reshape(len(positions), 3, number)
    which, strength, sign = numbers.swapaxes(0, 1)  # each [B, N]
    operations = (which * len(OPERATIONS)).astype(np.int64)  # [B, N]
    share = strength if trivial else np.full_like(strength, config.magnitude / 10)
    signed = np.where(sign < 0.5, -share, share)
    strongest = TRIVIALAUGMENT if trivial else RANDAUGMENT
    maps = np.broadcast_to(np.eye(3), (len(positions), 3, 3))
    for place in range(number):
        maps = maps @ _maps(operations[:, place], signed[:, place], strongest, size)
    return Choice(operations, _amounts(operations, share, signed, strongest), maps)


def _amounts(operations: NDArray[np.int64], share: Numbers, signed: Numbers, strongest: Strongest) -> Numbers:
    amounts = np.zeros_like(share)
    for name in BLENDS:
        amounts = np.where(_is(operations, name), 1 + strongest.blend * signed, amounts)
    bits = BITS - np.round((BITS - strongest.fewest_bits) * share)
    amounts = np.where(_is(operations, "posterize"), bits, amounts)
    return np.where(_is(operations, "solarize"), np.round(LEVELS * (1 - share)), amounts)


def _maps(operations: NDArray[np.int64], signed: Numbers, strongest: Strongest, size: Size) -> Numbers:
    """One operation's map for each image [B, 3, 3]; the identity for those that move nothing."""

    def drawn(name: str, most: float) -> Numbers:
        return np.where(_is(operations, name), most * signed, 0.0)

    shift = strongest.translate
    return rotations(drawn("rotate", strongest.rotate_degrees)) @ affine(
        b=drawn("shear_x", strongest.shear),
        x=drawn("translate_x", shift * size[1]),
        d=drawn("shear_y", strongest.shear),
        y=drawn("translate_y", shift * size[0]),
    )


def _is(operations: NDArray[np.int64], name: str) -> NDArray[np.bool_]:
    return operations == OPERATIONS.index(name)
