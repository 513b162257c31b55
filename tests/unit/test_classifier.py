"""What is told of a classifier from its predictions: metrics, reasons for having none, figures, units."""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.metrics import Metric
from trainer.evaluation import predictions as kept
from trainer.evaluation.class_drawings import draw_classifier
from trainer.evaluation.class_metrics import assess, class_metrics, class_units
from trainer.evaluation.predictions import Predictions, describe, from_facts, majority

CLASSES = ("ant", "bee", "cat")


def say(labels: Sequence[int], logits: Any = None, classes: int = 3) -> Predictions:
    """What a classifier of these logits says; random ones that favour the label where none are given."""
    truth = np.array(labels, np.int64)
    if logits is None:
        logits = np.random.default_rng(5).normal(0, 1, (len(truth), classes)) + 2 * np.eye(classes)[truth]
    facts, scores = describe(np.asarray(logits, np.float64).reshape(-1, classes), truth)
    return from_facts(np.column_stack([np.arange(len(truth), dtype=np.float64), facts]), scores.astype(np.float32))


def tell(said: Predictions, classes: Sequence[str] = CLASSES, top: int = 2) -> dict[str, Metric]:
    assessed = assess(said, len(classes))
    told = class_metrics("test", said, assessed, classes=classes, top=top, each="image", protocol="p")
    return {metric.name.removeprefix("test/"): metric for metric in told}


def test_every_metric_has_a_value_and_lies_in_its_interval() -> None:
    told = tell(say([0, 1, 2] * 20))
    assert set(told) == {
        *("accuracy", "balanced_accuracy", "precision_macro", "f1_macro", "f1_micro", "f1_weighted", "matthews"),
        *("top2_accuracy", "roc_area", "average_precision", "calibration_error", "loss"),
    }
    for metric in told.values():
        assert metric.value is not None
        if metric.name not in ("test/loss", "test/calibration_error"):
            assert metric.interval is not None
            assert metric.interval[0] < metric.value < metric.interval[1]
    error = told["calibration_error"]
    assert error.interval is None, "resamples are biased twice: an interval of them may leave out the value itself"
    assert error.stderr
    assert {metric.n for metric in told.values()} == {60}
    assert told["accuracy"].value == told["f1_micro"].value


def test_stderrs_are_those_of_independent_samples() -> None:
    said = say([0, 0, 0, 0, 1, 1, 2, 2, 2])
    told, hits = tell(said), said.correct.astype(float)
    for name, values in (("accuracy", hits), ("loss", said.nll)):
        assert told[name].stderr == pytest.approx(values.std(ddof=1) / 3)
    spread = sum(hits[said.labels == c].var(ddof=1) / (said.labels == c).sum() for c in range(3))
    assert told["balanced_accuracy"].stderr == pytest.approx(math.sqrt(spread) / 3)


def test_with_no_more_classes_than_guesses_there_is_no_accuracy_of_guesses() -> None:
    assert "top3_accuracy" not in tell(say([0, 1, 2]), top=3)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_that_are_not_numbers_leave_every_metric_undefined(bad: float) -> None:
    said = say([0, 1, 1], [[1, 0, 0], [bad, 0, 0], [0, 1, 0]])
    told = tell(said)
    assert {metric.undefined for metric in told.values()} == {"the scores of 1 of 3 images are not numbers"}
    assert set(told) == set(tell(say([0, 1, 2])))
    assert draw_classifier(assess(said, 3), CLASSES) == ()
    assert class_units(said, assess(said, 3)) == {}


def test_an_empty_split_leaves_every_metric_undefined() -> None:
    assert {metric.undefined for metric in tell(say([])).values()} == {"the split is empty"}


def test_a_split_of_one_class_has_an_accuracy_and_nothing_that_tells_classes_apart() -> None:
    told = tell(say([1, 1, 1], [[0, 1, 0], [0, 2, 0], [3, 0, 0]]))
    assert told["accuracy"].value == pytest.approx(2 / 3)
    for name in ("matthews", "roc_area", "average_precision"):
        assert told[name].undefined == "all samples of the split are of one class, bee"


def test_a_class_without_samples_is_in_no_mean_and_the_figures_say_so() -> None:
    said = say([0, 2] * 10)
    alone = say([0, 1] * 10, np.log(np.exp(np.array(said.scores))[:, [0, 2, 1]]))
    told, assessed = tell(said), assess(said, 3)
    assert assessed is not None
    assert assessed.areas is not None
    assert assessed.areas["roc_area"].by_class[1] is None
    for name, metric in tell(alone).items():
        assert told[name].value == pytest.approx(metric.value, rel=1e-6), name
    matrix, table, roc, *_ = draw_classifier(assessed, CLASSES)
    for figure in (matrix, table, roc):
        assert "Without a sample in the split, and so in no mean: bee." in figure["note"]
    assert table["rows"][1][:5] == ["bee", 0, None, None, None]
    assert [line["name"] for line in roc["lines"]] == ["ant", "cat"]


def test_a_label_that_is_ruled_out_makes_the_loss_infinite_which_is_said() -> None:
    told = tell(say([0, 1, 2], [[0, 0, 0], [0, -math.inf, 0], [0, 0, 0]]))
    assert told["loss"].undefined == "the label of 1 of 3 images has probability 0, so the loss is infinite"
    assert told["accuracy"].value is not None


def test_a_perfect_classifier_has_no_interval_from_resamples() -> None:
    told = tell(say([0, 1, 2] * 5, 9 * np.eye(3)[[0, 1, 2] * 5]))
    assert (told["f1_macro"].value, told["f1_macro"].interval, told["roc_area"].interval) == (1, None, None)
    assert told["accuracy"].interval is not None
    assert told["accuracy"].interval[0] < 0.8


def test_where_scores_are_too_many_to_keep_the_areas_say_so() -> None:
    said = say([0, 1, 2] * 5)
    without = Predictions(said.ids, said.labels, said.predicted, said.nll, said.confidence, said.placed, None)
    told, whole = tell(without), tell(said)
    assert "50,000,000 scores" in str(told["roc_area"].undefined)
    for name in set(told) - {"roc_area", "average_precision"}:
        assert told[name] == whole[name]
    assert {figure["kind"] for figure in draw_classifier(assess(without, 3), CLASSES)} == {"matrix", "table", "bars"}
    assert majority(without, [1, 2, 3]).scores is None
    assert kept.MOST_SCORES == 50_000_000


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=3, max_size=3))
def test_the_majority_class_is_a_classifier_of_the_train_splits_shares(training: list[int]) -> None:
    said = majority(say([0, 1, 1, 2]), training)
    shares = (np.array(training) + 1) / (sum(training) + 3)
    np.testing.assert_allclose(said.nll, -np.log(shares[[0, 1, 1, 2]]))
    assert (said.predicted == shares.argmax()).all()
    told = tell(said)
    assert (told["roc_area"].value, told["matthews"].value) == (0.5, 0)
    assert told["average_precision"].value == pytest.approx(1 / 3)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(2, 9))
def test_shares_that_are_right_have_a_calibration_error_of_0_and_not_of_what_sums_are_rounded_by(
    each: int, classes: int
) -> None:
    names = [f"kind-{number}" for number in range(classes)]
    said = majority(say(list(range(classes)) * each, classes=classes), [7] * classes)
    error = tell(said, names, top=classes)["calibration_error"]
    assert (error.value, error.undefined) == (0, None)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_whatever_is_predicted_metrics_are_numbers_or_have_reasons_and_figures_are_json(data: st.DataObject) -> None:
    labels = data.draw(st.lists(st.integers(0, 2), max_size=6))
    level = st.sampled_from([0.0, 1.0, 1e4, -1e4, -math.inf, math.nan])
    said = say(labels, data.draw(st.lists(level, min_size=3 * len(labels), max_size=3 * len(labels))))
    tell(said)
    assessed = assess(said, 3)
    json.dumps(draw_classifier(assessed, CLASSES), allow_nan=False)


def test_many_classes_are_listed_not_drawn() -> None:
    names = [f"kind-{number}" for number in range(120)]
    said = say(list(range(120)) * 2, classes=120)
    pairs, table, roc, *_ = draw_classifier(assess(said, 120), names)
    assert pairs["title"] == "Classes confused most"
    assert len(table["rows"]) == 103  # the worst hundred, and three means
    assert "The 100 classes with the lowest F1 of 120." in table["note"]
    assert len(roc["lines"]) == 10
    assert roc["note"].startswith("The 10 of 120 classes with the smallest area.")


def test_units_add_up_to_the_metrics() -> None:
    said = say([0, 1, 2, 2])
    told = tell(said)
    for name, units in class_units(said, assess(said, 3)).items():
        assert units.sums.sum() / units.sizes.sum() == pytest.approx(told[name.removeprefix("test/")].value)
