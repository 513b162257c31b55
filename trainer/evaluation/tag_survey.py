"""What a classifier of tokens makes of a split, sample by sample; and figures of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data.loader import sequential
from data.shards import ShardReader
from trainer.distributed import World, add
from trainer.evaluation.calibration import BINS, confidence_sums, reliability, sum_gaps
from trainer.evaluation.class_drawings import class_table, draw_confusion
from trainer.evaluation.confusion import Counts, Ids, Numbers, counts_of, f1, precision, recall
from trainer.evaluation.contract import Units
from trainer.models.cross_entropy import IGNORE
from trainer.task import Batch
from trainer.tasks.token_classification import TokenClassification


@dataclass(frozen=True)
class Survey:
    """Of N samples by rising id: those of all ranks on the first one, elsewhere none."""

    ids: Ids
    nll: Numbers
    """[N], of all tokens, in nats"""
    correct: Numbers
    """[N], tokens whose tag is found"""
    tokens: Numbers
    """[N], that have a tag"""
    spans: Counts
    """[N, kinds]"""
    gaps: Numbers
    """[N, BINS], tokens whose tag is found less the probabilities of the tags predicted, by that probability"""
    calibration: Mapping[str, float]
    """Sums of `confidence_sums`"""
    matrix: Ids
    """[tags, tags], tokens by tag (rows) and by what it is taken for"""

    @property
    def broken(self) -> int:
        """Samples with scores that are not numbers."""
        return int(np.isnan(self.gaps).any(1).sum())

    def units(self) -> dict[str, Units]:
        """Each sample's part of the metrics, for paired tests; of the loss where it is finite."""
        spans = self.spans
        twice, both = 2 * spans.found.sum(1), (spans.true + spans.predicted).sum(1)
        parts = {"loss": (self.nll, self.tokens), "accuracy": (self.correct, self.tokens), "f1": (twice, both)}
        return {f"test/{name}": Units(self.ids, *each) for name, each in parts.items() if np.isfinite(each[0]).all()}


@torch.inference_mode()
def survey_tags(
    reader: ShardReader, task: TokenClassification, logits: Callable[[Batch], Tensor], world: World, *, batch: int
) -> Survey:
    """One pass over a split; logits [B, T, tags] of a batch."""
    tags, kinds = len(task.tags), int(task.kinds.max())
    matrix = torch.zeros(tags**2, dtype=torch.int64)
    calibration = confidence_sums(torch.zeros(0), torch.zeros(0))
    facts = [torch.zeros(0, 4 + 3 * kinds + BINS, dtype=torch.float64)]
    each: Batch
    for each in sequential(reader, task.collate, size=batch, limit=None, part=world.rank, parts=world.size):
        placed = each.to(world.device)
        scores, wanted = logits(placed), placed.tensors["tags"]
        asked, predicted = wanted != IGNORE, scores.argmax(2)
        confidence, right = scores[asked].double().softmax(1).amax(1), (predicted == wanted)[asked]
        sums = confidence_sums(confidence, right)
        calibration = add(calibration, {name: total.cpu() for name, total in sums.items()})
        matrix += torch.bincount(wanted[asked] * tags + predicted[asked], minlength=tags**2).cpu()
        nll = F.cross_entropy(scores.flatten(0, 1), wanted.flatten(), ignore_index=IGNORE, reduction="none")
        columns = [
            torch.tensor(each.ids, device=wanted.device)[:, None],
            nll.view(wanted.shape).sum(1, keepdim=True, dtype=torch.float64),
            (asked & (predicted == wanted)).sum(1, keepdim=True),
            asked.sum(1, keepdim=True),
            *(count_kinds(marks, kinds) for marks in task.begun_spans(predicted, wanted)),
            sum_gaps(confidence, right, asked),
        ]
        facts.append(torch.cat([column.double() for column in columns], 1).cpu())
    table = world.collect(torch.cat(facts)).numpy()
    whole = world.sum(matrix).numpy().astype(np.int64).reshape(tags, tags)
    return _survey(table[np.argsort(table[:, 0])], kinds, world.sum_all(calibration), whole)


def count_kinds(marks: Tensor, kinds: int) -> Tensor:
    """How many spans of each kind a sample has, [B, kinds]; marks [B, T] are their kinds, from 1, where they begin."""
    counts = torch.zeros(len(marks), kinds + 1, dtype=torch.int64, device=marks.device)
    return counts.scatter_add_(1, marks, torch.ones_like(marks))[:, 1:]


def _survey(table: Numbers, kinds: int, calibration: Mapping[str, float], matrix: Ids) -> Survey:
    ids, nll, correct, tokens = table[:, :4].T
    true, predicted, found = (table[:, 4 + place * kinds : 4 + (place + 1) * kinds] for place in range(3))
    spans = Counts(true=true, predicted=predicted, found=found)
    return Survey(ids.astype(np.int64), nll, correct, tokens, spans, table[:, -BINS:], calibration, matrix)


def draw_tags(survey: Survey, tags: Sequence[str], kinds: Sequence[str]) -> tuple[dict[str, Any], ...]:
    """Figures: spans by kind, tokens by tag, confusion matrix, reliability diagram."""
    counts = Counts(*(each.sum(0) for each in (survey.spans.true, survey.spans.predicted, survey.spans.found)))
    numbers = zip(
        kinds,
        *(each.astype(np.int64).tolist() for each in (counts.true, counts.predicted, counts.found)),
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
    return spans, by_tag, *confusion, reliability(survey.calibration, "Reliability")
