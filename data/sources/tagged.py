"""Tagged stretches of a text as rows hold them: places in it, or a name for each of its words."""

import json
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

from data.records import Tag

OUTSIDE = "O"
"""The name of what has no tag"""


class Unusable(ValueError):  # noqa: N818  who knows where it is makes the error
    """A row that holds no sample, and why."""


def tagged(text: Any, tags: Any, column: str) -> tuple[Any, tuple[Tag, ...]]:
    """The text and its tags in order; words are joined by spaces. Raises Unusable."""
    if isinstance(tags, str):
        try:
            tags = json.loads(tags)
        except ValueError as error:
            raise Unusable(f"column {column!r} is not readable as JSON: {error}") from None
    if tags is None:
        tags = []
    if not isinstance(tags, Sequence):
        raise Unusable(f"column {column!r} holds {type(tags).__name__}, expected a list; set data.source.tags_field")
    if isinstance(text, Sequence) and not isinstance(text, str | bytes):
        return _of_words(text, tags, column)
    if not isinstance(text, str):
        return text, ()
    found = sorted((_stretch(each, column) for each in tags), key=lambda tag: tag.begin)
    for tag in found:
        if not 0 <= tag.begin < tag.end <= len(text):
            raise Unusable(
                f"column {column!r}: [{tag.begin}, {tag.end}] is no part of a text of {len(text)} characters"
            )
    for first, second in pairwise(found):
        if second.begin < first.end:
            raise Unusable(
                f"column {column!r}: {first.name!r} ends at {first.end}, {second.name!r} begins at {second.begin}; "
                "stretches must not overlap"
            )
    return text, tuple(tag for tag in found if tag.name != OUTSIDE)


def _of_words(words: Sequence[Any], names: Sequence[Any], column: str) -> tuple[str, tuple[Tag, ...]]:
    if len(words) != len(names):
        raise Unusable(
            f"column {column!r} has {len(names)} names for {len(words)} words; each word needs one, O for none"
        )
    if wrong := next((word for word in words if not isinstance(word, str)), None):
        raise Unusable(f"its words hold {wrong!r}, expected text; set data.source.text_field")
    ends = list(accumulate(len(word) + 1 for word in words))
    places = zip(words, ends, (_name(name, column) for name in names), strict=True)
    tags = (Tag(end - 1 - len(word), end - 1, name) for word, end, name in places if word and name != OUTSIDE)
    return " ".join(words), tuple(tags)


def _stretch(value: Any, column: str) -> Tag:
    if isinstance(value, dict):
        value = [value.get(name) for name in ("begin" if "begin" in value else "start", "end", "name")]
    match value:
        case [int() as begin, int() as end, name]:
            return Tag(begin, end, _name(name, column))
        case _:
            raise Unusable(f"column {column!r} holds {str(value)[:60]}, expected [begin, end, name]")


def _name(value: Any, column: str) -> str:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if value else OUTSIDE  # numbered names begin with O
    raise Unusable(f"column {column!r} holds the name {value!r}, expected text or a whole number")
