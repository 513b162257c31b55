"""Running statistics over ranks: the law of total variance, one exchange, and norms that are at rest."""

import pytest
import torch
from torch import Tensor, nn

from tests.tiny import ALONE, on_ranks
from trainer.distributed import World
from trainer.models.residual import statistics_kept
from trainer.statistics import Statistics


def batch(rank: int, features: int) -> Tensor:
    return torch.randn(64, features, generator=torch.Generator().manual_seed(rank)) * (rank + 1) + 3 * rank


def norms(momentum: float = 1.0) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm1d(2, momentum=momentum), nn.ReLU(), nn.BatchNorm1d(2, momentum=momentum))


def feed(network: nn.Sequential, number: int) -> None:
    """A batch to each of the two norms."""
    for norm in (network[0], network[2]):
        norm(batch(number, 2))


def statistics(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.named_buffers() if "running" in name}


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_an_update_takes_the_mean_and_variance_of_all_its_samples(size: int, accumulation: int) -> None:
    def work(world: World) -> dict[str, Tensor]:
        network = norms()
        shared = Statistics(network, world, accumulation)
        shared.begin()
        for number in range(accumulation):
            feed(network, number * size + world.rank)
            shared.add()
        shared.finish(counts=True)
        return statistics(network)

    everyone = on_ranks(size, work)
    together = torch.cat([batch(number, 2) for number in range(size * accumulation)])
    for name, tensor in everyone[0].items():
        assert all(torch.equal(tensor, other[name]) for other in everyone)
        expected = together.mean(0) if name.endswith("mean") else together.var(0)
        torch.testing.assert_close(tensor, expected, rtol=0.02, atol=0.02)


def test_an_update_moves_the_statistics_once_by_the_momentum() -> None:
    network, alone = norms(0.25), nn.BatchNorm1d(2, momentum=0.25)
    shared = Statistics(network, ALONE, accumulation=2)
    shared.begin()
    for _ in range(2):
        feed(network, 1)
        shared.add()
    shared.finish(counts=True)
    alone(batch(1, 2))
    for name, tensor in alone.named_buffers():
        torch.testing.assert_close(network[0].get_buffer(name), tensor)
    assert network[0].momentum == 0.25


@pytest.mark.parametrize("resting", [True, False])
def test_statistics_of_norms_that_rest_and_of_updates_left_out_stay_bit_for_bit(resting: bool) -> None:
    network = norms(0.25)
    feed(network, 0)
    before = {name: tensor.clone() for name, tensor in network.named_buffers()}
    network.train(not resting)
    shared = Statistics(network, ALONE, accumulation=2)
    shared.begin()
    for number in (1, 2):
        feed(network, number)
        shared.add()
    shared.finish(counts=resting)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.named_buffers())


def test_there_is_one_exchange_for_all_norms_and_none_without_any() -> None:
    asked: list[tuple[int, ...]] = []

    class Counting(World):
        def mean(self, values: Tensor) -> Tensor:
            asked.append(tuple(values.shape))
            return values

    world = Counting(rank=0, local_rank=0, size=2, device=torch.device("cpu"))
    for network in (norms(), nn.Sequential(nn.Linear(2, 2))):
        shared = Statistics(network, world, accumulation=1)
        shared.begin()
        shared.add()
        shared.finish(counts=True)
    assert asked == [(3, 4)]


def test_held_norms_compute_as_in_training_and_count_nothing() -> None:
    network = norms()
    feed(network, 0)
    before, inputs = statistics(network), batch(1, 2)
    expected = nn.BatchNorm1d(2)(inputs)
    with statistics_kept(network):
        torch.testing.assert_close(network[0](inputs), expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in statistics(network).items())
    network[0](inputs)
    assert not torch.equal(statistics(network)["0.running_mean"], before["0.running_mean"])


def test_a_mean_over_one_rank_is_the_value_itself() -> None:
    values = torch.tensor([1.0, 2.5])
    assert torch.equal(ALONE.mean(values), values)
