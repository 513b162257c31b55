"""What the cases of the networks measure and compare."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.families import differ, memory, peak_bytes

MIB = 1 << 20


def test_the_peak_counts_what_is_held_at_once_and_not_what_was_there_before() -> None:
    before = torch.ones(4, 256, 1024)  # 4 MiB

    def step() -> None:
        first = before * 2
        del first
        second = before[:2] * 2  # 2 MiB
        third = second + 1
        del second, third

    assert peak_bytes(step) == pytest.approx(4 * MIB, rel=0.01)


def outputs(folder: Path, name: str, *, loss: float = 1.0, shift: float = 0.0, peak_bytes: int = MIB) -> Any:
    file = folder / f"{name}.safetensors"
    save_file({"layer": torch.ones(8) + shift}, file)
    return {"loss": loss, "gradients": str(file), "peak_bytes": peak_bytes}


def test_losses_gradients_and_memory_are_compared(tmp_path: Path) -> None:
    peer = outputs(tmp_path, "peer")

    def said(**changed: Any) -> str | None:
        return differ(outputs(tmp_path, "ours", **changed), peer, loss=1e-3, gradient=1e-2)

    assert said() is None
    assert said(loss=1.0005, shift=0.005, peak_bytes=MIB // 2) is None
    assert "the loss is 1.01" in str(said(loss=1.01))
    assert "the gradient of layer is 2.0e-02 of its length" in str(said(shift=0.02))
    assert said(peak_bytes=2 * MIB) == "the peak is 2.0 MiB, the peer's 1.0 MiB"
    assert memory(peer, peer) == "peak memory of a step: ours 1.0 MiB, peer 1.0 MiB"
