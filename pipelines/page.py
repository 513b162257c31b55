"""Pages that need nothing else: HTML with its style, script and charts; every value is escaped as it is put in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bokeh.resources import Resources
from jinja2 import Environment, FileSystemLoader, StrictUndefined

PAGES = Path(__file__).with_name("pages")


@dataclass(frozen=True)
class Table:
    """What one table shows."""

    caption: str
    head: Sequence[tuple[str, str]]
    """Each column's name and a note below it, the row names' column first"""
    rows: Sequence[tuple[str, Sequence[str]]]
    """Each row's name and its other cells"""
    strong: frozenset[tuple[int, int]] = frozenset()
    """Row and cell, from 0, of what stands out"""
    notes: Mapping[tuple[int, int], str] = field(default_factory=dict)
    """What stands small below a cell, by row and cell from 0, the row's name being -1"""
    links: Mapping[int, str] = field(default_factory=dict)
    """Where the names of rows lead, by row from 0"""


def render(page: str, **content: Any) -> str:
    """The page of that name. Raises UndefinedError when a piece is neither given nor said to be missing."""
    environment = Environment(
        loader=FileSystemLoader(PAGES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    library = Resources(mode="inline", components=["bokeh"], minified=True, log_level="error").render_js()
    return environment.get_template(f"{page}.html").render(library=library, **content)
