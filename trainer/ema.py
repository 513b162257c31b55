"""Exponential moving average of a network's weights and running statistics, in fp32."""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from configs.optimisation import EmaConfig


class Ema:
    """average <- kept x average + (1 - kept) x weights, each update; buffers of real numbers are weights too.

    So a network with batch norm is evaluated with statistics that are as old as its averaged weights.
    """

    def __init__(self, network: nn.Module, config: EmaConfig) -> None:
        self.config = config
        self.exponent = power_exponent(config.power) if config.power is not None else 0.0
        self.average = {name: tensor.detach().float().clone() for name, tensor in averaged(network).items()}

    def kept(self, update: int) -> float:
        """Share of the old average kept in an update, counted from 0."""
        if self.config.decay is not None:
            return self.config.decay
        return (1 - 1 / (update + 1)) ** (self.exponent + 1)

    @torch.no_grad()
    def update(self, network: nn.Module, update: int) -> None:
        weights = [tensor.detach().float() for tensor in averaged(network).values()]
        torch._foreach_lerp_(list(self.average.values()), weights, 1 - self.kept(update))  # pyright: ignore[reportPrivateImportUsage]

    def load(self, tensors: dict[str, Tensor]) -> None:
        for name, tensor in self.average.items():
            tensor.copy_(tensors[name])

    @contextlib.contextmanager
    def applied(self, network: nn.Module) -> Iterator[None]:
        """The network with the averaged weights; its own come back untouched."""
        named = averaged(network)
        own = {name: tensor.data for name, tensor in named.items()}
        try:
            for name, tensor in named.items():
                tensor.data = self.average[name].to(tensor.dtype)
            yield
        finally:
            for name, tensor in named.items():
                tensor.data = own[name]


def averaged(network: nn.Module) -> dict[str, Tensor]:
    """Parameters, and those saved buffers that hold real numbers; a shared tensor once."""
    saved = network.state_dict().keys()
    buffers = {name: b for name, b in network.named_buffers() if name in saved and b.is_floating_point()}
    return dict(network.named_parameters()) | buffers


def power_exponent(width: float) -> float:
    """The exponent g of an average whose weights grow as t ** g and whose width is a share of the training so far.

    The largest root of (g + 1) / ((g + 2) ** 2 (g + 3)) = width ** 2 (Karras et al., 2024, eq. 123).
    """
    inverse = width**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())
