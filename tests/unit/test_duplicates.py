"""Equal, nearly equal and overlapping documents: keys, signatures and n-gram hashes against exact sets."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.dataset import NearDuplicates
from data.view import duplicates
from data.view.duplicates import (
    MAX_HASHES,
    Signer,
    bands_and_rows,
    choose_modulus,
    content_key,
    ngram_hashes,
    overlap,
    similarity_of,
)

WORDS = [f"word{number}" for number in range(3000)]
SIGNER = Signer(NearDuplicates())


def document(rng: np.random.Generator, words: int) -> list[str]:
    return [WORDS[k] for k in rng.integers(0, len(WORDS), size=words)]


def changed(rng: np.random.Generator, words: list[str], count: int) -> list[str]:
    words = list(words)
    for place in rng.integers(0, len(words), size=count):
        words[place] = "changed"
    return words


def exact_similarity(a: list[str], b: list[str], n: int) -> float:
    first, second = ({tuple(words[k : k + n]) for k in range(len(words) - n + 1)} for words in (a, b))
    return len(first & second) / len(first | second)


def test_keys_are_the_same_in_every_version():
    assert content_key("") == (0xAF1349B9F5F9A1A6, 0xA0404DEA36DCC949)  # BLAKE3's own test vector
    assert content_key("a字") == content_key("a字".encode()) != content_key("a")


def test_any_text_has_a_key_and_a_signature():
    for text in ("", " ", "\ud800", "\x00", "word " * 5):
        assert len(content_key(text)) == 2
        assert len(SIGNER.sign(text)[1]) == 4 * 128


def test_signatures_are_the_same_in_every_process():
    program = (
        "from data.view.duplicates import *; "
        "s = Signer(NearDuplicates(permutations=16)); print(s.sign('To be, or not'))"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert seen == {f"{Signer(NearDuplicates(permutations=16)).sign('To be, or not')}\n".encode()}


def test_signatures_are_the_same_in_every_version():
    bands, signature = Signer(NearDuplicates(permutations=16)).sign("To be, or not to be, that is the question")
    assert np.frombuffer(signature, "<u4")[:3].tolist() == [3313286316, 831208046, 2055332810]
    assert bands == [12729032282858583424, 13916342599432413783, 5553965728522371382, 3134630519998101231]


def test_estimates_are_as_near_the_exact_similarity_as_theory_says():
    rng = np.random.default_rng(0)
    errors, variances = [], []
    for _ in range(300):
        a = document(rng, int(rng.integers(30, 300)))
        b = changed(rng, a, int(rng.integers(0, len(a) // 10 + 1)))
        exact = exact_similarity(a, b, 5)
        errors.append(similarity_of(SIGNER.sign(" ".join(a))[1], SIGNER.sign(" ".join(b))[1]) - exact)
        variances.append(exact * (1 - exact) / 128)
    assert np.mean(errors) == pytest.approx(0, abs=0.005)
    assert np.sqrt(np.mean(np.square(errors))) < 1.1 * math.sqrt(np.mean(variances))


def test_bands_are_those_that_datasketch_chooses_for_the_same_weights(monkeypatch: pytest.MonkeyPatch):
    assert bands_and_rows(0.8, 128) == (14, 9)
    monkeypatch.setattr(duplicates, "MISS_WEIGHT", 0.5)  # its default
    assert [bands_and_rows.__wrapped__(similarity, 128) for similarity in (0.5, 0.8, 0.9)] == [
        (25, 5),
        (9, 13),
        (5, 25),
    ]


@pytest.mark.parametrize("similarity", [0.6, 0.8])
def test_similar_documents_share_a_band_as_often_as_the_formula_says(similarity: float):
    rng = np.random.default_rng(1)
    signer = Signer(NearDuplicates(similarity=similarity))
    shared, expected = [], []
    for _ in range(300):
        a = document(rng, 200)
        b = changed(rng, a, int(rng.integers(1, 12)))
        (bands, _), (others, _) = signer.sign(" ".join(a)), signer.sign(" ".join(b))
        shared.append(bool(set(bands) & set(others)))
        expected.append(1 - (1 - exact_similarity(a, b, 5) ** signer.rows) ** signer.bands)
    assert np.mean(shared) == pytest.approx(np.mean(expected), abs=0.06)


def test_bands_of_one_document_differ_from_each_other():
    bands, _ = SIGNER.sign("one word")
    assert len(set(bands)) == len(bands) == SIGNER.bands


def test_case_and_white_space_make_no_difference_to_signatures():
    assert SIGNER.sign("To be,  or\nnot TO be") == SIGNER.sign("to be, or not to be")


def test_documents_shorter_than_an_ngram_are_compared_as_a_whole():
    (_, a), (_, b), (_, c) = SIGNER.sign("to be"), SIGNER.sign("To be"), SIGNER.sign("be to")
    assert similarity_of(a, b) == 1
    assert similarity_of(a, c) < 0.1


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["a", "bc", "字", "É", "x" * 40, "\ud800"]), max_size=60), st.integers(1, 20))
def test_cutting_a_text_into_chunks_changes_no_hash(words: list[str], characters: int):
    text = " ".join(words)
    whole = ngram_hashes(text, 3, 1), SIGNER.sign(text)
    usual = duplicates._CHUNK_CHARACTERS
    try:
        duplicates._CHUNK_CHARACTERS = characters
        assert np.array_equal(whole[0], ngram_hashes(text, 3, 1))
        assert whole[1] == SIGNER.sign(text)
    finally:
        duplicates._CHUNK_CHARACTERS = usual


def test_a_text_without_white_space_is_one_word():
    text = "a" * (1 << 20)
    assert len(ngram_hashes(text, 13, 1)) == 1
    assert SIGNER.sign(text) != SIGNER.sign(text + "a")


def test_overlap_is_the_exact_share_of_ngrams():
    rng = np.random.default_rng(2)
    test = document(rng, 500)
    train = document(rng, 200) + test[100:160] + document(rng, 100)
    hashes = ngram_hashes(" ".join(test), 13, 1)
    assert overlap(" ".join(train), 13, 1, hashes) == pytest.approx((60 - 12) / (360 - 12))
    assert overlap(" ".join(test), 13, 1, hashes) == 1
    assert overlap(" ".join(document(rng, 200)), 13, 1, hashes) == 0


def test_punctuation_case_and_layout_hide_no_overlap():
    a = "It's 9 o'clock (sharp)! — Élan vital, naïve_text"
    b = "IT S\n9 O CLOCK sharp   élan-vital naïve text"
    assert np.array_equal(ngram_hashes(a, 3, 1), ngram_hashes(b, 3, 1))
    assert np.array_equal(ngram_hashes("Plain, ascii_text; HERE", 3, 1), ngram_hashes("plain ascii text here", 3, 1))


def test_a_modulus_samples_the_same_ngrams_of_every_document():
    rng = np.random.default_rng(3)
    a, b = document(rng, 3000), document(rng, 3000)
    both = " ".join(a + b)
    sample = ngram_hashes(both, 13, 8)
    assert set(ngram_hashes(" ".join(a), 13, 8).tolist()) <= set(sample.tolist())
    assert len(sample) == pytest.approx(6000 / 8, rel=0.2)
    assert overlap(" ".join(a), 13, 8, sample) == 1


def test_documents_without_words_or_sampled_ngrams_do_not_overlap():
    hashes = ngram_hashes("to be or not to be", 3, 1)
    assert overlap("...", 3, 1, hashes) == 0
    assert overlap("to be or not", 3, 1, hashes[:0]) == 0
    assert overlap("to be or not", 3, 2**63, hashes) == 0


@pytest.mark.parametrize("words", [0, 1, MAX_HASHES // 2, MAX_HASHES, 10**12])
def test_the_sample_of_any_test_split_fits_in_memory(words: int):
    assert words / choose_modulus(words) <= MAX_HASHES
    assert choose_modulus(MAX_HASHES // 2) == 1
