"""Baselines that a language model has to beat: uniform, unigram and interpolated Kneser-Ney n-grams."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from configs.errors import ConfigError

Ids = NDArray[np.int64]

MOST = 2**63 - 1
"""N-grams that an integer can number"""


def require_countable(order: int, vocabulary_size: int) -> None:
    """Raises ConfigError where n-grams are too many for one integer each."""
    if vocabulary_size**order > MOST:
        raise ConfigError(
            f"task.evaluation.baseline_order={order}: {order}-grams over {vocabulary_size} tokens do not fit "
            f"64 bits; try {order - 1}"
        )


class KneserNey:
    """Interpolated Kneser-Ney of a fixed order over token ids (Kneser and Ney, 1995; Chen and Goodman, 1998, 4.1).

    The highest order discounts counts, the lower ones count in how many contexts a token was seen, and the lowest is
    mixed with the uniform distribution, so every token has a probability above zero. One discount per order, estimated
    as n1 / (n1 + 2 n2). Order 1 is the plain unigram, smoothed the same way.
    """

    def __init__(self, documents: Sequence[Ids], *, order: int, vocabulary_size: int, boundary: int) -> None:
        if order < 1:
            raise ValueError(f"order={order} must be at least 1")
        require_countable(order, vocabulary_size)
        self.order, self.size, self.boundary = order, vocabulary_size, boundary
        codes = [self.codes(document) for document in documents]
        grams, counts = np.unique(np.concatenate(codes), return_counts=True)
        self.levels: list[_Level] = []
        for length in range(order, 0, -1):  # from the highest order down
            level = _Level(grams, counts, vocabulary_size)
            self.levels.append(level)
            if length > 1:  # how many different tokens precede each shorter gram
                grams, counts = np.unique(grams % vocabulary_size ** (length - 1), return_counts=True)

    def codes(self, document: Ids) -> Ids:
        """Each token with the order - 1 before it as one integer; the document's start is padded with `boundary`."""
        padded = np.concatenate([np.full(self.order - 1, self.boundary), document]).astype(np.int64)
        length = len(document)
        code = np.zeros(length, dtype=np.int64)
        for offset in range(self.order):
            code = code * self.size + padded[offset : offset + length]
        return code

    def nll(self, document: Ids) -> NDArray[np.float64]:
        """Negative log-likelihood of each token, in nats [tokens], given those before it in the document."""
        code = self.codes(document)
        probability = np.full(len(document), 1.0 / self.size)
        for length, level in enumerate(reversed(self.levels), start=1):
            probability = level.interpolate(code % self.size**length, probability)
        return -np.log(probability)


class _Level:
    """Counts of one n-gram length: discounted estimate plus the freed mass times the shorter context's estimate."""

    def __init__(self, grams: Ids, counts: Ids, vocabulary_size: int) -> None:
        self.grams, self.counts, self.size = grams, counts, vocabulary_size
        once, twice = int((counts == 1).sum()), int((counts == 2).sum())
        self.discount = once / (once + 2 * twice) if once and twice else 0.5
        self.contexts, first = np.unique(grams // vocabulary_size, return_index=True)  # grams are sorted
        self.totals = np.add.reduceat(counts, first)
        self.kinds = np.diff(np.append(first, len(grams)))

    def interpolate(self, code: Ids, shorter: NDArray[np.float64]) -> NDArray[np.float64]:
        count, _ = lookup(self.grams, self.counts, code)
        total, known = lookup(self.contexts, self.totals, code // self.size)
        kinds, _ = lookup(self.contexts, self.kinds, code // self.size)
        total = np.where(known, total, 1)
        mixed = (np.maximum(count - self.discount, 0) + self.discount * kinds * shorter) / total
        return np.where(known, mixed, shorter)


def lookup(keys: Ids, values: Ids, wanted: Ids) -> tuple[Ids, NDArray[np.bool_]]:
    """The value of each wanted key in sorted `keys`, 0 where it is absent, and whether it is present."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    found = keys[at] == wanted
    return np.where(found, values[at], 0), found
