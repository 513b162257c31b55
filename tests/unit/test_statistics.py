"""Running statistics over ranks: the law of total variance, one exchange, and norms that are at rest."""

import pytest
import torch
from torch import Tensor, nn

from tests.tiny import ALONE, on_ranks
from trainer.distributed import World
from trainer.models.residual import statistics_kept
from trainer.statistics import norms_of, share_statistics


def batch(rank: int, features: int) -> Tensor:
    return torch.randn(64, features, generator=torch.Generator().manual_seed(rank)) * (rank + 1) + 3 * rank


def seen(rank: int) -> nn.Sequential:
    """Two norms that have taken over the statistics of one batch of their rank."""
    network = nn.Sequential(nn.BatchNorm1d(2, momentum=1.0), nn.ReLU(), nn.BatchNorm1d(2, momentum=1.0))
    for norm in (network[0], network[2]):
        norm(batch(rank, 2))
    return network


def statistics(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.named_buffers() if "running" in name}


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_end_with_the_mean_and_variance_of_all_their_samples(size: int) -> None:
    def work(world: World) -> dict[str, Tensor]:
        network = seen(world.rank)
        share_statistics(norms_of(network), world)
        return statistics(network)

    everyone = on_ranks(size, work)
    together = torch.cat([batch(rank, 2) for rank in range(size)])
    for name, tensor in everyone[0].items():
        assert all(torch.equal(tensor, other[name]) for other in everyone)
        expected = together.mean(0) if name.endswith("mean") else together.var(0)
        torch.testing.assert_close(tensor, expected, rtol=0.02, atol=0.02)


def test_statistics_that_ranks_share_already_stay_bit_for_bit_when_their_norms_rest() -> None:
    def work(world: World) -> bool:
        network = seen(0).eval()
        before = statistics(network)
        share_statistics(norms_of(network), world)
        return all(torch.equal(tensor, before[name]) for name, tensor in statistics(network).items())

    assert on_ranks(3, work) == [True] * 3


def test_there_is_one_exchange_for_all_norms_and_none_without_any(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, ...]] = []

    class Counting(World):
        def mean(self, values: Tensor) -> Tensor:
            asked.append(tuple(values.shape))
            return values

    world = Counting(rank=0, local_rank=0, size=2, device=torch.device("cpu"))
    share_statistics(norms_of(seen(0)), world)
    share_statistics(norms_of(nn.Linear(2, 2)), world)
    assert asked == [(3, 4)]
    monkeypatch.setattr(World, "mean", None)
    share_statistics(norms_of(seen(0)), ALONE)


def test_held_norms_compute_as_in_training_and_count_nothing() -> None:
    network = seen(0)
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
