"""Exponential moving average of a network's weights and running statistics, in fp32."""

import contextlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from configs.optimisation import EmaConfig


class Ema:
    """average <- kept x average + (1 - kept) x weights, each update; buffers of real numbers are weights too.

    So a network with batch norm is evaluated with statistics that are as old as its averaged weights. `live` are the
    weights themselves, or this rank's runs of them, by name.
    """

    def __init__(self, live: Mapping[str, Tensor], config: EmaConfig) -> None:
        self.config, self.live = config, dict(live)
        self.exponent = power_exponent(config.power) if config.power is not None else 0.0
        self.average = {name: tensor.detach().float().clone() for name, tensor in live.items()}

    def kept(self, update: int) -> float:
        """Share of the old average kept in an update, counted from 0."""
        if self.config.decay is not None:
            return self.config.decay
        return (1 - 1 / (update + 1)) ** (self.exponent + 1)

    @torch.no_grad()
    def update(self, update: int) -> None:
        weights = [tensor.detach().float() for tensor in self.live.values()]
        torch._foreach_lerp_(list(self.average.values()), weights, 1 - self.kept(update))  # pyright: ignore[reportPrivateImportUsage]

    @contextlib.contextmanager
    def applied(self, publish: Callable[[], None] = lambda: None) -> Iterator[None]:
        """The network with the averaged weights; its own come back untouched. `publish` lets it compute with them."""
        self._exchange()
        publish()
        try:
            yield
        finally:
            self._exchange()
            publish()

    @torch.no_grad()
    def _exchange(self) -> None:
        """Averages and weights change places, a tensor at a time."""
        for name, tensor in self.live.items():
            own = tensor.detach().clone()
            tensor.detach().copy_(self.average[name])
            self.average[name].copy_(own)


def averaged(network: nn.Module) -> dict[str, Tensor]:
    """Parameters, and those saved buffers that hold real numbers; a shared tensor once."""
    return dict(network.named_parameters()) | real_buffers(network)


def real_buffers(network: nn.Module) -> dict[str, Tensor]:
    """Saved buffers that hold real numbers, such as running statistics."""
    saved = network.state_dict().keys()
    return {name: b for name, b in network.named_buffers() if name in saved and b.is_floating_point()}


def power_exponent(width: float) -> float:
    """The exponent g of an average whose weights grow as t ** g and whose width is a share of the training so far.

    The largest root of (g + 1) / ((g + 2) ** 2 (g + 3)) = width ** 2 (Karras et al., 2024, eq. 123).
    """
    inverse = width**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())
