"""Expected calibration error against its definition, and what the reliability diagram draws."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.distributed import add
from trainer.evaluation.calibration import BINS, calibration_error, confidence_sums, reliability

PREDICTIONS = st.lists(st.tuples(st.floats(1e-6, 1.0), st.booleans()), min_size=1, max_size=60)


def sums_of(confidence: np.ndarray, correct: np.ndarray) -> dict[str, float]:
    sums = confidence_sums(torch.from_numpy(confidence), torch.from_numpy(correct))
    return {name: float(value) for name, value in sums.items()}


def by_definition(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Guo et al., 2017, equation 3: bin m holds what lies in ((m - 1) / M, m / M]."""
    total = 0.0
    for place in range(BINS):
        held = [i for i, p in enumerate(confidence) if place < p * BINS <= place + 1]
        if held:
            total += len(held) * abs(float(np.mean(correct[held])) - float(np.mean(confidence[held])))
    return total / len(confidence)


@settings(max_examples=100, deadline=None)
@given(predictions=PREDICTIONS)
def test_it_is_the_definition_and_that_of_two_halves_adds_up(predictions: list[tuple[float, bool]]) -> None:
    confidence = np.array([p for p, _ in predictions])
    correct = np.array([float(right) for _, right in predictions])
    whole = sums_of(confidence, correct)
    assert calibration_error(whole) == pytest.approx(by_definition(confidence, correct), abs=1e-12)
    half = len(predictions) // 2
    parts = [
        confidence_sums(torch.from_numpy(confidence[part]), torch.from_numpy(correct[part]))
        for part in (slice(0, half), slice(half, None))
    ]
    assert {name: float(value) for name, value in add(*parts).items()} == pytest.approx(whole, abs=1e-12)


def test_sums_are_float64_scalars() -> None:
    sums = confidence_sums(torch.tensor([0.5]), torch.tensor([True]))
    assert {(value.dtype, value.shape) for value in sums.values()} == {(torch.float64, torch.Size([]))}


def test_sure_and_right_is_calibrated_and_sure_and_wrong_is_as_far_off_as_can_be() -> None:
    sure = np.ones(4)
    assert calibration_error(sums_of(sure, np.ones(4))) == 0
    assert calibration_error(sums_of(sure, np.zeros(4))) == 1


def test_of_no_prediction_there_is_no_error_and_of_one_that_is_no_number_it_is_none() -> None:
    with pytest.raises(ValueError, match="no prediction was counted"):
        calibration_error(sums_of(np.empty(0), np.empty(0)))
    assert math.isnan(calibration_error(sums_of(np.array([0.5, math.nan]), np.ones(2))))


def test_the_diagram_leaves_out_empty_bins_and_is_json() -> None:
    figure = reliability(sums_of(np.array([0.1, 0.9, 0.92, 0.91]), np.array([0.0, 1.0, 1.0, 0.0])), "Probability")
    assert figure["x"] == ["0.07 to 0.13", "0.87 to 0.93"]
    assert figure["y"] == pytest.approx([0, 2 / 3])
    assert figure["reference"] == pytest.approx([0.1, 0.91])
    assert json.loads(json.dumps(figure, allow_nan=False)) == figure
