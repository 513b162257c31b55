"""Additive statistics over a set of samples, the same for any batch size and number of ranks."""

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from data.loader import sequential
from data.shards import ShardReader
from trainer.distributed import World, add
from trainer.task import Batch, Sums, Task


@torch.inference_mode()
def score(task: Task, nets: Mapping[str, nn.Module], batches: Iterable[Batch], world: World) -> dict[str, float]:
    """Sum `task.evaluate` over this rank's batches and over ranks; dropout is off meanwhile."""
    modes = {name: net.training for name, net in nets.items()}
    for net in nets.values():
        net.eval()
    sums: Sums = {}
    for batch in batches:
        sums = add(sums, task.evaluate(nets, batch.to(world.device)))
    for name, net in nets.items():
        net.train(modes[name])
    return world.sum_all(sums)


def score_split(
    task: Task, nets: Mapping[str, nn.Module], reader: ShardReader, world: World, *, batch: int, limit: int | None
) -> dict[str, float]:
    """One pass over a split, or over `limit` samples spread evenly in it."""
    return score(
        task, nets, sequential(reader, task.collate, size=batch, limit=limit, part=world.rank, parts=world.size), world
    )
