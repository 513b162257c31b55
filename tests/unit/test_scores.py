"""Metrics in words: which is better, by how much, and how many digits say so."""

import math

import pytest

from pipelines.readout import Scores, show
from pipelines.scores import verdict
from tests.reported import (
    metric,
)


@pytest.mark.parametrize(
    ("own", "other", "expected"),
    [
        ((1.98, "lower"), 2.11, "The model needs 1.98 bits per byte; the x baseline needs 2.11: 6 % better."),
        ((3.18, "lower"), 2.06, "The model needs 3.18 bits per byte; the x baseline needs 2.06: 54 % worse."),
        ((2.2, "higher"), 2.0, "The model reaches 2.2 bits per byte; the x baseline reaches 2: 10 % better."),
        ((2.001, "lower"), 2.002, "2.001 bits per byte; the x baseline needs 2.002: 0.05 % better, which is within"),
        ((2.0, "lower"), 2.0, "no difference."),
        ((math.nan, "lower"), 2.0, "is not a number."),
    ],
)
def test_verdict_compares_in_the_direction_that_is_better(own: tuple[float, str], other: float, expected: str) -> None:
    value, better = own
    metrics = [
        metric("test/bits_per_byte", value, better=better),
        metric("baseline/x/bits_per_byte", other, better=better),
    ]
    assert expected in (verdict(Scores.of(metrics)) or "")


def test_verdict_works_for_metrics_of_any_family() -> None:
    metrics = [
        metric("test/accuracy", 0.91, better="higher", unit="share"),
        metric("baseline/majority/accuracy", 0.5, better="higher", unit="share"),
    ]
    assert verdict(Scores.of(metrics)) == ("The model's accuracy is 0.91; the majority baseline's is 0.5: 82 % better.")


def test_verdict_takes_the_best_baseline_under_the_same_protocol() -> None:
    metrics = [
        metric("test/bits_per_byte", 2.0),
        metric("baseline/weak/bits_per_byte", 4.0),
        metric("baseline/strong/bits_per_byte", 2.5),
        metric("baseline/foreign/bits_per_byte", 1.0, protocol="other"),
    ]
    assert "the strong baseline needs 2.5: 20 % better" in (verdict(Scores.of(metrics)) or "")


def test_verdict_without_metrics_or_baselines_claims_nothing() -> None:
    assert verdict(Scores.of([])) is None
    assert "no baseline" in (verdict(Scores.of([metric("test/fid", 7.0, unit="1")])) or "")


@pytest.mark.parametrize(
    ("value", "stderr", "expected"),
    [
        (3.17602, 0.00221, "3.1760 ± 0.0022"),
        (451334.5, 4097.5, "451,334 ± 4,098"),
        (1024.0, 0.0, "1,024 ± 0"),
        (4.6e7, 2e3, "4.6e+07 ± 2e+03"),
        (0.5, None, "0.5"),
        (0.5, math.nan, "0.5"),
        (math.inf, 1.0, "undefined"),
    ],
)
def test_value_is_shown_to_two_digits_of_its_error(value: float, stderr: float | None, expected: str) -> None:
    assert show(metric("test/x", value, stderr=stderr)) == expected
