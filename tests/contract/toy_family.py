"""A family made of what the architecture page names and nothing else: config class, network, task, evaluation."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from configs.dataset import Config, Count, Name
from configs.folder import RunFolder
from configs.metrics import Metric, protocol_id
from configs.quantities import FamilyMetrics, Quantity
from configs.schema import RunConfig
from data.manifest import Manifest
from data.shards import ShardReader
from trainer.distributed import World
from trainer.evaluation.contract import Result
from trainer.evaluation.score import score_split
from trainer.evaluation.view import Records, View
from trainer.task import Batch, Networks, Sample, Scalars, Sums, Task


class SumConfig(Config):
    """A weighted sum of the pixels."""

    kind: Literal["sum"]
    init_from: Name | None = None
    """A run folder whose weights this run starts from"""


class BrightnessEvaluation(Config):
    """How the family is scored."""

    batch_images: Count = 8
    """Images per forward"""


class BrightnessConfig(Config):
    """Predict how bright an image is."""

    reads: ClassVar = "images"
    metrics: ClassVar = FamilyMetrics(
        scalars=(Quantity("loss", "squared share", "lower"),),
        validation=(Quantity("error", "squared share", "lower"),),
        evaluated=(Quantity("test/error", "squared share", "lower"),),
    )

    kind: Literal["brightness"]
    model: SumConfig
    evaluation: BrightnessEvaluation = BrightnessEvaluation()


class WeightedSum(nn.Module):
    """pixels [B, P] to [B]."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(pixels))
        self.head = nn.Linear(pixels, 1)

    def parts(self) -> list[tuple[str, ...]]:
        return [("scale",), ("head",)]

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(pixels * self.scale).squeeze(1)


class Brightness:
    """Squared error of an image's mean over its pixels."""

    turns = ("model",)

    def __init__(self, config: BrightnessConfig, manifest: Manifest) -> None:
        assert manifest.images
        self.pixels = manifest.images.height * manifest.images.width * manifest.images.channels

    def networks(self) -> dict[str, nn.Module]:
        return {"model": WeightedSum(self.pixels)}

    def collate(self, samples: Sequence[Sample]) -> Batch:
        pixels = torch.from_numpy(np.stack([sample["image"] for sample in samples])).flatten(1).float() / 255
        tensors = {"pixels": pixels, "means": pixels.mean(1)}
        return Batch(tensors, len(samples), tuple(sample["id"] for sample in samples))

    def loss(self, turn: str, nets: Networks, batch: Batch) -> tuple[Tensor, Scalars]:
        return (nets[turn](batch.tensors["pixels"]) - batch.tensors["means"]).square().sum(), {}

    def evaluate(self, nets: Networks, batch: Batch) -> Sums:
        error, _ = self.loss("model", nets, batch)
        return {"error": error.double(), "images": torch.tensor(float(batch.count), dtype=torch.float64)}

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        return {"error": sums["error"] / sums["images"]}


def evaluate(
    run: RunConfig,
    folder: RunFolder,
    manifest: Manifest,
    readers: Mapping[str, ShardReader],
    task: Task,
    nets: Mapping[str, nn.Module],
    world: World,
) -> Result:
    config = run.task.evaluation
    assert isinstance(config, BrightnessEvaluation)
    sums = score_split(task, nets, readers["test"], world, batch=config.batch_images, limit=None)
    protocol = {"name": "brightness"}
    error, images = task.metrics(sums)["error"], int(sums["images"])
    metric = Metric("test/error", error, None, images, "squared share", "lower", protocol_id(protocol))
    return Result((metric,), {protocol_id(protocol): protocol})


def show(view: View) -> Records:
    pixels = torch.full((1, view.nets["model"].get_parameter("scale").numel()), 0.5)
    return [{"grey": "0.5", "taken for": f"{view.nets['model'](pixels).item():.3f}"}][: view.settings.number]
