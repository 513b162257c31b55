"""Equal, nearly equal and overlapping documents: keys, MinHash signatures and n-gram hashes."""

import math
import re
from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
import xxhash
from blake3 import blake3
from numpy.typing import NDArray
from rensa import RMinHash  # pyright: ignore[reportAttributeAccessIssue]  a Rust module without a stub

from configs.dataset import NearDuplicates

Hashes = NDArray[np.uint64]

MAX_HASHES = 1 << 23  # of the test split: 64 MB in each worker
MISS_WEIGHT = 0.9  # chance finds weigh the rest: comparing signatures sorts them out, but a miss stays
_SEED = 1  # of the permutations: signatures of two seeds cannot be compared
_CHUNK_CHARACTERS = 1 << 16  # split into words at a time: a list of words is ten times as large as its text
_BLANK = re.compile(r"\s")
_WORD = re.compile(r"[^\W_]+")
_ASCII_WORDS = "".join(chr(code) if chr(code).isalnum() else " " for code in range(128))


def content_key(text: bytes | str) -> tuple[int, int]:
    """128 bits of BLAKE3, high and low half: equal for equal documents, or groups, alone."""
    digest = blake3(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text).digest(16)
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")


class Signer:
    """MinHash signatures of sets of word n-grams (Broder, 1997), cut into bands to look similar ones up by."""

    def __init__(self, config: NearDuplicates) -> None:
        self.config = config
        self.bands, self.rows = bands_and_rows(config.similarity, config.permutations)

    def sign(self, text: str) -> tuple[list[int], bytes]:
        """A hash of each band, different from band to band, and the signature: uint32, little endian.

        Words stand between white space and have no case; fewer of them than an n-gram needs make one n-gram.
        """
        grams = _ngrams(_word_hashes(text, str.split), self.config.ngram_words)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(grams, [0, len(grams)], self.config.permutations, _SEED)
        signature = np.array(matrix.to_rows()[0], dtype="<u4").tobytes()
        size = 4 * self.rows
        bands = [xxhash.xxh3_64_intdigest(signature[k * size : (k + 1) * size], seed=k) for k in range(self.bands)]
        return bands, signature


@lru_cache
def bands_and_rows(similarity: float, permutations: int) -> tuple[int, int]:
    """Bands and rows per band for which chance finds and misses weigh least together.

    Documents of Jaccard similarity s share a band with probability 1 - (1 - s^rows)^bands. What is minimised is this
    integrated below the threshold plus its complement integrated above it, by the midpoint rule, as `datasketch` does.
    """
    points = (np.arange(1000) + 0.5) / 1000
    below = points < similarity
    best = (math.inf, 1, 1)
    for bands in range(1, permutations + 1):
        for rows in range(1, permutations // bands + 1):
            found = 1 - (1 - points**rows) ** bands
            weights = np.where(below, (1 - MISS_WEIGHT) * found, MISS_WEIGHT * (1 - found))
            best = min(best, (float(weights.mean()), bands, rows))
    return best[1:]


def similarity_of(a: bytes, b: bytes) -> float:
    """Estimated Jaccard similarity: the share of equal hashes of two signatures."""
    return float(np.mean(np.frombuffer(a, dtype="<u4") == np.frombuffer(b, dtype="<u4")))


def choose_modulus(total_words: int) -> int:
    """Keep one n-gram hash of this many, so that those of a test split of so many words are at most MAX_HASHES."""
    return max(1, math.ceil(total_words / (MAX_HASHES - (MAX_HASHES >> 6))))  # a sample by hash varies a little


def ngram_hashes(text: str, n: int, modulus: int) -> Hashes:
    """The different hashes of a document's word n-grams that the modulus divides, in order.

    Words are runs of letters and digits without case, so that neither punctuation nor layout hides an overlap; fewer
    than n of them make one n-gram.
    """
    grams = _ngrams(_word_hashes(text, _plain_words), n)
    return np.unique(grams[grams % np.uint64(modulus) == 0] if modulus > 1 else grams)


def overlap(text: str, n: int, modulus: int, sorted_hashes: Hashes) -> float:
    """Share of a document's n-grams, of those that the modulus samples, that `sorted_hashes` has; 0 without any."""
    own = ngram_hashes(text, n, modulus)
    if not len(own) or not len(sorted_hashes):
        return 0.0
    at = np.minimum(np.searchsorted(sorted_hashes, own), len(sorted_hashes) - 1)
    return float(np.mean(sorted_hashes[at] == own))


class _WordHashes(dict[str, int]):
    """Hashes of words that were met before: the commonest words are most of a text."""

    def __missing__(self, word: str) -> int:
        value = xxhash.xxh3_64_intdigest(word.encode("utf-8", "surrogatepass"))
        if len(word) <= 32:
            if len(self) >= 1 << 17:  # about 16 MB
                self.clear()
            self[word] = value
        return value


_known = _WordHashes()


def _word_hashes(text: str, split: Callable[[str], list[str]]) -> Hashes:
    parts = [np.fromiter(map(_known.__getitem__, split(chunk.casefold())), dtype=np.uint64) for chunk in _chunks(text)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _plain_words(text: str) -> list[str]:
    if text.isascii():  # five times as fast as the expression
        return text.translate(_ASCII_WORDS).split()
    return _WORD.findall(text)


def _chunks(text: str) -> Iterator[str]:
    """The text in parts that begin and end between words."""
    start = 0
    while blank := _BLANK.search(text, start + _CHUNK_CHARACTERS):
        yield text[start : blank.start()]
        start = blank.end()
    yield text[start:] if start else text


def _ngrams(words: Hashes, n: int) -> Hashes:
    """A hash of each run of n words: a polynomial over theirs, mixed so that every bit depends on every word."""
    n = min(n, len(words))
    if not n:
        return words
    grams = np.zeros(len(words) - n + 1, dtype=np.uint64)
    for k in range(n):
        grams *= np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio
        grams += words[k : k + len(grams)]
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64 (Steele et al., 2014)
        grams ^= grams >> np.uint64(shift)
        grams *= np.uint64(factor)
    grams ^= grams >> np.uint64(31)
    return grams
