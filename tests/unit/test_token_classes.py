"""The evaluation of a classifier of tokens: one pass, whatever the ranks and the batch size, and its reasons."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import Tensor, nn

from configs.folder import RunFolder
from configs.metrics import Metric
from data.manifest import read_manifest
from data.prepare import prepare
from data.samples import encode_array
from data.vocabulary import stored_tokenizer
from tests.tiny import ALONE, CONFIGS, on_ranks, open_readers, read_samples, shrink, write_rows
from tests.unit.test_token_classification import task as small_task
from trainer.distributed import World, seed_all
from trainer.evaluation.contract import Result
from trainer.evaluation.tag_metrics import token_metrics
from trainer.evaluation.tag_survey import Survey, survey_tags
from trainer.evaluation.token_classes import evaluate
from trainer.models.cross_entropy import IGNORE
from trainer.task import Batch
from trainer.tasks import build_task
from trainer.tasks.token_classification import TokenClassification, tag_logits

reference: Any = metrics
TAGS = ("O", "B-PER", "I-PER", "LOC")


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
    size = len(prepared.readers["test"])
    assert {metric.undefined for metric in own} == {f"the scores of {size} of {size} samples are not numbers"}
    assert [metric.name for metric in own] == [
        m.name for m in prepared.evaluate().metrics if m.name.startswith("test/")
    ]
    assert (result.figures, result.units) == ((), {})


KINDS = ["PER", "LOC"]


class Listed(list[dict[str, bytes]]):
    """Stored samples of given tags, every token another."""

    def __init__(self, rows: Sequence[Sequence[int]]) -> None:
        arrays = ((np.arange(len(row) + 1, dtype="<u2"), np.array([IGNORE, *row], dtype="<i2")) for row in rows)
        super().__init__({"tokens.npy": encode_array(a), "tags.npy": encode_array(b)} for a, b in arrays)


def survey(rows: Sequence[Sequence[int]], guesses: Sequence[Sequence[int]], sure: float = 9.0) -> Survey:
    """Of a model that tags rows of the tags O, B-PER, I-PER and LOC with guesses, by so much larger a logit."""
    family = small_task()
    table = torch.zeros(len(rows), max(map(len, rows), default=0), len(TAGS))
    for row, each in enumerate(guesses):
        table[row, range(len(each)), list(each)] = sure

    def logits(batch: Batch) -> Tensor:
        return table[list(batch.ids), : batch.tensors["tokens"].shape[1]]

    reader: Any = Listed(rows)
    return survey_tags(reader, family, logits, ALONE, batch=2)


def tell(found: Survey) -> dict[str, Metric]:
    return {each.name.removeprefix("test/"): each for each in token_metrics("test", found, KINDS, "p")}


def test_a_perfect_prediction_finds_every_span_and_padding_none() -> None:
    rows = [[1, 2, 0, 3, IGNORE], [0, 3, IGNORE]]
    found = survey(rows, [[1, 2, 0, 3, 3], [0, 3, 3]])
    told = tell(found)
    assert {told[name].value for name in ("f1", "precision", "recall", "accuracy", "f1_PER", "f1_LOC")} == {1}
    assert found.spans.true.tolist() == [[1, 1], [0, 1]]
    assert (told["accuracy"].n, told["f1"].n, told["f1_LOC"].n) == (6, 3, 2)


def test_a_span_that_is_too_short_counts_against_precision_and_recall() -> None:
    told = tell(survey([[1, 2, 0, 3, 0]], [[1, 0, 0, 3, 3]]))
    assert told["f1"].value == 0
    assert told["accuracy"].value == pytest.approx(3 / 5)
    assert (told["accuracy"].stderr, told["accuracy"].interval) == (None, None)  # of one sample


def test_a_model_that_tags_nothing_has_an_f1_of_0_without_error() -> None:
    told = tell(survey([[1, 2, 0, 3, 0], [0, 3]], [[0] * 5, [0] * 2]))
    assert (told["f1"].value, told["f1"].stderr, told["precision"].value) == (0, 0, 0)
    assert told["accuracy"].stderr == pytest.approx(2 / 49)  # residuals of -1/7 and 1/7 over 7 tokens


def test_a_split_without_spans_has_an_accuracy_and_no_f1() -> None:
    told = tell(survey([[0] * 5, [0] * 3], [[0] * 5, [0] * 3]))
    assert told["accuracy"].value == 1
    assert told["f1"].undefined == told["precision"].undefined == "the split has no span, and none is predicted"
    assert told["recall"].undefined == "the split has no span"
    assert told["f1_LOC"].undefined == "the split has no span of LOC, and none is predicted"


def test_an_empty_split_leaves_every_metric_undefined() -> None:
    assert {each.undefined for each in tell(survey([], [])).values()} == {"no token of the split has a tag"}


def test_a_tag_that_is_ruled_out_makes_the_loss_infinite_which_is_said() -> None:
    ruled_out = survey([[0, 3], [0, 0]], [[1, 3], [1, 1]], sure=-math.inf)
    told = tell(ruled_out)
    assert told["loss"].undefined == "a tag of 1 of 2 samples has probability 0, so the loss is infinite"
    assert told["accuracy"].value == 0.75
    assert set(ruled_out.units()) == {"test/accuracy", "test/f1"}


def test_spans_by_kind_are_those_of_scikit_learn_where_each_token_is_one() -> None:
    rng = np.random.default_rng(0)
    truth = [[int(rng.choice([0, 1, 3])), 0] * 3 for _ in range(60)]  # no two spans side by side
    guess = [[int(rng.choice([0, 1, 3])), 0] * 3 for _ in range(60)]
    told = tell(survey(truth, guess))
    flat = [np.array(each).ravel() for each in (truth, guess)]
    by_kind = reference.f1_score(*flat, labels=[1, 3], average=None)
    assert [told["f1_PER"].value, told["f1_LOC"].value] == pytest.approx(by_kind.tolist(), rel=1e-12)
    assert told["f1"].value == pytest.approx(reference.f1_score(*flat, labels=[1, 3], average="micro"), rel=1e-12)


def test_resamples_without_a_tagged_token_are_left_out_of_the_calibration_error() -> None:
    found = survey([[IGNORE], [0, 1, 0]], [[0], [0, 1, 1]], sure=1.0)
    told = tell(found)["calibration_error"]
    assert told.value is not None
    assert told.stderr is None or told.stderr > 0, "and numpy divided nothing by 0, which is an error here"


def test_an_interval_is_that_of_resampled_samples_and_an_error_its_spread() -> None:
    rng = np.random.default_rng(1)
    truth = [rng.choice([0, 1, 3], rng.integers(2, 9)).tolist() for _ in range(80)]
    guess = [[tag if rng.random() < 0.7 else 0 for tag in row] for row in truth]
    found = survey(truth, guess, sure=1.0)
    told = tell(found)
    again = [rng.integers(0, 80, 80) for _ in range(2000)]
    shares = np.array([found.correct[each].sum() / found.tokens[each].sum() for each in again])
    assert told["accuracy"].stderr == pytest.approx(shares.std(), rel=0.08)
    assert told["accuracy"].interval == pytest.approx(tuple(np.quantile(shares, [0.025, 0.975])), abs=0.01)
    errors = np.array([np.abs(found.gaps[each].sum(0)).sum() / found.tokens[each].sum() for each in again])
    assert told["calibration_error"].stderr == pytest.approx(errors.std(), rel=0.08)
    assert told["calibration_error"].interval is None
    for name in ("f1", "f1_PER", "f1_LOC", "precision", "recall"):
        low, high = told[name].interval or (1.0, 0.0)
        assert low < (told[name].value or 0.0) < high
        assert (told[name].stderr or 0.0) == pytest.approx((high - low) / 3.92, rel=0.2)
