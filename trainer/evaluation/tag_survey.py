"""What a token classifier makes of a split: sums, a confusion matrix and each sample's part; and figures of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from data.loader import sequential
from data.shards import ShardReader
from trainer.distributed import World, add
from trainer.evaluation.calibration import confidence_sums, reliability
from trainer.evaluation.class_drawings import class_table, draw_confusion
from trainer.evaluation.confusion import Counts, Ids, counts_of, f1, precision, recall
from trainer.evaluation.contract import Units
from trainer.models.cross_entropy import IGNORE
from trainer.task import Batch, Sums
from trainer.tasks.token_classification import TokenClassification, tag_logits


@dataclass(frozen=True)
class Survey:
    """What a model makes of a split: sums on every rank, samples on the first."""

    sums: Mapping[str, float]
    """Those of `task.sums`, and of calibration"""
    matrix: Ids
    """Tokens by tag (rows) and by what it is taken for [tags, tags]"""
    samples: NDArray[np.float64]
    """[N, 6] by rising id: id, nll, correct tokens, tokens, twice the spans found, spans true and predicted"""

    def units(self) -> dict[str, Units]:
        """Each sample's part of the metrics, for paired tests."""
        ids, nll, correct, tokens, twice, both = self.samples.T
        parts = {"loss": (nll, tokens), "accuracy": (correct, tokens), "f1": (twice, both)}
        return {f"test/{name}": Units(ids.astype(np.int64), *each) for name, each in parts.items()}


@torch.inference_mode()
def survey_tags(
    reader: ShardReader, task: TokenClassification, model: nn.Module, world: World, *, batch: int
) -> Survey:
    """One pass over a split."""
    tags_in_all = len(task.tags)
    sums: Sums = {}
    matrix, rows = torch.zeros(tags_in_all**2, dtype=torch.int64), [torch.zeros(0, 6, dtype=torch.float64)]
    each: Batch
    for each in sequential(reader, task.collate, size=batch, limit=None, part=world.rank, parts=world.size):
        placed = each.to(world.device)
        logits, tags = tag_logits(model, placed), placed.tensors["tags"]
        nll = F.cross_entropy(logits.flatten(0, 1), tags.flatten(), ignore_index=IGNORE, reduction="none")
        by_sample, predicted, asked = nll.view(tags.shape).sum(1, dtype=torch.float64), logits.argmax(2), tags != IGNORE
        confidence = logits[asked].double().softmax(1).amax(1)
        sums = add(sums, task.sums(by_sample, predicted, tags))
        sums = add(sums, confidence_sums(confidence, (predicted == tags)[asked]))
        matrix += torch.bincount(tags[asked] * tags_in_all + predicted[asked], minlength=tags_in_all**2).cpu()
        true, guessed, found = ((kind > 0).sum(1) for kind in task.begun_spans(predicted, tags))
        right = (asked & (predicted == tags)).sum(1)
        facts = (torch.tensor(each.ids, device=tags.device), by_sample, right, asked.sum(1), 2 * found, true + guessed)
        rows.append(torch.stack([fact.double() for fact in facts], 1).cpu())
    samples = world.collect(torch.cat(rows)).numpy()
    whole = world.sum(matrix).numpy().astype(np.int64).reshape(tags_in_all, tags_in_all)
    return Survey(world.sum_all(sums), whole, samples[np.argsort(samples[:, 0])])


def draw_tags(survey: Survey, tags: Sequence[str], kinds: Sequence[str]) -> tuple[dict[str, Any], ...]:
    """Figures: spans by kind, tokens by tag, confusion matrix, reliability diagram."""
    true, predicted, found = (
        np.array([survey.sums[f"{name}/{number}"] for number in range(len(kinds))])
        for name in ("true", "predicted", "found")
    )
    counts = Counts(true=true, predicted=predicted, found=found)
    numbers = zip(
        kinds,
        true.tolist(),
        predicted.tolist(),
        found.tolist(),
        *(each(counts).tolist() for each in (precision, recall, f1)),
        strict=True,
    )
    spans = {
        "kind": "table",
        "title": "Spans by kind",
        "columns": ["kind", "in the text", "predicted", "found", "precision", "recall", "F1"],
        "rows": [list(row) for row in numbers],
    }
    by_tag = class_table(counts_of(survey.matrix), tags, None, what="tokens", name="tag")
    confusion = draw_confusion(survey.matrix, tags, what="tokens")
    return spans, by_tag, *confusion, reliability(survey.sums, "Reliability")
