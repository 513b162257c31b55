"""The cost of a pass: what is counted is exact, what is timed is finite and ordered."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

from configs.folder import RunFolder
from tests.tiny import ALONE, open_readers, random_documents, tiny_run, write_dataset
from trainer.evaluation.cost import device_name, measure_cost, pass_bytes, time_passes
from trainer.profile.plan import make_plan
from trainer.profile.sketch import look
from trainer.task import Batch
from trainer.tasks import build_task


def test_cost_tells_parameters_flops_and_times_of_a_pass(tmp_path: Path):
    run, folder = tiny_run(), RunFolder(tmp_path / "run")
    documents = random_documents([40] * 40, vocabulary_size=270, end=0)
    manifest = write_dataset(run, folder, {"train": documents, "test": documents})
    task = build_task(run, manifest)
    nets = {name: net.eval() for name, net in task.networks().items()}
    cost = measure_cost(task, nets, open_readers(folder, manifest)["test"], ALONE)
    plan = make_plan(run, look(run, folder, classes=None))
    assert cost["parameters"] == plan.networks["model"].parameters
    assert cost["flops_per_sample"] == plan.forward_flops
    assert list(cost["latency_ms"]) == ["1", "32"]
    assert all(0 < time["median"] <= time["p99"] for time in cost["latency_ms"].values())
    assert all(rate > 0 for rate in cost["samples_per_s"].values())
    assert cost["memory_by"] == "tensors"
    assert 0 < cost["activation_bytes"]["1"] < cost["activation_bytes"]["32"] <= 32 * cost["activation_bytes"]["1"]
    assert cost["device"]


def test_a_split_with_a_single_sample_is_passed_once_alone(tmp_path: Path):
    run, folder = tiny_run(), RunFolder(tmp_path / "run")
    documents = random_documents([run.data.block_tokens], vocabulary_size=270, end=0)  # type: ignore[union-attr]
    manifest = write_dataset(run, folder, {"train": documents, "test": documents})
    task = build_task(run, manifest)
    cost = measure_cost(task, task.networks(), open_readers(folder, manifest)["test"], ALONE)
    assert list(cost["latency_ms"]) == ["1"]


def test_passes_after_the_first_are_timed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("trainer.evaluation.cost.PATIENCE_S", 0.0)
    calls: list[int] = []
    assert len(time_passes(lambda: calls.append(1), torch.device("cpu"))) == 5
    assert len(calls) == 6
    assert device_name(torch.device("cpu"))


class Doubling:
    """A pass that makes three tensors of the batch's size after each other and keeps no more than two."""

    def evaluate(self, nets: Mapping[str, nn.Module], batch: Batch) -> dict[str, torch.Tensor]:
        first = batch.tensors["x"] * 2
        second = first + 1
        del first
        return {"sum": (second * 3).sum()}


@pytest.mark.parametrize("rows", [1, 6])
def test_memory_of_a_pass_is_the_most_that_is_there_at_once_without_weights_and_batch(rows: int):
    nets = {"model": nn.Linear(1000, 1000)}
    batch = Batch({"x": torch.ones(rows, 1024)}, rows, tuple(range(rows)))
    held = pass_bytes(Doubling(), nets, batch, torch.device("cpu"))  # type: ignore[arg-type]
    assert held - 2 * rows * 1024 * 4 in (0, 4)  # the sum is made while both are there, or after
