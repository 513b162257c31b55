"""What the curves of a training say of it: over-fitted, still learning, or nothing."""

from collections.abc import Callable

import numpy as np
import pytest

from pipelines.fitting import LEAST, averaged, judge_fit, noise
from pipelines.series import Series

EVERY = 10
Curve = Callable[[np.ndarray], np.ndarray]


def history_of(
    train: Curve, validation: Curve, *, passes: int = 30, seed: int = 0, jitter: float = 0.02
) -> dict[str, Series]:
    """Losses over training from 0 to 1; single batches are five times as noisy as validation."""
    rng = np.random.default_rng(seed)
    times = np.arange(1, passes * EVERY + 1) / (passes * EVERY)
    ours = train(times) + rng.normal(0, 5 * jitter, len(times))
    theirs = validation(times[EVERY - 1 :: EVERY]) + rng.normal(0, jitter, passes)
    return {
        "train/loss": Series.of({step: float(value) for step, value in enumerate(ours, 1)}),
        "validation/loss": Series.of({EVERY * place: float(value) for place, value in enumerate(theirs, 1)}),
    }


def falling(t: np.ndarray) -> np.ndarray:
    return 3 - t


def settled(t: np.ndarray) -> np.ndarray:
    return 2 + np.exp(-20 * t)


def turning(t: np.ndarray) -> np.ndarray:
    return 2 + np.exp(-12 * t) + 0.5 * np.maximum(0, t - 0.4)


def memorising(t: np.ndarray) -> np.ndarray:
    return 1.5 + np.exp(-4 * t)


def test_validation_that_rises_while_training_falls_is_overfitting_since_its_best():
    for seed in range(20):
        history = history_of(memorising, turning, seed=seed)
        fit = judge_fit(history)
        assert fit is not None
        assert fit.kind == "overfitting"
        series = history["validation/loss"]
        assert fit.step == min(series, key=lambda step: series[step])
        assert fit.step in range(30, 200)
        assert fit.sentence.startswith(f"Overfitting since step {fit.step}: validation/loss was best there")


def test_both_still_falling_at_the_end_is_a_training_that_still_learns():
    for seed in range(20):
        fit = judge_fit(history_of(falling, falling, seed=seed))
        assert fit is not None
        assert (fit.kind, fit.step) == ("still learning", None)
        assert "validation/loss fell by" in fit.sentence


@pytest.mark.parametrize("passes", [6, 9, 15, 30])
@pytest.mark.parametrize(
    ("train", "validation"), [(settled, settled), (memorising, settled)], ids=["settled", "memorises without harm"]
)
def test_noise_is_seldom_taken_for_a_finding(train: Curve, validation: Curve, passes: int):
    told = [judge_fit(history_of(train, validation, passes=passes, seed=seed)) for seed in range(200)]
    assert sum(fit is not None for fit in told) <= 4


def test_training_that_rises_with_validation_is_no_overfitting():
    assert judge_fit(history_of(turning, turning)) is None


def test_curves_without_noise_are_told_by_the_size_of_their_change():
    assert judge_fit(history_of(lambda t: 2 - 0.001 * t, lambda t: 2 - 0.001 * t, jitter=0)) is None
    fit = judge_fit(history_of(falling, falling, jitter=0))
    assert fit is not None
    assert fit.sentence == (
        "Still learning: validation/loss fell by 14.0% over the last third of the steps, and train/loss with it; "
        "more steps may help."
    )


def test_too_few_passes_or_no_such_losses_tell_nothing():
    assert judge_fit({}) is None
    assert judge_fit(history_of(falling, falling, passes=LEAST - 1)) is None
    one_sided = history_of(falling, falling)
    del one_sided["train/loss"]
    assert judge_fit(one_sided) is None
    torn = history_of(falling, falling)
    torn["validation/loss"].numbers[0] = float("nan")
    assert judge_fit(torn) is not None


def test_training_loss_is_averaged_between_two_passes():
    train = Series.of({step: float(step) for step in range(1, 7)} | {5: float("inf")}).known
    found = averaged(train, np.array([2.0, 6.0]))
    assert found is not None
    assert found.tolist() == [1.5, (3 + 4 + 6) / 3]
    assert averaged(Series.of({7: 1.0}), np.array([2.0, 6.0])) is None
    assert averaged(Series.of({}), np.array([2.0])) is None


def test_the_noise_of_a_curve_is_found_whatever_its_course():
    rng, places = np.random.default_rng(1), np.arange(2000)
    for course in (np.zeros(2000), 0.01 * places, 10 * np.exp(-places / 300)):
        assert noise(course + rng.normal(0, 0.3, 2000)) == pytest.approx(0.3, rel=0.1)
