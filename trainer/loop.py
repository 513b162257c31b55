"""The training loop: the same for every family, network and world."""

import gc
import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from configs.errors import Halted, Stopped
from configs.quantities import label_of, of_validation
from configs.schema import RunConfig
from data.dataset import Dataset
from data.loader import loader
from data.order import Sampler
from data.progress import Progress, clock, rate, say
from trainer.checkpoint import Checkpointer, TrainState
from trainer.distributed import World, seed_all
from trainer.engines import Engine, freeze_all_but
from trainer.evaluation.score import score_split
from trainer.feed import Drawn, Feed
from trainer.guard import Guard, require_finite
from trainer.heartbeat import Pulse, ToldPulse
from trainer.meter import Meter
from trainer.optim import learning_rate
from trainer.recorder import Recorder, RunawayError, is_number
from trainer.requests import CHECKPOINT, STOP, StopRequest
from trainer.showing import Showing
from trainer.stopping import Watch
from trainer.task import Batch, Scalars, Task
from trainer.timetable import Timetable
from trainer.tracker import Tracker

WARM = 3
"""Steps after which everything that lasts has been made"""


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
    meter: Meter
    pulse: Pulse
    showing: Showing


def fit(trainer: Trainer, state: TrainState, stop: StopRequest) -> TrainState:
    """Train from `state` to the last step or to where validation no longer improves; returns where that was.

    Saves and raises Stopped when asked to stop.

    Every quantity is a function of (seed, step, micro-batch) and the weights, so a resumed run repeats the
    uninterrupted one, on any number of ranks. Raises FloatingPointError when training runs away and the run's policy
    has no way left.
    """
    run = trainer.run
    guard = Guard.restore(run.train.anomalies, state.guard, scaled=run.train.precision == "fp16")
    for engine in trainer.engines.values():
        engine.before_update = trainer.checkpointer.settle
    while True:
        try:
            return _train(trainer, guard, state, stop)
        except RunawayError as anomaly:
            state = _roll_back(trainer, guard, anomaly)


def _train(trainer: Trainer, guard: Guard, state: TrainState, stop: StopRequest) -> TrainState:
    run, world = trainer.run, trainer.world
    progress = Progress("train", run.train.steps, "steps", start=state.step, visible=world.rank == 0)
    trainer = replace(trainer, pulse=ToldPulse(trainer.pulse, progress))
    timetable, watch = Timetable(run.train), Watch.restore(run.train, state.stopping)
    feed = Feed(
        _batches(trainer, state.position),
        world,
        trainer.pulse,
        turns=len(trainer.task.turns),
        accumulation=run.accumulation,
    )
    recorder = Recorder(world, trainer.tracker, guard, trainer.meter)
    begun, saved, applied = state.step, state.step if state.step else -1, False
    if state.step < run.train.steps:
        feed.ahead(state.step, stop=stop.wanted, failed=False, overdue=False)
    while state.step < run.train.steps:
        drawn = feed.take(state.step)
        if drawn.failed:
            trainer.checkpointer.wait()  # raises
        if watch.spent:
            break  # what has been drawn ahead is left, and does not count
        if drawn.stop or drawn.halt:
            recorder.flush()
            if saved != state.step:
                save(trainer, state, guard, recorder.last, changed=applied)
            finish_saving(trainer, recorder, state)
            stop.met(STOP)
            raise ended_early(state.step, run.train.steps, asked=drawn.halt)
        state = _step(trainer, guard, recorder, drawn, state)
        applied |= not all(engine.skipped for engine in trainer.engines.values())
        if state.step == begun + WARM:
            gc.collect(1)  # the young alone: a walk through all that was imported would take as long as several steps
            gc.freeze()  # what is there stays: no collection has to walk through it again
        last = state.step == run.train.steps
        validates = timetable.falls_on(state.step, overdue=drawn.overdue)
        if not last:
            overdue = timetable.overdue and not validates
            feed.ahead(
                state.step,
                stop=stop.wanted,
                failed=trainer.checkpointer.failed,
                overdue=overdue,
                halt=stop.asked(STOP),
                save=stop.asked(CHECKPOINT),
            )
        saves = last or drawn.save or state.step % run.train.checkpoint.every_steps == 0
        if drawn.save:
            stop.met(CHECKPOINT)
        if validates or saves or state.step % run.train.log_every_steps == 0:
            recorder.flush()
            tell_checkpoints(trainer)
        scores: dict[str, float] = {}
        if validates:
            scores = validate(trainer, state.step)
            timetable.restart()
            saves |= watch.look(state.step, scores) or watch.spent
            state = replace(state, stopping=watch.state())
        if saves:
            save(trainer, state, guard, recorder.last | scores, changed=applied)
            saved, applied = state.step, False
        if progress.due() and recorder.last:
            loss = next(value for name, value in recorder.last.items() if name.endswith("loss"))
            figures = rate(recorder.samples_per_s, "samples"), f"loss {loss:.3f}"
            meter = trainer.meter
            progress.show(state.step, *figures, phase=meter.phase(), goodput=meter.goodput())
    finish_saving(trainer, recorder, state)
    if watch.spent and state.step < run.train.steps:
        trainer.tracker.event("early_stop", step=state.step, best_step=watch.best_step, reason=watch.reason)
        if world.rank == 0:
            say("train", f"ended after step {state.step} of {run.train.steps}: {watch.reason}")
    return replace(state, guard=guard.state())


def ended_early(step: int, steps: int, *, asked: bool) -> Stopped:
    """A stop by a signal, or one that was asked for in the run's folder."""
    where = f"after step {step} of {steps}, which is saved"
    if asked:
        return Halted(f"stopped {where}, as was asked for; the same command goes on, or on a cluster trainworks resume")
    return Stopped(f"stopped {where}; the same command goes on")


def _step(trainer: Trainer, guard: Guard, recorder: Recorder, drawn: Drawn, state: TrainState) -> TrainState:
    """One update of every network whose turn it is."""
    step, task = state.step, trainer.task
    trainer.pulse.beat("compute", step)
    sums: dict[str, Tensor] = {}
    known: dict[str, Any] = {}
    for turn, micro, terms, ids in zip(task.turns, drawn.micro, drawn.terms, drawn.ids, strict=True):
        freeze_all_but(trainer.engines, turn, step)
        label = label_of(turn, task.turns)
        if guard.vetoes:
            trainer.engines[turn].veto = partial(guard.skips, key=f"{label}/grad_norm", step=step + 1)
        sums |= _train_turn(trainer, turn, micro, terms, step, label, known)
        state = replace(state, position=state.position + len(ids), samples_digest=rolled(state.samples_digest, ids))
    state = replace(state, step=step + 1)
    trainer.meter.spend("data", drawn.waited_s)
    known |= {
        "train/data_wait_s": drawn.waited_s,
        "position": state.position,
        "samples_digest": state.samples_digest,
    }
    recorder.add(state.step, sums, known)
    return state


def _train_turn(
    trainer: Trainer, turn: str, micro: list[Batch], terms: int, step: int, label: str, known: dict[str, Any]
) -> dict[str, Tensor]:
    """Accumulate the gradient of one network over the micro-batches and update it; returns this rank's mean's parts."""
    run, world, engine = trainer.run, trainer.world, trainer.engines[turn]
    nets = {name: each if name == turn else each.module for name, each in trainer.engines.items()}
    sums: dict[str, Tensor] = {}
    for i, batch in enumerate(micro):
        # a micro-batch holds the same samples on any number of ranks, and gets the same random numbers
        seed_all(run.seed, step, trainer.task.turns.index(turn), i * world.replicas + world.replica, world.part)
        total, scalars = trainer.task.loss(turn, {**nets, **trainer.frozen}, batch)
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
    if engine.scale:
        known[f"{label}/loss_scale"] = engine.scale.value
    return sums


def rolled(digest: str, ids: NDArray[np.int64]) -> str:
    """The rolling digest of all sample ids so far, with those of one more update."""
    return hashlib.sha256(bytes.fromhex(digest) + ids.astype("<i8").tobytes()).hexdigest()


def _batches(trainer: Trainer, position: int) -> Iterator[Batch]:
    run, world, data = trainer.run, trainer.world, trainer.data
    sampler = Sampler(data.order, micro=run.micro_batch, rank=world.replica, world=world.replicas, position=position)
    workers = run.world.loader_workers
    return loader(data.readers["train"], sampler, trainer.task.collate, workers=workers, end=data.document_end)


def validate(trainer: Trainer, step: int) -> dict[str, float]:
    """Score the validation split with the weights that evaluation will use."""
    if (validation := trainer.data.readers.get("validation")) is None:
        return {}
    run, begun = trainer.run, time.perf_counter()
    trainer.pulse.beat("validate", step)
    with trainer.meter.during("validate"), ExitStack() as stack:
        for engine in trainer.engines.values():
            stack.enter_context(engine.averaged())
        nets = {name: engine.module for name, engine in trainer.engines.items()} | dict(trainer.frozen)
        sums = score_split(
            trainer.task,
            nets,
            validation,
            trainer.world,
            batch=run.micro_batch,
            limit=run.train.validation_samples,
            pulse=trainer.pulse,
        )
        metrics = {of_validation(name): value for name, value in trainer.task.metrics(sums).items()}
        require_finite(step, metrics)
        trainer.tracker.log(step, metrics, event="validation")
        figures = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        if trainer.world.rank == 0:
            say("train", f"step {step}  {figures}  ({clock(time.perf_counter() - begun)})")
        trainer.showing.samples(step, nets, trainer.pulse.alive)
    with trainer.meter.during("validate"):
        trainer.showing.weights(step, {name: engine.module for name, engine in trainer.engines.items()})
    return metrics


def save(trainer: Trainer, state: TrainState, guard: Guard, figures: Mapping[str, Any], *, changed: bool) -> None:
    """Begin a checkpoint; the loop goes on when the state has been copied. `changed`: by some update since the last."""
    trainer.pulse.beat("save", state.step)
    metrics = {
        name: value
        for name, value in figures.items()
        if (name.endswith("loss") or name.startswith("validation/")) and is_number(value)
    }
    with trainer.meter.during("save"):
        trainer.checkpointer.save(trainer.engines, replace(state, guard=guard.state()), metrics, changed=changed)


def finish_saving(trainer: Trainer, recorder: Recorder, state: TrainState) -> None:
    """Wait for the last checkpoint, and tell of it and of the time."""
    with trainer.meter.during("save"):
        trainer.checkpointer.wait()
    tell_checkpoints(trainer)
    recorder.tell_time(state.step)


def tell_checkpoints(trainer: Trainer) -> None:
    """Tell of those that have become whole."""
    for saved in trainer.checkpointer.completed():
        facts = {"position": saved.position, "samples_digest": saved.samples_digest}
        trainer.tracker.event("checkpoint", step=saved.step, **facts)


def _roll_back(trainer: Trainer, guard: Guard, anomaly: RunawayError) -> TrainState:
    """The last checkpoint's state, to go on past the samples since. Raises FloatingPointError when there is none."""
    checkpointer = trainer.checkpointer
    latest = checkpointer.latest()
    if latest is None:
        raise FloatingPointError(f"{anomaly}; there is no checkpoint to go back to")
    state = checkpointer.load(latest, trainer.engines)
    guard.go_back(state.guard, start=state.position, end=anomaly.position)
    if trainer.world.rank == 0:
        samples = anomaly.position - state.position
        say("train", f"{anomaly}; back to step {state.step} and past {samples:,} samples")
    return replace(state, position=anomaly.position)
