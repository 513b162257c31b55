"""Scores a token classifier: tags found, spans found, baselines that know the token alone, passages to look at."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from configs.folder import RunFolder
from configs.language import TokenClassificationConfig
from configs.metrics import Metric, protocol_id
from configs.schema import RunConfig
from data.loader import sequential
from data.manifest import Manifest, split_digest
from data.samples import decode
from data.shards import ShardReader
from trainer.distributed import World, add
from trainer.evaluation.calibration import BINS, calibration_error
from trainer.evaluation.contract import Result, ratio_stderr
from trainer.evaluation.tag_survey import draw_tags, survey_tags
from trainer.models.cross_entropy import IGNORE
from trainer.task import Batch, Sums, Task
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
    config, test, kinds = run.task.evaluation, readers["test"], kind_names(manifest.tags)
    protocol = describe_protocol(manifest)
    identifier = protocol_id(protocol)
    survey = survey_tags(test, task, nets["model"], world, batch=config.batch_samples)
    metrics = token_metrics("test", survey.sums, kinds, identifier)
    metrics.insert(-1, calibration_metric("test", survey.sums, identifier))
    counts = count_tags(readers["train"], manifest, world)
    for name, table in (("majority", counts.sum(0, keepdim=True).expand_as(counts)), ("token", counts)):
        baseline = score_table(test, task, table, world, batch=config.batch_samples)
        metrics += token_metrics(f"baseline/{name}", baseline, kinds, identifier)
    if world.rank:
        return Result(tuple(metrics), {identifier: protocol})
    samples: Sequence[dict[str, str]] = ()
    if config.mistakes:
        tokenizer = Tokenizer.from_file(str(folder.tokenizer))
        samples = show_mistakes(test, task, nets["model"], tokenizer, world, number=config.mistakes)
    sound = undefined(survey.sums) is None
    return Result(
        tuple(metrics),
        {identifier: protocol},
        tuple(samples),
        draw_tags(survey, manifest.tags, kinds) if sound else (),
        survey.units() if sound else {},
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
        "calibration_error": f"{BINS} bins of equal width of the largest probability",
        "stderr": "ratio estimator over samples",
        "precision": "fp32 logits, fp64 sums",
    }


def undefined(sums: Mapping[str, float]) -> str | None:
    """Why there are no metrics; None where there are."""
    if not sums.get("tokens"):
        return "no token of the split has a tag"
    return None if math.isfinite(sums["nll"]) else "the scores of some tokens are not numbers"


def token_metrics(prefix: str, sums: Mapping[str, float], kinds: Sequence[str], protocol: str) -> list[Metric]:
    """f1 over all spans, accuracy over tokens, precision, recall, f1 by kind, and loss."""
    if why := undefined(sums):
        names = ["f1", "accuracy", "precision", "recall", *(f"f1_{kind}" for kind in kinds)]
        shares = [Metric(f"{prefix}/{name}", None, None, 0, "share", "higher", protocol, None, why) for name in names]
        return [*shares, Metric(f"{prefix}/loss", None, None, 0, "nats/token", "lower", protocol, None, why)]
    tokens = round(sums["tokens"])
    true, predicted, found = (
        [sums[f"{name}/{number}"] for number in range(len(kinds))] for name in ("true", "predicted", "found")
    )
    spans = round(sum(true))

    def ratio(name: str, key: str, n: int, why: str = "") -> Metric:
        """The ratio whose sums over samples are below `key`."""
        of = _below(sums, f"{key}/")
        if not of["tokens"]:
            return _share(prefix, name, None, None, n, protocol, why)
        return _share(prefix, name, of["nll"] / of["tokens"], ratio_stderr(of), n, protocol, why)

    none = "the split has no span"
    precision = ratio("precision", "span_precision", spans, f"{none}, and none is predicted")
    if spans and not sum(predicted):
        precision = _share(
            prefix, "precision", 0.0, None, spans, protocol, ""
        )  # as of classes that nothing is taken for
    by_kind = [
        _share(
            prefix,
            f"f1_{kind}",
            2 * right / (wanted + got) if wanted + got else None,
            None,
            round(wanted),
            protocol,
            f"{none} of {kind}, and none is predicted",
        )
        for kind, wanted, got, right in zip(kinds, true, predicted, found, strict=True)
    ]
    loss = Metric(f"{prefix}/loss", sums["nll"] / tokens, ratio_stderr(sums), tokens, "nats/token", "lower", protocol)
    return [
        ratio("f1", "f1", spans, f"{none}, and none is predicted"),
        ratio("accuracy", "correct", tokens),
        precision,
        ratio("recall", "span_recall", spans, none),
        *by_kind,
        loss,
    ]


def _share(
    prefix: str, name: str, value: float | None, stderr: float | None, n: int, protocol: str, why: str
) -> Metric:
    undefined = why if value is None else None
    return Metric(f"{prefix}/{name}", value, stderr, n, "share", "higher", protocol, None, undefined)


def calibration_metric(prefix: str, sums: Mapping[str, float], protocol: str) -> Metric:
    why = undefined(sums)
    value = None if why else calibration_error(sums)
    tokens = round(sums.get("tokens", 0.0))
    return Metric(f"{prefix}/calibration_error", value, None, tokens, "share", "lower", protocol, None, why)


def _below(sums: Mapping[str, float], prefix: str) -> dict[str, float]:
    return {key.removeprefix(prefix): value for key, value in sums.items() if key.startswith(prefix)}


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


def score_table(
    reader: ShardReader, task: TokenClassification, table: Tensor, world: World, *, batch: int
) -> dict[str, float]:
    """What `task.evaluate` would have summed for a model whose tags depend on the token alone; table [V, tags]."""
    nll, commonest = -(table / table.sum(1, keepdim=True)).log(), table.argmax(1)
    sums: Sums = {}
    each: Batch
    for each in sequential(reader, task.collate, size=batch, limit=None, part=world.rank, parts=world.size):
        tokens, tags = each.tensors["tokens"], each.tensors["tags"]
        per_token = nll[tokens].gather(2, tags.clamp(min=0)[..., None]).squeeze(2)
        sums = add(sums, task.sums(torch.where(tags == IGNORE, 0.0, per_token).sum(1), commonest[tokens], tags))
    return world.sum_all(sums)


@torch.inference_mode()
def show_mistakes(
    reader: ShardReader, task: TokenClassification, model: nn.Module, tokenizer: Tokenizer, world: World, *, number: int
) -> list[dict[str, str]]:
    """The passages with the most wrong tags among some that are evenly spaced in the split, the worst first."""
    found: list[tuple[float, int, dict[str, str]]] = []
    for batch in sequential(reader, task.collate, size=64, limit=LOOKED_AT, part=0, parts=1):
        predicted = tag_logits(model, batch.to(world.device)).argmax(2).cpu()
        tokens, tags = batch.tensors["tokens"], batch.tensors["tags"]
        for place, index in enumerate(batch.ids):
            asked = tags[place] != IGNORE
            wrong = int((predicted[place] != tags[place])[asked].sum())
            if wrong:
                ids = tokens[place][asked].tolist()
                facts = {
                    "tagged": spell(ids, predicted[place][asked].tolist(), task.tags, tokenizer),
                    "right": spell(ids, tags[place][asked].tolist(), task.tags, tokenizer),
                    "wrong tokens": f"{wrong} of {len(ids)}",
                    "sample": str(index),
                }
                found.append((-wrong / math.sqrt(len(ids)), index, facts))
    return [facts for *_, facts in sorted(found, key=lambda each: each[:2])[:number]]


def spell(ids: Sequence[int], tags: Sequence[int], names: Sequence[str], tokenizer: Tokenizer) -> str:
    """The text with its tagged stretches in brackets: [speaker: hamlet] nay, answer me."""
    pieces, begin = [], 0
    for place in range(1, len(ids) + 1):
        if place == len(ids) or tags[place] != tags[begin]:
            text = tokenizer.decode(list(ids[begin:place]), skip_special_tokens=False)
            pieces.append(f"[{names[tags[begin]]}: {text}]" if tags[begin] else text)
            begin = place
    return " ".join(pieces)
