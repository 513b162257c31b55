"""Splits and folds by stable hash, and stratified ones: places, shares and quotas."""

import hashlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from configs.dataset import FoldConfig, SplitConfig
from data.splits import PLACES, SPLITS, assign, bounds, place, shares, split_of
from data.view.strata import Balance, fill, quotas

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


def test_a_place_is_the_beginning_of_a_sha256():
    assert place(b"a", 0) == int.from_bytes(hashlib.sha256(b"0\0a").digest()[:8], "big")


@given(st.integers(0, PLACES - 1), st.floats(0, 0.49), st.floats(0.001, 0.5))
def test_integer_bounds_divide_as_shares_do(where: int, validation: float, test: float):
    share = where / PLACES
    assume(min(abs(share - test), abs(share - test - validation)) > 1e-15)
    expected = "test" if share < test else "validation" if share < test + validation else "train"
    assert split_of(where, SplitConfig(validation=validation, test=test)) == expected


@given(st.integers(2, 100), st.floats(0.001, 0.999), st.integers(0, PLACES - 1))
def test_folds_are_disjoint_cover_everything_and_are_equally_wide(count: int, test: float, where: int):
    config = SplitConfig(folds=FoldConfig(count=count), test=test, validation=0)
    names = [name for name, _ in bounds(config)]
    assert names == ["test", *(f"fold-{fold}" for fold in range(count))]
    ends = [end for _, end in bounds(config)]
    assert ends == sorted(ends)
    assert ends[-1] == PLACES
    assert sum(begin <= where < end for begin, end in zip([0, *ends], ends, strict=False)) == 1
    assert split_of(where, config) in names
    assert list(shares(config).values())[1:] == pytest.approx([(1 - test) / count] * count, abs=1e-12)


def test_the_test_split_is_the_same_with_and_without_folds():
    plain, folded = SplitConfig(test=0.2), SplitConfig(test=0.2, folds=FoldConfig(count=5))
    for number in range(500):
        assert (assign(str(number), plain) == "test") == (assign(str(number), folded) == "test")


WEIGHTS = st.lists(st.floats(0.01, 1), min_size=1, max_size=12)


@given(st.integers(0, 10**9), WEIGHTS)
def test_quotas_are_within_one_of_exact_shares(total: int, weights: list[float]):
    parts = quotas(total, weights)
    assert sum(parts) == total
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part - total * weight / sum(weights)) < 1 + 1e-6


@given(st.integers(0, 1000), st.lists(st.tuples(st.integers(0, 1000), st.floats(0.01, 1)), min_size=1, max_size=8))
def test_filling_up_gives_all_that_is_new_and_nothing_to_who_has_enough(new: int, splits: list[tuple[int, float]]):
    have, weights = [got for got, _ in splits], [weight for _, weight in splits]
    more = fill(new, have, weights)
    assert sum(more) == new
    assert min(more) >= 0
    wanted = quotas(new + sum(have), weights)
    for got, add, want in zip(have, more, wanted, strict=True):
        assert got + add <= max(want, got)


def test_groups_are_spread_so_that_classes_near_their_shares():
    rng = np.random.default_rng(0)
    groups = [(int(rng.integers(1, 9)), int(rng.integers(0, 3))) for _ in range(300)]
    shares, none = np.array([0.15, 0.15, 0.7]), [0, 0, 0]
    wanted = np.outer(np.sum(groups, axis=0), shares)
    balance = Balance({"a": wanted[0].tolist(), "b": wanted[1].tolist()}, {"a": none, "b": none})
    have = np.zeros((2, 3))
    for a, b in sorted(groups, key=sum, reverse=True):
        have[:, balance.take({"a": a, "b": b})] += a, b
    assert have == pytest.approx(wanted, abs=4)
