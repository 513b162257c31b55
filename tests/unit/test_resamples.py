"""Intervals from resamples: how often they hold the truth, alike each time, and from groups as from single samples."""

from collections.abc import Callable

import numpy as np
import pytest

from trainer.evaluation import intervals
from trainer.evaluation.class_metrics import MEANS
from trainer.evaluation.confusion import confusion_matrix, counts_of
from trainer.evaluation.intervals import Interval, exact_interval, percentile_interval, resampled_counts, resampled_sums

POPULATION = np.array([[500, 60, 40], [50, 120, 30], [40, 20, 140]])
"""Of a thousand samples, how many of each class (rows) are taken for each"""
SPLITS = 120


def coverage(draw: Callable[[np.random.Generator], Interval | None], truth: float) -> float:
    """How often the interval of a split drawn from a population holds the population's own number."""
    rng = np.random.default_rng(0)
    found = [draw(rng) for _ in range(SPLITS)]
    return float(np.mean([each is not None and each[0] <= truth <= each[1] for each in found]))


@pytest.mark.parametrize("name", ["f1_macro", "matthews"])
def test_of_a_hundred_intervals_of_a_mean_over_classes_about_95_hold_the_truth(name: str) -> None:
    mean, chances = MEANS[name], POPULATION.ravel() / POPULATION.sum()

    def draw(rng: np.random.Generator) -> Interval | None:
        matrix = rng.multinomial(300, chances).reshape(3, 3)
        return percentile_interval(mean(resampled_counts(matrix)))

    assert 0.90 <= coverage(draw, float(mean(counts_of(POPULATION)))) <= 0.99


def passages(rng: np.random.Generator, size: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Tokens found and tokens of each passage [size, 2]: some passages are easy, some hard, and 0.6 is found in all."""
    tokens = rng.integers(5, 40, size)
    return np.column_stack([rng.binomial(tokens, rng.beta(3, 2, size)), tokens]).astype(np.float64)


def ratio_interval(columns: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> Interval | None:
    sums = resampled_sums(columns)
    return percentile_interval(sums[:, 0] / sums[:, 1])


def test_of_tokens_that_are_alike_within_a_passage_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    assert 0.90 <= coverage(lambda rng: ratio_interval(passages(rng, 80)), 0.6) <= 0.99


def test_an_interval_that_took_tokens_for_independent_would_not() -> None:
    def draw(rng: np.random.Generator) -> Interval | None:
        found, tokens = passages(rng, 80).sum(0)
        return exact_interval(int(found), int(tokens))

    assert coverage(draw, 0.6) < 0.8


def test_groups_of_samples_vary_as_samples_do(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = passages(np.random.default_rng(1), 5001)
    one_by_one = np.diff(ratio_interval(columns) or (0.0, 0.0))
    monkeypatch.setattr(intervals, "MOST_GROUPS", 500)
    sums = resampled_sums(columns)
    assert (sums[:, 1] > 0.9 * columns[:, 1].sum()).all()
    assert np.diff(ratio_interval(columns) or (0.0, 0.0)) == pytest.approx(one_by_one, rel=0.15)


def test_resamples_are_the_same_each_time_and_in_parts_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = passages(np.random.default_rng(2), 60)
    labels, predicted = np.random.default_rng(3).integers(0, 3, (2, 50))
    matrix = confusion_matrix(labels, predicted, 3)
    sums, counts = resampled_sums(columns), resampled_counts(matrix)
    monkeypatch.setattr(intervals, "_CELLS", 700)
    np.testing.assert_allclose(resampled_sums(columns), sums, rtol=1e-12)
    np.testing.assert_array_equal(resampled_counts(matrix).found, counts.found)
