"""Scores a classifier of whole samples, of whatever kind: its metrics, the majority baseline's, figures and units."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from configs.metrics import protocol_id
from data.loader import sequential
from data.manifest import Manifest
from data.shards import ShardReader
from trainer.distributed import World
from trainer.evaluation.class_drawings import draw_classifier
from trainer.evaluation.class_metrics import assess, class_metrics, class_units
from trainer.evaluation.contract import Result
from trainer.evaluation.predictions import Predictions, majority, predict
from trainer.task import Batch, Task

Samples = Sequence[Mapping[str, Any]]


def score_classifier(
    task: Task,
    logits: Callable[[Batch], Tensor],
    reader: ShardReader,
    manifest: Manifest,
    world: World,
    *,
    protocol: Mapping[str, Any],
    batch: int,
    top: int,
    each: str,
    show: Callable[[Predictions], Samples],
) -> Result:
    """A split's metrics for the model and for the majority baseline, under one protocol; on the first rank alone.

    `logits` are [B, classes] of a batch; `each` is what one sample is: image, text; `show` picks samples to look at.
    """
    classes, identifier = manifest.classes, protocol_id(protocol)
    batches = sequential(reader, task.collate, size=batch, limit=None, part=world.rank, parts=world.size)
    predictions = predict(logits, batches, world, samples=len(reader), classes=len(classes))
    if predictions is None:
        return Result((), {identifier: protocol})
    training = manifest.splits["train"].classes
    metrics = []
    assessed = assess(predictions, len(classes))
    baseline = majority(predictions, [training.get(name, 0) for name in classes])
    for prefix, said, found in (
        ("test", predictions, assessed),
        ("baseline/majority", baseline, assess(baseline, len(classes))),
    ):
        metrics += class_metrics(prefix, said, found, classes=classes, top=top, each=each, protocol=identifier)
    return Result(
        tuple(metrics),
        {identifier: protocol},
        samples=tuple(show(predictions)),
        figures=draw_classifier(assessed, classes),
        units=class_units(predictions, assessed),
    )
