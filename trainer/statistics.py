"""Running statistics of batch norms: the same on every rank after each update, so that they depend on samples alone."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trainer.distributed import World


def norms_of(network: nn.Module) -> list[nn.Module]:
    """The modules that keep a running mean and variance."""
    return [module for module in network.modules() if isinstance(getattr(module, "running_mean", None), Tensor)]


@torch.no_grad()
def share_statistics(norms: Sequence[nn.Module], world: World) -> None:
    """Give all ranks the statistics over their samples together, in one exchange; norms in evaluation mode keep theirs.

    The mean is that of the ranks' means; the variance is the mean of their variances plus the variance of their means.
    """
    learning = [norm for norm in norms if norm.training]
    if world.size == 1 or not learning:
        return
    means = torch.cat([_buffer(norm, "running_mean") for norm in learning]).double()
    variances = torch.cat([_buffer(norm, "running_var") for norm in learning]).double()
    mean, square, variance = world.mean(torch.stack([means, means * means, variances]))
    variance = variance + (square - mean * mean).clamp(min=0)
    sizes = [len(_buffer(norm, "running_mean")) for norm in learning]
    for norm, new_mean, new_variance in zip(learning, mean.split(sizes), variance.split(sizes), strict=True):
        _buffer(norm, "running_mean").copy_(new_mean)
        _buffer(norm, "running_var").copy_(new_variance)


def _buffer(norm: nn.Module, name: str) -> Tensor:
    return getattr(norm, name)
