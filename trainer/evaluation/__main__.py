"""Command: checkpoint -> metrics.json, run on every rank as `python -m trainer.evaluation RUN_FOLDER`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save
from torch import nn

from configs.code import record_code
from configs.errors import DamageError, DataError
from configs.folder import RunFolder, digest, file_digest, locked, write_atomic, write_json
from configs.process import leave, stage_main
from configs.schema import RunConfig
from configs.stages import (
    FINISHED,
    asked_checkpoints,
    decides,
    evaluation_key,
    final_step,
    step_folder,
    train_key,
    verify_checkpoint,
)
from data.dataset import open_dataset
from data.progress import say
from data.vocabulary import stored_tokenizer
from trainer.checkpoint import load_network
from trainer.distributed import World, seed_all
from trainer.evaluation.contract import Result, Units
from trainer.evaluation.cost import measure_cost
from trainer.tasks import build_task, evaluation_of
from trainer.tracker import open_tracker


def evaluate(run: RunConfig, folder: RunFolder) -> None:
    """Score the finished training's result on the test split."""
    torch.set_grad_enabled(False)
    world = World.join(run.world, whole=True)
    if world.rank == 0:
        with locked(folder.evaluation):
            _evaluate(run, folder, world)
    else:
        _evaluate(run, folder, world)


def _evaluate(run: RunConfig, folder: RunFolder, world: World) -> None:
    data = open_dataset(run, folder)
    manifest = data.manifest
    if "test" not in manifest.splits:
        raise DataError("there is no test split to evaluate on; set data.splits.test above 0 and prepare again")
    checkpoint = result_folder(run, folder)
    record = verify_checkpoint(checkpoint)
    if record["config"] != train_key(run) or record["data"] != manifest.digest:
        raise DamageError(f"{checkpoint} was not trained with this configuration on this data; train again")
    task = build_task(run, manifest, stored_tokenizer(folder.tokenizer))
    seed_all(run.seed)
    nets = load_networks(task.networks(), folder, run, world)
    tracker = open_tracker(folder, "evaluate", rank=world.rank)
    tracker.start(run, checkpoint=record["digest"], world=world.size)
    result: Result = evaluation_of(run)(run, folder, manifest, data.readers, task, nets, world)
    if world.rank == 0:
        write_json(folder.cost, measure_cost(task, nets, data.readers["test"], world))
        write_json(folder.samples, list(result.samples))
        write_json(folder.figures, list(result.figures))
        write_atomic(folder.units, save(tensors_of(result.units)))
        origin = {"checkpoint": record["digest"], "data": manifest.digest, "config": evaluation_key(run, folder)}
        files = {path.name: file_digest(path) for path in (folder.samples, folder.figures, folder.units, folder.cost)}
        origin |= {"run": file_digest(folder.config), "code": record_code(folder)}
        origin |= {"asked": asked_checkpoints(run, folder)}
        written = origin | result.record() | {"files": files}
        write_json(folder.metrics, written | {"digest": digest(written)})
        say("evaluate", f"{len(result.metrics)} metrics written to {folder.metrics}")
    values = {metric.name: metric.value for metric in result.metrics if metric.value is not None}
    tracker.log(record["step"], values, event="evaluation")
    tracker.artifact(
        folder.evaluation, "evaluation", {"digest": digest(result.record()), "checkpoint": record["digest"]}
    )
    tracker.finish("completed")


def result_folder(run: RunConfig, folder: RunFolder) -> Path:
    """The checkpoint that is the training's result. Raises DamageError where it is not finished."""
    step = final_step(run, folder)
    if step is not None:
        return step_folder(folder.train, step)
    absent = folder.train / FINISHED if decides(run) else step_folder(folder.train, run.train.steps)
    raise DamageError(f"{absent} is missing: training is not finished; run `trainworks train` first")


def tensors_of(units: Mapping[str, Units]) -> dict[str, NDArray[Any]]:
    """The arrays of units.safetensors, each on its own: of a column of a table the library would write the table."""
    return {
        f"{name}/{part}": np.ascontiguousarray(getattr(each, part))
        for name, each in units.items()
        for part in ("ids", "sums", "sizes")
    }


def load_networks(
    networks: Mapping[str, nn.Module], folder: RunFolder, run: RunConfig, world: World
) -> dict[str, nn.Module]:
    """The trained networks, with averaged weights where the run averages them."""
    checkpoint = result_folder(run, folder)
    return {
        name: load_network(checkpoint, name, network, averaged=run.train.ema is not None).to(world.device).eval()
        for name, network in networks.items()
    }


if __name__ == "__main__":
    leave(stage_main("evaluate", evaluate))
