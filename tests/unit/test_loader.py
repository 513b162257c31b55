"""Batches over any worlds, workers, interruptions and mixtures: one global sequence, each sample once an epoch."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.loader import Sample, loader
from data.manifest import Shard
from data.order import Order, Sampler, Shards, Stream
from data.samples import encode_array
from data.shards import ShardReader, ShardWriter

SIZES = (17, 9, 23, 4, 12)
SAMPLES, EPOCHS = sum(SIZES), 2
Start = tuple[int, int, int]
"""(ranks, workers of each, rounds of batches before it is killed)"""
STARTS = st.lists(st.tuples(st.integers(1, 8), st.integers(0, 3), st.integers(1, 9)), min_size=1, max_size=3)
MIXES = st.sampled_from(["one source", "repeated", "weighted", "balanced"])


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> ShardReader:
    folder, first = tmp_path_factory.mktemp("shards"), 0
    shards: list[Shard] = []
    for number, size in enumerate(SIZES):
        writer = ShardWriter(folder / f"train-{number:05d}.tar", ("tokens.npy",))
        writer.write_blocks("train", first, np.arange(first, first + size, dtype="<u2").reshape(-1, 1))
        shards.append(writer.close())
        first += size
    return ShardReader(folder, shards, ("tokens.npy",))


def order_of(mix: str) -> Order:
    whole = Shards.of(SIZES)
    first, rest = Shards(whole.sizes[:2], whole.starts[:2]), Shards(whole.sizes[2:], whole.starts[2:])
    if mix == "repeated":
        return Order(first.times(3) + rest, seed=5, window=16)
    if mix == "weighted":
        return Order(whole, seed=5, window=16, streams=[Stream(first, 3.0), Stream(rest, 1.0)])
    if mix == "balanced":
        classes = [np.arange(k, SAMPLES, 3, dtype=np.int64) for k in range(3)]
        streams = [Stream(Shards.of([len(ids)]), 1.0, ids) for ids in classes]
        return Order(whole, seed=5, window=16, streams=streams)
    return Order(whole, seed=5, window=16)


def collate(samples: Sequence[Sample]) -> list[tuple[int, int, int]]:
    return [(sample["position"], sample["id"], int(sample["tokens"][0])) for sample in samples]


def draw(reader: ShardReader, order: Order, start: Start, position: int) -> list[tuple[int, int, int]]:
    """What all ranks read until they are killed; the first two of them have workers."""
    world, workers, rounds = start
    found: list[tuple[int, int, int]] = []
    for rank in range(world):
        sampler = Sampler(order, micro=2, rank=rank, world=world, position=position)
        batches: Any = loader(reader, sampler, collate, workers=workers if rank < 2 else 0)
        drawn = list(islice(batches, rounds))
        assert [len(batch) for batch in drawn] == [2] * rounds, "every rank has equally many, of the same size"
        found += [each for batch in drawn for each in batch]
    return sorted(found)


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # more workers than there are cores
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(starts=STARTS, mix=MIXES)
def test_any_worlds_workers_and_kills_read_one_sequence(reader: ShardReader, starts: list[Start], mix: str):
    order, found = order_of(mix), []
    for start in starts:
        found += draw(reader, order, start, len(found))
    alone = Sampler(order, micro=1, rank=0, world=1)
    assert [(place, index) for place, index, _ in found] == [(p, alone.at(p)) for p in range(len(found))]
    assert all(index == token for _, index, token in found), "the bytes are those of the sample"


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(starts=STARTS, mix=st.sampled_from(["one source", "repeated"]))
def test_each_sample_is_read_as_often_as_it_should_an_epoch(reader: ShardReader, starts: list[Start], mix: str):
    order, found = order_of(mix), []
    expected = np.ones(SAMPLES, int)
    if mix == "repeated":
        expected[: sum(SIZES[:2])] = 3
    while len(found) < EPOCHS * order.samples:
        for world, _, rounds in starts:
            found += draw(reader, order, (world, 0, rounds), len(found))
    for epoch in range(EPOCHS):
        ids = [index for _, index, _ in found[epoch * order.samples : (epoch + 1) * order.samples]]
        assert np.array_equal(np.bincount(ids, minlength=SAMPLES), expected)


def test_samples_say_which_document_each_token_is_of(tmp_path: Path):
    writer = ShardWriter(tmp_path / "train-00000.tar", ("tokens.npy",))
    writer.write("train-000000000", {"tokens.npy": encode_array(np.array([0, 5, 6, 0, 7, 0, 8], "<u2"))})
    reader = ShardReader(tmp_path, [writer.close()], ("tokens.npy",))
    sampler = Sampler(Order(Shards.of([1]), seed=0, window=4), micro=1, rank=0, world=1)
    (sample,) = next(loader(reader, sampler, list, workers=0, end=0))
    assert sample["documents"].tolist() == [0, 0, 0, 1, 1, 2]
    (sample,) = next(loader(reader, sampler, list, workers=0))
    assert "documents" not in sample
