"""Command: shards -> checkpoint, run on every rank as `python -m trainer RUN_FOLDER` by the node agent or torchrun."""

from contextlib import suppress
from dataclasses import asdict

from configs.code import record_code
from configs.errors import Stopped
from configs.folder import RunFolder, file_digest, locked
from configs.process import leave, stage_main
from configs.schema import RunConfig, identity
from configs.stages import FINISHED, train_key
from configs.world import on_world
from data.dataset import open_dataset
from data.progress import hint, say
from data.vocabulary import stored_tokenizer
from trainer.checkpoint import Checkpointer, TrainState, settle_result
from trainer.deepspeed_config import open_offload_folder
from trainer.distributed import World, seed_all
from trainer.engines import build_engines
from trainer.hardware import machine, peak_memory_bytes, process_age_s
from trainer.heartbeat import Pulse, open_pulse
from trainer.loop import Trainer, fit
from trainer.meter import Meter
from trainer.micro_batch import choose_micro_batch
from trainer.pretrained import load_pretrained
from trainer.requests import StopRequest
from trainer.showing import open_showing
from trainer.tasks import build_task
from trainer.tracker import open_tracker
from trainer.workload import workload_of


def train(run: RunConfig, folder: RunFolder) -> None:
    """Train from the last sound checkpoint, or from the start, to the end, and settle what the result is."""
    stop = StopRequest()
    world = World.join(run.world)
    run = on_world(run, world.size)  # there may be more or fewer ranks than it was written for
    open_offload_folder(run.world.zero)
    pulse = open_pulse(world.rank)
    pulse.beat("start", 0)
    if world.rank == 0:
        hint("train", "start: data, networks, the last checkpoint")
        with locked(folder.train):
            stop.watch(folder)
            _train(run, folder, world, stop, pulse)
    else:
        _train(run, folder, world, stop, pulse)


def _train(run: RunConfig, folder: RunFolder, world: World, stop: StopRequest, pulse: Pulse) -> None:
    data = open_dataset(run, folder)
    manifest = data.manifest
    task = build_task(run, manifest, stored_tokenizer(folder.tokenizer))
    run = choose_micro_batch(run, task, manifest, folder, world)
    seed_all(run.seed)
    networks = task.networks()
    checkpointer = Checkpointer(
        folder.train,
        world,
        {"data": manifest.digest, "config": train_key(run)},
        identity=identity(run),
        config=run.train.retention,
        facts={"stage": run.world.zero.stage, "code": record_code(folder) if world.rank == 0 else ""},
    )
    if world.rank == 0:
        (folder.train / FINISHED).unlink(missing_ok=True)  # what follows decides anew
    latest = checkpointer.latest()
    origin = load_pretrained(networks, run, folder, manifest, writes=world.rank == 0) if latest is None else None
    if world.rank == 0 and run.task.model.init_from is not None and folder.first_weights.is_file():
        checkpointer.facts["first_weights"] = file_digest(folder.first_weights)
    engines, frozen = build_engines(networks, task.turns, run, world)
    state = TrainState(step=0, position=0, samples_digest="00" * 32)
    if latest is not None:
        state = checkpointer.load(latest, engines)
    tracker = open_tracker(folder, "train", rank=world.rank)
    facts = {"world": world.size, "device": str(world.device), "since_launch_s": process_age_s()}
    tracker.start(run, step=state.step, **facts, machine=machine(world.device) if world.rank == 0 else None)
    if origin is not None:
        tracker.event("pretrained", **asdict(origin))
    if world.rank == 0:
        size = sum(engine.size for engine in engines.values())
        begin = f"continuing after step {state.step}" if state.step else "from the start"
        say("train", f"{size:,} parameters on {world.size} x {world.device.type}, {run.train.steps} steps, {begin}")
    workload = workload_of(run, task, manifest, world, folder)
    meter = Meter(workload, memory=lambda: peak_memory_bytes(world.device), age_s=process_age_s() or 0.0)
    showing = open_showing(run, folder, task, data, world, tracker)
    trainer = Trainer(run, task, engines, frozen, data, world, checkpointer, tracker, meter, pulse, showing)
    try:
        state = fit(trainer, state, stop)
        if world.rank == 0:
            settle_result(run, folder, state)
        pulse.beat("end", state.step)
    except Stopped as stopped:
        tracker.event("stop", reason=str(stopped))
        tracker.finish("stopped")
        raise
    except Exception as error:
        with suppress(Exception):  # a checkpoint that is being written may still become whole
            checkpointer.wait()
        tracker.event("failure", reason=f"{type(error).__name__}: {error}")
        tracker.finish("failed")
        raise
    tracker.finish("completed")


if __name__ == "__main__":
    leave(stage_main("train", train))
