"""Splits by stable hash: a document's place is a function of its text and the seed alone."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import SplitConfig
from data.splits import SPLITS, assign

TEXTS = st.lists(st.text(max_size=8), max_size=10)


@given(old=TEXTS, new=TEXTS, seed=st.integers(0, 5))
def test_adding_documents_never_moves_an_old_one(old: list[str], new: list[str], seed: int):
    config = SplitConfig(seed=seed)
    before = {text: assign(text, config) for text in old}
    after = {text: assign(text, config) for text in new + old}
    assert after | before == after


def test_places_are_the_same_in_every_version():
    config = SplitConfig(validation=0.3, test=0.3)
    places = {text: assign(text, config) for text in "abcdef字"}
    assert places == {
        "a": "validation",
        "b": "train",
        "c": "validation",
        "d": "test",
        "e": "validation",
        "f": "test",
        "字": "validation",
    }


@pytest.mark.parametrize("seed", [0, 1])
def test_shares_are_met(seed: int):
    config = SplitConfig(validation=0.1, test=0.2, seed=seed)
    counts = Counter(assign(f"document {number}", config) for number in range(20_000))
    for split, share in (("train", 0.7), ("validation", 0.1), ("test", 0.2)):
        assert counts[split] / 20_000 == pytest.approx(share, abs=0.01)


def test_another_seed_draws_another_assignment():
    texts = [str(number) for number in range(200)]
    assert [assign(t, SplitConfig(seed=0)) for t in texts] != [assign(t, SplitConfig(seed=1)) for t in texts]


def test_a_larger_validation_share_takes_from_train_alone():
    small, large = SplitConfig(validation=0.1, test=0.1), SplitConfig(validation=0.3, test=0.1)
    for text in map(str, range(500)):
        if (before := assign(text, small)) != "train":
            assert assign(text, large) == before


@given(st.text(st.characters(), max_size=5))
def test_any_text_has_a_place(text: str):
    assert assign(text, SplitConfig()) in SPLITS


def test_without_held_out_shares_all_is_for_training():
    config = SplitConfig(validation=0, test=1e-12)
    assert {assign(str(number), config) for number in range(100)} == {"train"}
