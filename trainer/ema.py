"""Exponential moving average of a network's weights, in fp32."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Ema:
    """average <- decay x average + (1 - decay) x weights, each step; buffers are not averaged."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.average = {name: p.detach().float().clone() for name, p in network.named_parameters()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        weights = [p.detach().float() for _, p in network.named_parameters()]
        torch._foreach_lerp_(list(self.average.values()), weights, 1 - self.decay)  # pyright: ignore[reportPrivateImportUsage]

    def load(self, tensors: dict[str, Tensor]) -> None:
        for name, tensor in self.average.items():
            tensor.copy_(tensors[name])

    @contextlib.contextmanager
    def applied(self, network: nn.Module) -> Iterator[None]:
        """The network with the averaged weights; its own come back untouched."""
        own = {name: p.data for name, p in network.named_parameters()}
        try:
            for name, p in network.named_parameters():
                p.data = self.average[name].to(p.dtype)
            yield
        finally:
            for name, p in network.named_parameters():
                p.data = own[name]
