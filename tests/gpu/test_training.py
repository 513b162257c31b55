"""The same training on a GPU."""

from pathlib import Path

import pytest
import torch

from tests.runs import losses_of, run, tiny_config, write_corpus

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: torch.cuda.is_available() is false"),
]


def test_one_gpu_in_bf16_learns_what_the_cpu_learns(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, write_corpus(tmp_path / "corpus"))
    losses = {}
    for device in ("cpu", "cuda"):
        place = ("--runs", tmp_path, "--name", device, "world.processes=1", f"world.device={device}")
        choices = ("train.precision=bf16", "task.model.dropout=0.0")
        assert run("prepare", config, *place, *choices).returncode == 0
        done = run("train", config, *place, *choices)
        assert done.returncode == 0, done.stderr
        losses[device] = losses_of(tmp_path / device)
    assert losses["cuda"][40] == pytest.approx(losses["cpu"][40], rel=0.05)
