"""What the first rank shows of a training at each validation: samples made with fixed seeds, histograms of weights."""

import contextlib
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from configs.folder import RunFolder, write_json
from configs.schema import RunConfig
from data.dataset import Dataset
from data.progress import say
from data.vocabulary import stored_tokenizer
from trainer.distributed import World
from trainer.evaluation.view import View
from trainer.task import Task
from trainer.tasks import showing_of
from trainer.tracker import Tracker

BINS = 64
"""Of a histogram"""
MOST_S = 60.0
"""That samples of one validation may take: other ranks wait, and for longer than `world.timeout_s` they do not"""
CHUNK = 1 << 22
"""Numbers that are counted at once: a float counts so far and no further"""


class Showing:
    """Nothing that it does changes the training, and nothing that fails in it ends one."""

    def __init__(
        self, run: RunConfig, folder: RunFolder, task: Task, data: Dataset, world: World, tracker: Tracker
    ) -> None:
        self.run, self.folder, self.task, self.data, self.tracker = run, folder, task, data, tracker
        self._alone = World(rank=0, local_rank=world.local_rank, size=1, device=world.device)
        self._whole = run.world.zero.stage < 3 and world.slices == 1
        """Whether this rank holds whole weights: else a forward pass needs all ranks"""
        self._make = showing_of(run) if run.train.samples and self._whole else None
        self._tokenizer = stored_tokenizer(folder.tokenizer) if self._make else None
        if run.train.samples and not self._whole:
            say("train", "no samples during training: each rank holds a part of the weights, so all would have to draw")

    def samples(self, step: int, nets: Mapping[str, nn.Module], alive: Callable[[], None]) -> None:
        """Write train/samples/step-S.json with the weights as they are, and say so in the event log."""
        if self._make is None or self.run.train.samples is None:
            return
        path = self.folder.training_samples(step)
        try:
            with untouched(nets, self._alone.device, compiled=self.run.world.compile):
                view = View(
                    self.run,
                    self.data.manifest,
                    self.task,
                    nets,
                    self.data.readers["validation"],
                    self._tokenizer,
                    self._alone,
                    self.run.train.samples,
                    in_time(alive, min(MOST_S, self.run.world.timeout_s / 2)),
                )
                made = self._make(view)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, made)
        except Exception as error:  # whoever only looks on must not end a training
            reason = f"{type(error).__name__}: {error}"
            self.tracker.event("samples_failed", step=step, reason=reason)
            say("train", f"step {step}  no samples: {reason}")
            return
        self.tracker.event("samples", step=step, file=path.relative_to(self.folder.train).as_posix())

    def weights(self, step: int, networks: Mapping[str, nn.Module]) -> None:
        """Say in the event log how the numbers of each network's weights lie, where this rank has all of them."""
        for name, network in networks.items() if self._whole else ():
            found = histogram(parameter.detach() for parameter in network.parameters())
            if found is not None:
                edges, counts = found
                self.tracker.event("histogram", step=step, name=f"weights/{name}", edges=edges, counts=counts)


class NullShowing(Showing):
    """That of every rank but the first."""

    def __init__(self) -> None: ...
    def samples(self, step: int, nets: Mapping[str, nn.Module], alive: Callable[[], None]) -> None: ...
    def weights(self, step: int, networks: Mapping[str, nn.Module]) -> None: ...


def open_showing(
    run: RunConfig, folder: RunFolder, task: Task, data: Dataset, world: World, tracker: Tracker
) -> Showing:
    """The first rank's, or one that shows nothing."""
    return NullShowing() if world.rank else Showing(run, folder, task, data, world, tracker)


def in_time(alive: Callable[[], None], limit_s: float) -> Callable[[], None]:
    """`alive`, which raises TimeoutError once the time from now on is over."""
    end = time.monotonic() + limit_s

    def called() -> None:
        alive()
        if time.monotonic() > end:
            raise TimeoutError(f"they take more than {limit_s:g} s; ask for fewer or shorter ones in train.samples")

    return called


@contextlib.contextmanager
def untouched(nets: Mapping[str, nn.Module], device: torch.device, *, compiled: bool) -> Iterator[None]:
    """Networks in evaluation mode and without gradients, after which modes and all random numbers are as before.

    A compiled network runs as it was written: each length of a text would be compiled anew.
    """
    modes = {module: module.training for net in nets.values() for module in net.modules()}
    state: Any = random.getstate(), np.random.get_state()
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        stack.enter_context(torch.no_grad())
        if compiled:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            for net in nets.values():
                net.eval()
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode
            random.setstate(state[0])
            np.random.set_state(state[1])


@torch.no_grad()
def histogram(tensors: Iterable[Tensor]) -> tuple[list[float], list[int]] | None:
    """Edges of BINS equal bins from the least number to the largest, one more than bins, and how many lie in each.

    None for no numbers, or where some are none. Two passes over the numbers, on their device.
    """
    parts = [tensor.reshape(-1).float() for tensor in tensors if tensor.numel() and tensor.is_floating_point()]
    if not parts:
        return None
    bounds = torch.stack([torch.stack(torch.aminmax(part)) for part in parts])  # [tensors, 2]
    low, high = bounds[:, 0].min().item(), bounds[:, 1].max().item()
    if not np.isfinite([low, high]).all():
        return None
    if low == high:
        low, high = low - 0.5, high + 0.5
    counts = torch.zeros(BINS, dtype=torch.float64, device=parts[0].device)
    for part in parts:
        for chunk in part.split(CHUNK):
            counts += torch.histc(chunk, BINS, low, high)
    return np.linspace(low, high, BINS + 1).tolist(), counts.long().tolist()
