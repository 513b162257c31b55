"""Shakespeare's plays with their layout taken off: what it told apart, headings, speakers, directions, is tagged."""

import re
from collections.abc import Iterator
from pathlib import Path

from data.records import Record, Tag
from data.sources.listing import File

WORDS = 40
"""Of a passage, at least; it ends with a paragraph"""
_MARKED = re.compile(r"^#+ (?P<heading>.+)$|\*\*(?P<speaker>[^*\n]+)\*\*|_(?P<direction>[^_\n]+)_", re.MULTILINE)


def tagged_passages(file: File, content: bytes) -> Iterator[Record]:
    """Passages of a play, a play's are a group; what Markdown marked is tagged and the marks are gone."""
    play = Path(file.name)
    paragraphs, words, number = [], 0, 0
    for paragraph in [*content.decode().replace("\\", "").split("\n\n"), None]:
        if paragraph is not None:
            paragraphs.append(paragraph.strip())
            words += len(paragraph.split())
        if paragraphs and (paragraph is None or words >= WORDS):
            text, tags = unmarked("\n\n".join(paragraphs))
            yield Record(text, f"{file.name} passage {number}", group=play.stem, tags=tuple(tags))
            paragraphs, words, number = [], 0, number + 1


def unmarked(markdown: str) -> tuple[str, list[Tag]]:
    """The text without its marks, and what they marked; the two spaces that break a line go too."""
    text, tags, done = "", [], 0
    markdown = re.sub(r" +$", "", markdown, flags=re.MULTILINE)
    for found in _MARKED.finditer(markdown):
        name = found.lastgroup
        assert name, "each alternative is a named group"
        text += markdown[done : found.start()]
        tags.append(Tag(len(text), len(text) + len(found[name]), name))
        text += found[name]
        done = found.end()
    return text + markdown[done:], tags
