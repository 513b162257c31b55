"""Which tag each token has, from the places of both in the text."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

UNTAGGED = -100
"""Of tokens that are not to be predicted: the context and the end of a document"""
_TOGETHER = 256  # documents encoded at a time


def encode_tagged(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    tags: Sequence[Sequence[Mapping[str, Any]]],
    numbers: Mapping[str, int],
    end: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int16]]:
    """Ids of the texts on end, with `end` after each; their lengths; and each token's tag, 0 where it has none.

    A token is of the stretch in which its first character stands that is no space. Only `tokenizers` knows places.
    """
    ids, lengths, found = [], [], []
    for start in range(0, len(texts), _TOGETHER):
        group = slice(start, start + _TOGETHER)
        encodings = tokenizer.encode_batch(texts[group], add_special_tokens=False)
        for text, stretches, encoding in zip(texts[group], tags[group], encodings, strict=True):
            ids.append(np.array([*encoding.ids, end], np.int64))
            lengths.append(len(encoding.ids) + 1)
            numbered = _tags_of(text, encoding.offsets, stretches, numbers)
            found.append(np.array([*numbered, UNTAGGED], np.int16))
    none = np.empty(0, np.int64)
    return np.concatenate([none, *ids]), np.array(lengths, np.int64), np.concatenate([none.astype(np.int16), *found])


def _tags_of(
    text: str, offsets: Sequence[tuple[int, int]], stretches: Sequence[Mapping[str, Any]], numbers: Mapping[str, int]
) -> list[int]:
    begins = np.array([each["begin"] for each in stretches], np.int64)
    ends = np.array([each["end"] for each in stretches], np.int64)
    names = [numbers[each["name"]] for each in stretches]
    firsts = [begin + len(text[begin:end]) - len(text[begin:end].lstrip()) for begin, end in offsets]
    places = np.searchsorted(begins, firsts, side="right") - 1
    return [
        names[place] if place >= 0 and first < ends[place] else 0
        for place, first in zip(places.tolist(), firsts, strict=True)
    ]
