"""Ranks that share sequences or matrices learn what one rank alone learns, and go on from each other's checkpoints."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.runs import run_on_ranks

pytestmark = pytest.mark.slow


def train(folder: Path, name: str, ranks: int, *layout: object) -> dict[str, Any]:
    """layout: parts, slices, ZeRO stages with commas, and the names of layouts whose checkpoints to go on from."""
    run_on_ranks(ranks, "parallel_worker.py", folder, name, *layout)
    return json.loads((folder / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Matrices are shared by a fresh start, because DeepSpeed keeps its groups for as long as a process lives."""
    folder = tmp_path_factory.mktemp("parallel")
    matrices = train(folder, "matrices", 2, 1, 2, "1,3")
    alone = train(folder, "alone", 1, 1, 1, 1, "matrices")
    sequences = train(folder, "sequences", 2, 2, 1, "0,3", "matrices")
    both = train(folder, "both", 4, 2, 2, 1, "alone")
    return {"alone": alone, "matrices": matrices, "sequences": sequences, "both": both}


def require_close(result: dict[str, Any], alone: dict[str, Any], first: int = 0) -> None:
    """Losses and gradient norms of every update, and the score of the averaged weights."""
    for ours, expected in zip(result["figures"], alone["figures"][first:], strict=True):
        assert ours == pytest.approx(expected, rel=1e-5)
    assert result["score"] == pytest.approx(alone["score"], rel=1e-5)


@pytest.mark.parametrize(
    ("layout", "stage"), [("sequences", "0"), ("sequences", "3"), ("matrices", "1"), ("matrices", "3"), ("both", "1")]
)
def test_ranks_that_share_learn_what_one_rank_learns(told: dict[str, dict[str, Any]], layout: str, stage: str) -> None:
    result, alone = told[layout][stage], told["alone"]["1"]
    require_close(result, alone)
    assert result["size"] == alone["size"]


@pytest.mark.parametrize(("layout", "source"), [("alone", "matrices"), ("sequences", "matrices"), ("both", "alone")])
def test_a_checkpoint_holds_whole_matrices_whoever_shared_them(
    told: dict[str, dict[str, Any]], layout: str, source: str
) -> None:
    require_close(told[layout][f"after {source}"], told["alone"]["1"], first=4)
