"""The evaluation of a classifier of tokens: one pass, whatever the ranks and the batch size, and its reasons."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import Tensor, nn

from configs.folder import RunFolder
from data.manifest import read_manifest
from data.prepare import prepare
from data.vocabulary import stored_tokenizer
from tests.tiny import ALONE, CONFIGS, on_ranks, open_readers, read_samples, shrink, write_rows
from trainer.distributed import World, seed_all
from trainer.evaluation.contract import Result
from trainer.evaluation.token_classes import evaluate, token_metrics
from trainer.models.cross_entropy import IGNORE
from trainer.tasks import build_task
from trainer.tasks.token_classification import TokenClassification, tag_logits

reference: Any = metrics


class Prepared:
    """Tagged passages, and a small encoder of random weights."""

    def __init__(self, root: Path) -> None:
        rows = write_rows(root / "rows.jsonl")
        source = f"{{kind: files, paths: ['{rows}'], label_field: kind, tags_field: tags}}"
        path = next(path for path in CONFIGS if "token_classification" in path.read_text(encoding="utf-8"))
        self.path, self.source = path, source
        self.run = shrink(path, data__source=source, task__evaluation__mistakes=2)
        self.folder = RunFolder(root / "run")
        self.folder.logs.mkdir(parents=True)
        prepare(self.run, self.folder)
        self.manifest = read_manifest(self.folder.manifest)
        self.readers = open_readers(self.folder, self.manifest)
        task = build_task(self.run, self.manifest, stored_tokenizer(self.folder.tokenizer))
        assert isinstance(task, TokenClassification)
        self.task = task
        seed_all(0)
        self.net = task.networks()["model"].eval()

    def evaluate(self, world: World = ALONE, *, net: nn.Module | None = None, batch: int = 64) -> Result:
        run = shrink(self.path, data__source=self.source, task__evaluation__batch_samples=batch)
        nets: Mapping[str, nn.Module] = {"model": net or self.net}
        return evaluate(run, self.folder, self.manifest, self.readers, self.task, nets, world)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return Prepared(tmp_path_factory.mktemp("tags"))


def test_numbers_and_units_are_the_same_on_any_ranks_and_in_any_batches(prepared: Prepared) -> None:
    alone = prepared.evaluate(batch=7)
    others = [on_ranks(size, lambda world: prepared.evaluate(world, batch=3))[0] for size in (2, 4)]
    for result in (prepared.evaluate(batch=1), *others):
        for ours, theirs in zip(result.metrics, alone.metrics, strict=True):
            assert (ours.name, ours.undefined) == (theirs.name, theirs.undefined)
            assert ours.value == (theirs.value and pytest.approx(theirs.value, rel=1e-6))
        for name, units in alone.units.items():
            np.testing.assert_array_equal(result.units[name].ids, units.ids)
            np.testing.assert_allclose(result.units[name].sums, units.sums, rtol=1e-5)
        assert result.figures[:3] == alone.figures[:3]


def test_the_figures_are_of_every_token_and_the_units_add_up(prepared: Prepared) -> None:
    result = prepared.evaluate()
    values = {metric.name: metric.value for metric in result.metrics}
    batch = prepared.task.collate(read_samples(prepared.readers["test"], range(len(prepared.readers["test"]))))
    with torch.inference_mode():
        predicted = tag_logits(prepared.net, batch).argmax(2)
    asked = batch.tensors["tags"] != IGNORE
    truth, guess = batch.tensors["tags"][asked].numpy(), predicted[asked].numpy()
    spans, by_tag, matrix, bars = result.figures
    tags = range(len(prepared.manifest.tags))
    assert matrix["values"] == reference.confusion_matrix(truth, guess, labels=tags).tolist()
    assert by_tag["rows"][0][3] == pytest.approx(reference.recall_score(truth, guess, labels=[0], average=None)[0])
    assert (len(spans["rows"]), bars["kind"]) == (1, "bars")
    assert values["test/accuracy"] == pytest.approx((truth == guess).mean())
    for name, units in result.units.items():
        if values[name] is not None:
            assert units.sums.sum() / units.sizes.sum() == pytest.approx(values[name])
    json.dumps(result.figures, allow_nan=False)


class Broken(nn.Module):
    """Scores that are not numbers."""

    def __init__(self, tags: int) -> None:
        super().__init__()
        self.tags = tags

    def forward(self, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
        return torch.full((*tokens.shape, self.tags), math.nan)


def test_scores_that_are_not_numbers_leave_every_metric_undefined(prepared: Prepared) -> None:
    result = prepared.evaluate(net=Broken(len(prepared.manifest.tags)))
    own = [metric for metric in result.metrics if metric.name.startswith("test/")]
    assert {metric.undefined for metric in own} == {"the scores of some tokens are not numbers"}
    assert [metric.name for metric in own] == [
        m.name for m in prepared.evaluate().metrics if m.name.startswith("test/")
    ]
    assert (result.figures, result.units) == ((), {})


def test_a_split_without_spans_has_an_accuracy_and_no_f1(prepared: Prepared) -> None:
    tags = torch.zeros(2, 5, dtype=torch.int64)
    nll = torch.ones(2, dtype=torch.float64)
    sums = {name: float(value) for name, value in prepared.task.sums(nll, tags, tags).items()}
    told = {metric.name: metric for metric in token_metrics("test", sums, ["first"], "p")}
    assert told["test/accuracy"].value == 1
    assert (
        told["test/f1"].undefined == told["test/precision"].undefined == "the split has no span, and none is predicted"
    )
    assert told["test/recall"].undefined == "the split has no span"
    assert told["test/f1_first"].undefined == "the split has no span of first, and none is predicted"


def test_an_empty_split_leaves_every_metric_undefined() -> None:
    assert {metric.undefined for metric in token_metrics("test", {}, ["first"], "p")} == {
        "no token of the split has a tag"
    }
