"""Scores a classifier of texts, and shows its worst mistakes."""

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import nn

from configs.folder import RunFolder
from configs.language import SequenceClassificationConfig
from configs.schema import RunConfig
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
from trainer.tasks.sequence_classification import SequenceClassification

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
    config, model = run.task.evaluation, nets["model"]
    return score_classifier(
        task,
        lambda batch: task.logits(model, batch),
        readers["test"],
        manifest,
        world,
        protocol=describe_protocol(run.task, manifest),
        batch=config.batch_samples,
        top=config.top,
        each="text",
        show=lambda said: show_mistakes(said, manifest, readers["test"], folder, number=config.mistakes),
    )


def describe_protocol(config: SequenceClassificationConfig, manifest: Manifest) -> dict[str, Any]:
    """Everything that changes the numbers, apart from the model."""
    top, data = config.evaluation.top, split_digest(manifest, "test")
    return class_protocol(data=data, classes=manifest.classes, top=top, each="text") | {
        "tokenizer": manifest.text.sha256,
        "texts": f"the first {manifest.block_tokens} tokens of each, the prompt among them",
        "prompt": config.prompt or "none",
    }


def show_mistakes(
    predictions: Predictions, manifest: Manifest, reader: ShardReader, folder: RunFolder, *, number: int
) -> list[dict[str, str]]:
    """The wrongly classified texts whose label the model found least likely, the worst first."""
    tokenizer = Tokenizer.from_file(str(folder.tokenizer))
    return [_read(predictions, place, manifest, reader, tokenizer) for place in worst_mistakes(predictions, number)]


def show(view: View) -> Records:
    """Validation samples with their classes and what they are taken for."""
    assert isinstance(view.task, SequenceClassification)
    task, tokenizer, model = view.task, view.tokenizer, view.nets["model"]
    assert tokenizer is not None
    found = predict_some(view, lambda batch: task.logits(model, batch))
    return [_read(found, place, view.manifest, view.reader, tokenizer) for place in range(len(found.ids))]


def _read(
    predictions: Predictions, place: int, manifest: Manifest, reader: ShardReader, tokenizer: Tokenizer
) -> dict[str, str]:
    index = int(predictions.ids[place])
    passage = _excerpt(decode(reader[index])["tokens"], tokenizer)
    return {"passage": passage} | mistake(predictions, place, manifest.classes) | {"sample": str(index)}


def _excerpt(tokens: NDArray[Any], tokenizer: Tokenizer) -> str:
    """The beginning of a text, as far as its tokens tell it."""
    ids = tokens.tolist()
    more = " ..." if len(ids) > EXCERPT_TOKENS else ""
    return tokenizer.decode(ids[:EXCERPT_TOKENS]).strip() + more
