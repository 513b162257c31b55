"""Scores what a language model has to beat, on the tokens that it is scored on."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data.manifest import Manifest, split_digest
from data.packing import Ids
from data.progress import say
from trainer.distributed import World
from trainer.evaluation.contract import cluster_sums
from trainer.evaluation.documents import document_units
from trainer.evaluation.ngram import KneserNey
from trainer.evaluation.windows import Window, known_nll
from trainer.task import Sums

ORDERS = ("uniform", "unigram", "bigram", "trigram", "fourgram")


def score_baselines(
    order: int,
    manifest: Manifest,
    training: Sequence[Ids],
    documents: Sequence[Ids],
    windows: Sequence[Window],
    world: World,
) -> dict[str, dict[str, float]]:
    """Sums of each baseline up to n-grams of `order` over the windows' scored tokens; ranks take turns with them.

    Without training documents n-grams have no counts, and their sums are 0.
    """
    zero = {name: torch.zeros((), dtype=torch.float64) for name in cluster_sums(torch.zeros(1), torch.zeros(1))}
    results: dict[str, dict[str, float]] = {}
    for each in range(order + 1):
        mine = zero
        if each % world.size == world.rank and (training or not each):
            per_token = list(_per_token(each, manifest, training, documents))
            mine = document_sums(known_nll(per_token, windows), windows)
        results[ORDERS[each]] = world.sum_all(mine)
    return results


def _per_token(
    order: int, manifest: Manifest, training: Sequence[Ids], documents: Sequence[Ids]
) -> Iterator[NDArray[np.float64]]:
    """Negative log-likelihood of each document's tokens, in nats; order 0 knows the vocabulary's size alone."""
    size = manifest.text.vocabulary_size
    if order == 0:
        yield from (np.full(len(document), math.log(size)) for document in documents)
        return
    say("evaluate", f"counting {ORDERS[order]}s for the baseline")
    model = KneserNey(training, order=order, vocabulary_size=size, boundary=manifest.text.end_of_document_id)
    yield from (model.nll(document) for document in documents)


def document_sums(nll: NDArray[np.float64], windows: Sequence[Window]) -> Sums:
    """What metrics and their errors are made of, from the negative log-likelihood of each window [windows].

    Documents are what was drawn: the windows of one are as like each other as their stride is small.
    """
    units = document_units(windows, nll)
    return cluster_sums(torch.from_numpy(units.sums), torch.from_numpy(units.sizes))


def describe_baselines(order: int, manifest: Manifest) -> dict[str, Any]:
    """What the baselines are, as a table.

    A baseline is a model of its own: what it was counted on is its identity, as a checkpoint's digest is ours, and no
    part of the protocol, which says how models are scored and which they share.
    """
    counted = f"train split {split_digest(manifest, 'train')[:16]}"
    estimate = "interpolated Kneser-Ney, one discount per order (Chen and Goodman, 1998)"
    uniform = ["uniform", f"1 / {manifest.text.vocabulary_size}", "nothing"]
    return {
        "kind": "table",
        "title": "Baselines",
        "columns": ["baseline", "probability of a token", "counted on"],
        "rows": [uniform, *([name, estimate, counted] for name in ORDERS[1 : order + 1])],
        "note": "Scored on the same tokens as the model, under the same protocol.",
    }
