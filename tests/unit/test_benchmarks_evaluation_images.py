"""What the cases of the Fréchet distance compare."""

import pytest

from benchmarks.evaluation_images import FORMULAS, differ, two_sets


def test_the_peers_formulas_give_our_distance() -> None:
    ours, theirs = two_sets(24, 60)
    distances = {name: formula(ours, theirs) for name, formula in FORMULAS.items()}
    assert distances["ours"] > 0
    for distance in distances.values():
        assert distance == pytest.approx(distances["ours"], rel=1e-9)


def test_a_distance_that_is_off_is_told_with_both() -> None:
    assert differ(2.0000001, 2.0) is None
    assert differ(2.1, 2.0) == "the distance is 2.1, the peer's 2.0: 5.0e-02 apart, at most 1e-06 is allowed"
