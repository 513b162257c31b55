"""Text and numbers as a person reads them: nothing that stands in data can act on a terminal or a page."""

import re

_ACTING = re.compile(  # controls but tab and line feed, marks that turn the direction of writing, halves of pairs
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def visible(text: str) -> str:
    """The text with every character that could move a cursor, colour a terminal or reorder a line spelled out."""
    return _ACTING.sub(lambda found: _spelled(ord(found[0])), text)


def _spelled(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def one_line(text: str, characters: int) -> str:
    """The beginning of a text in one visible line of at most so many characters."""
    found = visible(" ".join(text[: 4 * characters].split()))
    return found if len(found) <= characters else found[: characters - 1] + "…"


def size(count: float) -> str:
    """Bytes as 512 bytes, 5.3 MB and so on."""
    return _scaled(count, ("bytes", "kB", "MB", "GB", "TB", "PB"), " ")


def short(count: float) -> str:
    """A number in few characters: 950, 1.5k, 20M."""
    return _scaled(count, ("", "k", "M", "G", "T", "P"), "")


def _scaled(count: float, units: tuple[str, ...], space: str) -> str:
    for unit in units:
        if count < 999.95 or unit == units[-1]:
            return f"{count:.1f}".removesuffix(".0") + space + unit
        count /= 1000
    raise AssertionError("the last unit has no limit")


def percent(part: float, whole: float) -> str:
    """A share as 12.3 %; a dash where there is nothing to share."""
    if not whole:
        return "–"
    share = 100 * part / whole
    return "under 0.1 %" if 0 < share < 0.05 else f"{share:.1f} %"
