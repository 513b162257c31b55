"""Curves as they are drawn: thinned, smoothed, in their units."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.charts import embed
from pipelines.curves import (
    SMOOTHING,
    curve_charts,
    describe,
    read_curve,
    smooth,
    stretches,
    thin,
    window,
)
from pipelines.series import Series


def test_thinned_curve_keeps_its_ends_and_its_peaks() -> None:
    x = np.arange(100_000, dtype=float)
    y = np.random.default_rng(0).normal(size=100_000)
    y[54_321], y[77_777] = 100.0, -100.0
    thin_x, thin_y = thin(x, y)
    assert len(thin_x) <= 2000
    assert (thin_x[0], thin_x[-1]) == (0, 99_999)
    assert {54_321, 77_777} <= set(thin_x)
    assert (np.diff(thin_x) > 0).all()
    assert (thin_y.min(), thin_y.max()) == (-100.0, 100.0)


def test_smoothed_curve_is_the_mean_around_each_value() -> None:
    values = np.array([1.0, 2.0, 6.0, 4.0])
    np.testing.assert_allclose(smooth(values, np.ones(4), 3), [1.5, 3.0, 4.0, 5.0])
    np.testing.assert_allclose(smooth(values, np.ones(4), 1), values)


def test_smoothing_over_whole_stretches_is_that_of_all_values() -> None:
    values = np.random.default_rng(0).normal(size=4000)
    _, means, counts = stretches(np.arange(4000.0), values, 400)
    assert counts.tolist() == [10] * 400
    inside = smooth(means, counts, 50)[2:-2]  # two stretches and a half to each side
    exact = [values[10 * n - 20 : 10 * n + 30].mean() for n in range(2, 398)]
    np.testing.assert_allclose(inside, exact)


@given(st.integers(1, 300), st.integers(1, 50))
def test_stretches_hold_all_values(length: int, points: int) -> None:
    x, y = np.arange(float(length)), np.random.default_rng(length).normal(size=length)
    steps, means, counts = stretches(x, y, points)
    assert len(steps) == len(means) == len(counts) == min(length, points)
    assert counts.sum() == length
    assert (means * counts).sum() == pytest.approx(y.sum())
    assert (np.diff(steps) > 0).all()


def test_a_window_is_an_odd_number_of_values_and_nothing_is_smoothed_by_one() -> None:
    assert [window(400, share) for share in SMOOTHING] == [1, 3, 5, 9, 21, 41, 81]
    assert window(10, 0.05) == 1


def test_curve_without_a_number_says_so() -> None:
    assert describe(read_curve("train", Series.of({3: math.nan}))) == "train: 1 not a number and not drawn (step 3)."


def test_speed_and_memory_are_drawn_in_their_units() -> None:
    series = {"train/memory_bytes": {1: 2.0**31, 2: 2.0**32}, "train/mfu": {2: 0.4}, "train/loss_scale": {1: 65536.0}}
    found = curve_charts({name: Series.of(values) for name, values in series.items()}, [], {})
    charts = {chart.title: chart for chart in found}
    assert list(charts) == ["Model FLOPs utilisation", "Memory", "Loss scale"]
    memory = charts["Memory"]
    assert "first 2 (step 1), last 4 (step 2)" in memory.caption
    assert memory.plot.yaxis[0].axis_label == "largest use of a rank (GiB)"  # type: ignore[attr-defined]


def test_a_page_of_many_long_curves_stays_below_its_size() -> None:
    steps = np.arange(1.0, 20_001.0)
    noise = np.random.default_rng(0).normal(size=20_000) + 5
    series = {f"train/metric_{number}": Series(steps, noise) for number in range(40)}
    plots, _ = embed(curve_charts(series, [], {}))
    assert len(plots) < 3_500_000  # beside a library of 1.2 MB
