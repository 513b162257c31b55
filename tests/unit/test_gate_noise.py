"""How often the gate is right: runs of the nightly suite simulated with its measured noise of seeds, tests/measured."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from configs.suite_file import read_suite
from pipelines.gate.readings import Kind, Reading
from pipelines.gate.verdicts import MINIMUM, Judgement, judge
from tests.gated import metric, reading

ROOT = Path(__file__).parents[2]
MEASURED = json.loads((ROOT / "tests" / "measured" / "seed_noise.json").read_text())["families"]
SUITE = read_suite(ROOT / "configs" / "nightly.yaml")
HEADLINES = {"language": "test/bits_per_byte", "images": "test/accuracy", "diffusion": "test/loss"}
"""The metric of each family that a regression is planted in; the others stay as they are"""
QUIET = ("language", "images")
"""Families whose headline varies so little over seeds that 2 % can be told; that of diffusion varies by 2.6 %"""
NIGHTS = 40
"""Gates in a row against one baseline, as it is used; each has new seeds"""
SHAPES = ("normal", "measured")


def weights(rng: np.random.Generator, shape: str, measured: int, runs: int) -> NDArray[np.float64]:
    """What each run takes of each measured seed's residual, [measured, runs], such that variances are unbiased.

    "normal" noise has the measured covariance; "measured" noise is a measured seed's residuals, all metrics together.
    """
    if shape == "normal":
        return rng.standard_normal((measured, runs)) / np.sqrt(measured - 1)
    return np.eye(measured)[:, rng.integers(measured, size=runs)] * np.sqrt(measured / (measured - 1))


def simulated(
    family: str,
    rng: np.random.Generator,
    seeds: Sequence[int],
    *,
    shape: str = "normal",
    worse: Mapping[str, float] | None = None,
) -> list[Reading]:
    """Runs whose noise is independent of each other's; `worse` multiplies metrics."""
    metrics: Mapping[str, Any] = MEASURED[family]["metrics"]
    values = np.array([each["values"] for each in metrics.values()])  # [metrics, measured seeds]
    mean = values.mean(axis=1, keepdims=True)
    drawn = mean + (values - mean) @ weights(rng, shape, values.shape[1], len(seeds))  # [metrics, seeds]
    return [
        reading(
            seed,
            *(
                metric(name, value * (worse or {}).get(name, 1.0), stderr=known["stderr"], better=known["better"])
                for (name, known), value in zip(metrics.items(), drawn[:, column].tolist(), strict=True)
            ),
        )
        for column, seed in enumerate(seeds)
    ]


def blocks(
    family: str,
    *,
    planted: float,
    count: int,
    nights: int = NIGHTS,
    shape: str = "normal",
    against: Sequence[int] = SUITE.baseline_seeds,
) -> Iterator[list[Judgement]]:
    """Nights of the suite's seeds, worse by the planted share, against one baseline for each block."""
    rng = np.random.default_rng(7)
    headline = HEADLINES[family]
    better = MEASURED[family]["metrics"][headline]["better"]
    worse = {headline: 1 + planted if better == "lower" else 1 - planted}
    new = [100 + seed for seed in SUITE.seeds]  # noise of their own: the seeds of a night are not those of the baseline
    limits: dict[Kind, float] = {**MINIMUM, **SUITE.gate.minimum}
    for _ in range(count):
        old = simulated(family, rng, against, shape=shape)
        yield [
            judge(
                simulated(family, rng, new, shape=shape, worse=worse),
                old,
                baseline="simulated",
                alpha=SUITE.gate.alpha,
                minimum=limits,
            )
            for _ in range(nights)
        ]


def rate_of_catches(family: str, *, planted: float, count: int = 40, nights: int = 2, **options: Any) -> float:
    """How often the very metric that became worse is called so; most of the luck is in the baseline."""
    found = [
        next(each.word for each in judgement.verdicts if each.name == HEADLINES[family])
        for block in blocks(family, planted=planted, count=count, nights=nights, **options)
        for judgement in block
    ]
    return found.count("worse") / len(found)


def alarms(family: str, *, count: int, **options: Any) -> list[int]:
    """Nights of each block on which any metric is called worse though nothing changed."""
    return [
        sum(judgement.word == "worse" for judgement in block)
        for block in blocks(family, planted=0.0, count=count, **options)
    ]


@pytest.mark.parametrize("family", HEADLINES)
def test_the_noise_was_measured_over_eight_seeds_of_the_very_runs_of_the_suite(family: str):
    run = next(run for run in SUITE.runs if run.name == family)
    measured = MEASURED[family]
    assert (measured["config"], measured["overrides"]) == (run.config, list(run.overrides))
    assert set(measured["seeds"]) <= set(SUITE.baseline_seeds)
    assert len(SUITE.seeds) == 3
    assert all(len(each["values"]) == len(measured["seeds"]) >= 8 for each in measured["metrics"].values())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("family", QUIET)
def test_a_planted_regression_of_2_percent_is_caught_at_3_seeds_19_times_in_20(family: str, shape: str):
    assert rate_of_catches(family, planted=0.02, shape=shape) >= 19 / 20


def test_diffusion_whose_loss_varies_by_2_6_percent_tells_a_break_of_20_percent_and_not_a_change_of_2():
    assert rate_of_catches("diffusion", planted=0.2) >= 19 / 20
    assert rate_of_catches("diffusion", planted=0.02) <= 1 / 20


@pytest.mark.parametrize("family", HEADLINES)
def test_40_nights_of_unchanged_code_against_one_baseline_raise_no_alarm(family: str):
    found = alarms(family, count=15)
    assert found[0] == 0
    assert sum(found) / (len(found) * NIGHTS) <= SUITE.gate.alpha, "the promised rate, over many baselines"


@pytest.mark.parametrize("family", HEADLINES)
def test_noise_that_is_not_normal_leaves_40_nights_without_an_alarm_9_times_in_10(family: str):
    found = alarms(family, count=10, shape="measured")
    assert found.count(0) >= 9
