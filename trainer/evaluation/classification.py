"""Scores a classifier: loss, accuracy over images and over classes, the majority baseline, its worst mistakes."""

import base64
import heapq
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from configs.folder import RunFolder
from configs.schema import ClassificationEvaluation, ImageClassificationConfig, RunConfig
from data.loader import sequential
from data.manifest import Manifest
from data.shards import ShardReader
from trainer.distributed import World
from trainer.evaluation.contract import Metric, Result, protocol_id
from trainer.evaluation.score import score_split
from trainer.task import Sample, Task

LOOKED_AT = 1024
"""Images, evenly spaced in the split, among which mistakes are looked for: showing them must not take a second pass"""


def evaluate(
    run: RunConfig,
    folder: RunFolder,
    manifest: Manifest,
    readers: Mapping[str, ShardReader],
    task: Task,
    nets: Mapping[str, nn.Module],
    world: World,
) -> Result:
    """The test split's metrics for the model and for the majority baseline, under one protocol, and worst mistakes."""
    assert isinstance(run.task, ImageClassificationConfig)
    config = run.task.evaluation
    protocol = describe_protocol(manifest)
    identifier = protocol_id(protocol)
    sums = score_split(task, nets, readers["test"], world, batch=config.batch_images, limit=None)
    baseline = majority_sums(sums, [manifest.splits["train"].classes.get(name, 0) for name in manifest.classes])
    metrics = classification_metrics("test", sums, len(manifest.classes), identifier)
    metrics += classification_metrics("baseline/majority", baseline, len(manifest.classes), identifier)
    looks = world.rank == 0 and config.mistakes > 0
    samples = show_mistakes(config, manifest, readers["test"], task, nets["model"], world) if looks else ()
    return Result(tuple(metrics), {identifier: protocol}, tuple(samples))


def describe_protocol(manifest: Manifest) -> dict[str, Any]:
    """Everything that changes an accuracy, apart from the model."""
    assert manifest.images
    shape = manifest.images
    return {
        "metric": "classification by the class of the largest logit, of equal ones the first",
        "split": "test",
        "data": manifest.digest,
        "classes": len(manifest.classes),
        "images": f"{shape.height} x {shape.width} pixels of {shape.channels} channels, as stored, without alteration",
        "scored": "every image once",
        "loss": "negative log-likelihood of the label, without label smoothing",
        "balanced_accuracy": "mean over the split's classes of the share of their images that is found",
        "baseline": "the train split's largest class; as probabilities its shares, each class counted once more",
        "stderr": "images are drawn independently",
        "precision": "fp32 logits, fp64 sums",
    }


def classification_metrics(prefix: str, sums: Mapping[str, float], classes: int, protocol: str) -> list[Metric]:
    """accuracy, balanced accuracy (Brodersen et al., 2010) and loss, with standard errors of independent images.

    Classes without an image in the split have no share in the balanced accuracy.
    """
    size = round(sums["images"])

    def metric(name: str, value: float, variance: float | None, unit: str) -> Metric:
        stderr = None if variance is None else math.sqrt(variance)
        better = "higher" if unit == "share" else "lower"
        return Metric(f"{prefix}/{name}", value, stderr, size, unit, better, protocol)

    counts = [(sums[f"correct/{index}"], sums[f"images/{index}"]) for index in range(classes)]
    seen = [(correct, images) for correct, images in counts if images]
    variances = [share_variance(*each) for each in seen]
    known = [variance for variance in variances if variance is not None]
    balanced = sum(correct / images for correct, images in seen) / len(seen)
    balanced_variance = sum(known) / len(seen) ** 2 if len(known) == len(seen) else None
    loss = sums["nll"] / size
    loss_variance = max(0.0, sums["nll_nll"] / size - loss**2) / (size - 1) if size > 1 else None
    return [
        metric("accuracy", sums["correct"] / size, share_variance(sums["correct"], size), "share"),
        metric("balanced_accuracy", balanced, balanced_variance, "share"),
        metric("loss", loss, loss_variance, "nats/image"),
    ]


def share_variance(correct: float, images: float) -> float | None:
    """Estimated variance of the share correct / images; None for a single image."""
    share = correct / images
    return share * (1 - share) / (images - 1) if images > 1 else None


def majority_sums(sums: Mapping[str, float], training: Sequence[int]) -> dict[str, float]:
    """What `task.evaluate` would have summed for a model that knows the number of training images of each class alone.

    Every class is counted once more than it was seen (Laplace), so that an unseen one has a probability.
    """
    total = sum(training) + len(training)
    nll = [-math.log((count + 1) / total) for count in training]
    images = [sums[f"images/{index}"] for index in range(len(training))]
    largest = training.index(max(training))
    return {
        "nll": math.fsum(n * x for n, x in zip(images, nll, strict=True)),
        "nll_nll": math.fsum(n * x * x for n, x in zip(images, nll, strict=True)),
        "images": sums["images"],
        "correct": images[largest],
        **{f"images/{index}": n for index, n in enumerate(images)},
        **{f"correct/{index}": n if index == largest else 0.0 for index, n in enumerate(images)},
    }


def show_mistakes(
    config: ClassificationEvaluation,
    manifest: Manifest,
    reader: ShardReader,
    task: Task,
    model: nn.Module,
    world: World,
) -> list[dict[str, Any]]:
    """The wrongly classified images whose label the model found least likely, the worst first."""
    wrong = find_mistakes(config, reader, task, model, world)
    worst = heapq.nsmallest(config.mistakes, wrong, key=lambda mistake: (mistake[0], mistake[2]["id"]))
    return [
        {
            "picture": picture(sample["image"]),
            "label": manifest.classes[int(sample["label"])],
            "taken for": manifest.classes[predicted],
            "probability of the label": f"{probability:.2g}",
            "image": sample["id"],
        }
        for probability, predicted, sample in worst
    ]


@torch.inference_mode()
def find_mistakes(
    config: ClassificationEvaluation, reader: ShardReader, task: Task, model: nn.Module, world: World
) -> Iterator[tuple[float, int, Sample]]:
    """The label's probability, the predicted class and the sample of each wrongly classified image."""
    batches = sequential(reader, list[Sample], size=config.batch_images, limit=LOOKED_AT, part=0, parts=1)
    for samples in batches:
        batch = task.collate(samples).to(world.device)
        labels = batch.tensors["labels"]
        shares = F.softmax(model(batch.tensors["images"]).double(), dim=1)  # [B, classes]
        own = shares.gather(1, labels[:, None])[:, 0]
        predicted = shares.argmax(1)
        for index in (predicted != labels).nonzero()[:, 0].tolist():
            yield float(own[index]), int(predicted[index]), samples[index]


def picture(pixels: Any) -> str:
    """An image [H, W, C] uint8 as the address of a PNG that needs no file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
