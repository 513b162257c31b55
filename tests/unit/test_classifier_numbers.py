"""The numbers of a classifier against scikit-learn's, and against closed forms and resampled samples."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binomtest
from sklearn import metrics

from trainer.evaluation.calibration import calibration_error, confidence_sums
from trainer.evaluation.class_metrics import MEANS
from trainer.evaluation.confusion import confusion_matrix, counts_of, f1, precision, recall
from trainer.evaluation.intervals import (
    RESAMPLES,
    exact_interval,
    logit_interval,
    percentile_interval,
    resampled_calibration,
    resampled_counts,
    resampled_stderr,
)
from trainer.evaluation.predictions import describe, places
from trainer.evaluation.ranking import (
    average_precision,
    precision_influence,
    precision_recall_curve,
    rank,
    roc_area,
    roc_curve,
    roc_influence,
)

reference: Any = metrics
PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40)
TIED = st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.25, 0.5, 1.0])), min_size=2, max_size=40)


def ranked(pairs: list[tuple[bool, float]]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Whether each is of the class, and scores, with at least one of the class and one of the others."""
    of_class, scores = (np.array(each) for each in zip(*[*pairs, (True, 0.5), (False, 0.5)], strict=True))
    return of_class, scores


@settings(max_examples=60, deadline=None)
@given(PAIRS)
def test_numbers_of_the_confusion_matrix_are_those_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    labels, predicted = np.array(pairs).T
    matrix = confusion_matrix(labels, predicted, 5)
    np.testing.assert_array_equal(matrix, reference.confusion_matrix(labels, predicted, labels=range(5)))
    counts, seen = counts_of(matrix), np.unique(labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that nobody predicted
        by_class = reference.precision_recall_fscore_support(labels, predicted, labels=range(5), zero_division=0)
        expected = {
            "balanced_accuracy": reference.balanced_accuracy_score(labels, predicted),
            "precision_macro": reference.precision_score(
                labels, predicted, labels=seen, average="macro", zero_division=0
            ),
            "f1_macro": reference.f1_score(labels, predicted, labels=seen, average="macro", zero_division=0),
            "f1_micro": reference.f1_score(labels, predicted, average="micro"),
            "f1_weighted": reference.f1_score(labels, predicted, average="weighted", zero_division=0),
            "matthews": reference.matthews_corrcoef(labels, predicted),
        }
    for ours, theirs in zip((precision, recall, f1), by_class, strict=False):
        np.testing.assert_allclose(ours(counts), theirs, rtol=1e-12)
    assert {name: float(mean(counts)) for name, mean in MEANS.items()} == pytest.approx(expected, rel=1e-12, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(TIED)
def test_areas_and_curves_are_those_of_scikit_learn_with_equal_scores_too(pairs: list[tuple[bool, float]]) -> None:
    of_class, scores = ranked(pairs)
    ranking = rank(scores, of_class)
    assert roc_area(ranking) == pytest.approx(reference.roc_auc_score(of_class, scores), rel=1e-12, abs=1e-12)
    assert average_precision(ranking) == pytest.approx(
        reference.average_precision_score(of_class, scores), rel=1e-12, abs=1e-12
    )
    false, true, _ = reference.roc_curve(of_class, scores, drop_intermediate=False)
    np.testing.assert_allclose(roc_curve(ranking), (false, true), atol=1e-12)
    precisions, recalls, _ = reference.precision_recall_curve(of_class, scores)
    np.testing.assert_allclose(precision_recall_curve(ranking), (recalls[::-1], precisions[::-1]), atol=1e-12)


def test_a_long_curve_is_drawn_with_points_of_it_that_lie_close() -> None:
    rng = np.random.default_rng(0)
    of_class = rng.random(5000) < 0.1
    scores = rng.normal(of_class.astype(float))
    ranking = rank(scores, of_class)
    whole = set(zip(*(each.tolist() for each in roc_curve(ranking, points=6000)), strict=True))
    false, true = roc_curve(ranking)
    assert 150 < len(false) <= 200
    assert set(zip(false.tolist(), true.tolist(), strict=True)) <= whole
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert np.abs(np.diff(false)).max() < 0.02
    assert np.trapezoid(true, false) == pytest.approx(roc_area(ranking), abs=1e-3)
    assert len(precision_recall_curve(ranking)[0]) <= 200


@settings(max_examples=40, deadline=None)
@given(TIED, st.integers(0, 100))
def test_an_influence_is_the_change_of_an_area_with_a_samples_weight(
    pairs: list[tuple[bool, float]], seed: int
) -> None:
    of_class, scores = ranked(pairs)
    ranking = rank(scores, of_class)
    at, step = seed % len(scores), 1e-5
    for influence, area in (
        (roc_influence, reference.roc_auc_score),
        (precision_influence, reference.average_precision_score),
    ):
        change = [
            area(of_class, scores, sample_weight=1 + sign * step * (np.arange(len(scores)) == at)) for sign in (1, -1)
        ]
        assert influence(ranking)[at] == pytest.approx((change[0] - change[1]) / (2 * step), abs=1e-6)
        assert influence(ranking).sum() == pytest.approx(0, abs=1e-12)


def test_an_areas_error_is_that_of_resampled_samples() -> None:
    rng = np.random.default_rng(1)
    of_class = rng.random(400) < 0.3
    scores = rng.normal(1.2 * of_class)
    for influence, area in ((roc_influence, roc_area), (precision_influence, average_precision)):
        again = [rng.integers(0, 400, 400) for _ in range(1000)]
        spread = np.std([area(rank(scores[each], of_class[each])) for each in again])
        assert np.linalg.norm(influence(rank(scores, of_class))) == pytest.approx(spread, rel=0.12)


@given(arrays(np.float64, (7, 4), elements=st.sampled_from([-1.0, 0.0, 0.5, 2.0])), st.integers(1, 3))
def test_of_equal_scores_the_first_class_is_guessed_first(scores: np.ndarray[Any, Any], top: int) -> None:
    labels = np.arange(7) % 4
    placed = places(scores, labels)
    assert ((placed == 0) == (scores.argmax(1) == labels)).all()
    # there, of equal ones the last is guessed first
    theirs = reference.top_k_accuracy_score(3 - labels, scores[:, ::-1], k=top, labels=range(4))
    assert (placed < top).mean() == pytest.approx(theirs, rel=1e-12, abs=1e-12)


def test_a_samples_numbers_are_those_of_its_logits() -> None:
    rng = np.random.default_rng(2)
    logits, labels = rng.normal(0, 3, (50, 6)), rng.integers(0, 6, 50)
    facts, shares = describe(logits, labels)
    chances = np.exp(shares)
    np.testing.assert_allclose(chances.sum(1), 1)
    assert facts[:, 2].mean() == pytest.approx(
        reference.log_loss(labels, chances, labels=range(6)), rel=1e-12, abs=1e-12
    )
    np.testing.assert_array_equal(facts[:, [0, 1]].T, (labels, logits.argmax(1)))
    np.testing.assert_allclose(facts[:, 3], chances.max(1))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_numbers_stay_so_without_a_warning(bad: float) -> None:
    logits = np.zeros((2, 3))
    logits[1, 2] = bad
    facts, _ = describe(logits, np.array([0, 1]))
    assert np.isnan(facts[:, 3]).tolist() == [False, True]


@pytest.mark.parametrize(("found", "size"), [(0, 7), (7, 7), (3, 7), (990, 1000), (1, 1)])
def test_the_exact_interval_is_that_of_the_binomial_distribution(found: int, size: int) -> None:
    expected = binomtest(found, size).proportion_ci(0.95, method="exact")
    assert exact_interval(found, size) == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert exact_interval(0, 0) is None


def test_an_interval_of_an_area_stays_within_0_and_1_and_there_is_none_without_an_error() -> None:
    low, high = logit_interval(0.98, 0.03) or (0.0, 0.0)
    assert 0.5 < low < 0.98 < high < 1
    assert logit_interval(1.0, 0.1) is None
    assert logit_interval(0.7, 0.0) is None
    assert percentile_interval(np.ones(9)) is None


def test_cells_of_the_matrix_are_drawn_as_its_samples_would_be() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, 300)
    predicted = np.where(rng.random(300) < 0.7, labels, rng.integers(0, 5, 300))
    matrix = confusion_matrix(labels, predicted, 6)  # the last has neither samples nor predictions
    drawn = resampled_counts(matrix)
    assert drawn.true.shape == (RESAMPLES, 6)
    assert (drawn.true.sum(1) == 300).all()
    assert (drawn.predicted.sum(1) == 300).all()
    again = [rng.integers(0, 300, 300) for _ in range(1000)]
    by_sample = [confusion_matrix(labels[each], predicted[each], 6) for each in again]
    for mean in MEANS.values():
        slow = np.quantile([mean(counts_of(each)) for each in by_sample], [0.025, 0.975])
        assert percentile_interval(mean(drawn)) == pytest.approx(slow, abs=0.02)
    np.testing.assert_array_equal(drawn.found, resampled_counts(matrix).found)


def test_resampled_calibration_errors_are_those_of_resampled_predictions() -> None:
    rng = np.random.default_rng(4)
    confidence = rng.uniform(0.2, 1, 400)
    correct = rng.random(400) < confidence**2

    def slow(each: np.ndarray[Any, Any]) -> float:
        sums = confidence_sums(torch.from_numpy(confidence[each]), torch.from_numpy(correct[each]))
        return calibration_error({name: float(value) for name, value in sums.items()})

    errors = resampled_calibration(confidence, correct)
    by_sample = [slow(rng.integers(0, 400, 400)) for _ in range(400)]
    assert errors.mean() == pytest.approx(np.mean(by_sample), rel=0.03)
    assert errors.std() == pytest.approx(np.std(by_sample), rel=0.12)
    assert resampled_stderr(errors) == pytest.approx(errors.std(ddof=1))
    assert resampled_stderr(np.full(1000, 0.1)) is None, "resamples that agree know of no error"
