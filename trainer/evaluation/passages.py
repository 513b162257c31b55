"""A masked language model's score by sample: sums over all, what is paired, and which ones it finds hard and easy."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import nn

from data.loader import sequential
from data.samples import decode
from data.shards import ShardReader
from trainer.distributed import World, add
from trainer.evaluation.calibration import confidence_sums
from trainer.evaluation.contract import Units
from trainer.evaluation.documents import Figure, beginning, extremes, histogram
from trainer.models.cross_entropy import IGNORE
from trainer.task import Batch
from trainer.tasks.masked_lm import MaskedLM, masked_sums


@dataclass(frozen=True)
class Passages:
    """How each sample's hidden tokens were predicted, in the order of the split."""

    ids: NDArray[np.int64]
    """[N], the samples' numbers in the split"""
    nll: NDArray[np.float64]
    correct: NDArray[np.float64]
    tokens: NDArray[np.float64]
    """Hidden ones"""

    def units(self) -> dict[str, Units]:
        """By the metric that they make up."""
        parts = {"test/loss": self.nll, "test/accuracy": self.correct}
        return {name: Units(ids=self.ids, sums=sums, sizes=self.tokens) for name, sums in parts.items()}


@torch.no_grad()
def score_passages(
    task: MaskedLM, nets: Mapping[str, nn.Module], reader: ShardReader, world: World, *, batch: int
) -> tuple[dict[str, float], Passages]:
    """Sums of `masked_sums` and of the calibration over a split, on all ranks; and by sample, on rank 0."""
    calibration = confidence_sums(torch.zeros(0), torch.zeros(0))
    rows = [torch.zeros(0, 4, dtype=torch.float64)]
    each: Batch
    for each in sequential(reader, task.collate, size=batch, limit=None, part=world.rank, parts=world.size):
        found = task.score(nets, each.to(world.device)).cpu()  # [B, T, 3]
        hidden = each.tensors["targets"] != IGNORE
        ids = torch.tensor(each.ids, dtype=torch.float64)
        rows.append(torch.stack((ids, found[..., 0].sum(1), found[..., 2].sum(1), hidden.sum(1)), dim=1))
        likeliest = found[hidden]  # [hidden, 3]
        calibration = add(calibration, confidence_sums(likeliest[:, 1].exp(), likeliest[:, 2]))
    mine = torch.cat(rows)
    sums = world.sum_all(masked_sums(*mine[:, 1:].T) | calibration)
    everyone = world.collect(mine)
    ids, nll, correct, tokens = everyone[everyone[:, 0].argsort()].numpy().T
    return sums, Passages(ids.astype(np.int64), nll, correct, tokens)


def passage_figures(passages: Passages, reader: ShardReader, tokenizer: Tokenizer) -> list[Figure]:
    """The hardest and the easiest samples, and how many are how hard, in bits per hidden token."""
    known = passages.tokens > 0
    bits = np.divide(passages.nll / math.log(2), passages.tokens, out=np.zeros(len(known)), where=known)
    if not known.any():
        return []
    shown = extremes(bits, known)
    table = {
        "kind": "table",
        "title": "Hardest and easiest samples",
        "columns": ["sample", "hidden tokens", "bits/token", "right", "begins"],
        "rows": [_row(passages, bits, place, reader, tokenizer) for place in shown],
        "note": f"The hardest first; of {len(known)} test samples, numbered as they stand in the split.",
    }
    bars = histogram(bits[known], "Samples by bits per hidden token", x_title="bits/token", y_title="samples")
    return [table, *bars]


def _row(
    passages: Passages, bits: NDArray[np.float64], place: int, reader: ShardReader, tokenizer: Tokenizer
) -> Sequence[Any]:
    number = int(passages.ids[place])
    text = tokenizer.decode(decode(reader[number])["tokens"][1:].tolist())
    counts = int(passages.tokens[place]), round(float(bits[place]), 4), int(passages.correct[place])
    return [number, *counts, beginning(text)]
