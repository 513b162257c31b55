"""Filters: why a cleaned document is left out, if it is."""

import re
import unicodedata
from collections import Counter
from functools import cache
from typing import Any

import numpy as np

from configs.dataset import FilterConfig
from configs.errors import ConfigError

_NGRAM_WORDS = 5
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_JUDGED_CHARACTERS = 1 << 22  # repetition is judged by the beginning of longer documents: bounded memory
_LANGUAGE_CHARACTERS = 1024  # language is judged by as much of the beginning, the middle and the end
_NO_SYMBOLS = bytes(code for code in range(128) if chr(code).isalnum() or chr(code).isspace())


def unfit(text: str, config: FilterConfig) -> str | None:
    """The first reason to leave a cleaned document out, or None. Raises ConfigError for a language nobody knows."""
    if not text or text.isspace():
        return "empty"
    if config.min_characters is not None and len(text) < config.min_characters:
        return "too short"
    if config.max_characters is not None and len(text) > config.max_characters:
        return "too long"
    if config.min_words is not None and not has_words(text, config.min_words):
        return "too few words"
    if config.max_symbols is not None and symbols(text) > config.max_symbols:
        return "too many symbols"
    if config.max_repeated_lines is not None and repeated_lines(text) > config.max_repeated_lines:
        return "repeated lines"
    if config.max_repeated_words is not None and repeated_words(text) > config.max_repeated_words:
        return "repeated words"
    if config.languages and language(text, config) not in config.languages:
        return "language"
    return None


def has_words(text: str, count: int) -> bool:
    """Whether there are so many words, that is runs without white space."""
    return len(text.split(maxsplit=count - 1)) >= count


def symbols(text: str) -> float:
    """Share of the characters that are neither letters, digits nor white space; marks are part of their letters."""
    if text.isascii():
        return len(text.encode().translate(None, _NO_SYMBOLS)) / len(text)
    return sum(count for character, count in Counter(text).items() if _is_symbol(character)) / len(text)


@cache
def _is_symbol(character: str) -> bool:
    return not character.isspace() and unicodedata.category(character)[0] not in "LMN"


def repeated_lines(text: str) -> float:
    """Share of the lines with text that stood in the document before (Rae et al., 2021, table A1)."""
    lines = [stripped for line in text[:_JUDGED_CHARACTERS].split("\n") if (stripped := line.strip())]
    return 1 - len(set(lines)) / len(lines) if lines else 0.0


def repeated_words(text: str) -> float:
    """Share of the words' characters in 5-grams of words that stood before, each once (Rae et al., 2021, table A1)."""
    known: dict[str, int] = {}
    words = text[:_JUDGED_CHARACTERS].split()
    if len(words) <= _NGRAM_WORDS:
        return 0.0
    ids = np.fromiter((known.setdefault(word, len(known)) for word in words), np.uint64, len(words))
    lengths = np.fromiter(map(len, words), np.int64, len(words))
    del words
    places = len(ids) - _NGRAM_WORDS + 1
    ngrams = ids[:places]
    for offset in range(1, _NGRAM_WORDS):
        ngrams = (
            ngrams * _FACTOR + ids[offset : offset + places]
        )  # a hash of 64 bits: no two n-grams share it by chance
    firsts = np.unique(ngrams, return_index=True)[1]
    repeats = np.ones(places, bool)
    repeats[firsts] = False
    covered = np.zeros(len(ids), bool)
    for offset in range(_NGRAM_WORDS):
        covered[offset : offset + places] |= repeats
    return float(lengths[covered].sum() / lengths.sum())


def language(text: str, config: FilterConfig) -> str | None:
    """The ISO 639-1 code of the likeliest language (py3langid), or None where it is less likely than asked for."""
    identifier = _identifier(config.languages)
    part = _LANGUAGE_CHARACTERS
    if len(text) > 3 * part:
        middle = (len(text) - part) // 2
        text = "\n".join((text[:part], text[middle : middle + part], text[-part:]))
    found, probability = identifier.classify(text)
    return found if probability >= config.min_language_probability else None


@cache
def _identifier(wanted: tuple[str, ...]) -> Any:
    identifier = _load_identifier()
    if unknown := sorted(set(wanted) - set(identifier.labels)):
        known = " ".join(sorted(label for label in identifier.labels if len(label) == 2))
        raise ConfigError(
            f"data.text.filter.languages: no text can be told to be of {', '.join(unknown)}; choose among: {known}"
        )
    return identifier


@cache
def _load_identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def excerpt(text: str, length: int = 120) -> str:
    """The beginning on one line, without control characters, for data cards."""
    line = re.sub(r"\s+", " ", text[: 8 * length].lstrip()).rstrip()
    line = "".join(character if character.isprintable() else "�" for character in line)
    return line if len(line) <= length and len(text) <= 8 * length else line[: length - 1] + "…"
