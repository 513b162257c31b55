"""What cleaning knows of English and French words: contractions, numbers, stop words, stems and lemmas."""

import re
from functools import cache, lru_cache
from typing import Any

_LONGEST_WORD = 64  # longer runs of letters are no words: they stay as they are
_LONGEST_NUMBER = 15  # digits; longer ones and those with a leading zero are names: each digit is read

_LETTERS = r"[^\W\d_]++"
_WORDS = {
    "en": re.compile(rf"({_LETTERS}(?:['’]{_LETTERS})*+)([ \t]*+)"),
    "fr": re.compile(  # an elided article or pronoun is a word of its own, its apostrophe with it
        rf"((?:[cdjlmnst]|(?:jus|lors|puis|quoi)?qu)['’](?=[^\W\d_])|{_LETTERS}(?:['’-]{_LETTERS})*+)([ \t]*+)",
        re.IGNORECASE,
    ),
}
_CONTRACTED = re.compile(r"\b[A-Za-z]++(?:['’][A-Za-z]++)++(?=(?: ([A-Za-z]++))?)")
_WHOLE_FORMS = {
    "won't": "will not",
    "can't": "cannot",
    "shan't": "shall not",
    "ain't": "is not",
    "let's": "let us",
    "y'all": "you all",
}
_SUFFIXES = {"n't": " not", "'re": " are", "'ve": " have", "'ll": " will"}
_TAKE_D = {"i", "you", "he", "she", "it", "we", "they", "who", "there", "that"}
_TAKE_S = {"he", "she", "it", "that", "what", "where", "when", "who", "how", "there", "here"}
_AFTER_HAD = {"been", "better", "best", "had"}
_AFTER_HAS = {"been", "had", "got"}
_NUMBERS = {
    "en": re.compile(
        r"(?P<whole>\d{1,3}(?:,\d{3})+(?!\d)|\d++)(?:\.(?P<part>\d++)|(?P<order>st|nd|rd|th)\b)?", re.IGNORECASE
    ),
    "fr": re.compile(
        r"(?P<whole>\d{1,3}(?:[ \u00a0\u202f]\d{3})+(?!\d)|\d++)"
        r"(?:,(?P<part>\d++)|(?P<order>ers?|[eè]?res?|i?[eè]mes?|es?|nde?)\b)?",
        re.IGNORECASE,
    ),
}
_POINTS = {"en": " point ", "fr": " virgule "}

# Snowball's lists (Porter, 2001), with "elles": packages lack such words, or have "computer" and a thousand more.
_STOP_WORDS = {
    "en": """i me my myself we our ours ourselves you your yours yourself yourselves he him his himself she her hers
        herself it its itself they them their theirs themselves what which who whom this that these those am is are was
        were be been being have has had having do does did doing would should could ought i'm you're he's she's it's
        we're they're i've you've we've they've i'd you'd he'd she'd we'd they'd i'll you'll he'll she'll we'll they'll
        isn't aren't wasn't weren't hasn't haven't hadn't doesn't don't didn't won't wouldn't shan't shouldn't can't
        cannot couldn't mustn't let's that's who's what's here's there's when's where's why's how's a an the and but if
        or because as until while of at by for with about against between into through during before after above below
        to from up down in out on off over under again further then once here there when where why how all any both
        each few more most other some such no nor not only own same so than too very""",
    "fr": """
        au aux avec ce ces dans de des du elle elles en et eux il je la le leur lui ma mais me même mes moi mon ne nos
        notre nous on ou par pas pour qu que qui sa se ses son sur ta te tes toi ton tu un une vos votre vous c d j l à
        m n s t y été étée étées étés étant suis es est sommes êtes sont serai seras sera serons serez seront serais
        serait serions seriez seraient étais était étions étiez étaient fus fut fûmes fûtes furent sois soit soyons
        soyez soient fusse fusses fût fussions fussiez fussent ayant eu eue eues eus ai as avons avez ont aurai auras
        aura aurons aurez auront aurais aurait aurions auriez auraient avais avait avions aviez avaient eut eûmes eûtes
        eurent aie aies ait ayons ayez aient eusse eusses eût eussions eussiez eussent ceci cela celà cet cette ici ils
        les leurs quel quels quelle quelles sans soi""",
}


def expand_contractions(text: str) -> str:
    """English contractions in full, capitals kept. 's only after pronouns, as elsewhere it is mostly a possessive;
    'd is had before "been", "better", "best" and "had", and would before all else.
    """
    return _CONTRACTED.sub(_expand_match, text)


def _expand_match(match: re.Match[str]) -> str:
    word = match[0].replace("’", "'")
    full = _expand(word, (match[1] or "").lower())
    if full == word:
        return match[0]
    return full.upper() if word.isupper() else full


def _expand(word: str, following: str) -> str:
    lower = word.lower()
    if whole := _WHOLE_FORMS.get(lower):
        return whole.capitalize() if word[0].isupper() else whole
    if lower == "i'm":
        return "I am"
    for suffix, full in _SUFFIXES.items():
        if lower.endswith(suffix) and len(word) > len(suffix):
            return _expand(word[: -len(suffix)], "") + full
    first = word[:-2]
    if lower.endswith("'d") and first.lower() in _TAKE_D:
        return first + (" had" if following in _AFTER_HAD else " would")
    if lower.endswith("'s") and first.lower() in _TAKE_S:
        return first + (" has" if following in _AFTER_HAS else " is")
    return word


def write_numbers(text: str, language: str) -> str:
    """Digits as words (num2words): cardinals, ordinals such as 21st or 2e, decimals and grouped thousands.

    A space keeps them apart from letters. Numbers of more than 15 digits, or with a leading zero, are read digit by
    digit. Signs, units and marks around them stay.
    """

    def written(match: re.Match[str]) -> str:
        words = _number(re.sub(r"\D", "", match["whole"]), (match["order"] or "").lower(), language)
        if match["part"]:
            words += _POINTS[language] + _digits(match["part"], language)
        before, after = text[match.start() - 1 : match.start()], text[match.end() : match.end() + 1]
        return " " * before.isalpha() + words + " " * after.isalpha()

    return _NUMBERS[language].sub(written, text)


@lru_cache(1 << 16)
def _number(digits: str, order: str, language: str) -> str:
    from num2words import num2words

    value = int(digits[:_LONGEST_NUMBER])
    if len(digits) > _LONGEST_NUMBER or (len(digits) > 1 and int(digits[0]) == 0):
        return _digits(digits, language) + order
    if language == "fr" and value == 1 and order.rstrip("s").endswith("re"):
        return "première"
    return num2words(value, lang=language, to="ordinal" if order else "cardinal")


def _digits(digits: str, language: str) -> str:
    return " ".join(_number(digit, "", language) for digit in digits)


def remove_stop_words(text: str, language: str) -> str:
    """The text without the commonest words of the language, in any case, and the blanks after them."""
    stop_words = _stop_words(language)

    def kept(match: re.Match[str]) -> str:
        return "" if match[1].lower().replace("’", "'").rstrip("'") in stop_words else match[0]

    return "\n".join(line.rstrip(" \t") for line in _WORDS[language].sub(kept, text).split("\n"))


@cache
def _stop_words(language: str) -> frozenset[str]:
    return frozenset(_STOP_WORDS[language].split())


def stem(text: str, language: str) -> str:
    """Every word as its Snowball stem (Porter, 2001), in lower case."""
    return _WORDS[language].sub(lambda match: _stem(match[1], language) + match[2], text)


def lemmatise(text: str, language: str) -> str:
    """Every word as its dictionary form (simplemma), names and unknown words as they are."""
    return _WORDS[language].sub(lambda match: _lemma(match[1], language) + match[2], text)


@lru_cache(1 << 16)
def _stem(word: str, language: str) -> str:
    word = word.lower().replace("’", "'")
    return word if len(word) > _LONGEST_WORD or word.endswith("'") else _stemmer(language).stemWord(word)


@cache
def _stemmer(language: str) -> Any:
    import snowballstemmer

    return snowballstemmer.stemmer({"en": "english", "fr": "french"}[language])


@lru_cache(1 << 16)
def _lemma(word: str, language: str) -> str:
    word = word.replace("’", "'")
    return word if len(word) > _LONGEST_WORD or word.endswith("'") else _lemmatiser().lemmatize(word, language)


@cache
def _lemmatiser() -> Any:
    from simplemma import Lemmatizer

    return Lemmatizer(cache_max_size=0)
