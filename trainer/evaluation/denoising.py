"""A diffusion model's error on a split, image by image: the loss, its parts by level of noise, and its figure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from configs.diffusion import QUARTERS, DiffusionConfig
from configs.metrics import Metric
from data.loader import sequential
from data.manifest import Manifest, split_digest
from data.shards import ShardReader
from trainer.distributed import World
from trainer.evaluation.contract import Units
from trainer.task import Batch, Networks
from trainer.tasks.diffusion import Diffusion

BARS = 10
"""Such parts that the report shows"""


@dataclass(frozen=True)
class Errors:
    """Of N images, by rising id; on rank 0 alone, elsewhere of none."""

    ids: NDArray[np.int64]
    values: NDArray[np.float64]
    """[N], each image's mean squared error at its one level"""
    shares: NDArray[np.float64]
    """[N], where that level lies in the distribution of training, in (0, 1), from the least noise"""

    @property
    def flaw(self) -> str | None:
        """Why there is no mean of them; None where there is one."""
        if not len(self.values):
            return "the split is empty"
        broken = int((~np.isfinite(self.values)).sum())
        return f"the errors of {broken} of {len(self.values)} images are not finite" if broken else None


@torch.no_grad()
def find_errors(task: Diffusion, nets: Networks, reader: ShardReader, world: World, *, batch: int) -> Errors:
    """One pass over a split, shared out over the ranks."""
    facts = [np.empty((0, 3))]
    batches = sequential(reader, task.collate, size=batch, limit=None, part=world.rank, parts=world.size)
    each: Batch
    for each in batches:
        found = task.errors(nets, each.to(world.device)).cpu().numpy()
        facts.append(np.column_stack([np.array(each.ids, np.float64), found, each.tensors["share"].numpy()]))
    every = world.collect(torch.from_numpy(np.concatenate(facts))).numpy()
    ids, values, shares = every[np.argsort(every[:, 0])].T
    return Errors(ids.astype(np.int64), values, shares)


def describe_loss(config: DiffusionConfig, manifest: Manifest) -> dict[str, Any]:
    """Everything that changes the test loss, apart from the weights."""
    return {
        "metric": "mean squared error of what the network predicts, unweighted, over pixels of [-1, 1] and channels",
        "predicted": getattr(config.noise, "target", "the image, preconditioned (Karras et al., 2022)"),
        "noise": config.noise.model_dump(mode="json"),
        "split": "test",
        "data": split_digest(manifest, "test"),
        "scored": "every image once, unaltered and with its class, at one level with one noise, drawn from its place",
        "parts": f"levels of the {len(QUARTERS)} quarters of their distribution in training, from the least noise",
        "stderr": "images are drawn independently",
        "precision": "fp32 errors, fp64 sums",
    }


def loss_metrics(errors: Errors, protocol: str) -> list[Metric]:
    """The loss over all levels, and over each quarter of them; one that cannot be had says why."""
    metrics = [_loss("test/loss", errors.values, errors.flaw, protocol)]
    for name, inside in zip(QUARTERS, _parts(errors, len(QUARTERS)), strict=True):
        why = errors.flaw or (None if inside.any() else "no image of the split is at one of these levels")
        metrics.append(_loss(f"test/loss_at_{name}_noise", errors.values[inside], why, protocol))
    return metrics


def _loss(name: str, values: NDArray[np.float64], why: str | None, protocol: str) -> Metric:
    size = len(values)
    value = None if why else float(values.mean())
    stderr = float(values.std(ddof=1)) / math.sqrt(size) if size > 1 and not why else None
    return Metric(name, value, stderr, size, "squared error", "lower", protocol, undefined=why)


def loss_units(errors: Errors) -> dict[str, Units]:
    """Each image's error, for paired tests; none where they are not numbers."""
    return {} if errors.flaw else {"test/loss": Units(errors.ids, errors.values, np.ones(len(errors.values)))}


def draw_errors(errors: Errors) -> list[Mapping[str, Any]]:
    """Bars of the loss by level of noise; none where there is no loss."""
    if errors.flaw:
        return []
    means = [float(errors.values[inside].mean()) if inside.any() else None for inside in _parts(errors, BARS)]
    return [
        {
            "kind": "bars",
            "title": "Error by level of noise",
            "x": [(place + 0.5) / BARS for place in range(BARS)],
            "y": means,
            "x_title": "share of training at less noise",
            "y_title": "squared error",
            "note": f"Of the {len(errors.values)} images of the test split, each at one level. Each bar is a tenth of "
            "the levels that training draws, from the least noise to the most.",
        }
    ]


def _parts(errors: Errors, number: int) -> Sequence[NDArray[np.bool_]]:
    """Which images lie in each of so many equal parts of the levels' distribution, bool [N] each."""
    places = (errors.shares * number).astype(np.int64)
    return [places == place for place in range(number)]
