"""Scores a masked language model: loss and accuracy over hidden tokens, the unigram baseline, passages to look at."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from configs.folder import RunFolder
from configs.language import MaskedLMConfig
from configs.metrics import Metric, protocol_id
from configs.schema import RunConfig
from data.loader import sequential
from data.manifest import Manifest, split_digest
from data.samples import decode
from data.shards import ShardReader
from trainer.distributed import World, add
from trainer.evaluation.calibration import BIASED, BINS, calibration_metric, reliability
from trainer.evaluation.contract import Result, ratio_stderr
from trainer.evaluation.intervals import RESAMPLES, SEED
from trainer.evaluation.likelihood import lacking
from trainer.evaluation.passages import passage_figures, score_passages, stderr_of_calibration
from trainer.evaluation.pseudo import pseudo_metrics
from trainer.evaluation.view import Records, View
from trainer.models.attention import PADDING
from trainer.models.cross_entropy import IGNORE
from trainer.task import Batch, Sums, Task
from trainer.tasks.masked_lm import MaskedLM, hidden_logits, masked_sums

KINDS: tuple[tuple[str, str, Literal["lower", "higher"]], ...] = (
    ("accuracy", "share", "higher"),
    ("loss", "nats/token", "lower"),
    ("masked_perplexity", "1/token", "lower"),
)
"""Metrics of hidden tokens: name, unit, what is better"""


def evaluate(
    run: RunConfig,
    folder: RunFolder,
    manifest: Manifest,
    readers: Mapping[str, ShardReader],
    task: Task,
    nets: Mapping[str, nn.Module],
    world: World,
) -> Result:
    """The test split's metrics for the model and the unigram baseline, on the same hidden tokens, and examples.

    Units and what there is to look at are on rank 0, where there are metrics.
    """
    assert isinstance(run.task, MaskedLMConfig)
    assert isinstance(task, MaskedLM)
    config = run.task.evaluation
    protocol = describe_protocol(run.task, manifest)
    identifier = protocol_id(protocol)
    sums, passages = score_passages(task, nets, readers["test"], world, batch=config.batch_blocks)
    shares = unigram(readers["train"], task, world)
    baseline = score_unigram(readers["test"], task, shares, world, batch=config.batch_blocks)
    metrics = masked_metrics("test", sums, identifier)
    metrics.append(calibration_metric(sums, metrics[0], stderr_of_calibration(passages, world)))
    metrics += masked_metrics("baseline/unigram", baseline, identifier)
    protocols, units = {identifier: protocol}, passages.units()
    if count := config.pseudo_documents:
        more, theirs, by_sample = pseudo_metrics(
            task,
            nets,
            readers["test"],
            manifest,
            shares,
            samples=count,
            batch=config.batch_blocks,
            world=world,
        )
        metrics, protocols, units = metrics + more, protocols | theirs, units | by_sample
    if world.rank or metrics[0].undefined:
        return Result(tuple(metrics), protocols)
    tokenizer = Tokenizer.from_file(str(folder.tokenizer))
    figures = (
        reliability(sums, "Probability of the likeliest token in a hidden one's place"),
        *passage_figures(passages, readers["test"], tokenizer),
    )
    samples: list[dict[str, str]] = []
    if config.examples:
        samples = show_examples(readers["test"], task, nets["model"], tokenizer, world, examples=config.examples)
    return Result(tuple(metrics), protocols, tuple(samples), figures, units)


def describe_protocol(config: MaskedLMConfig, manifest: Manifest) -> dict[str, Any]:
    """Everything that changes the numbers, apart from the model."""
    return {
        "metric": "prediction of hidden tokens (Devlin et al., 2019)",
        "split": "test",
        "data": split_digest(manifest, "test"),
        "tokenizer": manifest.text.sha256,
        "block_tokens": manifest.block_tokens,
        "hidden": f"{config.masked:g} of each sample's tokens{', whole words' if config.whole_words else ''}: "
        "80 % become the mask token, 10 % a random one, 10 % stay; special tokens never",
        "drawn": "from the sample's number in the split alone, so that they are the same in every evaluation",
        "scored": "every hidden token once",
        "accuracy": "share of hidden tokens whose logit is the largest",
        "masked_perplexity": "exp(loss): of hidden tokens given those on both sides; no perplexity of the text",
        "calibration": f"{BINS} bins of equal width over the probability of the likeliest token; {BIASED}",
        "baseline": "shares of the tokens in the train split, special ones left out, each counted once more",
        "stderr": "ratio estimator over samples, which are taken as independent; of the calibration error over "
        f"{RESAMPLES} resamples of them, seed {SEED}",
        "precision": "fp32 logits, fp64 sums",
    }


def masked_metrics(prefix: str, sums: Mapping[str, float], protocol: str) -> list[Metric]:
    """accuracy, loss and its exponential over hidden tokens, with standard errors over samples; or why they lack."""
    tokens = round(sums["tokens"])
    if problem := lacking(sums["nll"], tokens):
        return [Metric(f"{prefix}/{n}", None, None, tokens, u, b, protocol, undefined=problem) for n, u, b in KINDS]
    loss = sums["nll"] / sums["tokens"]
    perplexity = math.exp(min(loss, 700.0))
    error = ratio_stderr(sums)
    found = {name: sums[name.replace("nll", "correct")] for name in sums if "correct" not in name}
    errors = (ratio_stderr(found), error, None if error is None else error * perplexity)
    values = (sums["correct"] / sums["tokens"], loss, perplexity)
    return [
        Metric(f"{prefix}/{name}", value, stderr, tokens, unit, better, protocol)
        for (name, unit, better), value, stderr in zip(KINDS, values, errors, strict=True)
    ]


def unigram(reader: ShardReader, task: MaskedLM, world: World) -> Tensor:
    """Each token's share of a split's ordinary tokens, [V] float64, each counted once more; special ones have none."""
    counts = np.zeros(task.vocabulary_size, dtype=np.int64)
    for index in range(world.rank, len(reader), world.size):
        counts += np.bincount(decode(reader[index])["tokens"][1:], minlength=task.vocabulary_size)
    ordinary = torch.from_numpy(task.ordinary)
    smoothed = torch.where(ordinary, world.sum(torch.from_numpy(counts)).cpu() + 1.0, 0.0)
    return smoothed / smoothed.sum()


def score_unigram(reader: ShardReader, task: MaskedLM, shares: Tensor, world: World, *, batch: int) -> dict[str, float]:
    """What `task.evaluate` would have summed for a model that knows the shares of the tokens alone."""
    nll, commonest = -shares.log(), int(shares.argmax())
    sums: Sums = masked_sums(*torch.zeros(3, 0, dtype=torch.float64))
    each: Batch
    for each in sequential(reader, task.collate, size=batch, limit=None, part=world.rank, parts=world.size):
        targets = each.tensors["targets"]
        hidden = targets != IGNORE
        per_token = torch.where(hidden, nll[targets.clamp(min=0)], 0.0)  # [B, T]
        found = (targets == commonest).sum(1).double()
        sums = add(sums, masked_sums(per_token.sum(1), found, hidden.sum(1).double()))
    return world.sum_all(sums)


def show(view: View) -> Records:
    """Validation samples with hidden tokens, and what the model puts in their place."""
    assert isinstance(view.task, MaskedLM)
    assert view.tokenizer is not None
    number, model = min(view.settings.number, len(view.reader)), view.nets["model"]
    if not number:
        return []
    return show_examples(view.reader, view.task, model, view.tokenizer, view.world, examples=number)


@torch.inference_mode()
def show_examples(
    reader: ShardReader, task: MaskedLM, model: nn.Module, tokenizer: Tokenizer, world: World, *, examples: int
) -> list[dict[str, str]]:
    """Samples, evenly spaced in the split, with numbers in the place of hidden tokens, and what the model put there."""
    (batch,) = sequential(reader, task.collate, size=examples, limit=examples, part=0, parts=1)
    targets, inputs = batch.tensors["targets"], batch.tensors["tokens"]
    real = batch.tensors.get("documents", torch.zeros_like(inputs)) != PADDING
    probability, guess = hidden_logits(model, batch.to(world.device)).softmax(1).max(1)
    guesses: Iterator[tuple[float, int]] = zip(probability.tolist(), guess.tolist(), strict=True)
    found = []
    for number, ids, wanted, length in zip(batch.ids, inputs.tolist(), targets.tolist(), real.sum(1), strict=True):
        passage, lines, right = _read(ids[:length], wanted[:length], guesses, tokenizer)
        facts = {"passage": passage, "hidden, and what the model put there": "; ".join(lines)}
        found.append(facts | {"right": f"{right} of {len(lines)}", "sample": str(number)})
    return found


def _read(
    ids: list[int], wanted: list[int], guesses: Iterator[tuple[float, int]], tokenizer: Tokenizer
) -> tuple[str, list[str], int]:
    """The text with [1], [2], ... in the place of hidden tokens, a line for each of them, and how many are right."""
    pieces: list[str] = []
    lines: list[str] = []
    begin = right = 0
    for place, (_, target) in enumerate(zip(ids, wanted, strict=True)):
        if target == IGNORE:
            continue
        probability, guess = next(guesses)
        lines.append(f"[{len(lines) + 1}] {_spell(target, tokenizer)}: {_spell(guess, tokenizer)} {probability:.0%}")
        right += guess == target
        pieces += [tokenizer.decode(ids[begin:place]).strip(), f"[{len(lines)}]"]
        begin = place + 1
    return " ".join([*pieces, tokenizer.decode(ids[begin:]).strip()]), lines, right


def _spell(token: int, tokenizer: Tokenizer) -> str:
    return tokenizer.decode([token], skip_special_tokens=False).strip() or repr(tokenizer.id_to_token(token))
