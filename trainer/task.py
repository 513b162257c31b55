"""What is learned: the interface between a family of models and the engine that trains it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Sample = dict[str, Any]
Networks = Mapping[str, Callable[..., Any]]
Scalars = dict[str, Tensor]
Sums = dict[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """Collated samples; count is what the loss sums over (unmasked tokens, images, nodes)."""

    tensors: dict[str, Tensor]
    count: int
    ids: tuple[int, ...]
    """Sample ids, in order: the proof of what was read"""

    def to(self, device: torch.device) -> "Batch":
        return replace(self, tensors={k: t.to(device, non_blocking=True) for k, t in self.tensors.items()})

    def pinned(self) -> "Batch":
        """In memory that a GPU copies from by itself."""
        return replace(self, tensors={k: t.pin_memory() for k, t in self.tensors.items()})


class Task(Protocol):
    """A family: knows nothing of ranks, DeepSpeed, precision or files."""

    turns: tuple[str, ...]
    """Networks updated in one step, in order; a network outside stays frozen"""

    def networks(self) -> dict[str, nn.Module]:
        """Fresh networks by name, initialised from torch's generator."""
        ...

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Samples to one batch; any randomness comes from each sample's `position`."""
        ...

    def loss(self, turn: str, nets: Networks, batch: Batch) -> tuple[Tensor, Scalars]:
        """The SUM of batch.count terms, and sums of cheap training numbers over the same terms."""
        ...

    def evaluate(self, nets: Networks, batch: Batch) -> Sums:
        """Additive statistics of a batch, float64 scalars: those of two batches add up to those of their union."""
        ...

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Metrics from the sums over all batches and ranks."""
        ...
