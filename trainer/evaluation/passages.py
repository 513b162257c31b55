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
from trainer.evaluation.calibration import BINS, confidence_sums, sum_gaps
from trainer.evaluation.contract import Units
from trainer.evaluation.documents import Figure, beginning, extremes, histogram
from trainer.evaluation.intervals import calibration_stderr, resampled_sums
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
    gaps: NDArray[np.float64]
    """[N, BINS], of `sum_gaps`"""

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
    rows = [torch.zeros(0, 4 + BINS, dtype=torch.float64)]
    each: Batch
    for each in sequential(reader, task.collate, size=batch, limit=None, part=world.rank, parts=world.size):
        found = task.score(nets, each.to(world.device)).cpu()  # [B, T, 3]
        hidden = each.tensors["targets"] != IGNORE
        ids = torch.tensor(each.ids, dtype=torch.float64)
        numbers = torch.stack((ids, found[..., 0].sum(1), found[..., 2].sum(1), hidden.sum(1)), dim=1)
        confidence, right = found[hidden][:, 1].exp(), found[hidden][:, 2]
        rows.append(torch.cat((numbers, sum_gaps(confidence, right, hidden)), dim=1))
        calibration = add(calibration, confidence_sums(confidence, right))
    mine = torch.cat(rows)
    sums = world.sum_all(masked_sums(*mine[:, 1:4].T) | calibration)
    everyone = world.collect(mine)
    ordered = everyone[everyone[:, 0].argsort()].numpy()
    ids, nll, correct, tokens = ordered[:, :4].T
    return sums, Passages(ids.astype(np.int64), nll, correct, tokens, ordered[:, 4:])


def stderr_of_calibration(passages: Passages, world: World) -> float | None:
    """Of the calibration error, over resamples of the samples; on all ranks, None where there is none."""
    mine = None
    if len(passages.ids):  # rank 0 has all, others none
        mine = calibration_stderr(resampled_sums(np.column_stack([passages.tokens, passages.gaps])))
    return float(world.sum(torch.tensor(mine or 0.0, dtype=torch.float64))) or None


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
