"""The training loop: the same for every family, network and world."""

import hashlib
import math
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from configs.errors import Stopped
from configs.schema import RunConfig
from data.dataset import Dataset
from data.loader import loader
from data.order import Sampler
from data.progress import Progress, clock, rate, say
from trainer.checkpoint import Checkpointer, TrainState
from trainer.distributed import World, seed_all
from trainer.engines import Engine, freeze_all_but
from trainer.evaluation.score import score_split
from trainer.optim import learning_rate
from trainer.task import Batch, Scalars, Task
from trainer.tracker import Tracker


class StopRequest:
    """Remembers SIGTERM until the loop reaches the end of a step."""

    def __init__(self) -> None:
        self.wanted = False
        signal.signal(signal.SIGTERM, self._remember)

    def _remember(self, number: int, frame: Any) -> None:
        self.wanted = True


@dataclass
class Recorder:
    """Steps done but not yet logged: sums stay on the device until one exchange for all of them."""

    world: World
    tracker: Tracker
    steps: list[tuple[int, dict[str, Tensor], dict[str, Any]]] = field(default_factory=list)
    last: dict[str, Any] = field(default_factory=dict)

    def add(self, step: int, sums: dict[str, Tensor], known: dict[str, Any]) -> None:
        self.steps.append((step, sums, known))

    def flush(self) -> None:
        """Log every pending step. Raises FloatingPointError at the first loss or gradient that is not a number."""
        if not self.steps:
            return
        names = list(self.steps[0][1])
        local = torch.stack([sums[name].double().cpu() for _, sums, _ in self.steps for name in names])
        totals = self.world.sum(local).view(len(self.steps), len(names)).tolist()
        for (step, _, known), values in zip(self.steps, totals, strict=True):
            self.last = dict(zip(names, values, strict=True)) | {
                name: value.item() if isinstance(value, Tensor) else value for name, value in known.items()
            }
            require_finite(step, self.last)
            self.tracker.log(step, self.last)
        self.steps.clear()
        self.tracker.flush()


def require_finite(step: int, figures: Mapping[str, Any]) -> None:
    """Raises FloatingPointError when training has run away; all ranks have the same figures, so all of them raise."""
    for name, value in figures.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise FloatingPointError(
                f"{name} is {value} at step {step}; the last checkpoint is from before: try a lower "
                "train.optimizer.learning_rate, more warm-up or a smaller train.clip_grad_norm"
            )


@dataclass
class Trainer:
    """What one rank needs to train: made once, used by `fit`."""

    run: RunConfig
    task: Task
    engines: Mapping[str, Engine]
    frozen: Mapping[str, nn.Module]
    data: Dataset
    world: World
    checkpointer: Checkpointer
    tracker: Tracker


def fit(trainer: Trainer, state: TrainState, stop: StopRequest) -> None:
    """Train from `state` to the last step, or save and raise Stopped when asked to stop.

    Every quantity is a function of (seed, step, rank) and the weights, so a resumed run repeats the uninterrupted one.
    """
    run, world, task = trainer.run, trainer.world, trainer.task
    batches = _batches(trainer, state.position)
    recorder = Recorder(world, trainer.tracker)
    progress = Progress("train", run.train.steps, "steps", start=state.step, visible=world.rank == 0)
    saved = state.step
    for step in range(state.step, run.train.steps):
        begun, waited, stopping = time.perf_counter(), 0.0, False
        sums: dict[str, Tensor] = {}
        known: dict[str, Any] = {}
        for turn in task.turns:
            freeze_all_but(trainer.engines, turn, step)
            asked = time.perf_counter()
            micro = [next(batches) for _ in range(run.accumulation)]
            waited += time.perf_counter() - asked
            terms, ids, asked_to_stop = exchange(world, micro, stop.wanted)
            stopping |= asked_to_stop
            label = f"train/{turn}" if len(task.turns) > 1 else "train"
            sums |= _train_turn(trainer, turn, micro, terms, step, label, known)
            state = _advance(state, ids)
        state = TrainState(step + 1, state.position, state.samples_digest)
        spent = time.perf_counter() - begun
        known |= _step_figures(run, state, spent, waited)
        recorder.add(step + 1, sums, known)
        last = state.step == run.train.steps
        if last or stopping or state.step % run.train.log_every_steps == 0:
            recorder.flush()
        if last or state.step % run.train.validate_every_steps == 0:
            recorder.flush()
            validate(trainer, state.step)
        if last or stopping or state.step % run.train.checkpoint.every_steps == 0:
            recorder.flush()
            _save(trainer, state, recorder.last)
            saved = state.step
        if progress.due() and recorder.last:
            loss = next(value for name, value in recorder.last.items() if name.endswith("loss"))
            progress.show(state.step, rate(recorder.last["train/samples_per_s"], "samples"), f"loss {loss:.3f}")
        if stopping and not last:
            raise Stopped(f"stopped after step {saved} of {run.train.steps}, which is saved; the same command goes on")


def _batches(trainer: Trainer, position: int) -> Iterator[Batch]:
    run, world = trainer.run, trainer.world
    data, micro = trainer.data, run.micro_batch
    sampler = Sampler(data.order, micro=micro, rank=world.rank, world=world.size, position=position)
    workers = run.world.loader_workers
    return loader(data.readers["train"], sampler, trainer.task.collate, workers=workers, end=data.document_end)


def exchange(world: World, micro: Sequence[Batch], stop: bool) -> tuple[int, np.ndarray[Any, Any], bool]:
    """What all ranks must agree on before a step: the terms of its loss, its sample ids by position, a wish to stop."""
    count = sum(batch.count for batch in micro)
    ids = [index for batch in micro for index in batch.ids]
    everyone = world.gather([count, int(stop), *ids])  # [world, 2 + accumulation x micro]
    by_rank = everyone[:, 2:].reshape(world.size, len(micro), -1)
    terms = int(everyone[:, 0].sum())
    return terms, by_rank.transpose(1, 0, 2).ravel(), bool(everyone[:, 1].any())


def _train_turn(
    trainer: Trainer, turn: str, micro: list[Batch], terms: int, step: int, label: str, known: dict[str, Any]
) -> dict[str, Tensor]:
    """Accumulate the gradient of one network over the micro-batches and update it; returns this rank's mean's parts."""
    run, world, engine = trainer.run, trainer.world, trainer.engines[turn]
    nets = {name: each if name == turn else each.module for name, each in trainer.engines.items()}
    sums: dict[str, Tensor] = {}
    for i, batch in enumerate(micro):
        seed_all(run.seed, step, trainer.task.turns.index(turn), i, world.rank)
        total, scalars = trainer.task.loss(turn, {**nets, **trainer.frozen}, batch.to(world.device))
        # DeepSpeed divides by accumulation and averages over ranks; together the gradient of sum / terms
        engine.backward(total * (world.size * len(micro) / terms))
        rate_now = learning_rate(step, run.train)
        norm = engine.step(rate_now, step)
        parts: Scalars = {"loss": total.detach(), **scalars}
        for name, value in parts.items():
            part = value.detach() / terms
            key = f"{label}/{name}"
            sums[key] = sums[key] + part if key in sums else part
        known |= {f"{label}/learning_rate": rate_now, f"{label}/grad_norm": norm}
    return sums


def _advance(state: TrainState, ids: np.ndarray[Any, Any]) -> TrainState:
    rolled = hashlib.sha256(bytes.fromhex(state.samples_digest) + ids.astype("<i8").tobytes()).hexdigest()
    return TrainState(state.step, state.position + len(ids), rolled)


def _step_figures(run: RunConfig, state: TrainState, spent: float, waited: float) -> dict[str, Any]:
    samples = run.train.global_batch_samples
    return {
        "train/samples_per_s": samples / spent,
        "train/data_wait_s": waited,
        "position": state.position,
        "samples_digest": state.samples_digest,
    }


def validate(trainer: Trainer, step: int) -> dict[str, float]:
    """Score the validation split with the weights that evaluation will use."""
    if (validation := trainer.data.readers.get("validation")) is None:
        return {}
    run, begun = trainer.run, time.perf_counter()
    with ExitStack() as stack:
        for engine in trainer.engines.values():
            if engine.ema:
                stack.enter_context(engine.ema.applied(engine.module))
        nets = {name: engine.module for name, engine in trainer.engines.items()} | dict(trainer.frozen)
        sums = score_split(
            trainer.task,
            nets,
            validation,
            trainer.world,
            batch=run.micro_batch,
            limit=run.train.validation_samples,
        )
    metrics = {f"validation/{name}": value for name, value in trainer.task.metrics(sums).items()}
    require_finite(step, metrics)
    trainer.tracker.log(step, metrics, event="validation")
    trainer.tracker.flush()
    figures = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    if trainer.world.rank == 0:
        say("train", f"step {step}  {figures}  ({clock(time.perf_counter() - begun)})")
    return metrics


def _save(trainer: Trainer, state: TrainState, figures: Mapping[str, Any]) -> None:
    metrics = {name: value for name, value in figures.items() if name.endswith("loss")}
    trainer.checkpointer.save(trainer.engines, state, metrics)
    trainer.checkpointer.prune(trainer.run.train.checkpoint.keep, newest=state.step)
    trainer.tracker.event("checkpoint", step=state.step, position=state.position, samples_digest=state.samples_digest)
