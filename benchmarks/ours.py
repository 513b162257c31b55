"""Our side of the loop cases: `trainer.loop.fit` as `python -m trainer` calls it, started over for each round."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save_file

from benchmarks.harness import Round, Stopwatch
from configs.dataset import TextData
from configs.folder import RunFolder
from configs.load import read
from configs.stages import train_key
from data.dataset import open_dataset
from trainer.checkpoint import Checkpointer, Stateful, TrainState
from trainer.distributed import World, seed_all
from trainer.engines import build_engines
from trainer.loop import StopRequest, Trainer, fit
from trainer.tasks import build_task
from trainer.tracker import open_tracker, read_events


class FinishLine(Checkpointer):
    """Stops the watch when the last step is done and logged, where `fit` would save it."""

    def __init__(self, root: Path, world: World, origin: Mapping[str, str]) -> None:
        super().__init__(root, world, origin)
        self.watch = Stopwatch()

    def save(self, engines: Mapping[str, Stateful], state: TrainState, metrics: Mapping[str, float]) -> None:
        self.watch.stop()

    def prune(self, keep: int, *, newest: int) -> None:
        """There is nothing to prune."""


class Trainworks:
    """Shards, loader, DeepSpeed engine, event log: all that a real run has, but no validation and no checkpoint."""

    def __init__(self, path: Path) -> None:
        self.folder = RunFolder(path)
        self.run = read(self.folder.config)
        self.stop = StopRequest()
        self.world = World.join(self.run.world)
        data = open_dataset(self.run, self.folder)
        manifest = data.manifest
        self.data = replace(data, readers={"train": data.readers["train"]})  # so that nothing validates
        self.task = build_task(self.run, manifest)
        seed_all(self.run.seed)
        self.engines, self.frozen = build_engines(self.task.networks(), self.task.turns, self.run, self.world)
        self.origin = {"data": manifest.digest, "config": train_key(self.run)}
        (self.engine,) = self.engines.values()
        self.start = {name: tensor.clone() for name, tensor in self.engine.state()["weights"].items()}
        save_file(self.start, path / "start.safetensors")

    def round(self) -> Round:
        """Train from the initial weights to the last step; the losses are those of the event log."""
        folder = self.folder
        self.engine.load({"weights": self.start, "optimizer": {}})
        folder.events.unlink(missing_ok=True)
        tracker = open_tracker(self.run, folder, "train", rank=0)
        finish = FinishLine(folder.train, self.world, self.origin)
        trainer = Trainer(self.run, self.task, self.engines, self.frozen, self.data, self.world, finish, tracker)
        state = TrainState(step=0, position=0, samples_digest="00" * 32)
        finish.watch.start()
        fit(trainer, state, self.stop)
        tracker.finish("completed")
        losses = [event["train/loss"] for event in read_events(folder.events) if event["event"] == "step"]
        weights = folder.path / "ours.safetensors"
        save_file(self.engine.state()["weights"], weights)
        assert isinstance(self.run.data, TextData)
        tokens = self.run.train.steps * self.run.train.global_batch_samples * self.run.data.block_tokens
        outputs = {"losses": losses, "weights": str(weights), "start": str(folder.path / "start.safetensors")}
        return Round(tokens, finish.watch.seconds, finish.watch.cpu_s, outputs)
