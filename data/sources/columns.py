"""Which columns of a row are the content, the label and the group, and what may stand in them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from data.records import Drop, Record
from data.sources.tagged import Unusable, tagged

EXCERPT_CHARACTERS = 200
TOO_LONG = "over max_document_bytes"

Kind = Literal["text", "images"]
Beside = Callable[[str], bytes]
"""The bytes of an image that a row names by its path"""


@dataclass(frozen=True)
class Columns:
    """Turns rows into records."""

    kind: Kind
    content: str
    label: str | None
    group: str | None
    limit: int | None
    """Bytes of the longest document"""
    tags: str | None = None

    @cached_property
    def names(self) -> list[str]:
        return list(dict.fromkeys(name for name in (self.content, self.label, self.group, self.tags) if name))

    @cached_property
    def setting(self) -> str:
        return f"data.source.{'text' if self.kind == 'text' else 'image'}_field"

    def record(self, row: Mapping[str, Any], origin: str, beside: Beside) -> Record | Drop:
        """The row's record; a document over the limit is dropped. Raises Unusable."""
        value, tags = _cell(row, self.content, self.setting), ()
        if self.tags:
            value, tags = tagged(value, _cell(row, self.tags, "data.source.tags_field"), self.tags)
        content = self._text(value) if self.kind == "text" else self._image(value, beside)
        label = self._name(row, self.label, "label") if self.label else None
        group = self._name(row, self.group, "group") if self.group else None
        if self.label and not label:
            raise Unusable(f"column {self.label!r} is empty; every sample needs a class: set data.source.label_field")
        if self.limit and _bytes_of(content, self.limit) > self.limit:
            return Drop(TOO_LONG, origin, excerpt(content))
        return Record(content, origin, label, group or None, tags)

    def check(self, present: list[str]) -> None:
        """Raise Unusable if one of the columns is not there."""
        for name, setting in ((self.content, self.setting), *self._extra()):
            if name not in present:
                raise _missing(name, present, setting)

    def _extra(self) -> list[tuple[str, str]]:
        pairs = (
            (self.label, "data.source.label_field"),
            (self.group, "data.source.group_field"),
            (self.tags, "data.source.tags_field"),
        )
        return [(name, setting) for name, setting in pairs if name]

    def _text(self, value: Any) -> str:
        if value is None:
            return ""
        if not isinstance(value, str):
            raise Unusable(f"column {self.content!r} holds {_what(value)}, expected text; set {self.setting}")
        return value

    def _image(self, value: Any, beside: Beside) -> bytes:
        path = value
        if isinstance(value, Mapping) and "bytes" in value:  # the struct of Hugging Face's image feature
            value, path = value["bytes"], value.get("path")
        if isinstance(value, bytes | bytearray | memoryview):
            return bytes(value)
        if isinstance(path, str) and path:
            return beside(path)
        if value is None:
            return b""
        raise Unusable(
            f"column {self.content!r} holds {_what(value)}, expected an encoded image or its path; set {self.setting}"
        )

    def _name(self, row: Mapping[str, Any], column: str, what: str) -> str | None:
        value = _cell(row, column, f"data.source.{what}_field")
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # what tables make of whole numbers beside gaps
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, bool | int):
            return str(value).lower()
        raise Unusable(
            f"column {column!r} holds {_what(value)}, expected a name or a whole number; set data.source.{what}_field"
        )


def _cell(row: Mapping[str, Any], column: str, setting: str) -> Any:
    try:
        return row[column]
    except KeyError:
        raise _missing(column, list(row), setting) from None


def _missing(column: str, present: list[str], setting: str) -> Unusable:
    return Unusable(f"no column {column!r}; there are {', '.join(map(str, present)) or 'none'}: set {setting}")


def _what(value: Any) -> str:
    if isinstance(value, bool | int | float):
        return "a number"
    if isinstance(value, bytes):
        return "bytes"
    return "text" if isinstance(value, str) else "a nested value"


def _bytes_of(content: str | bytes, limit: int) -> int:
    if isinstance(content, bytes) or len(content) > limit or 4 * len(content) <= limit:
        return len(content)
    return len(content.encode("utf-8", "surrogatepass"))


def excerpt(content: str | bytes) -> str:
    """The beginning of a document, or how large an image is."""
    return content[:EXCERPT_CHARACTERS] if isinstance(content, str) else f"{len(content)} bytes"
