"""Every ZeRO stage learns the same, and goes on from any other's checkpoint."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.runs import run_on_ranks

pytestmark = pytest.mark.slow
STAGES = ("0", "1", "2", "3")


def train_everywhere(folder: Path, steps: int, precision: str, ranks: int) -> dict[str, Any]:
    run_on_ranks(ranks, "zero_worker.py", folder, steps, precision)
    return json.loads((folder / "losses.json").read_text())


@pytest.fixture(scope="module")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return train_everywhere(tmp_path_factory.mktemp("fp32"), 50, "fp32", 2)


def test_fifty_losses_of_all_stages_agree_on_two_ranks(fp32: dict[str, Any]) -> None:
    first = fp32["0"]["losses"]
    assert len(first) == 50
    assert first[-1] < 0.9 * first[0]
    for stage in STAGES[1:]:
        assert fp32[stage]["losses"] == pytest.approx(first, rel=1e-4)


def test_an_evaluations_scores_are_the_same_at_every_stage(fp32: dict[str, Any]) -> None:
    likelihood, nll, largest, right = fp32["0"]["scores"]
    assert nll == pytest.approx(likelihood, rel=1e-6)
    assert 0 < -largest <= nll
    assert right in range(6)
    for stage in STAGES[1:]:
        assert fp32[stage]["scores"] == pytest.approx([likelihood, nll, largest, right], rel=1e-4)


@pytest.mark.parametrize("stage", STAGES)
def test_a_checkpoint_goes_on_with_every_bit_at_its_own_stage(fp32: dict[str, Any], stage: str) -> None:
    resumed = fp32[f"{stage} to {stage}"]
    assert resumed["later"] == fp32[stage]["later"]
    assert resumed["average"] == fp32[stage]["average"]


@pytest.mark.parametrize("source", STAGES)
def test_a_checkpoint_goes_on_at_every_other_stage(fp32: dict[str, Any], source: str) -> None:
    for stage in STAGES:
        resumed = fp32[f"{source} to {stage}"]
        assert resumed["later"] == pytest.approx(fp32[source]["later"], rel=1e-5)
        assert resumed["average"] == pytest.approx(fp32[source]["average"], rel=1e-5)


def test_fp16_with_its_loss_scale_goes_on_with_every_bit(tmp_path: Path) -> None:
    told = train_everywhere(tmp_path, 3, "fp16", 1)
    for stage in STAGES:
        assert told[stage]["losses"] == pytest.approx(told["0"]["losses"], rel=1e-3)
        assert told[f"{stage} to {stage}"]["later"] == told[stage]["later"]
