"""Cleaning: raw text to the text that is tokenised. Take it out of its wrapper, mend it, bring it into one form."""

import re
import sys
import unicodedata
from functools import cache
from string import punctuation
from typing import Any

from configs.dataset import TextConfig
from data.cleaning import words
from data.cleaning.markup import encodable, unwrap

ODD_MARKS = "\u0f73\u0f75\u0f81\uff9e\uff9f"  # of class 0, and yet normal forms turn them into marks alone
_MARK_LIMIT = 256
_MARK_STRIDE = 64
_ACCENTS = re.compile("[\u0300-\u036f]+")  # the marks of Latin, Greek and Cyrillic letters; others are letters' parts
_PLAIN = (
    dict.fromkeys("‘’‚‛′‹›", "'")
    | dict.fromkeys("“”„‟″«»", '"')
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-")
    | {"\u2025": "..", "\u2026": "..."}
)
_BEYOND_16_BITS = re.compile("[\U00010000-\U0010ffff]")
_CURLY = re.compile(f"[{''.join(_PLAIN)}]")


def clean(text: str, config: TextConfig) -> str:
    """The document as it is tokenised; the same text for the same configuration, whatever else is read.

    The order: denoise, `normalise`, then numbers, stop words, stems or lemmas, which need the marks, capitals and
    accents that the next ones take away: punctuation, lower case, accents, white space.
    """
    text = normalise(denoise(text, config), config)
    same = text
    if config.unicode_form in ("NFD", "NFKD"):
        text = unicodedata.normalize("NFC", text)  # a mark apart from its letter would end a word
    if config.numbers == "words":
        text = words.write_numbers(text, config.language)
    if config.stop_words == "remove":
        text = words.remove_stop_words(text, config.language)
    if config.words != "keep":
        change = words.stem if config.words == "stem" else words.lemmatise
        text = change(text, config.language)
    if config.punctuation == "ascii":
        text = _CURLY.sub(lambda match: _PLAIN[match[0]], text)
    elif config.punctuation == "remove":
        text = remove_punctuation(text)
    if config.lower_case:
        text = text.lower()
    if config.strip_accents and not text.isascii():
        text = _ACCENTS.sub("", unicodedata.normalize("NFD", text))
    if config.white_space == "collapse":
        text = " ".join(text.split())
    return same if text is same else normalise(text, config)


def normalise(text: str, config: TextConfig) -> str:
    """One Unicode form, \\n line ends, no byte-order mark; white space around the document goes."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if not text.isascii():
        text = unicodedata.normalize(config.unicode_form, _with_short_runs_of_marks(encodable(text)))
    return text.strip()


def denoise(text: str, config: TextConfig) -> str:
    """The text without its wrapper, wrongly decoded characters and contractions, as far as the configuration asks."""
    if not config.denoise:
        return text
    text = unwrap(text.removeprefix("\ufeff"), frozenset(config.denoise))
    if "mojibake" in config.denoise and not text.isascii():
        text = mend(text)
    if "contractions" in config.denoise:
        text = words.expand_contractions(text)
    return text


def mend(text: str) -> str:
    """UTF-8 that was decoded as something else becomes what it was (ftfy), line by line; all else stays."""
    import ftfy

    return ftfy.fix_text(text, _mending())


@cache
def _mending() -> Any:
    import ftfy

    return ftfy.TextFixerConfig(
        unescape_html=False,
        remove_terminal_escapes=False,
        fix_latin_ligatures=False,
        fix_character_width=False,
        uncurl_quotes=False,
        fix_line_breaks=False,
        fix_surrogates=False,
        remove_control_chars=False,
        normalization=None,
        explain=False,
    )


def remove_punctuation(text: str) -> str:
    """No punctuation of Unicode or ASCII; between two words a space takes its place."""
    highest = 0x7F if text.isascii() else sys.maxunicode if _BEYOND_16_BITS.search(text) else 0xFFFF
    between, any_ = _punctuation(highest)
    return any_.sub("", between.sub(" ", text))


@cache
def _punctuation(highest: int) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Runs of marks and the blanks after them: those between words, and all. Neither begins inside another run.

    Up to `highest`, as classes of higher characters are searched 30 times slower.
    """
    characters = map(chr, range(highest + 1))
    marks = _ranges(each for each in characters if unicodedata.category(each)[0] == "P" or each in punctuation)
    rest = f"[{marks} \\t]*+"
    return re.compile(f"[{marks}](?<=[^\\s{marks}][{marks}]){rest}(?=\\S)"), re.compile(f"[{marks}]{rest}")


def _with_short_runs_of_marks(text: str) -> str:
    """Runs of combining marks, cut by U+034F: normal forms sort a run in quadratic time (UAX 15, section 13)."""
    few, many = _runs_of_marks()
    return many.sub("\\g<0>\u034f", text) if few.search(text[::_MARK_STRIDE]) else text


@cache
def _runs_of_marks() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What a run of the limit leaves of itself in every 64th character, and such a run with more of it to come."""
    characters = map(chr, range(sys.maxunicode + 1))
    marks = _ranges(each for each in characters if unicodedata.combining(each) or each in ODD_MARKS)
    few = _MARK_LIMIT // _MARK_STRIDE
    return re.compile(f"[{marks}]{{{few}}}"), re.compile(f"[{marks}]{{{_MARK_LIMIT}}}(?=[{marks}])")


def _ranges(characters: Any) -> str:
    """Ascending characters as the inside of a regular expression's class."""
    found: list[list[int]] = []
    for code in map(ord, characters):
        if found and found[-1][1] == code - 1:
            found[-1][1] = code
        else:
            found.append([code, code])
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in found)
