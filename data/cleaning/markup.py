"""The text inside HTML, XML and JSON: what a reader sees, in order, whatever is wrong with the document."""

import json
import re
from html import unescape
from typing import Any
from xml.parsers import expat

_HIDDEN = frozenset(
    "head script style noscript template nav footer aside button select textarea datalist dialog iframe "  # noqa: SIM905
    "object svg canvas audio video map".split()
)
_PARAGRAPHS = frozenset(
    "p h1 h2 h3 h4 h5 h6 ul ol dl table pre blockquote section article main header figure hr "  # noqa: SIM905
    "address details form fieldset".split()
)
_LINES = frozenset("div li dt dd tr caption figcaption summary legend body".split())  # noqa: SIM905
_BLANKS = re.compile(r"[ \t\n\r\f]+")  # white space of HTML: a no-break space is none
_HTML_TAG = re.compile(r"<[a-zA-Z!/?]")
_XML_TAG = re.compile(r"<[a-zA-Z!/?][^<>]*>")
_BOUNDARY = "\x1e"  # between elements: XML text cannot hold it


def unwrap(text: str, formats: frozenset[str]) -> str:
    """The text inside HTML, XML or JSON, whichever of `formats` the document is in; HTML inside JSON is opened too."""
    text = encodable(text)
    if "json" in formats and (strings := json_strings(text)) is not None:
        return "\n".join(unwrap(each, formats - {"json"}) for each in strings)
    beginning = text[:1024].lstrip().lower()
    is_xml = "xml" in formats and beginning.startswith("<?xml") and "<html" not in beginning
    if "html" in formats and not is_xml:
        text = html_text(text)
    if "xml" in formats:
        text = xml_text(text)
    return text


def json_strings(text: str) -> list[str] | None:
    """Every string value of a JSON object or array, in order; None where the text is neither."""
    if not re.match(r"\s*[\[{]", text):
        return None
    try:  # numbers stay text and objects lists of values: no long arithmetic, and repeated keys keep their values
        found = json.loads(
            text,
            strict=False,
            parse_int=_nothing,
            parse_float=_nothing,
            object_pairs_hook=lambda pairs: [v for _, v in pairs],
        )
    except (json.JSONDecodeError, RecursionError):
        return None
    strings, rest = [], [found]
    while rest:
        value = rest.pop()
        if isinstance(value, str):
            strings.append(value)
        elif isinstance(value, list):
            rest.extend(reversed(value))
    return strings


def _nothing(_number: str) -> None:
    return None


def html_text(text: str) -> str:
    """The visible text of a page: blocks on lines of their own, paragraphs apart, no scripts, styles or navigation.

    Never raises: browsers' rules close what is open. A text without any tag keeps its lines.
    """
    return _page(text if _HTML_TAG.search(text) else f"<pre>{text}") if "<" in text or "&" in text else text


def _page(text: str) -> str:
    # Its events take linear time: the trees of HTML5 parsers are quadratic in the depth of nesting.
    from lxml import etree  # pyright: ignore[reportAttributeAccessIssue]  a C module without a stub

    parser = etree.HTMLParser(target=_Page(), huge_tree=True)
    parser.feed(text)
    return parser.close()


class _Page:
    """Takes the events of lxml's parser; `close` gives the text."""

    def __init__(self) -> None:
        self.hidden = self.preformatted = self.gap = 0
        self.inline: list[str] = []
        self.parts: list[str] = []

    def start(self, tag: str, _attributes: Any) -> None:
        self._cross(tag)
        self.hidden += tag in _HIDDEN
        self.preformatted += tag == "pre"

    def end(self, tag: str) -> None:
        if tag != "br":
            self._cross(tag)
        self.hidden -= tag in _HIDDEN
        self.preformatted -= tag == "pre"

    def data(self, text: str) -> None:
        if not self.hidden:
            self.inline.append(text)

    def close(self) -> str:
        self._break(1)
        return "".join(self.parts)

    def _cross(self, tag: str) -> None:
        if tag in _PARAGRAPHS:
            self._break(2)
        elif tag in _LINES:
            self._break(1)
        elif tag == "br":
            self._break(1 if self.inline else 2)  # on a line without text it makes an empty one
        elif tag in ("td", "th"):
            self.inline.append(" ")

    def _break(self, gap: int) -> None:
        """End the line; at least `gap` line ends come before the next."""
        text = "".join(self.inline)
        self.inline.clear()
        text = text.strip("\r\n") if self.preformatted else _BLANKS.sub(" ", text).strip(" ")
        if text:
            self.parts += ["\n" * self.gap, text]
            self.gap = 0
        self.gap = max(self.gap, gap) if self.parts else 0


class _Refused(Exception):  # noqa: N818  an outcome, not an error
    """The document declares entities, which may stand for gigabytes or for files of this machine."""


def xml_text(text: str) -> str:
    """The character data of an XML document; elements without text beside them stand on lines of their own.

    Where it is malformed or declares entities, what is left when the tags are taken out. Other text stays as it is.
    """
    text = text.lstrip() if re.match(r"\s*<", text) else text
    if not text.startswith("<"):
        return text
    try:
        return _Elements().read(text)
    except (expat.ExpatError, _Refused):
        lines = _page("<pre>" + _XML_TAG.sub(" ", text)).split("\n")
        return "\n".join(line.strip() for line in lines)


class _Elements:
    """Takes the events of expat; each open element has [holds text, places in `parts` that only matter if not]."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.open: list[tuple[list[bool], list[int]]] = [([False], [])]

    def read(self, text: str) -> str:
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.SkippedEntityHandler = self._skipped
        parser.EntityDeclHandler = self._declared
        parser.Parse(text, True)
        joined = "".join(self.parts).strip(_BOUNDARY)
        return re.sub(f"{_BOUNDARY}+", "\n", joined)

    def _start(self, _tag: str, _attributes: Any) -> None:
        self._boundary()
        self.open.append(([False], []))

    def _end(self, _tag: str) -> None:
        (holds_text,), places = self.open.pop()
        if not holds_text:
            for place in places:
                self.parts[place] = _BOUNDARY
        self._boundary()

    def _boundary(self) -> None:
        self.open[-1][1].append(len(self.parts))
        self.parts.append("")

    def _characters(self, text: str) -> None:
        if text.isspace():
            self.open[-1][1].append(len(self.parts))
        else:
            self.open[-1][0][0] = True
        self.parts.append(text)

    def _skipped(self, name: str, is_parameter: bool) -> None:
        if not is_parameter:
            self._characters(unescape(f"&{name};"))

    def _declared(self, *_declaration: Any) -> None:
        raise _Refused


def encodable(text: str) -> str:
    """Halves of characters (lone surrogates), which JSON can hold but no encoding can write, become U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
