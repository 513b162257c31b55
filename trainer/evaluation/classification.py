"""Scores a classifier of images, and shows its worst mistakes."""

import base64
from collections.abc import Mapping
from typing import Any

from torch import nn

from configs.folder import RunFolder
from configs.schema import RunConfig
from configs.vision import ImageClassificationConfig
from data.card.pictures import png
from data.manifest import Manifest, split_digest
from data.samples import decode
from data.shards import ShardReader
from trainer.distributed import World
from trainer.evaluation.class_metrics import class_protocol
from trainer.evaluation.classifier import score_classifier
from trainer.evaluation.contract import Result
from trainer.evaluation.predictions import Predictions, mistake, predict_some, worst_mistakes
from trainer.evaluation.view import Records, View
from trainer.task import Task
from trainer.tasks.image_classification import ImageClassification


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
    config, model = run.task.evaluation, nets["model"]
    return score_classifier(
        task,
        lambda batch: model(task.inputs(batch)).float(),
        readers["test"],
        manifest,
        world,
        protocol=describe_protocol(manifest, task),
        batch=config.batch_images,
        top=config.top,
        each="image",
        show=lambda predictions: show_mistakes(predictions, manifest, readers["test"], number=config.mistakes),
    )


def describe_protocol(manifest: Manifest, task: ImageClassification) -> dict[str, Any]:
    """Everything that changes the numbers, apart from the model."""
    (height, width), stored = task.seen, task.image
    top = task.config.evaluation.top
    shared = class_protocol(data=split_digest(manifest, "test"), classes=manifest.classes, top=top, each="image")
    return shared | {
        "images": f"the middle {height} x {width} of {stored[0]} x {stored[1]} pixels of {task.channels} channels"
    }


def show_mistakes(
    predictions: Predictions, manifest: Manifest, reader: ShardReader, *, number: int
) -> list[dict[str, Any]]:
    """The wrongly classified images whose label the model found least likely, the worst first."""
    return [_draw(predictions, place, manifest, reader) for place in worst_mistakes(predictions, number)]


def show(view: View) -> Records:
    """Validation images with their classes and what they are taken for."""
    assert isinstance(view.task, ImageClassification)
    task, model = view.task, view.nets["model"]
    found = predict_some(view, lambda batch: model(task.inputs(batch)).float())
    return [_draw(found, place, view.manifest, view.reader) for place in range(len(found.ids))]


def _draw(predictions: Predictions, place: int, manifest: Manifest, reader: ShardReader) -> dict[str, Any]:
    index = int(predictions.ids[place])
    picture = base64.b64encode(png(decode(reader[index])["image"])).decode()
    facts = mistake(predictions, place, manifest.classes)
    return {"picture": f"data:image/png;base64,{picture}"} | facts | {"image": index}
