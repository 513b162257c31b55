"""How often the gate is right: runs of the nightly suite simulated with its measured noise of seeds, tests/measured."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.suite_file import read_suite
from pipelines.gate.readings import Reading
from pipelines.gate.verdicts import MINIMUM, Word, judge
from tests.gated import metric, reading

ROOT = Path(__file__).parents[2]
MEASURED = json.loads((ROOT / "tests" / "measured" / "seed_noise.json").read_text())["families"]
SUITE = read_suite(ROOT / "configs" / "nightly.yaml")
HEADLINES = {"language": "test/bits_per_byte", "images": "test/accuracy"}
"""The metric of each family that a regression is planted in; the others stay as they are"""
PLANTED = 0.02
GATES = 400


def simulated(
    family: str, rng: np.random.Generator, seeds: Sequence[int], *, worse: Mapping[str, float] | None = None
) -> list[Reading]:
    """Runs with normal noise of the measured covariance, independent of each other; `worse` multiplies metrics."""
    metrics: Mapping[str, Any] = MEASURED[family]["metrics"]
    values = np.array([each["values"] for each in metrics.values()])  # [metrics, measured seeds]
    mean = values.mean(axis=1, keepdims=True)
    mixing = rng.standard_normal((values.shape[1], len(seeds))) / np.sqrt(values.shape[1] - 1)
    drawn = mean + (values - mean) @ mixing  # [metrics, seeds]
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


def words(family: str, *, planted: float, against: Sequence[int], gates: int = GATES) -> list[Word]:
    """What gates say of the suite's seeds: new runs that are worse by a share against a new baseline each time."""
    rng = np.random.default_rng(7)
    headline = HEADLINES[family]
    better = MEASURED[family]["metrics"][headline]["better"]
    worse = {headline: 1 + planted if better == "lower" else 1 - planted}
    return [
        judge(
            simulated(family, rng, SUITE.seeds, worse=worse),
            simulated(family, rng, against),
            baseline="simulated",
            alpha=SUITE.gate.alpha,
            minimum={**MINIMUM, **SUITE.gate.minimum},
        ).word
        for _ in range(gates)
    ]


def rate_of_worse(family: str, *, planted: float, against: Sequence[int] = SUITE.baseline_seeds) -> float:
    found = words(family, planted=planted, against=against)
    return found.count("worse") / len(found)


@pytest.mark.parametrize("family", HEADLINES)
def test_the_noise_was_measured_over_eight_seeds_of_the_very_runs_of_the_suite(family: str):
    run = next(run for run in SUITE.runs if run.name == family)
    measured = MEASURED[family]
    assert (measured["config"], measured["overrides"]) == (run.config, list(run.overrides))
    assert set(measured["seeds"]) <= set(SUITE.baseline_seeds)
    assert len(SUITE.seeds) == 3
    assert all(len(each["values"]) == len(measured["seeds"]) >= 8 for each in measured["metrics"].values())


@pytest.mark.parametrize("family", HEADLINES)
def test_a_planted_regression_of_2_percent_is_caught_at_3_seeds_19_times_in_20(family: str):
    assert rate_of_worse(family, planted=PLANTED) >= 19 / 20


@pytest.mark.parametrize("family", HEADLINES)
def test_40_gates_of_unchanged_code_raise_no_alarm(family: str):
    found = words(family, planted=0.0, against=SUITE.baseline_seeds)
    assert "worse" not in found[:40]
    assert found.count("worse") / GATES <= 2 / 100
