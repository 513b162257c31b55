"""The chain of custody: each link from raw bytes to the report has a digest, and is judged by itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

State = Literal["verified", "altered", "unchecked"]


@dataclass(frozen=True)
class Link:
    """One link, as it was found."""

    name: str
    digest: str
    """The recorded one, which the link was compared with; empty where nothing is recorded"""
    state: State
    detail: str = ""
    """What is altered, with what was expected and what is there; or why it cannot be checked"""


def judged(name: str, digest: str, problems: Sequence[str]) -> Link:
    """A link that could be looked at: verified when nothing is wrong with it."""
    return Link(name, digest, "altered", "; ".join(problems)) if problems else Link(name, digest, "verified")


def unchecked(name: str, why: str, digest: str = "") -> Link:
    return Link(name, digest, "unchecked", why)


def first_broken(links: Sequence[Link]) -> Link | None:
    """The altered link that is nearest to the raw bytes."""
    return next((link for link in links if link.state == "altered"), None)
