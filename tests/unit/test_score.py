"""Sums over a split: the same for any batch size, limit and number of ranks."""

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor, nn

from configs.folder import RunFolder
from data.shards import ShardReader
from tests.tiny import ALONE, on_ranks, open_readers, random_documents, tiny_run, write_dataset
from trainer.distributed import World, add
from trainer.evaluation.score import score, score_split
from trainer.task import Batch, Networks, Sample, Scalars, Sums


class Counting:
    """A task whose statistics are countable by hand; the name `long` appears only where a sample is long."""

    turns: tuple[str, ...] = ("model",)

    def networks(self) -> dict[str, nn.Module]:
        return {"model": nn.Dropout()}

    def collate(self, samples: Sequence[Sample]) -> Batch:
        lengths = torch.tensor([len(sample["tokens"]) - 1 for sample in samples])
        ids = tuple(sample["id"] for sample in samples)
        return Batch({"lengths": lengths, "ids": torch.tensor(ids)}, len(samples), ids)

    def loss(self, turn: str, nets: Networks, batch: Batch) -> tuple[Tensor, Scalars]:
        raise NotImplementedError

    def evaluate(self, nets: Networks, batch: Batch) -> Sums:
        assert isinstance(nets["model"], nn.Module)
        assert not nets["model"].training
        assert not torch.is_grad_enabled()
        lengths = batch.tensors["lengths"].double()
        sums = {"samples": torch.tensor(float(len(lengths)), dtype=torch.float64), "tokens": lengths.sum()}
        return sums | ({"ids": batch.tensors["ids"].double().sum()} if (lengths > 15).any() else {})

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        return dict(sums)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> ShardReader:
    folder, run = RunFolder(tmp_path_factory.mktemp("score") / "run"), tiny_run()
    documents = random_documents([400, 19], vocabulary_size=270, end=0)
    return open_readers(folder, write_dataset(run, folder, {"train": documents}))["train"]


def sums_of(reader: ShardReader, world: World = ALONE, *, batch: int = 4, limit: int | None = None) -> dict[str, float]:
    task = Counting()
    return score_split(task, task.networks(), reader, world, batch=batch, limit=limit)


@pytest.mark.parametrize("batch", [1, 4, 7, 1000])
def test_all_samples_and_tokens_are_counted_once_whatever_the_batch(reader: ShardReader, batch: int) -> None:
    sums = sums_of(reader, batch=batch)
    assert len(reader) == 27
    assert (sums["samples"], sums["tokens"]) == (27, 419)


@pytest.mark.parametrize("size", [2, 3, 40])
@pytest.mark.parametrize("limit", [None, 1, 10])
def test_every_rank_has_the_sums_of_one_rank_alone(reader: ShardReader, size: int, limit: int | None) -> None:
    expected = sums_of(reader, batch=1, limit=limit)
    assert on_ranks(size, lambda world: sums_of(reader, world, batch=1, limit=limit)) == [expected] * size


def test_a_limit_takes_samples_spread_over_the_split(reader: ShardReader) -> None:
    task, seen = Counting(), list[int]()

    def collate(samples: Sequence[Sample]) -> Batch:
        seen.extend(sample["id"] for sample in samples)
        return Counting.collate(task, samples)

    task.collate = collate  # type: ignore[method-assign]
    score_split(task, task.networks(), reader, ALONE, batch=2, limit=5)
    assert seen == [0, 5, 10, 16, 21]
    assert sums_of(reader, limit=10_000)["samples"] == 27


def test_the_networks_are_left_in_the_mode_they_came_in(reader: ShardReader) -> None:
    task = Counting()
    nets = {"model": nn.Dropout(), "other": nn.Dropout().eval()}
    score(task, nets, [task.collate([{"id": 0, "tokens": [1, 2]}])], ALONE)
    assert nets["model"].training
    assert not nets["other"].training


def test_sums_of_two_batches_keep_the_names_of_both() -> None:
    one, two = torch.tensor(1.0), torch.tensor(2.0)
    assert add({"a": one, "b": one}, {"b": two, "c": two}) == {"a": one, "b": torch.tensor(3.0), "c": two}
    assert add({}, {"a": one}) == {"a": one}
    assert add({"a": one}, {}) == {"a": one}


def test_a_rank_that_saw_nothing_adds_nothing() -> None:
    def work(world: World) -> dict[str, float]:
        return world.sum_all({"nll": torch.tensor(2.5)} if world.rank == 1 else {})

    assert on_ranks(3, work) == [{"nll": 2.5}] * 3
