"""How a cause is read from words: signs, the rules that they are held against, and which finding counts."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

_CHARACTERS = 800  # of a sign that are looked at

Sure = Literal["certain", "likely", "a guess"]


class Sign(NamedTuple):
    """A text that may tell of a cause: what it says, where it stands, and whose it is."""

    text: str
    place: str
    rank: int | None = None


@dataclass(frozen=True)
class Rule:
    """A cause. `sentence` and `action` may hold the pattern's groups, {clause} (the part of the text between semicolons
    that it was found in), {who}, {when}, {again} and {stage}.
    """

    name: str
    pattern: str
    sentence: str
    action: str
    sure: Sure = "certain"
    consequence: bool = False
    """Whether it mostly follows from another rank's end, so that anything else is believed first"""
    vague: bool = False
    """Whether it matches what has no rule of its own"""


class Finding(NamedTuple):
    """A rule that holds, the sign that it was found in, and the parts of the text that it names."""

    rule: Rule
    sign: Sign
    parts: Mapping[str, str]


def findings(signs: Iterable[Sign], rules: Sequence[Rule]) -> Iterator[Finding]:
    """What each sign tells, by the first rule that it keeps; signs of no rule are passed over."""
    for sign in signs:
        text = sign.text[:_CHARACTERS]
        for rule in rules:
            if found := re.search(rule.pattern, text):
                parts = {name: value or "" for name, value in found.groupdict().items()}
                parts["clause"] = _clause(text, found.start(), found.end())
                yield Finding(rule, sign, parts)
                break


def first_cause(found: Iterable[Finding]) -> Finding | None:
    """The first that is no consequence of another rank's end, or the first at all; signs come in the order of time."""
    every = list(found)
    return next((each for each in every if not each.rule.consequence), every[0] if every else None)


def _clause(text: str, start: int, end: int) -> str:
    before, after = text[:start].rpartition("; ")[2], text[end:].partition(";")[0]
    return (before + text[start:end] + after).strip()
