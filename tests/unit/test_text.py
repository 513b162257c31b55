"""Cleaning: off by default, in one fixed order, and never at a loss for hostile input."""

import json
import sys
import unicodedata
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.dataset import TextConfig
from data.cleaning.text import ODD_MARKS, clean, normalise, remove_punctuation

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
FORMS = ["NFC", "NFKC", "NFD", "NFKD"]
DENOISE = ("html", "xml", "json", "mojibake", "contractions")
OPTIONS: list[dict[str, Any]] = [
    {},
    *({"denoise": (step,)} for step in DENOISE),
    {"lower_case": True},
    {"strip_accents": True},
    {"punctuation": "ascii"},
    {"punctuation": "remove"},
    {"white_space": "collapse"},
    {"numbers": "words"},
    {"stop_words": "remove"},
    {"words": "stem"},
    {"words": "lemmatise"},
]


def cleaned(text: str, **options: Any) -> str:
    return clean(text, TextConfig(**options))


def before_this_module(text: str, form: Any) -> str:
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    return unicodedata.normalize(form, text).strip()


@given(text=TEXT, form=st.sampled_from(FORMS))
def test_by_itself_cleaning_only_normalises(text: str, form: Any):
    got = cleaned(text, unicode_form=form)
    assert got == before_this_module(text, form)
    assert unicodedata.is_normalized(form, got)
    assert "\r" not in got
    assert got == got.strip()


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("\ufeffa", "a"),
        ("a\r\nb\rc\nd", "a\nb\nc\nd"),
        ("\ufeff\r\n a \r\n", "a"),
        ("e\u0301", "é"),
        ("a\ufeffb", "a\ufeffb"),
        (" \t\n", ""),
    ],
)
def test_normalising_removes_marks_of_files_not_of_texts(raw: str, expected: str):
    assert normalise(raw, TextConfig()) == expected


def test_each_unicode_form_is_its_own():
    forms = {form: cleaned("ﬁé", unicode_form=form) for form in FORMS}
    assert forms == {"NFC": "ﬁé", "NFD": "ﬁe\u0301", "NFKC": "fié", "NFKD": "fie\u0301"}


def test_half_a_character_is_replaced_and_two_halves_are_joined():
    assert cleaned("a\ud800b \ud83d\ude00") == "a�b 😀"


@pytest.mark.parametrize("form", FORMS)
def test_long_runs_of_marks_are_cut_so_that_sorting_them_takes_linear_time(form: Any):
    got = cleaned("a" + "\u0327\u0301" * 50_000, unicode_form=form)
    assert got.count("\u034f") == pytest.approx(100_000 / 256, abs=2)
    assert cleaned(got, unicode_form=form) == got


def test_runs_that_people_write_are_not_cut():
    assert "\u034f" not in cleaned("Z" + "\u0327\u0301" * 100 + "algo é")


def test_every_character_that_becomes_marks_alone_counts_as_a_mark():
    for character in map(chr, range(sys.maxunicode + 1)):
        if unicodedata.combining(unicodedata.normalize("NFKD", character)[0]):
            assert unicodedata.combining(character) or character in ODD_MARKS


def test_every_option_of_the_config_is_known_here():
    assert set(DENOISE) == set(get_args(get_args(TextConfig.model_fields["denoise"].annotation)[0]))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@given(text=TEXT, form=st.sampled_from(FORMS), language=st.sampled_from(["en", "fr"]))
def test_every_option_takes_every_text_and_keeps_its_form(options: dict[str, Any], text: str, form: str, language: str):
    got = cleaned(text, unicode_form=form, language=language, **options)
    assert unicodedata.is_normalized(form, got)  # type: ignore[arg-type]
    assert got == got.strip()
    got.encode()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("repeated", [*"a<&'é1 \n,[Ã’\u0301", "<div>", "<!--", "<a b='", "&#1", "1,234", "a'", '["'])
def test_repetition_without_end_takes_linear_time_and_grows_evenly(options: dict[str, Any], repeated: str):
    one, two, three = (cleaned(repeated * (10_240 // len(repeated) * times), **options) for times in (1, 2, 3))
    assert len(three) - len(two) == len(two) - len(one)
    assert three.startswith(one[: len(one) // 2])


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_megabyte_of_one_letter_takes_linear_time(options: dict[str, Any]):
    assert cleaned("a" * 1_000_000, **options) == "a" * 1_000_000


def test_a_page_becomes_its_visible_text_with_paragraphs_apart():
    page = """<!DOCTYPE html><html><head><title>T</title><style>a{}</style></head><body><nav>Menu</nav>
        <h1>Big &amp; <i>small</i></h1><p>One
        two<br>three<br><br>four &eacute; a&nbsp;b</p><ul><li>x<li>y</ul>
        <table><tr><td>a<td>b<tr><td>c</table><pre>  k
   l</pre><script>if (a<b) {}</script><!-- no --><footer>f</footer><p>end"""
    assert cleaned(page, denoise=("html",)) == (
        "Big & small\n\nOne two\nthree\n\nfour é a\xa0b\n\nx\ny\n\na b\nc\n\n  k\n   l\n\nend"
    )


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("<p>a</b></p></div><p>b", "a\n\nb"),
        ("<p>a<p", "a"),
        ("a < b &lt;3\n\nno tag", "a < b <3\n\nno tag"),
        ("R&D &#x2014; &unknown;", "R&D — &unknown;"),
        ("<b>wo</b>rd", "word"),
        ('<a title="x>y">t</a>', "t"),
        ("<script>only</script>", ""),
        ("&#" + "1" * 5000 + ";", "�"),
        ("<p>\x00a", "�a"),
    ],
)
def test_malformed_pages_are_read_as_browsers_do(page: str, expected: str):
    assert cleaned(page, denoise=("html",)) == expected


def test_deep_nesting_takes_linear_time():
    assert cleaned("<div>" * 50_000 + "x", denoise=("html",)) == "x"
    assert cleaned("<a>" * 50_000 + "x" + "</a>" * 50_000, denoise=("xml",)) == "x"


def test_elements_that_hold_elements_alone_are_lines_and_text_is_not_broken():
    document = """<?xml version="1.0" encoding="latin-1"?>
<doc><!-- no -->
 <title>A</title>
 <body>He <b>wo</b>rld &amp; é <![CDATA[<z>]]>

next</body>
 <l><i>1</i><i>2</i></l></doc>"""
    assert cleaned(document, denoise=("xml",)) == "A\nHe world & é <z>\n\nnext\n1\n2"


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("<p>a</p>\n<p>b & c &eacute;</p>", "a\nb & c é"),
        ("<a>x<b>y</a>", "x y"),
        ("a < b > c", "a < b > c"),
        ("<3 you", "<3 you"),
        ('<!DOCTYPE html PUBLIC "x" "http://127.0.0.1:9/x"><a>&eacute;t&eacute; &foo;</a>', "été &foo;"),
    ],
)
def test_malformed_xml_loses_its_tags_and_other_text_stays(document: str, expected: str):
    assert cleaned(document, denoise=("xml",)) == expected


def test_entities_that_a_document_declares_are_not_expanded():
    levels = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
    bomb = f'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY l0 "lol">{levels}]><l>a &l9; b</l>'
    assert cleaned(bomb, denoise=("xml",)) == "a &l9; b"
    outside = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>p&x;q</a>'
    assert cleaned(outside, denoise=("xml",)) == "p&x;q"
    assert cleaned(outside, denoise=("html",)) == "]>p&x;q"


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=8,
    )
)
def test_json_becomes_its_strings_in_order(value: Any):
    def strings(value: Any) -> list[str]:
        if isinstance(value, dict):
            value = list(value.values())
        return (
            [value]
            if isinstance(value, str)
            else [s for v in value for s in strings(v)]
            if isinstance(value, list)
            else []
        )

    expected = normalise("\n".join(strings([value])), TextConfig())
    assert cleaned(json.dumps([value]), denoise=("json",)) == expected


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ('{"a": "x", "a": "y"}', "x\ny"),
        ('["' + "9" * 10 + '", ' + "9" * 5000 + "]", "9" * 10),
        ('{"a": 1', '{"a": 1'),
        ("[note] no JSON", "[note] no JSON"),
        ('"a quotation"', '"a quotation"'),
        ("2024", "2024"),
        ("[" * 10_000, "[" * 10_000),
        (r'["\ud800"]', "�"),
        ('["a\nb"]', "a\nb"),
    ],
)
def test_only_whole_objects_and_arrays_are_json(document: str, expected: str):
    assert cleaned(document, denoise=("json",)) == expected


def test_pages_inside_json_are_opened_and_the_order_of_the_steps_in_the_config_means_nothing():
    document = json.dumps({"id": 7, "body": '<p>It&quot;s <a href="x">here</a></p><p>l\u00e2\u20ac\u2122\u00e9t\u00e9'})
    for steps in (("html", "json", "mojibake"), ("mojibake", "json", "html")):
        assert cleaned(document, denoise=steps) == 'It"s here\n\nl’été'


def test_xml_is_not_read_as_html():
    assert cleaned('<?xml version="1.0"?><r><title/><nav>kept</nav></r>', denoise=("html", "xml")) == "kept"
    assert cleaned('<?xml version="1.0"?><html><nav>no</nav><p>yes</p></html>', denoise=("html", "xml")) == "yes"


def test_mojibake_is_mended_line_by_line_and_nothing_else_changes():
    assert cleaned("lâ€™Ã©tÃ© dÃ©jÃ\xa0\nl’été “déjà” ﬁ &amp; １", denoise=("mojibake",)) == (
        "l’été déjà\nl’été “déjà” ﬁ &amp; １"
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"lower_case": True}, "“été” — ñandú…\n(straße) йод $5 l'île"),
        ({"strip_accents": True}, "“Ete” — Nandu…\n(Straße) иод $5 l'ile"),
        ({"punctuation": "ascii"}, '"Été" - Ñandú...\n(Straße) йод $5 l\'île'),
        ({"punctuation": "remove"}, "Été Ñandú\nStraße йод 5 l île"),
        ({"white_space": "collapse"}, "“Été” — Ñandú… (Straße) йод $5 l'île"),
    ],
)
def test_surface_options_do_what_they_say(options: dict[str, Any], expected: str):
    assert cleaned("“Été” — Ñandú…\n(Straße) йод $5 l'île", **options) == expected


def test_vowel_signs_are_letters_not_accents():
    assert cleaned("हिन्दी", strip_accents=True) == "हिन्दी"


@given(text=TEXT)
def test_removed_punctuation_never_joins_words_nor_leaves_a_mark(text: str):
    got = remove_punctuation(text)
    assert not any(unicodedata.category(each)[0] == "P" for each in got)
    kept = "".join(" " if unicodedata.category(each)[0] == "P" or each in "$+<=>^`|~" else each for each in text)
    assert got.split() == kept.split()
    assert remove_punctuation(text + "é") + remove_punctuation("𐄀a") == remove_punctuation(text + "éa")


def test_the_order_of_all_options_is_the_documented_one():
    everything: dict[str, Any] = {
        "lower_case": True,
        "strip_accents": True,
        "punctuation": "remove",
        "white_space": "collapse",
        "numbers": "words",
        "stop_words": "remove",
        "words": "lemmatise",
    }
    french = cleaned(
        "<p>Les  chevaux d'Éric ont mangé 2,5 kg\nd’herbe…</p>", denoise=("html",), language="fr", **everything
    )
    assert french == "cheval eric manger deux virgule cinq kg herbe"
    english = cleaned("They've fed the 21st horse; it's John’s “houses”!", denoise=("contractions",), **everything)
    assert english == "feed twenty first horse john house"
