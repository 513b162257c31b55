"""Scores a classifier of texts: loss, accuracies, the majority baseline, its worst mistakes."""

import heapq
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn

from configs.folder import RunFolder
from configs.language import SequenceClassificationConfig, TextClassEvaluation
from configs.metrics import protocol_id
from configs.schema import RunConfig
from data.loader import sequential
from data.manifest import Manifest, split_digest
from data.shards import ShardReader
from trainer.distributed import World
from trainer.evaluation.classes import classification_metrics, majority_sums
from trainer.evaluation.contract import Result
from trainer.evaluation.score import score_split
from trainer.task import Sample, Task
from trainer.tasks.sequence_classification import SequenceClassification

LOOKED_AT = 1024
"""Texts, evenly spaced in the split, among which mistakes are looked for: showing them must not take a second pass"""
EXCERPT_TOKENS = 96
"""How much of a text the report shows"""


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
    assert isinstance(run.task, SequenceClassificationConfig)
    assert isinstance(task, SequenceClassification)
    config, classes = run.task.evaluation, len(manifest.classes)
    protocol = describe_protocol(run.task, manifest)
    identifier = protocol_id(protocol)
    sums = score_split(task, nets, readers["test"], world, batch=config.batch_samples, limit=None)
    baseline = majority_sums(sums, [manifest.splits["train"].classes.get(name, 0) for name in manifest.classes])
    metrics = classification_metrics("test", sums, classes, identifier, each="text")
    metrics += classification_metrics("baseline/majority", baseline, classes, identifier, each="text")
    samples: list[dict[str, str]] = []
    if world.rank == 0 and config.mistakes:
        tokenizer = Tokenizer.from_file(str(folder.tokenizer))
        samples = show_mistakes(config, manifest, readers["test"], task, nets["model"], tokenizer, world)
    return Result(tuple(metrics), {identifier: protocol}, tuple(samples))


def describe_protocol(config: SequenceClassificationConfig, manifest: Manifest) -> dict[str, Any]:
    """Everything that changes an accuracy, apart from the model."""
    return {
        "metric": "classification by the class of the largest logit, of equal ones the first",
        "split": "test",
        "data": split_digest(manifest, "test"),
        "classes": len(manifest.classes),
        "texts": f"the first {manifest.block_tokens} tokens of each, the prompt among them",
        "prompt": config.prompt or "none",
        "scored": "every text once",
        "loss": "negative log-likelihood of the label, without weights and label smoothing",
        "balanced_accuracy": "mean over the split's classes of the share of their texts that is found",
        "top5_accuracy": "share of texts whose label is among the five largest logits; with more than five classes",
        "baseline": "the train split's largest class; as probabilities its shares, each class counted once more",
        "stderr": "texts are drawn independently",
        "precision": "fp32 logits, fp64 sums",
    }


def show_mistakes(
    config: TextClassEvaluation,
    manifest: Manifest,
    reader: ShardReader,
    task: SequenceClassification,
    model: nn.Module,
    tokenizer: Tokenizer,
    world: World,
) -> list[dict[str, str]]:
    """The wrongly classified texts whose label the model found least likely, the worst first."""
    wrong = find_mistakes(config, reader, task, model, world)
    worst = heapq.nsmallest(config.mistakes, wrong, key=lambda mistake: (mistake[0], mistake[2]["id"]))
    return [
        {
            "passage": _excerpt(sample, tokenizer),
            "label": manifest.classes[int(sample["label"])],
            "taken for": manifest.classes[predicted],
            "probability of the label": f"{probability:.2g}",
            "sample": str(sample["id"]),
        }
        for probability, predicted, sample in worst
    ]


def _excerpt(sample: Sample, tokenizer: Tokenizer) -> str:
    """The beginning of a text, as far as its tokens tell it."""
    ids = sample["tokens"].tolist()
    more = " ..." if len(ids) > EXCERPT_TOKENS else ""
    return tokenizer.decode(ids[:EXCERPT_TOKENS]).strip() + more


@torch.inference_mode()
def find_mistakes(
    config: TextClassEvaluation, reader: ShardReader, task: SequenceClassification, model: nn.Module, world: World
) -> Iterator[tuple[float, int, Sample]]:
    """The label's probability, the predicted class and the sample of each wrongly classified text."""
    for samples in sequential(reader, list[Sample], size=config.batch_samples, limit=LOOKED_AT, part=0, parts=1):
        batch = task.collate(samples).to(world.device)
        labels = batch.tensors["labels"]
        shares = task.logits(model, batch).double().softmax(1)  # [B, classes]
        own = shares.gather(1, labels[:, None])[:, 0]
        predicted = shares.argmax(1)
        for index in (predicted != labels).nonzero()[:, 0].tolist():
            yield float(own[index]), int(predicted[index]), samples[index]
