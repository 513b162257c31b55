"""Metrics with their standard errors and protocols."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.folder import write_json
from configs.metrics import Metric, protocol_id
from data.manifest import Split
from trainer.evaluation.contract import Result, cluster_sums, ratio_stderr
from trainer.evaluation.language import language_metrics


def clusters(number: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unequal clusters whose losses go with their sizes."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 30, number).astype(float)
    return tokens * rng.normal(3.0, 0.5, number) + rng.normal(0, 2, number), tokens


def sums_of(nll: np.ndarray, tokens: np.ndarray) -> dict[str, float]:
    return {name: float(value) for name, value in cluster_sums(torch.tensor(nll), torch.tensor(tokens)).items()}


def test_the_standard_error_equals_the_direct_formula_of_the_ratio_estimator() -> None:
    nll, tokens = clusters(50)
    ratio = nll.sum() / tokens.sum()
    residuals = nll - ratio * tokens
    expected = math.sqrt((residuals**2).sum() / (len(nll) - 1) / len(nll)) / tokens.mean()
    assert ratio_stderr(sums_of(nll, tokens)) == pytest.approx(expected, rel=1e-9)


def test_the_standard_error_is_near_the_bootstraps() -> None:
    nll, tokens = clusters(300)
    rng = np.random.default_rng(1)
    chosen = rng.integers(0, len(nll), (2000, len(nll)))
    ratios = nll[chosen].sum(1) / tokens[chosen].sum(1)
    assert ratio_stderr(sums_of(nll, tokens)) == pytest.approx(ratios.std(), rel=0.1)


def test_equal_clusters_have_the_standard_error_of_a_mean() -> None:
    nll = np.random.default_rng(2).normal(20, 1, 40)
    expected = (nll / 8).std(ddof=1) / math.sqrt(40)
    assert ratio_stderr(sums_of(nll, np.full(40, 8.0))) == pytest.approx(expected, rel=1e-6)


def test_one_cluster_has_no_standard_error_and_identical_ones_have_zero() -> None:
    assert ratio_stderr(sums_of(np.array([3.0]), np.array([2.0]))) is None
    error = ratio_stderr(sums_of(np.full(7, 0.3), np.full(7, 3.0)))  # rounding must not make a root of less than zero
    assert error == pytest.approx(0.0, abs=1e-8)


SPLIT = Split(documents=2, tokens=400, bytes=1000, words=150, samples=10, shards=())


def test_language_metrics_are_their_definitions_with_errors_by_the_delta_method() -> None:
    nll, tokens = clusters(20)
    tokens *= 400 / tokens.sum()
    sums = sums_of(nll, tokens)
    metrics = {metric.name: metric for metric in language_metrics("test", sums, SPLIT, "p")}
    total, error = nll.sum(), ratio_stderr(sums)
    assert error is not None
    expected = {
        "test/loss": (total / 400, error),
        "test/perplexity": (math.exp(total / 400), error * math.exp(total / 400)),
        "test/word_perplexity": (math.exp(total / 150), error * math.exp(total / 150) * 400 / 150),
        "test/bits_per_byte": (total / math.log(2) / 1000, error * 400 / 1000 / math.log(2)),
    }
    assert set(metrics) == set(expected)
    for name, (value, stderr) in expected.items():
        assert metrics[name].value == pytest.approx(value, rel=1e-9)
        assert metrics[name].stderr == pytest.approx(stderr, rel=1e-9)
        assert (metrics[name].n, metrics[name].better, metrics[name].protocol) == (400, "lower", "p")


@pytest.mark.parametrize("nll", [np.full(4, 900.0), np.array([900.0, 100.0, 2000.0, 50.0])])
def test_text_without_white_space_gives_numbers_that_json_can_hold(nll: np.ndarray, tmp_path: Path) -> None:
    one_word = SPLIT.model_copy(update={"words": 1})
    metrics = language_metrics("test", sums_of(nll, np.full(4, 100.0)), one_word, "p")
    write_json(tmp_path / "metrics.json", [asdict(metric) for metric in metrics])
    for metric in metrics:
        assert metric.value is not None
        assert math.isfinite(metric.value)
        assert metric.stderr is None or math.isfinite(metric.stderr)


def test_a_protocols_id_is_of_its_content_and_not_of_its_order() -> None:
    first = protocol_id({"a": 1, "b": 2.5})
    assert first == protocol_id({"b": 2.5, "a": 1})
    assert first != protocol_id({"a": 1, "b": 2.6})
    assert len(first) == 16


def test_a_result_is_a_record_that_json_gives_back() -> None:
    metric = Metric("test/loss", 2.5, None, 10, "nats/token", "lower", "p")
    record = Result((metric,), {"p": {"window": 3}}).record()
    assert json.loads(json.dumps(record)) == record
    assert record == {"metrics": [asdict(metric)], "protocols": {"p": {"window": 3}}}
