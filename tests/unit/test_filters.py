"""Filters: each reason at its limit, and shares that agree with the plain definition."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.dataset import FilterConfig
from configs.errors import ConfigError
from data.cleaning.filters import excerpt, repeated_lines, repeated_words, symbols, unfit

ENGLISH = "The quick brown fox jumps over the lazy dog, and then it goes home to sleep until the morning."
FRENCH = "Lorsque j'avais six ans j'ai vu, une fois, une magnifique image dans un livre sur la forêt vierge."


@pytest.mark.parametrize(
    ("text", "limits", "reason"),
    [
        ("", {}, "empty"),
        (" \n", {"min_characters": 1}, "empty"),
        ("a", {}, None),
        ("abc", {"min_characters": 3}, None),
        ("ab", {"min_characters": 3}, "too short"),
        ("abc", {"max_characters": 3}, None),
        ("abcd", {"max_characters": 3}, "too long"),
        ("a b\nc", {"min_words": 3}, None),
        ("a b", {"min_words": 3}, "too few words"),
        ("ab!!", {"max_symbols": 0.5}, None),
        ("ab!!!", {"max_symbols": 0.5}, "too many symbols"),
        ("a\nb\na\nb", {"max_repeated_lines": 0.5}, None),
        ("a\nb\na\nb\n\n a", {"max_repeated_lines": 0.5}, "repeated lines"),
        ("a b c d e a b c d e", {"max_repeated_words": 0.5}, None),
        ("a b c d e a b c d e a b c d e", {"max_repeated_words": 0.5}, "repeated words"),
        (ENGLISH, {"languages": ("en",)}, None),
        (FRENCH, {"languages": ("en",)}, "language"),
        (FRENCH, {"languages": ("en", "fr")}, None),
        ("1234 5678", {"languages": ("en",)}, "language"),
        (ENGLISH, {"languages": ("en",), "min_language_probability": 1.0}, "language"),
    ],
)
def test_a_document_is_unfit_for_the_first_limit_it_breaks(text: str, limits: dict[str, Any], reason: str | None):
    assert unfit(text, FilterConfig(**limits)) == reason


def test_without_limits_only_empty_documents_are_unfit():
    assert unfit("!" * 1000, FilterConfig()) is None


def test_the_language_of_a_long_document_is_that_of_its_parts():
    assert unfit(f"{ENGLISH} " * 2000, FilterConfig(languages=("en",))) is None


def test_a_language_that_cannot_be_told_is_refused():
    with pytest.raises(ConfigError, match=r"data.text.filter.languages: .* xx; choose among: .* en .* fr "):
        unfit("text", FilterConfig(languages=("en", "xx")))


def test_marks_are_part_of_letters_and_emoji_are_symbols():
    assert symbols("हिन्दी عَرَبِيّ") == 0
    assert symbols("é€😀") == pytest.approx(2 / 3)


@given(text=st.text(min_size=1))
def test_symbols_of_ascii_are_counted_as_those_of_other_text(text: str):
    ascii_text = text.encode("ascii", "ignore").decode() + "a"
    assert symbols(ascii_text + "é") == pytest.approx(symbols(ascii_text) * len(ascii_text) / (len(ascii_text) + 1))


@given(words=st.lists(st.sampled_from(["a", "bb", "ccc"]), min_size=1, max_size=60))
def test_repeated_words_are_the_characters_that_a_repeated_5_gram_covers(words: list[str]):
    seen, covered = set(), set()
    for place in range(len(words) - 4):
        ngram = tuple(words[place : place + 5])
        covered |= set(range(place, place + 5)) if ngram in seen else set()
        seen.add(ngram)
    expected = sum(len(words[place]) for place in covered) / sum(map(len, words))
    assert repeated_words(" ".join(words)) == pytest.approx(expected)


def test_blank_lines_are_not_repeated_lines():
    assert repeated_lines("a\n\n\n\nb") == 0
    assert repeated_lines("\n \n") == 0


@pytest.mark.parametrize("repeated", ["a", "a ", "é", "!", "\n", "1", "a\n", "\u0301"])
def test_a_megabyte_of_repetition_takes_linear_time(repeated: str):
    everything = FilterConfig(
        min_words=1, max_symbols=1, max_repeated_lines=1, max_repeated_words=1, languages=("en",), min_characters=1
    )
    text = "x" + repeated * (1_000_000 // len(repeated))
    assert unfit(text, everything) in (None, "language")
    assert len(excerpt(text)) <= 120


@given(text=st.text(), length=st.integers(2, 50))
def test_an_excerpt_is_one_printable_line(text: str, length: int):
    got = excerpt(text, length)
    assert len(got) <= length
    assert got.isprintable()


def test_an_excerpt_says_when_there_is_more():
    assert excerpt("a\n\n b\tc") == "a b c"
    assert excerpt("a" * 121) == "a" * 119 + "…"
    assert excerpt("a\x07b") == "a�b"
