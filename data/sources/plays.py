"""Shakespeare's plays in Markdown, cut into passages: of speeches alone, or of all with what the marks told apart."""

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path

from data.records import Record, Tag
from data.sources.listing import File

PASSAGE = 250
"""Words of a passage, about"""
DETOUR = 70
"""Words that a passage may be longer or shorter by to end where a speech ends"""
_DIRECTION = re.compile(r"[*_]*\[[^\]]*\][*_]*|_+[^*_]+_+|(?<!\*)\*(?!\*)[^*]+\*")
"""A stage direction: what is in brackets or slanted"""
WORDS = 40
"""Of a tagged passage, at least; it ends with a paragraph"""
_MARKED = re.compile(r"^#+ (?P<heading>.+)$|\*\*(?P<speaker>[^*\n]+)\*\*|_(?P<direction>[^_\n]+)_", re.MULTILINE)


def passages(file: File, content: bytes) -> Iterator[Record]:
    """What is spoken in a play and by whom, cut into passages; a scene's passages are a group.

    Headings and stage directions are left out. The label is the play's folder, its genre.
    """
    play = Path(file.name)
    for scene, speeches in enumerate(scenes(content.decode())):
        for number, passage in enumerate(cut(speeches)):
            origin = f"{file.name} scene {scene} passage {number}"
            yield Record(passage, origin, play.parent.name, group=f"{play.stem} {scene}")


def scenes(play: str) -> Iterator[list[list[str]]]:
    """The lines of each speech, its speaker's name first, of each scene of a play in Markdown."""
    speeches: list[list[str]] = []
    for paragraph in play.split("\n\n"):
        if paragraph.lstrip().startswith("#"):
            if speeches:
                yield speeches
            speeches = []
            continue
        spoken = _DIRECTION.sub("", paragraph.replace("\\", "")).replace("*", "")
        if lines := [line.strip() for line in spoken.splitlines() if line.strip()]:
            speeches.append(lines)
    if speeches:
        yield speeches


def cut(speeches: Sequence[Sequence[str]]) -> Iterator[str]:
    """A scene in passages of about equal size, cut between two lines, and where it takes no detour between speeches."""
    lines = [line for speech in speeches for line in speech]
    words = list(accumulate(len(line.split()) for line in lines))  # up to the end of each line
    closing = set(accumulate(len(speech) for speech in speeches))  # lines after which a speech ends
    count = max(1, round(words[-1] / PASSAGE))
    cuts = [0]
    for number in range(1, count):
        aim = words[-1] * number / count
        places = range(cuts[-1] + 1, len(lines))
        cuts.append(min(places, key=lambda place: abs(words[place - 1] - aim) + DETOUR * (place not in closing)))
    for begin, end in pairwise([*cuts, len(lines)]):
        yield "\n".join(lines[begin:end])


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
