"""The state of a network in training as pieces: what this rank saves of it, and what it takes over."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from configs.errors import DamageError
from trainer.checkpoint import weights
from trainer.distributed import World
from trainer.ema import Ema
from trainer.pieces import Piece, State, Stored
from trainer.scaling import LossScale
from trainer.slices import Slices
from trainer.zero import Kept, Layout, fill, load_moments, moments, shared_out


@dataclass(frozen=True)
class NetworkState:
    """Weights with buffers, optimizer state, averages and loss scale of one network, wherever its ranks keep them."""

    module: nn.Module
    layout: Layout
    ema: Ema | None
    scale: LossScale | None
    slices: Slices
    world: World
    stage: int

    def told(self) -> State:
        """This rank's pieces by kind."""
        self.layout.fetch()
        runs = {kept.name: kept for kept in self.layout.kept} if self.stage else {}
        memory = list(moments(self.layout))
        state = {
            "weights": [*self._mine(self._whole()), *self.layout.resting, *map(piece, runs.values())],
            "optimizer": memory if self.stage else self._mine({each.name: each.values for each in memory}),
        }
        if self.ema:
            average = self.ema.average
            state["ema"] = self._mine({name: average[name] for name in average if name not in runs})
            state["ema"] += [piece(each, average[name]) for name, each in runs.items()]
        if self.scale and self.world.rank == 0:
            scale = self.scale.state()
            state["scale"] = [Piece("scale", tuple(scale.shape), 0, scale)]
        return self.slices.spread(state)

    @torch.no_grad()
    def load(self, stored: Stored) -> None:
        """Fill the network. Raises DamageError naming the weights that differ when they are another network's."""
        stored = self.slices.of(stored)
        parameters = dict(self.module.named_parameters())
        named = weights(self.module)
        require_shapes({name: shape_of(parameters.get(name, tensor)) for name, tensor in named.items()}, stored)
        for name, tensor in self._whole().items():
            tensor.copy_(stored.read("weights", name).view(tensor.shape))
        for each in self.layout.resting:
            each.values.copy_(stored.read("weights", each.name, each.start, each.values.numel()))
        if self.stage:
            for kept in self.layout.kept:
                fill(kept.values, kept, stored, "weights", kept.name)
        load_moments(self.layout, stored)
        self.layout.publish()
        if self.ema:
            starts = {kept.name: kept.start for kept in self.layout.kept}
            for name, average in self.ema.average.items():
                run = stored.read("ema", name, starts.get(name, 0), average.numel())
                average.copy_(run.view(average.shape))
        if self.scale and "scale" in stored.kinds():
            self.scale.load(stored.read("scale", "scale"))

    def _whole(self) -> dict[str, Tensor]:
        """The weights and buffers that every rank has in full, and that no partition holds."""
        named = weights(self.module)
        if self.stage == 0:
            return named
        parameters = dict(self.module.named_parameters())
        return {
            name: tensor
            for name, tensor in named.items()
            if name not in parameters or (self.stage < 3 and not parameters[name].requires_grad)
        }

    def _mine(self, tensors: Mapping[str, Tensor]) -> list[Piece]:
        slices, buffers = self.world.slices, {name for name, _ in self.module.named_buffers()}
        mine = shared_out(tensors, self.world.rank // slices, self.world.size // slices)
        return [replace(each, still=each.name not in buffers) for each in mine]


def piece(kept: Kept, values: Tensor | None = None) -> Piece:
    return Piece(kept.name, kept.shape, kept.start, kept.values if values is None else values)


def shape_of(tensor: Tensor) -> tuple[int, ...]:
    """Of the whole tensor, which DeepSpeed may have emptied."""
    return tuple(getattr(tensor, "ds_shape", tensor.shape))


def require_shapes(own: Mapping[str, tuple[int, ...]], stored: Stored) -> None:
    """Raises DamageError naming the weights that a checkpoint lacks, has beside, or has in another shape."""
    names = set(stored.names("weights"))
    wrong = sorted(own.keys() ^ names)
    wrong += [name for name in sorted(own.keys() & names) if stored.shape("weights", name) != own[name]]
    if wrong:
        raise DamageError(f"the weights are of another network: {', '.join(wrong[:5])} differ ({len(wrong)} in all)")
