"""Running statistics of batch norms: functions of a step's micro-batches alone, whatever ranks computed them."""

import torch
from torch import Tensor, nn

from trainer.distributed import World


class Statistics:
    """Each update moves the running mean and variance once, by those over all the step's micro-batches together.

    The mean is that of the micro-batches' means; the variance is the mean of their variances plus the variance of
    their means.
    """

    def __init__(self, network: nn.Module, world: World, accumulation: int, *, undone: bool = False) -> None:
        """`undone` says that an update may be left out, and its statistics with it."""
        self.world, self.accumulation = world, accumulation
        self.norms = norms_of(network)
        self._alone = world.size * accumulation == 1 and not undone  # then a norm's own arithmetic is that already
        self._momenta = {norm: _momentum(norm) for norm in self.norms}
        self._learning: list[nn.Module] = []
        self._before = self._sums = torch.empty(0)

    def begin(self) -> None:
        """Before a step: from here on each norm that learns holds the statistics of its last micro-batch."""
        if self._alone or not self.norms:
            return
        self._learning = [norm for norm in self.norms if norm.training]
        for norm in self._learning:
            norm.momentum = 1.0  # type: ignore[assignment]
        if self._learning:
            self._before = self._values()
            self._sums = torch.zeros(3, self._before.shape[1], dtype=torch.float64, device=self._before.device)

    def add(self) -> None:
        """After a micro-batch."""
        if self._learning:
            means, variances = self._values()
            self._sums += torch.stack([means, means * means, variances])

    def finish(self, *, counts: bool) -> None:
        """After the update, in one exchange; when the update does not count the statistics stay as they were."""
        if not self._learning:
            return
        mean, square, variance = self.world.mean(self._sums / self.accumulation)
        now = torch.stack([mean, variance + (square - mean * mean).clamp(min=0)])
        sizes = [len(_buffer(norm, "running_mean")) for norm in self._learning]
        for norm, old, new in zip(
            self._learning, self._before.split(sizes, dim=1), now.split(sizes, dim=1), strict=True
        ):
            share = self._momenta[norm] if counts else 0.0
            for name, before, after in zip(("running_mean", "running_var"), old, new, strict=True):
                _buffer(norm, name).copy_(torch.lerp(before, after, share) if share else before)
            norm.momentum = self._momenta[norm]  # type: ignore[assignment]
            if isinstance(batches := getattr(norm, "num_batches_tracked", None), Tensor):
                batches.sub_(self.accumulation - int(counts))
        self._learning = []

    def _values(self) -> Tensor:
        """[2, features of all norms]: running means and variances."""
        return torch.stack(
            [
                torch.cat([_buffer(norm, name) for norm in self._learning]).double()
                for name in ("running_mean", "running_var")
            ]
        )


def norms_of(network: nn.Module) -> list[nn.Module]:
    """The modules that keep a running mean and variance."""
    return [module for module in network.modules() if isinstance(getattr(module, "running_mean", None), Tensor)]


def _momentum(norm: nn.Module) -> float:
    momentum = norm.momentum
    assert isinstance(momentum, float), f"{type(norm).__name__} averages over all batches, which no resume repeats"
    return momentum


def _buffer(norm: nn.Module, name: str) -> Tensor:
    return getattr(norm, name)
