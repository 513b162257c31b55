"""Random numbers that are a function of a position: the same for any batch, world, worker and order of asking."""

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Words = NDArray[np.uint64]

MASK = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)
MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
WEYL = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
ROUNDS = 10


class Stream(IntEnum):
    """What numbers are drawn for: those of one stream say nothing about those of another."""

    CROP = 1
    MOVE = 2
    FLIP = 3
    POLICY = 4
    ERASE = 5
    MIX = 6


def uniform(positions: Sequence[int] | NDArray[np.int64], count: int, *, stream: Stream) -> Numbers:
    """[positions, count] numbers between 0 and 1, both excluded."""
    counters = np.asarray(positions, dtype=np.uint64)[:, None]  # [P, 1]
    blocks = np.arange((count + 3) // 4, dtype=np.uint64)[None]  # [1, N]
    counters, blocks = np.broadcast_arrays(counters, blocks)
    words = philox((counters & MASK, counters >> HALF, blocks, np.zeros_like(blocks)), (int(stream), 0))
    return ((words.reshape(len(counters), -1)[:, :count] + 0.5) / 2**32).astype(np.float64)


def philox(counter: tuple[Words, Words, Words, Words], key: tuple[int, int]) -> Words:
    """Philox4x32-10 (Salmon et al., 2011): four arrays of 32-bit counters of one shape to 32-bit words [..., 4]."""
    first, second, third, fourth = counter
    keys = [np.uint64(part) for part in key]
    for _ in range(ROUNDS):
        left, right = first * MULTIPLIERS[0], third * MULTIPLIERS[1]  # 64-bit products of 32-bit factors
        first, second, third, fourth = (
            (right >> HALF) ^ second ^ keys[0],
            right & MASK,
            (left >> HALF) ^ fourth ^ keys[1],
            left & MASK,
        )
        keys = [(part + step) & MASK for part, step in zip(keys, WEYL, strict=True)]
    return np.stack((first, second, third, fourth), axis=-1)


def symmetric_beta(alpha: float, first: Numbers, second: Numbers) -> Numbers:
    """Numbers of the Beta(alpha, alpha) distribution, each from two uniform ones, for any alpha above 0.

    T / sqrt(2 alpha + T^2) of Student's T with 2 alpha degrees of freedom, from -1..1 to 0..1; T by the polar method
    (Bailey, 1994).
    """
    cosine = np.cos(2 * np.pi * second)
    with np.errstate(over="ignore"):  # first ** (-1 / alpha) may be infinite, which is right
        odds = np.expm1(-np.log(first) / alpha) * cosine**2  # T^2 / (2 alpha)
        return 0.5 + 0.5 * np.copysign(1 / np.sqrt(1 + 1 / odds), cosine)
