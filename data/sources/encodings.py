"""Bytes to text: which of several encodings a file has, and where it breaks the one it has."""

import codecs
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from configs.errors import DataError

_ESCAPES = ("unicode_escape", "raw_unicode_escape", "idna", "punycode", "undefined")  # notations, not encodings
_MARKS = ((codecs.BOM_UTF32_LE, "utf_32"), (codecs.BOM_UTF32_BE, "utf_32"), (codecs.BOM_UTF16_LE, "utf_16"))
_MARKS += ((codecs.BOM_UTF16_BE, "utf_16"),)
_SHIFTING = ("utf_7", "hz", "iso2022")  # what a byte means depends on those before it


def check_encodings(names: Iterable[str]) -> None:
    """Raise DataError unless Python knows them all as encodings of text."""
    for name in names:
        try:
            known = codecs.lookup(name)
            "".encode(name)
        except (LookupError, ValueError):
            known = None
        if known is not None and known.name.replace("-", "_") in _ESCAPES:
            known = None
        if known is None or not getattr(known, "_is_text_encoding", True) or known.incrementaldecoder is None:
            raise DataError(
                f"data.source.encodings: {name!r} is no encoding that Python knows; utf-8, cp1252 and latin-1 are some"
            )


def has_plain_lines(name: str) -> bool:
    """Whether a byte 0x0a is the end of a line wherever it stands, so that bytes can be cut there before decoding."""
    return "\n".encode(name) == b"\n" and not codecs.lookup(name).name.replace("-", "_").startswith(_SHIFTING)


def decode(content: bytes, encodings: Sequence[str], name: str, offset: int = 0) -> str:
    """Text of bytes that begin at `offset` of the file `name`, in the first encoding that fits. Raises DataError."""
    first: UnicodeDecodeError | None = None
    for encoding in encodings:
        try:
            if offset == 0:
                _require_mark(content, encoding)
            return content.decode(encoding)
        except UnicodeDecodeError as error:
            first = first or error
    assert first is not None
    raise refusal(name, offset + first.start, first.object[first.start], encodings)


def _require_mark(begin: bytes, encoding: str) -> None:
    """Raise UnicodeDecodeError where a file's byte-order mark and an encoding exclude each other.

    A mark of UTF-16 is two letters to single-byte encodings, and UTF-16 makes Chinese of text that has none.
    """
    name = codecs.lookup(encoding).name.replace("-", "_")
    family = next((each for mark, each in _MARKS if begin.startswith(mark)), None)
    wrong = family != name if name in ("utf_16", "utf_32") else family is not None and not name.startswith(family)
    if wrong and begin:
        raise UnicodeDecodeError(encoding, begin[:4], 0, 1, f"the file begins as {family or 'no such encoding'} does")


def refusal(name: str, at: int, byte: int, encodings: Sequence[str]) -> DataError:
    """What to say of a byte that does not fit the first encoding, where none of the others fits the whole either."""
    others = f", and {', '.join(encodings[1:])} did not fit either" if encodings[1:] else ""
    return DataError(
        f"{name}: byte {at} (0x{byte:02x}) is not {encodings[0].upper()}{others}; convert the file, for instance with "
        f"`iconv -f ISO-8859-1 -t UTF-8`, add its encoding to data.source.encodings, or leave it out of "
        f"data.source.paths"
    )


def decoded(stream: Iterable[bytes], encoding: str, name: str, tried: Sequence[str] = ()) -> Iterator[str]:
    """Text of a whole file's chunks. Raises DataError at the first byte that does not fit."""
    decoder, offset = codecs.getincrementaldecoder(encoding)(), 0
    for chunk in chain(stream, [b""]):
        pending = len(decoder.getstate()[0])
        try:
            if offset == 0:
                _require_mark(chunk, encoding)
            yield decoder.decode(chunk, not chunk)
        except UnicodeDecodeError as error:
            at = offset - pending + error.start
            raise refusal(name, at, error.object[error.start], tried or [encoding]) from None
        offset += len(chunk)
