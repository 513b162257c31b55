"""A trained run opened for use: what it learned, and on what."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from configs.errors import DamageError, UserError
from configs.folder import RunFolder
from configs.load import read
from configs.schema import RunConfig
from configs.stages import chosen_step, step_folder, verify_checkpoint
from data.manifest import Manifest, read_manifest
from data.vocabulary import stored_tokenizer
from trainer.checkpoint import load_network
from trainer.task import Task
from trainer.tasks import build_task


@dataclass(frozen=True)
class Trained:
    """A run's networks with the weights of its result, of its newest checkpoint while it trains; averaged ones where
    the run averages them.
    """

    run: RunConfig
    folder: RunFolder
    manifest: Manifest
    task: Task
    nets: Mapping[str, nn.Module]
    """In evaluation mode, on the device"""
    device: torch.device
    step: int
    checkpoint: str
    """Its digest"""


def read_run(path: Path) -> RunConfig:
    """The configuration of a run folder. Raises UserError when it is none."""
    config = RunFolder(path).config
    if not config.is_file():
        what = "holds no run.yaml" if path.is_dir() else "is no folder"
        raise UserError(f"{path} {what}; give a run folder, such as runs/NAME, that `trainworks run` has trained")
    return read(config)


def open_trained(path: Path, device: torch.device) -> Trained:
    """Raises UserError when the folder holds no run or nothing was trained there, DamageError when files changed."""
    folder, run = RunFolder(path), read_run(path)
    step = chosen_step(folder.train)
    if step is None:
        raise UserError(f"{path} has no checkpoint yet; run `trainworks train` first")
    checkpoint = step_folder(folder.train, step)
    record = verify_checkpoint(checkpoint)
    manifest = read_manifest(folder.manifest).view(run.data.splits)
    if record["data"] != manifest.digest:
        raise DamageError(f"{checkpoint} was trained on other data than {folder.manifest} tells of; train again")
    task = build_task(run, manifest, stored_tokenizer(folder.tokenizer))
    averaged = run.train.ema is not None
    nets = {
        name: load_network(checkpoint, name, network, averaged=averaged).to(device).eval().requires_grad_(False)
        for name, network in task.networks().items()
    }
    return Trained(run, folder, manifest, task, nets, device, record["step"], record["digest"])
