"""Rare classes: what they weigh, how many copies they get, and what is altered in a copy."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.dataset import RareClasses
from data.augment import altered, class_weights, plan_copies

PIXELS = np.random.default_rng(0).integers(0, 256, (96, 120, 3), dtype=np.uint8)


@given(st.dictionaries(st.text(max_size=3), st.integers(1, 10**6), min_size=1))
def test_class_weights_have_a_mean_of_one_and_make_classes_equal(counts: dict[str, int]):
    weights = class_weights(counts)
    totals = [weights[name] * count for name, count in counts.items()]
    assert sum(totals) == pytest.approx(sum(counts.values()))
    assert totals == pytest.approx([totals[0]] * len(totals))


def test_a_class_without_samples_weighs_nothing():
    assert class_weights({"a": 2, "b": 2, "c": 0}) == {"a": 1.0, "b": 1.0, "c": 0.0}


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 10**6)), st.floats(0.01, 1))
def test_copies_bring_every_class_to_its_share(counts: dict[str, int], share: float):
    copies = plan_copies(counts, RareClasses(share=share))
    largest = max(counts.values(), default=0)
    for name, count in counts.items():
        total = count + copies[name]
        assert total >= share * largest - 1e-6 or not count
        assert copies[name] == 0 or total - 1 < share * largest


def test_a_share_of_a_tenth_of_thirty_is_three():
    assert plan_copies({"a": 30, "b": 1, "c": 0}, RareClasses(share=0.1)) == {"a": 0, "b": 2, "c": 0}


def test_altered_copies_depend_on_their_key_alone():
    config = RareClasses(rotate_degrees=20, brightness=0.3)
    copies = [altered(PIXELS, config, (7, number)) for number in range(8)]
    assert all(copy.shape == PIXELS.shape and copy.dtype == np.uint8 for copy in copies)
    assert all(not np.array_equal(a, b) for a, b in itertools.combinations(copies, 2))
    assert np.array_equal(copies[3], altered(PIXELS.copy(), config, (7, 3)))
    assert not np.array_equal(altered(PIXELS, config, (1,)), altered(PIXELS, config, (1, 0)))


def test_what_may_be_altered_is_altered_and_nothing_else():
    flips = [altered(PIXELS, RareClasses(rotate_degrees=0, brightness=0), (key,)) for key in range(20)]
    mirrored = [np.array_equal(each, PIXELS[:, ::-1]) for each in flips]
    assert all(flipped or np.array_equal(each, PIXELS) for flipped, each in zip(mirrored, flips, strict=True))
    assert 4 <= sum(mirrored) <= 16
    nothing = RareClasses(flip=False, rotate_degrees=0, brightness=0)
    assert np.array_equal(altered(PIXELS, nothing, (1,)), PIXELS)


def test_brightness_stays_within_its_limit():
    flat = np.full((8, 8, 1), 100, np.uint8)
    config = RareClasses(flip=False, rotate_degrees=0, brightness=0.2)
    levels = [int(altered(flat, config, (key,))[0, 0, 0]) for key in range(200)]
    assert (min(levels) >= 80, max(levels) <= 120, max(levels) - min(levels) > 35) == (True, True, True)
    assert (altered(np.full((2, 2, 3), 255, np.uint8), config, (3,)) > 200).all()


@pytest.mark.parametrize("size", [(30, 40), (1, 1), (3, 90)])
def test_a_turn_brings_in_no_black_corners(size: tuple[int, int]):
    config = RareClasses(flip=False, rotate_degrees=180, brightness=0)
    for key in range(10):
        assert (altered(np.full((*size, 3), 200, np.uint8), config, (key,)) == 200).all()


def test_a_copy_is_the_same_on_every_machine():
    config = RareClasses(rotate_degrees=0, brightness=0.5)
    copy = altered(np.arange(0, 240, 40, dtype=np.uint8).reshape(2, 3, 1), config, (1, 2, 4))
    assert copy.ravel().tolist() == [110, 55, 0, 255, 219, 165]
