"""Pseudo-perplexity of a masked language model: each token hidden alone (Salazar et al., 2020)."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from configs.metrics import Metric, protocol_id
from data.manifest import Manifest, split_digest
from data.progress import Progress, rate
from data.samples import decode
from data.shards import ShardReader
from trainer.distributed import World
from trainer.evaluation.contract import Units, cluster_sums, ratio_stderr
from trainer.evaluation.likelihood import lacking
from trainer.task import Sample
from trainer.tasks.masked_lm import MaskedLM

PerToken = tuple[Tensor, Tensor, Tensor]
"""Of every scored token: its negative log-likelihood, the token, and its sample's place among those chosen"""


def describe_pseudo(manifest: Manifest, samples: int) -> dict[str, Any]:
    """Everything that changes the number, apart from the model."""
    return {
        "metric": "pseudo-log-likelihood (Salazar et al., 2020): no likelihood of the text, whose perplexity it is not",
        "split": "test",
        "data": split_digest(manifest, "test"),
        "tokenizer": manifest.text.sha256,
        "block_tokens": manifest.block_tokens,
        "samples": f"{samples}, evenly spaced in the split",
        "scored": "each token that is not special, with the mask token in its place and all others of its sample seen",
        "stderr": "ratio estimator over samples, which are taken as independent",
        "precision": "fp32 logits, fp64 sums",
    }


def pseudo_metrics(
    task: MaskedLM,
    nets: Mapping[str, nn.Module],
    reader: ShardReader,
    manifest: Manifest,
    shares: Tensor,
    *,
    samples: int,
    batch: int,
    world: World,
) -> tuple[list[Metric], dict[str, dict[str, Any]], dict[str, Units]]:
    """Of the model and of the shares of tokens [V], over so many test samples: metrics, protocol by its id, units.

    A sample of T tokens costs T passes over it.
    """
    count = min(samples, len(reader))
    chosen = [place * len(reader) // count for place in range(count)]
    nll, tokens, owners = score_alone(task, nets, [_read(reader, place) for place in chosen], batch=batch, world=world)
    protocol = describe_pseudo(manifest, count)
    identifier = protocol_id(protocol)
    subjects = (("test", nll), ("baseline/unigram", -shares.log()[tokens]))
    metrics = [pseudo_metric(name, per_token, owners, identifier) for name, per_token in subjects]
    ids, places = np.unique(owners.numpy(), return_inverse=True)
    sums, sizes = np.zeros(len(ids)), np.bincount(places, minlength=len(ids)).astype(np.float64)
    np.add.at(sums, places, nll.numpy())
    units = Units(ids=np.array(chosen, np.int64)[ids], sums=sums, sizes=sizes)
    known = world.rank == 0 and metrics[0].undefined is None
    return metrics, {identifier: protocol}, {metrics[0].name: units} if known else {}


def pseudo_metric(prefix: str, nll: Tensor, owners: Tensor, protocol: str) -> Metric:
    """exp of the mean negative log-likelihood of tokens [N] float64, whose samples are the clusters of its error."""
    name, unit = f"{prefix}/pseudo_perplexity", "1/token"
    _, places = owners.unique(return_inverse=True)
    zeros = torch.zeros(int(places.max()) + 1 if len(places) else 0, dtype=torch.float64)
    of_sample, sizes = zeros.index_add(0, places, nll), zeros.index_add(0, places, torch.ones_like(nll))
    sums = {key: float(value) for key, value in cluster_sums(of_sample, sizes).items()}
    if problem := lacking(sums["nll"], len(nll)):
        return Metric(name, None, None, len(nll), unit, "lower", protocol, undefined=problem)
    value, error = math.exp(min(sums["nll"] / sums["tokens"], 700.0)), ratio_stderr(sums)
    return Metric(name, value, None if error is None else error * value, len(nll), unit, "lower", protocol)


@torch.no_grad()
def score_alone(
    task: MaskedLM, nets: Mapping[str, nn.Module], samples: list[Sample], *, batch: int, world: World
) -> PerToken:
    """Every ordinary token of the samples, hidden alone, as [N] each, in order; ranks take turns, all get the whole."""
    places = [np.flatnonzero(task.ordinary[sample["tokens"][1:]]) for sample in samples]
    owners = np.repeat(np.arange(len(samples)), np.array([len(each) for each in places], np.int64))
    flat = np.concatenate([np.empty(0, np.int64), *places])
    tokens = [sample["tokens"][1:][each] for sample, each in zip(samples, places, strict=True)]
    nll = torch.zeros(len(flat), dtype=torch.float64)
    mine = np.arange(world.rank, len(flat), world.size)
    progress = Progress("evaluate", len(mine), "hidden tokens", visible=world.rank == 0)
    for start in range(0, len(mine), batch):
        rows = mine[start : start + batch]
        collated = task.collate_alone([samples[owner] for owner in owners[rows]], flat[rows])
        nll[torch.from_numpy(rows)] = task.score(nets, collated.to(world.device))[..., 0].sum(1).cpu()
        if progress.due():
            progress.show(start, rate(progress.per_s(start), "tokens"))
    wanted = np.concatenate([np.empty(0, np.int64), *tokens]).astype(np.int64)
    return world.sum(nll), torch.from_numpy(wanted), torch.from_numpy(owners)


def _read(reader: ShardReader, place: int) -> Sample:
    return {"position": place, "id": place} | decode(reader[place])
