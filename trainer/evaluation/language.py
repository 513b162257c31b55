"""Scores a language model: rolling-window perplexity, bits per byte, n-gram baselines, written samples."""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn

from configs.folder import RunFolder
from configs.language import CausalLMConfig, LanguageEvaluation
from configs.metrics import Metric, protocol_id
from configs.schema import RunConfig
from data.manifest import Manifest, Split, split_digest
from data.packing import Ids, unpack
from data.progress import Progress, rate, say
from data.samples import decode
from data.shards import ShardReader
from trainer.distributed import World
from trainer.evaluation.contract import Result, cluster_sums, ratio_stderr
from trainer.evaluation.generate import generate
from trainer.evaluation.ngram import KneserNey
from trainer.evaluation.score import score
from trainer.task import Batch, Sample, Task

LARGEST = sys.float_info.max  # JSON has no infinity
ORDERS = ("uniform", "unigram", "bigram", "trigram", "fourgram")


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
    config, end = settings(run), manifest.text.end_of_document_id
    documents = read_documents(readers["test"], end)
    windows = [
        Window(document=d, begin=b, end=e, scored=s)
        for d, document in enumerate(documents)
        for b, e, s in rolling_windows(len(document) + 1, manifest.block_tokens + 1, config.stride_tokens)
    ]
    protocol = describe_protocol(run, manifest)
    identifier = protocol_id(protocol)
    split = manifest.splits["test"]
    batches = _batches(windows, documents, end, task, config, world)
    sums = score(task, nets, batches, world)
    metrics = language_metrics("test", sums, split, identifier)
    for name, baseline in score_baselines(config, manifest, readers, documents, windows, world).items():
        metrics += language_metrics(f"baseline/{name}", baseline, split, identifier)
    samples = write_samples(run, folder, manifest, nets["model"], world) if world.rank == 0 else ()
    return Result(tuple(metrics), {identifier: protocol}, tuple(samples))


def settings(run: RunConfig) -> LanguageEvaluation:
    """How this run's language model is scored."""
    assert isinstance(run.task, CausalLMConfig)
    return run.task.evaluation


class Window(tuple[int, int, int, int]):
    """Part of a document, [begin, end) of its ids after the start token, whose last `scored` ids count."""

    __slots__ = ()

    def __new__(cls, *, document: int, begin: int, end: int, scored: int) -> "Window":
        return super().__new__(cls, (document, begin, end, scored))


def rolling_windows(length: int, window: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """(begin, end, scored) over `length` ids: each but the first is scored once, with the longest context there is.

    The last `scored` ids of each window count; windows move by `stride`.
    """
    done = 1
    for begin in range(0, length, stride):
        end = min(begin + window, length)
        if end > done:
            yield begin, end, end - done
        done = end
        if end == length:
            return


def read_documents(reader: ShardReader, end: int) -> list[Ids]:
    """A split's documents as ids, each with its end-of-document token."""
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
        "stderr": "ratio estimator over windows",
        "precision": "fp32 logits, fp64 sums",
    }


def _batches(
    windows: Sequence[Window], documents: Sequence[Ids], end: int, task: Task, config: LanguageEvaluation, world: World
) -> Iterator[Batch]:
    mine = windows[world.rank :: world.size]
    progress = Progress("evaluate", len(mine), "windows", visible=world.rank == 0)
    for start in range(0, len(mine), config.batch_windows):
        chosen = mine[start : start + config.batch_windows]
        yield task.collate([_sample(window, documents, end) for window in chosen])
        if progress.due():
            progress.show(start, rate(progress.per_s(start), "windows"))


def _sample(window: Window, documents: Sequence[Ids], end: int) -> Sample:
    document, begin, stop, scored = window
    ids = documents[document]
    tokens = ids[begin - 1 : stop - 1] if begin else np.concatenate([[end], ids[: stop - 1]])
    return {"id": document, "position": begin, "tokens": tokens, "scored": scored}


def language_metrics(prefix: str, sums: Mapping[str, float], split: Split, protocol: str) -> list[Metric]:
    """loss, perplexity, word perplexity and bits per byte, with standard errors by the delta method."""
    tokens = round(sums["tokens"])
    loss, error = sums["nll"] / sums["tokens"], ratio_stderr(sums)
    per_word, per_byte = tokens / split.words, tokens / split.bytes / math.log(2)

    def metric(name: str, value: float, slope: float, unit: str) -> Metric:
        stderr = None if error is None else min(error * min(slope, LARGEST), LARGEST)
        return Metric(f"{prefix}/{name}", value, stderr, tokens, unit, "lower", protocol)

    perplexity, word_perplexity = safe_exp(loss), safe_exp(loss * per_word)
    return [
        metric("loss", loss, 1.0, "nats/token"),
        metric("perplexity", perplexity, perplexity, "1/token"),
        metric("word_perplexity", word_perplexity, word_perplexity * per_word, "1/word"),
        metric("bits_per_byte", loss * per_byte, per_byte, "bits/byte"),
    ]


def safe_exp(value: float) -> float:
    """exp, or about the largest float."""
    return math.exp(min(value, 709.0))


def score_baselines(
    config: LanguageEvaluation,
    manifest: Manifest,
    readers: Mapping[str, ShardReader],
    documents: Sequence[Ids],
    windows: Sequence[Window],
    world: World,
) -> dict[str, dict[str, float]]:
    """Sums of each baseline over the same windows' scored tokens; the ranks take turns with the orders."""
    end, size = manifest.text.end_of_document_id, manifest.text.vocabulary_size
    training = read_documents(readers["train"], end)
    results: dict[str, dict[str, float]] = {}
    zero = {name: torch.zeros((), dtype=torch.float64) for name in cluster_sums(torch.zeros(1), torch.zeros(1))}
    for order in range(config.baseline_order + 1):
        if order % world.size == world.rank:
            if order:
                say("evaluate", f"counting {ORDERS[order]}s for the baseline")
                model = KneserNey(training, order=order, vocabulary_size=size, boundary=end)
                per_token = [model.nll(document) for document in documents]
            else:
                per_token = [np.full(len(document), math.log(size)) for document in documents]
            mine = cluster_sums(*window_sums(per_token, windows))
        else:
            mine = zero
        results[ORDERS[order]] = world.sum_all(mine)
    return results


def window_sums(
    per_token: Sequence[np.ndarray[Any, Any]], windows: Sequence[Window]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Negative log-likelihood and number of the scored tokens of each window, both [windows] float64."""
    nll = [per_token[d][stop - 1 - scored : stop - 1].sum() for d, _, stop, scored in windows]
    return torch.tensor(nll, dtype=torch.float64), torch.tensor([float(w[3]) for w in windows], dtype=torch.float64)


def write_samples(
    run: RunConfig, folder: RunFolder, manifest: Manifest, model: nn.Module, world: World
) -> list[dict[str, Any]]:
    """Continuations of the configured prompts, the same for the same checkpoint and seed."""
    sampling = settings(run).sampling
    if sampling is None:
        return []
    tokenizer = Tokenizer.from_file(str(folder.tokenizer))
    end = manifest.text.end_of_document_id
    samples = []
    for number, prompt in enumerate(sampling.prompts):
        ids = tokenizer.encode(prompt, add_special_tokens=False).ids
        written = generate(
            model,
            [end, *ids],
            sampling,
            context_tokens=manifest.block_tokens,
            end=end,
            generator=torch.Generator(world.device).manual_seed(run.seed + number),
        )
        samples.append({"prompt": prompt, "text": tokenizer.decode(written)})
    return samples
