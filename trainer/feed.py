"""The next step's micro-batches, drawn and agreed upon while the devices still compute the step before."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.distributed import World
from trainer.heartbeat import Pulse
from trainer.task import Batch

WORDS = 5
"""What a rank says beside its counts and ids: stop, failed, overdue, halt, save"""


@dataclass(frozen=True)
class Drawn:
    """What a step trains on."""

    micro: list[list[Batch]]
    """This rank's micro-batches of each turn, on the device"""
    terms: list[int]
    """Terms of each turn's loss over all ranks, each as often as there are ranks that compute it"""
    ids: list[NDArray[np.int64]]
    """Sample ids of each turn over all ranks, by position"""
    stop: bool
    """Whether some rank was asked to stop"""
    failed: bool
    """Whether a save in the background has failed on some rank"""
    overdue: bool
    """Whether the first rank's clock calls for a pass over the validation split after this step"""
    halt: bool
    """Whether the run's folder asks for an end"""
    save: bool
    """Whether the run's folder asks for a checkpoint after this step"""
    waited_s: float
    """Seconds this rank spent on reading and on waiting for the others' word"""


class Feed:
    """Draws a step ahead: `ahead` starts, `take` ends. Each rank's word on other things goes with the same exchange."""

    def __init__(
        self,
        batches: Iterator[Batch],
        world: World,
        pulse: Pulse,
        *,
        turns: int,
        accumulation: int,
    ) -> None:
        self._batches, self._world, self._pulse = batches, world, pulse
        self._turns, self._accumulation = turns, accumulation
        self._side = torch.cuda.Stream() if world.device.type == "cuda" else None
        self._micro: list[list[Batch]] = []
        self._agreed: Callable[[], NDArray[np.int64]] | None = None
        self._spent_s = 0.0

    def ahead(
        self, step: int, *, stop: bool, failed: bool, overdue: bool, halt: bool = False, save: bool = False
    ) -> None:
        """Read the micro-batches of a step and send for what the other ranks have."""
        begun = time.perf_counter()
        self._pulse.beat("data", step)
        drawn = [[next(self._batches) for _ in range(self._accumulation)] for _ in range(self._turns)]
        ids = [index for micro in drawn for batch in micro for index in batch.ids]
        counts = [sum(batch.count for batch in micro) for micro in drawn]
        self._agreed = self._world.gather_later([*map(int, (stop, failed, overdue, halt, save)), *counts, *ids])
        self._micro = [[self._upload(batch) for batch in micro] for micro in drawn]
        self._spent_s = time.perf_counter() - begun

    def take(self, step: int) -> Drawn:
        """The step that `ahead` has begun to draw."""
        begun = time.perf_counter()
        assert self._agreed is not None
        self._pulse.beat("exchange", step)
        everyone = self._agreed()  # [world, WORDS + turns + samples of this rank]
        self._agreed = None
        if self._side is not None:
            torch.cuda.current_stream().wait_stream(self._side)
        first = WORDS + self._turns
        replicas = everyone[:: self._world.parts * self._world.slices]  # all ranks of a replica read the same
        ids = in_order(replicas[:, first:], self._turns, self._accumulation)
        waited = self._spent_s + time.perf_counter() - begun
        terms = (replicas[:, WORDS:first].sum(0) * self._world.slices).tolist()
        stop, failed, _, halt, save = (bool(column.any()) for column in everyone[:, :WORDS].T)
        words = {"stop": stop, "failed": failed, "overdue": bool(everyone[0, 2]), "halt": halt, "save": save}
        return Drawn(self._micro, terms, ids, **words, waited_s=waited)

    def _upload(self, batch: Batch) -> Batch:
        """Copy to the device from pinned memory, beside the computation."""
        if self._side is None:
            return batch.to(self._world.device)
        with torch.cuda.stream(self._side):
            there = batch.pinned().to(self._world.device)
        for tensor in there.tensors.values():
            tensor.record_stream(torch.cuda.current_stream())
        return there


def in_order(ids: NDArray[np.int64], turns: int, accumulation: int) -> list[NDArray[np.int64]]:
    """Each turn's sample ids by position, from those of each replica [replicas, turns x accumulation x micro]."""
    by_turn = ids.reshape(len(ids), turns, accumulation, -1)
    return [by_turn[:, turn].transpose(1, 0, 2).ravel() for turn in range(turns)]
