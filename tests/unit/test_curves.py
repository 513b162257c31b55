"""Curves as they are drawn: thinned, smoothed, in their units."""

import math

import numpy as np

from pipelines.curves import curve_charts, describe, read_curve, smooth, thin


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
    np.testing.assert_allclose(smooth(np.array([1.0, 2.0, 6.0, 4.0]), 3), [1.5, 3.0, 4.0, 5.0])


def test_curve_without_a_number_says_so() -> None:
    assert describe(read_curve("train", {3: math.nan})) == "train: 1 not a number and not drawn (step 3)."


def test_speed_and_memory_are_drawn_in_their_units() -> None:
    series = {"train/memory_bytes": {1: 2.0**31, 2: 2.0**32}, "train/mfu": {2: 0.4}, "train/loss_scale": {1: 65536.0}}
    charts = {chart.title: chart for chart in curve_charts(series, [], {})}
    assert list(charts) == ["Model FLOPs utilisation", "Memory", "Loss scale"]
    memory = charts["Memory"]
    assert "first 2 (step 1), last 4 (step 2)" in memory.caption
    assert memory.plot.yaxis[0].axis_label == "largest use of a rank (GiB)"  # type: ignore[attr-defined]
