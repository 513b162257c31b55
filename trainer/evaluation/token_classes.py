"""Scores a token classifier: tags found, spans found, baselines that know the token alone, passages to look at."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from configs.folder import RunFolder
from configs.language import TokenClassificationConfig
from configs.metrics import protocol_id
from configs.schema import RunConfig
from data.loader import sequential
from data.manifest import Manifest, split_digest
from data.samples import decode
from data.shards import ShardReader
from trainer.distributed import World
from trainer.evaluation.calibration import BIASED, BINS
from trainer.evaluation.contract import Result
from trainer.evaluation.intervals import MOST_GROUPS, RESAMPLES, SEED
from trainer.evaluation.tag_metrics import token_metrics, why_not
from trainer.evaluation.tag_survey import draw_tags, survey_tags
from trainer.evaluation.view import Records, View
from trainer.models.cross_entropy import IGNORE
from trainer.task import Batch, Task
from trainer.tasks.token_classification import TokenClassification, kind_names, tag_logits

LOOKED_AT = 512
"""Samples, evenly spaced in the split, among which mistakes are looked for"""


def evaluate(
    run: RunConfig,
    folder: RunFolder,
    manifest: Manifest,
    readers: Mapping[str, ShardReader],
    task: Task,
    nets: Mapping[str, nn.Module],
    world: World,
) -> Result:
    """The test split's metrics for the model and for baselines, under one protocol, and its worst mistakes."""
    assert isinstance(run.task, TokenClassificationConfig)
    assert isinstance(task, TokenClassification)
    config, test, model, kinds = run.task.evaluation, readers["test"], nets["model"], kind_names(manifest.tags)
    protocol = describe_protocol(manifest)
    identifier = protocol_id(protocol)
    counts = count_tags(readers["train"], manifest, world)
    subjects: dict[str, Callable[[Batch], Tensor]] = {
        "test": lambda batch: tag_logits(model, batch),
        "baseline/majority": table_logits(counts.sum(0, keepdim=True).expand_as(counts), world),
        "baseline/token": table_logits(counts, world),
    }
    surveys = {
        prefix: survey_tags(test, task, logits, world, batch=config.batch_samples)
        for prefix, logits in subjects.items()
    }
    if world.rank:
        return Result((), {identifier: protocol})
    metrics = [each for name, survey in surveys.items() for each in token_metrics(name, survey, kinds, identifier)]
    samples: Sequence[dict[str, str]] = ()
    if config.mistakes:
        tokenizer = Tokenizer.from_file(str(folder.tokenizer))
        samples = show_mistakes(test, task, model, tokenizer, world, number=config.mistakes)
    sound = why_not(surveys["test"]) is None
    return Result(
        tuple(metrics),
        {identifier: protocol},
        tuple(samples),
        draw_tags(surveys["test"], manifest.tags, kinds) if sound else (),
        surveys["test"].units() if sound else {},
    )


def describe_protocol(manifest: Manifest) -> dict[str, Any]:
    """Everything that changes the numbers, apart from the model."""
    return {
        "metric": "classification of tokens by the tag of the largest logit, and of the spans they make up",
        "split": "test",
        "data": split_digest(manifest, "test"),
        "tokenizer": manifest.text.sha256,
        "block_tokens": manifest.block_tokens,
        "tags": list(manifest.tags),
        "scored": "every token of every document once, as far as it fits into a block; the end-of-document token not",
        "spans": "tokens on end of one kind, B- opens another; found when its kind, first and last token are right",
        "f1": "2 x found / (true + predicted), over all kinds of spans; none counts for O",
        "baselines": "the commonest tag, and each token's commonest tag in the train split, each counted once more",
        "calibration_error": f"{BINS} bins of equal width of the largest probability; {BIASED}",
        "stderr": "ratio estimator over samples; of the calibration error over the resamples",
        "interval": f"95 %; percentiles of {RESAMPLES} resamples of the samples (Efron, 1981), seed {SEED}; of more "
        f"than {MOST_GROUPS} samples, of so many groups of them; resamples with nothing to divide by are left out; "
        "none of the calibration error",
        "precision": "fp32 logits, fp64 sums",
    }


def count_tags(reader: ShardReader, manifest: Manifest, world: World) -> Tensor:
    """How often each token of a split has each tag, [V, tags] float64, all tags counted by their share once more."""
    counts = np.zeros((manifest.text.vocabulary_size, len(manifest.tags)), np.int64)
    for index in range(world.rank, len(reader), world.size):
        sample = decode(reader[index])
        asked = sample["tags"] != IGNORE
        np.add.at(counts, (sample["tokens"][asked].astype(np.int64), sample["tags"][asked].astype(np.int64)), 1)
    total = world.sum(torch.from_numpy(counts))
    whole = total.sum(0) + 1
    return total + whole / whole.sum()


def table_logits(table: Tensor, world: World) -> Callable[[Batch], Tensor]:
    """Scores of a model whose tags depend on the token alone: the logarithms of their shares; table [V, tags]."""
    shares = (table / table.sum(1, keepdim=True)).log().to(world.device)
    return lambda batch: shares[batch.tensors["tokens"]]


@torch.inference_mode()
def show_mistakes(
    reader: ShardReader, task: TokenClassification, model: nn.Module, tokenizer: Tokenizer, world: World, *, number: int
) -> list[dict[str, str]]:
    """The passages with the most wrong tags among some that are evenly spaced in the split, the worst first."""
    batches = sequential(reader, task.collate, size=64, limit=LOOKED_AT, part=0, parts=1)
    read = _read(batches, task, model, tokenizer, world)
    found = [(-wrong / math.sqrt(tokens), index, facts) for wrong, tokens, index, facts in read if wrong]
    return [facts for *_, facts in sorted(found, key=lambda each: each[:2])[:number]]


@torch.inference_mode()
def show(view: View) -> Records:
    """Validation passages with the tags that are found and the right ones."""
    assert isinstance(view.task, TokenClassification)
    assert view.tokenizer is not None
    number = min(view.settings.number, len(view.reader))
    batches = sequential(view.reader, view.task.collate, size=max(1, number), limit=number or None, part=0, parts=1)
    return [facts for *_, facts in _read(batches, view.task, view.nets["model"], view.tokenizer, view.world)]


def _read(
    batches: Iterable[Batch], task: TokenClassification, model: nn.Module, tokenizer: Tokenizer, world: World
) -> Iterator[tuple[int, int, int, dict[str, str]]]:
    """Of each sample its wrong tokens, its tokens, its number and what to show of it."""
    for batch in batches:
        predicted = tag_logits(model, batch.to(world.device)).argmax(2).cpu()
        tokens, tags = batch.tensors["tokens"], batch.tensors["tags"]
        for place, index in enumerate(batch.ids):
            asked = tags[place] != IGNORE
            wrong = int((predicted[place] != tags[place])[asked].sum())
            ids = tokens[place][asked].tolist()
            facts = {
                "tagged": spell(ids, predicted[place][asked].tolist(), task.tags, tokenizer),
                "right": spell(ids, tags[place][asked].tolist(), task.tags, tokenizer),
                "wrong tokens": f"{wrong} of {len(ids)}",
                "sample": str(index),
            }
            yield wrong, len(ids), index, facts


def spell(ids: Sequence[int], tags: Sequence[int], names: Sequence[str], tokenizer: Tokenizer) -> str:
    """The text with its tagged stretches in brackets: [speaker: hamlet] nay, answer me."""
    pieces, begin = [], 0
    for place in range(1, len(ids) + 1):
        if place == len(ids) or tags[place] != tags[begin]:
            text = tokenizer.decode(list(ids[begin:place]), skip_special_tokens=False)
            pieces.append(f"[{names[tags[begin]]}: {text}]" if tags[begin] else text)
            begin = place
    return " ".join(pieces)
