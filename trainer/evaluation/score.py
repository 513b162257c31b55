"""Additive statistics over a set of samples, the same for any batch size and number of ranks."""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import nn

from data.loader import sequential
from data.shards import ShardReader
from trainer.distributed import World, add
from trainer.heartbeat import Pulse
from trainer.task import Batch, Sums, Task


@torch.no_grad()  # not inference mode: what ZeRO stage 3 gathers in it could not be trained on afterwards
def score(
    task: Task, nets: Mapping[str, nn.Module], batches: Iterable[Batch], world: World, *, pulse: Pulse | None = None
) -> dict[str, float]:
    """Sum `task.evaluate` over this rank's batches and over ranks; dropout is off meanwhile."""
    modes = {name: net.training for name, net in nets.items()}
    for net in nets.values():
        net.eval()
    sums: Sums = {}
    for batch in batches:
        statistics = task.evaluate(nets, batch.to(world.device))
        if batch.ids and world.slice == 0:  # of ranks that compute it together, one counts
            sums = add(sums, statistics)
        if pulse:
            pulse.alive()
    for name, net in nets.items():
        net.train(modes[name])
    return world.sum_all(sums)


def score_split(
    task: Task,
    nets: Mapping[str, nn.Module],
    reader: ShardReader,
    world: World,
    *,
    batch: int,
    limit: int | None,
    pulse: Pulse | None = None,
) -> dict[str, float]:
    """One pass over a split, or over `limit` samples spread evenly in it."""
    return score(task, nets, in_lockstep(task, reader, world, batch=batch, limit=limit), world, pulse=pulse)


def in_lockstep(task: Task, reader: ShardReader, world: World, *, batch: int, limit: int | None) -> Iterator[Batch]:
    """This rank's batches of a split; a rank that has fewer ends with ones that do not count: they have no ids.

    A network whose weights are scattered over the ranks is gathered for each batch, so all ranks need as many.
    """
    readers = world.size // world.slices  # ranks that share matrices compute every batch together
    mine = sequential(reader, task.collate, size=batch, limit=limit, part=world.rank // world.slices, parts=readers)
    samples = len(reader) if limit is None else min(limit, len(reader))
    batches = math.ceil(math.ceil(samples / readers) / batch)  # of the rank that has most
    for each in itertools.islice(itertools.chain(mine, itertools.repeat(None)), batches):
        if each is None:
            each = replace(next(sequential(reader, task.collate, size=1, limit=1, part=0, parts=1)), ids=())
        yield each
