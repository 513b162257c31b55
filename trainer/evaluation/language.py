"""Scores a language model: rolling-window perplexity, bits per byte, n-gram baselines, written samples."""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn

from configs.folder import RunFolder
from configs.language import CausalLMConfig, LanguageEvaluation, SamplingConfig
from configs.metrics import Metric, protocol_id
from configs.schema import RunConfig
from data.manifest import Manifest, Split, split_digest
from data.packing import Ids, unpack
from data.samples import decode
from data.shards import ShardReader
from trainer.distributed import World
from trainer.evaluation.baselines import describe_baselines, document_sums, score_baselines
from trainer.evaluation.calibration import BIASED, BINS, calibration_metric, reliability
from trainer.evaluation.contract import Result, ratio_stderr
from trainer.evaluation.documents import document_figures, document_units
from trainer.evaluation.generate import generate
from trainer.evaluation.likelihood import lacking
from trainer.evaluation.ngram import require_countable
from trainer.evaluation.view import Records, View
from trainer.evaluation.windows import score_windows, windows_of
from trainer.task import Task
from trainer.tasks.causal_lm import CausalLM

LARGEST = sys.float_info.max  # JSON has no infinity


def evaluate(
    run: RunConfig,
    folder: RunFolder,
    manifest: Manifest,
    readers: Mapping[str, ShardReader],
    task: Task,
    nets: Mapping[str, nn.Module],
    world: World,
) -> Result:
    """The test split's metrics for the model and the baselines, under one protocol, and text it writes."""
    assert isinstance(task, CausalLM)
    config, end, split = settings(run), manifest.text.end_of_document_id, manifest.splits["test"]
    require_countable(config.baseline_order, manifest.text.vocabulary_size)
    documents = read_documents(readers["test"], end)
    windows = windows_of(documents, tokens=manifest.block_tokens, stride=config.stride_tokens)
    protocol = describe_protocol(run, manifest)
    identifier = protocol_id(protocol)
    nll, calibration = score_windows(
        task, nets, windows, documents, end=end, batch_windows=config.batch_windows, world=world
    )
    metrics = language_metrics(
        "test", {name: float(total) for name, total in document_sums(nll, windows).items()}, split, identifier
    )
    metrics.append(calibration_metric(calibration, metrics[0]))
    training = read_documents(readers["train"], end)
    baselines = score_baselines(config.baseline_order, manifest, training, documents, windows, world)
    for name, of_baseline in baselines.items():
        uncounted = None if training or name == "uniform" else "the train split has no token to count"
        metrics += language_metrics(f"baseline/{name}", of_baseline, split, identifier, problem=uncounted)
    if world.rank:
        return Result(tuple(metrics), {identifier: protocol})
    about = describe_baselines(config.baseline_order, manifest)
    if metrics[0].undefined:  # nor can a network whose outputs are no numbers write
        return Result(tuple(metrics), {identifier: protocol}, figures=(about,))
    units = document_units(windows, nll)
    figures = (
        reliability(calibration, "Probability of the likeliest next token"),
        *document_figures(documents, units, Tokenizer.from_file(str(folder.tokenizer))),
        about,
    )
    samples = write_samples(run, folder, manifest, nets["model"], world)
    return Result(tuple(metrics), {identifier: protocol}, tuple(samples), figures, {"test/loss": units})


def settings(run: RunConfig) -> LanguageEvaluation:
    """How this run's language model is scored."""
    assert isinstance(run.task, CausalLMConfig)
    return run.task.evaluation


def read_documents(reader: ShardReader, end: int) -> list[Ids]:
    """A split's documents as ids, each with its end-of-document token."""
    if not len(reader):
        return []
    return unpack((decode(sample)["tokens"].astype(np.int64) for sample in reader), end)


def describe_protocol(run: RunConfig, manifest: Manifest) -> dict[str, Any]:
    """Everything that changes a perplexity, apart from the model."""
    return {
        "metric": "rolling-window negative log-likelihood",
        "split": "test",
        "data": split_digest(manifest, "test"),
        "tokenizer": manifest.text.sha256,
        "window_tokens": manifest.block_tokens,
        "stride_tokens": settings(run).stride_tokens,
        "scored": "every token of every document and its end-of-document token, once",
        "start": "each document is preceded by the end-of-document token and sees no other document",
        "bytes": "UTF-8 of the normalised documents",
        "words": "runs of characters between white space",
        "stderr": "ratio estimator over documents",
        "calibration": f"{BINS} bins of equal width over the probability of the likeliest next token; {BIASED}",
        "precision": "fp32 logits, fp64 sums",
    }


def language_metrics(
    prefix: str, sums: Mapping[str, float], split: Split, protocol: str, *, problem: str | None = None
) -> list[Metric]:
    """loss, perplexity, word perplexity and bits per byte, with standard errors by the delta method.

    Undefined where there is a problem, no token was scored or an output was no number; those by word and byte also
    where there is none to divide by, or where they are those of other tokens than the scored ones.
    """
    tokens = round(sums["tokens"])
    problem = problem or lacking(sums["nll"], tokens)
    loss, error = (math.nan, None) if problem else (sums["nll"] / sums["tokens"], ratio_stderr(sums))

    def metric(name: str, unit: str, amount: float, *, exponential: bool) -> Metric:
        """Of the loss per `amount`, which counts what the unit divides by, or of its exponential."""
        if reason := problem or _indivisible(unit, amount, tokens, split):
            return Metric(f"{prefix}/{name}", None, None, tokens, unit, "lower", protocol, undefined=reason)
        share = tokens / amount
        value = safe_exp(loss * share) if exponential else loss * share
        slope = value * share if exponential else share
        stderr = None if error is None else min(error * min(slope, LARGEST), LARGEST)
        return Metric(f"{prefix}/{name}", value, stderr, tokens, unit, "lower", protocol)

    return [
        metric("loss", "nats/token", tokens, exponential=False),
        metric("perplexity", "1/token", tokens, exponential=True),
        metric("word_perplexity", "1/word", split.words, exponential=True),
        metric("bits_per_byte", "bits/byte", split.bytes * math.log(2), exponential=False),
    ]


def _indivisible(unit: str, amount: float, tokens: int, split: Split) -> str | None:
    """Why the loss of so many tokens cannot be had in a unit; None where it can."""
    if unit.endswith("/token"):
        return None
    if not amount:
        return f"there is nothing to divide by in {unit}: the split holds none"
    held = split.tokens + split.cut_tokens
    return None if tokens == held else f"the split's words and bytes are those of {held} tokens, {tokens} were scored"


def safe_exp(value: float) -> float:
    """exp, or about the largest float."""
    return math.exp(min(value, 709.0))


def write_samples(
    run: RunConfig, folder: RunFolder, manifest: Manifest, model: nn.Module, world: World
) -> list[dict[str, Any]]:
    """Continuations of the configured prompts, the same for the same checkpoint and seed."""
    sampling = settings(run).sampling
    if sampling is None:
        return []
    tokenizer = Tokenizer.from_file(str(folder.tokenizer))
    return continuations(sampling.prompts, sampling, manifest, model, tokenizer, seed=run.seed, device=world.device)


def show(view: View) -> Records:
    """The first of the texts that the evaluation would write; from a document's beginning where it writes none."""
    asked, number = settings(view.run).sampling or SamplingConfig(prompts=("",)), view.settings.number
    sampling = asked.model_copy(update={"max_tokens": min(asked.max_tokens, view.settings.max_tokens)})
    assert view.tokenizer is not None
    return continuations(
        [asked.prompts[place % len(asked.prompts)] for place in range(number)],
        sampling,
        view.manifest,
        view.nets["model"],
        view.tokenizer,
        seed=view.run.seed,
        device=view.world.device,
        called=view.alive,
    )


def continuations(
    prompts: Sequence[str],
    sampling: SamplingConfig,
    manifest: Manifest,
    model: nn.Module,
    tokenizer: Tokenizer,
    *,
    seed: int,
    device: torch.device,
    called: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """What the model makes of each prompt; each has random numbers of its own."""
    end = manifest.text.end_of_document_id
    samples = []
    for number, prompt in enumerate(prompts):
        written = generate(
            model,
            [end, *tokenizer.encode(prompt, add_special_tokens=False).ids],
            sampling,
            context_tokens=manifest.block_tokens,
            end=end,
            generator=torch.Generator(device).manual_seed(seed + number),
            called=called,
        )
        samples.append({"prompt": prompt, "text": tokenizer.decode(written)})
    return samples
