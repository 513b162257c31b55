"""Our side of the loop's cases: `trainer.loop.fit` as `python -m trainer` calls it, started over for each round."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors.torch import save_file

from benchmarks.harness import Round, Stopwatch
from configs.dataset import TextData
from configs.events import read_events
from configs.folder import RunFolder
from configs.load import read
from configs.schema import RunConfig, identity
from configs.stages import train_key
from data.dataset import open_dataset
from trainer.checkpoint import Checkpointer, TrainState, weights
from trainer.distributed import World, seed_all
from trainer.engines import build_engines
from trainer.heartbeat import open_pulse
from trainer.loop import Trainer, fit
from trainer.meter import Meter, Workload
from trainer.pieces import Stateful
from trainer.requests import StopRequest
from trainer.showing import NullShowing
from trainer.tasks import build_task
from trainer.tracker import open_tracker


class FinishLine(Checkpointer):
    """Stops the watch when the last step is done and logged, where `fit` would save it."""

    def __init__(self, root: Path, world: World, run: RunConfig, data: str) -> None:
        origin = {"data": data, "config": train_key(run)}
        super().__init__(root, world, origin, identity=identity(run), config=run.train.checkpoint)
        self.watch = Stopwatch()

    def save(self, engines: Mapping[str, Stateful], state: TrainState, metrics: Mapping[str, float], **_: Any) -> None:
        self.watch.stop()


class Trainworks:
    """Shards, loader, DeepSpeed engine, event log: all that a real run has, but no validation and no checkpoint."""

    def __init__(self, path: Path) -> None:
        self.folder = RunFolder(path)
        self.run = read(self.folder.config)
        self.stop = StopRequest()
        self.world = World.join(self.run.world)
        data = open_dataset(self.run, self.folder)
        self.manifest = data.manifest
        self.data = replace(data, readers={"train": data.readers["train"]})  # so that nothing validates
        self.task = build_task(self.run, self.manifest)

    def round(self) -> Round:
        """Train from the initial weights to the last step; the losses are those of the event log."""
        run, folder, world = self.run, self.folder, self.world
        start, ours = folder.path / "start.safetensors", folder.path / "ours.safetensors"
        seed_all(run.seed)
        networks = self.task.networks()
        if world.rank == 0:
            save_file(weights(networks["model"]), start)
            folder.events.unlink(missing_ok=True)
        engines, frozen = build_engines(networks, self.task.turns, run, world)
        tracker = open_tracker(folder, "train", rank=world.rank)
        finish = FinishLine(folder.train, world, run, self.manifest.digest)
        meter = Meter(Workload(run.train.global_batch_samples), memory=lambda: 0)
        trainer = Trainer(
            run,
            self.task,
            engines,
            frozen,
            self.data,
            world,
            finish,
            tracker,
            meter,
            open_pulse(world.rank),
            NullShowing(),
        )
        dist.barrier()
        finish.watch.start()
        fit(trainer, TrainState(step=0, position=0, samples_digest="00" * 32), self.stop)
        tracker.finish("completed")
        losses = []
        if world.rank == 0:
            losses = [event["train/loss"] for event in read_events(folder.events) if event["event"] == "step"]
            save_file({name: each.contiguous() for name, each in weights(engines["model"].module).items()}, ours)
        assert isinstance(run.data, TextData)
        tokens = run.train.steps * run.train.global_batch_samples * run.data.block_tokens
        outputs = {"losses": losses, "weights": str(ours), "start": str(start)}
        return Round(tokens, finish.watch.seconds, finish.watch.cpu_s, outputs)
