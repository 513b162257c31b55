"""Scores a classifier of images: loss, accuracies, the majority baseline, its worst mistakes."""

import base64
import heapq
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from configs.folder import RunFolder
from configs.metrics import protocol_id
from configs.schema import RunConfig
from configs.vision import ClassificationEvaluation, ImageClassificationConfig
from data.card.pictures import png
from data.loader import sequential
from data.manifest import Manifest, split_digest
from data.shards import ShardReader
from trainer.distributed import World
from trainer.evaluation.classes import classification_metrics, majority_sums
from trainer.evaluation.contract import Result
from trainer.evaluation.score import score_split
from trainer.task import Sample, Task
from trainer.tasks.image_classification import ImageClassification

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
    assert isinstance(task, ImageClassification)
    config, classes = run.task.evaluation, len(manifest.classes)
    protocol = describe_protocol(manifest, task)
    identifier = protocol_id(protocol)
    sums = score_split(task, nets, readers["test"], world, batch=config.batch_images, limit=None)
    baseline = majority_sums(sums, [manifest.splits["train"].classes.get(name, 0) for name in manifest.classes])
    metrics = classification_metrics("test", sums, classes, identifier, each="image")
    metrics += classification_metrics("baseline/majority", baseline, classes, identifier, each="image")
    looks = world.rank == 0 and config.mistakes > 0
    samples = show_mistakes(config, manifest, readers["test"], task, nets["model"], world) if looks else ()
    return Result(tuple(metrics), {identifier: protocol}, tuple(samples))


def describe_protocol(manifest: Manifest, task: ImageClassification) -> dict[str, Any]:
    """Everything that changes an accuracy, apart from the model."""
    (height, width), stored = task.seen, task.image
    return {
        "metric": "classification by the class of the largest logit, of equal ones the first",
        "split": "test",
        "data": split_digest(manifest, "test"),
        "classes": len(manifest.classes),
        "images": f"the middle {height} x {width} of {stored[0]} x {stored[1]} pixels of {task.channels} channels",
        "scored": "every image once",
        "loss": "negative log-likelihood of the label, without label smoothing",
        "balanced_accuracy": "mean over the split's classes of the share of their images that is found",
        "top5_accuracy": "share of images whose label is among the five largest logits; with more than five classes",
        "baseline": "the train split's largest class; as probabilities its shares, each class counted once more",
        "stderr": "images are drawn independently",
        "precision": "fp32 logits, fp64 sums",
    }


def show_mistakes(
    config: ClassificationEvaluation,
    manifest: Manifest,
    reader: ShardReader,
    task: ImageClassification,
    model: nn.Module,
    world: World,
) -> list[dict[str, Any]]:
    """The wrongly classified images whose label the model found least likely, the worst first."""
    wrong = find_mistakes(config, reader, task, model, world)
    worst = heapq.nsmallest(config.mistakes, wrong, key=lambda mistake: (mistake[0], mistake[2]["id"]))
    return [
        {
            "picture": f"data:image/png;base64,{base64.b64encode(png(sample['image'])).decode()}",
            "label": manifest.classes[int(sample["label"])],
            "taken for": manifest.classes[predicted],
            "probability of the label": f"{probability:.2g}",
            "image": sample["id"],
        }
        for probability, predicted, sample in worst
    ]


@torch.inference_mode()
def find_mistakes(
    config: ClassificationEvaluation, reader: ShardReader, task: ImageClassification, model: nn.Module, world: World
) -> Iterator[tuple[float, int, Sample]]:
    """The label's probability, the predicted class and the sample of each wrongly classified image."""
    batches = sequential(reader, list[Sample], size=config.batch_images, limit=LOOKED_AT, part=0, parts=1)
    for samples in batches:
        batch = task.collate(samples).to(world.device)
        labels = batch.tensors["labels"]
        shares = F.softmax(model(task.inputs(batch)).double(), dim=1)  # [B, classes]
        own = shares.gather(1, labels[:, None])[:, 0]
        predicted = shares.argmax(1)
        for index in (predicted != labels).nonzero()[:, 0].tolist():
            yield float(own[index]), int(predicted[index]), samples[index]
