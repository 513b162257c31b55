"""Walking through residual blocks: random depth while training, and blocks computed again instead of kept."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def depth_rates(last: float, num_blocks: int) -> list[float]:
    """The share of samples that skip each block: `last` for the last one, in proportion to depth before it.

    The linear rule of stochastic depth (Huang et al., 2016, 3): l / L * last for block l of L.
    """
    return [last * block / num_blocks for block in range(1, num_blocks + 1)]


def skip(branch: Tensor, rate: float) -> Tensor:
    """A residual branch [B, ...] that is 0 for a random share of samples, the others scaled to the same mean."""
    kept = branch.new_empty((len(branch),) + (1,) * (branch.dim() - 1)).bernoulli_(1 - rate)
    return branch * kept.div_(1 - rate)


def named_blocks(stages: nn.ModuleList) -> list[tuple[str, nn.Module]]:
    """The blocks of `self.stages` in order, by the prefix of their parameters' names."""
    return [
        (f"stages.{number}.{name}", block)
        for number, stage in enumerate(stages)
        for name, block in stage.named_children()
    ]


def through(block: nn.Module, *inputs: Any, recompute: bool) -> Any:
    """A block's output; with `recompute` and gradients its inner values are computed again for the backward pass."""
    if not recompute or not torch.is_grad_enabled():
        return block(*inputs)
    return checkpoint(
        block, *inputs, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), statistics_kept(block))
    )


@contextlib.contextmanager
def statistics_kept(block: nn.Module) -> Iterator[None]:
    """Batch norms leave their running statistics alone: a batch that is computed again counts once."""
    norms = [module for module in block.modules() if isinstance(getattr(module, "running_mean", None), Tensor)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None  # type: ignore[assignment]
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches
