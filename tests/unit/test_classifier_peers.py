"""The numbers of a classifier against torchmetrics', on the same predictions."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics.functional.classification as reference
from torch import Tensor

from trainer.evaluation.calibration import BINS
from trainer.evaluation.class_metrics import assess, class_metrics
from trainer.evaluation.predictions import Predictions, describe, from_facts

CLASSES = 4
SAMPLES = 500
Theirs = Callable[[Tensor, Tensor], Tensor]
peers: Any = reference
PEERS: dict[str, Theirs] = {
    "accuracy": lambda shares, labels: peers.multiclass_accuracy(shares, labels, CLASSES, average="micro"),
    "top2_accuracy": lambda shares, labels: peers.multiclass_accuracy(
        shares, labels, CLASSES, average="micro", top_k=2
    ),
    "balanced_accuracy": lambda shares, labels: peers.multiclass_recall(shares, labels, CLASSES, average="macro"),
    "precision_macro": lambda shares, labels: peers.multiclass_precision(shares, labels, CLASSES, average="macro"),
    "f1_macro": lambda shares, labels: peers.multiclass_f1_score(shares, labels, CLASSES, average="macro"),
    "f1_micro": lambda shares, labels: peers.multiclass_f1_score(shares, labels, CLASSES, average="micro"),
    "f1_weighted": lambda shares, labels: peers.multiclass_f1_score(shares, labels, CLASSES, average="weighted"),
    "matthews": lambda shares, labels: peers.multiclass_matthews_corrcoef(shares, labels, CLASSES),
    "roc_area": lambda shares, labels: peers.multiclass_auroc(shares, labels, CLASSES, average="macro"),
    "average_precision": lambda shares, labels: peers.multiclass_average_precision(shares, labels, CLASSES),
    "calibration_error": lambda shares, labels: peers.multiclass_calibration_error(shares, labels, CLASSES, BINS),
    "loss": lambda shares, labels: torch.nn.functional.nll_loss(shares.log(), labels),
}


def predictions(seed: int) -> tuple[Predictions, Tensor, Tensor]:
    """What a mediocre classifier says, its probabilities [N, classes] and labels [N]; classes are of unlike size."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(CLASSES, SAMPLES, p=[0.5, 0.3, 0.15, 0.05])
    logits = rng.normal(0, 1, (SAMPLES, CLASSES)) + 1.5 * np.eye(CLASSES)[labels]
    facts, scores = describe(logits, labels)
    said = from_facts(np.column_stack([np.arange(SAMPLES, dtype=np.float64), facts]), scores.astype(np.float32))
    return said, torch.from_numpy(np.exp(scores)), torch.from_numpy(labels)


@pytest.mark.parametrize("seed", range(3))
def test_every_metric_is_that_of_torchmetrics(seed: int) -> None:
    said, shares, labels = predictions(seed)
    names = tuple(f"kind-{number}" for number in range(CLASSES))
    assessed = assess(said, CLASSES)
    assert assessed is not None
    told = class_metrics("test", said, assessed, classes=names, top=2, each="image", protocol="p")
    ours = {metric.name.removeprefix("test/"): metric.value for metric in told}
    theirs = {name: float(peer(shares, labels)) for name, peer in PEERS.items()}
    assert ours == pytest.approx(theirs, rel=1e-5)  # there in float32
    matrix: Tensor = peers.multiclass_confusion_matrix(shares, labels, CLASSES)
    assert assessed.matrix.tolist() == matrix.tolist()
    for index in range(CLASSES):
        areas = [area.by_class[index] for area in (assessed.areas or {}).values()]
        of_class = (labels == index).long()
        expected = [each(shares[:, index], of_class) for each in (peers.binary_auroc, peers.binary_average_precision)]
        assert areas == pytest.approx([float(each) for each in expected], rel=1e-5)
