"""Where tagged stretches of a raw text are in the cleaned one."""

from collections.abc import Sequence

from configs.dataset import TextConfig
from data.cleaning.text import clean
from data.records import Tag

_GUARD = "x"  # a letter that no form changes: it keeps the white space before it


def place_tags(raw: str, tags: Sequence[Tag], config: TextConfig) -> list[Tag]:
    """The tags over the cleaned text; those of which nothing is left are gone.

    A place is as far into the cleaned text as what stands before it is long once cleaned, which holds for everything
    that does not change a character by those after it; configurations that do are refused with tags.
    """
    places = {place: len(clean(raw[:place] + _GUARD, config)) - 1 for tag in tags for place in (tag.begin, tag.end)}
    found = [Tag(places[tag.begin], places[tag.end], tag.name) for tag in tags]
    return [tag for tag in found if tag.begin < tag.end]
