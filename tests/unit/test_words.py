"""Words: hand-checked sentences in English and French."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.cleaning.words import expand_contractions, lemmatise, remove_stop_words, stem, write_numbers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It's John's dog; they'll've gone.", "It is John's dog; they will have gone."),
        ("can't WON'T Won’t shan't Ain't", "cannot WILL NOT Will not shall not Is not"),
        ("I'm here, I'M HERE, we’re there", "I am here, I AM HERE, we are there"),
        ("he'd go; he'd better; she’d been; I'd rather", "he would go; he had better; she had been; I would rather"),
        ("it's been said that's it", "it has been said that is it"),
        ("couldn't've mightn't", "could not have might not"),
        ("Let's go, y'all", "Let us go, you all"),
        ("o'clock rock'n'roll John’s 'tis cant dont well", "o'clock rock'n'roll John’s 'tis cant dont well"),
    ],
)
def test_contractions_are_written_out_where_there_is_one_reading(text: str, expected: str):
    assert expand_contractions(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$3.14 for 80", "$three point one four for eighty"),
        ("1,234 people", "one thousand, two hundred and thirty-four people"),
        ("the 21st, 2ND and 100th", "the twenty-first, second and one hundredth"),
        ("A4 mp3s", "A four mp three s"),
        ("agent 007, 0.5", "agent zero zero seven, zero point five"),
        ("1234567890123456", "one two three four five six seven eight nine zero one two three four five six"),
        ("1,2345", "one,two thousand, three hundred and forty-five"),
        ("٣", "three"),
    ],
)
def test_english_numbers(text: str, expected: str):
    assert write_numbers(text, "en") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("71 ans, 80 ans, 3,5 km", "soixante et onze ans, quatre-vingts ans, trois virgule cinq km"),
        ("1\u202f234 1 234", "mille deux cent trente-quatre mille deux cent trente-quatre"),
        ("le 1er, la 1re, le 2e, la 3ème", "le premier, la première, le deuxième, la troisième"),
        ("21 chevaux", "vingt et un chevaux"),
    ],
)
def test_french_numbers(text: str, expected: str):
    assert write_numbers(text, "fr") == expected


@given(
    number=st.integers(0, 10**18), language=st.sampled_from(["en", "fr"]), after=st.sampled_from(["", "th", "e", "er"])
)
def test_every_number_has_words(number: int, language: str, after: str):
    assert not any(each.isdigit() for each in write_numbers(f"{number}{after}", language))


def test_stop_words_go_with_the_blanks_after_them():
    assert remove_stop_words("The cat of the house isn't here.\nOf mice and men", "en") == "cat house .\nmice men"
    assert remove_stop_words("L’ami est là, et les chats d'Alice ne sont pas dans la maison", "fr") == (
        "ami là, chats Alice maison"
    )
    assert remove_stop_words("aujourd'hui qu'il pleut", "fr") == "aujourd'hui pleut"


def test_stems_are_those_of_snowball():
    assert stem("The houses were running; geese don’t fly.", "en") == "the hous were run; gees don't fli."
    assert stem("Les continuelles l’éteignaient", "fr") == "le continuel l'éteign"


def test_lemmas_are_dictionary_forms():
    assert lemmatise("The houses were running faster; Children’s USA", "en") == "the house be run fast; child USA"
    assert lemmatise("Les chevaux mangeaient l’herbe aujourd'hui, peut-être.", "fr") == (
        "le cheval manger l'herbe aujourd'hui, peut-être."
    )


@pytest.mark.parametrize("change", [stem, lemmatise])
def test_a_run_of_letters_too_long_for_a_word_stays(change):
    assert change("houses" * 20, "en") == "houses" * 20
