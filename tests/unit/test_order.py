"""The order of samples: a permutation an epoch, the same for every world, resumed by one integer."""

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import data.order
from data.order import Order, Sampler, Shards, Stream, order

SIZES = st.lists(st.integers(1, 20), min_size=1, max_size=8)
SEED, EPOCH, WINDOW = st.integers(0, 2**32 - 1), st.integers(0, 1000), st.integers(1, 60)


@given(sizes=SIZES, seed=SEED, epoch=EPOCH, window=WINDOW)
def test_order_is_a_permutation(sizes: list[int], seed: int, epoch: int, window: int):
    ids = order(sizes, seed, epoch, window)
    assert sorted(ids.tolist()) == list(range(sum(sizes)))


def test_order_depends_on_its_arguments_alone():
    sizes = [50, 30, 70]
    assert order(sizes, 1, 2, 40).tolist() == order(tuple(sizes), 1, 2, 40).tolist()
    assert order(sizes, 1, 2, 40).tolist() != order(sizes, 2, 2, 40).tolist()
    assert order(sizes, 1, 2, 40).tolist() != order(sizes, 1, 3, 40).tolist()
    assert order([4, 4], 0, 0, 8).tolist() == [3, 2, 1, 7, 4, 0, 5, 6]  # a resumed run must see this in every version


def test_order_of_nothing_is_empty():
    assert order([], 0, 0, 10).tolist() == []


def test_seed_and_epoch_are_not_interchangeable():
    assert order([100], 1, 2, 100).tolist() != order([100], 2, 1, 100).tolist()


def test_a_window_reads_few_shards_at_a_time():
    ids = order([100] * 50, 0, 0, 100)
    for start in range(0, 5000, 100):
        assert len({int(i) // 100 for i in ids[start : start + 100]}) <= 2


def test_places_are_uniform():
    """Where sample 0 stands over many epochs: each of 20 places within five standard deviations of its share."""
    places = [order([20], 0, epoch, 20).tolist().index(0) for epoch in range(4000)]
    counts = np.bincount(places, minlength=20)
    assert abs(counts - 200).max() < 5 * np.sqrt(200)


def drawn(
    what: list[int] | Order, *, world: int, micro: int, rounds: int, position: int = 0, window: int = 16
) -> list[int]:
    """What all ranks together draw, by position; every rank must give equally many."""
    found: dict[int, int] = {}
    whole = what if isinstance(what, Order) else Order(Shards.of(what), seed=7, window=window)
    for rank in range(world):
        sampler = Sampler(whole, micro=micro, rank=rank, world=world, position=position)
        batches = list(islice(sampler, rounds))
        assert [len(batch) for batch in batches] == [micro] * rounds
        found |= {place: index for batch in batches for place, index in batch}
    assert sorted(found) == list(range(position, position + world * micro * rounds))
    return [found[place] for place in sorted(found)]


@given(sizes=SIZES, world=st.integers(1, 8), micro=st.integers(1, 5), position=st.integers(0, 200), window=WINDOW)
def test_every_world_draws_the_same_sequence_from_any_position(
    sizes: list[int], world: int, micro: int, position: int, window: int
):
    rounds = 1 + 2 * sum(sizes) // (world * micro)  # across at least one epoch's end
    got = drawn(sizes, world=world, micro=micro, rounds=rounds, position=position, window=window)
    samples = sum(sizes)
    epochs = range(position // samples, (position + len(got)) // samples + 1)
    whole = np.concatenate([order(sizes, 7, epoch, window) for epoch in epochs]).tolist()
    start = position - epochs[0] * samples
    assert got == whole[start : start + len(got)]


@pytest.mark.parametrize("world", range(1, 9))
def test_each_sample_is_drawn_once_an_epoch(world: int):
    ids = drawn([7, 13, 4], world=world, micro=1, rounds=48)
    for epoch in range(len(ids) // 24):
        assert sorted(ids[epoch * 24 : (epoch + 1) * 24]) == list(range(24))


def test_stopping_and_going_on_with_another_world_repeats_nothing():
    uninterrupted = drawn([30, 31], world=1, micro=4, rounds=48)
    first = drawn([30, 31], world=2, micro=4, rounds=10)
    then = drawn([30, 31], world=4, micro=2, rounds=10, position=80)
    last = drawn([30, 31], world=1, micro=8, rounds=4, position=160)
    assert first + then + last == uninterrupted


def test_iterating_twice_starts_twice_at_the_position():
    sampler = Sampler(Order(Shards.of([10]), seed=0, window=10), micro=2, rank=0, world=1, position=4)
    assert next(iter(sampler)) == next(iter(sampler))


def test_a_far_position_builds_only_its_own_window(monkeypatch: pytest.MonkeyPatch):
    built: list[tuple[int, int]] = []
    window_of = data.order._window

    def counting(shards: Shards, key: tuple[int, int], window: int, number: int):
        ids = window_of(shards, key, window, number)
        built.append((number, len(ids)))
        return ids

    monkeypatch.setattr(data.order, "_window", counting)
    whole = Order(Shards.of([4096] * 5000), seed=0, window=1000)  # 20 million samples
    sampler = Sampler(whole, micro=8, rank=1, world=2, position=10_000_000)
    first = next(iter(sampler))
    assert [place for place, _ in first] == list(range(10_000_008, 10_000_016))
    assert built == [(10_000, 1000)]


def test_at_most_two_windows_are_held():
    sampler = Sampler(Order(Shards.of([1000]), seed=0, window=10), micro=25, rank=0, world=1)
    for _ in islice(sampler, 100):
        assert len(sampler._windows) <= 2


WEIGHTS = st.lists(st.floats(0.05, 1.0), min_size=1, max_size=4)


def mixed(weights: list[float], sizes: list[list[int]], window: int, seed: int = 7) -> Order:
    """Streams of the given shard sizes, one weight each; sample ids run on from stream to stream."""
    whole = Shards.of([size for each in sizes for size in each])
    streams, first = [], 0
    for weight, each in zip(weights, sizes, strict=True):
        last = first + len(each)
        streams.append(Stream(Shards(whole.sizes[first:last], whole.starts[first:last]), weight))
        first = last
    return Order(whole, seed=seed, window=window, streams=streams)


@given(
    weights=WEIGHTS,
    size=st.integers(1, 30),
    world=st.integers(1, 8),
    micro=st.integers(1, 5),
    position=st.integers(0, 500),
    window=st.integers(200, 300),
)
def test_a_mixture_is_one_sequence_for_every_world_from_any_position(
    weights: list[float], size: int, world: int, micro: int, position: int, window: int
):
    whole = mixed(weights, [[size, size + number] for number in range(len(weights))], window)
    rounds = 1 + 2 * window // (world * micro)
    alone = drawn(whole, world=1, micro=1, rounds=rounds * world * micro, position=position)
    assert drawn(whole, world=world, micro=micro, rounds=rounds, position=position) == alone


@given(weights=WEIGHTS, window=st.integers(200, 400))
def test_every_stream_gives_its_weights_share_and_each_of_its_samples_once_an_epoch(weights: list[float], window: int):
    sizes = [[7], [11, 2], [5, 5, 5], [3]][: len(weights)]
    whole, windows = mixed(weights, sizes, window), 5
    ids = np.array(drawn(whole, world=1, micro=1, rounds=windows * window))
    first = 0
    for weight, each in zip(weights, sizes, strict=True):
        mine = ids[(ids >= first) & (ids < first + sum(each))]
        assert abs(len(mine) - windows * window * weight / sum(weights)) <= 1
        for start in range(0, len(mine) - sum(each) + 1, sum(each)):
            assert sorted(mine[start : start + sum(each)].tolist()) == list(range(first, first + sum(each)))
        first += sum(each)


def test_a_repeated_source_gives_each_sample_so_often_an_epoch():
    whole = Shards.of([4, 3, 5])
    repeated = Shards(whole.sizes[:2], whole.starts[:2]).times(3) + Shards(whole.sizes[2:], whole.starts[2:])
    ids = drawn(Order(repeated, seed=1, window=8), world=2, micro=1, rounds=13)
    assert np.bincount(ids).tolist() == [3] * 7 + [1] * 5


def test_streams_of_equal_weight_over_ids_balance_classes():
    labels = np.array([0] * 90 + [1] * 10)
    streams = [Stream(Shards.of([int((labels == c).sum())]), 1.0, np.flatnonzero(labels == c)) for c in (0, 1)]
    ids = drawn(Order(Shards.of([100]), seed=1, window=50, streams=streams), world=1, micro=1, rounds=360)
    assert np.bincount(labels[ids]).tolist() == [180, 180]
    assert np.bincount(ids)[90:].tolist() == [18] * 10


def test_streams_draw_independently():
    """Two sources of equal size and weight are not read in the same order."""
    ids = drawn(mixed([1.0, 1.0], [[50], [50]], 100), world=1, micro=1, rounds=100)
    assert [i for i in ids if i < 50] != [i - 50 for i in ids if i >= 50]
