"""The evaluation of a masked language model: its metrics, its baseline and its examples."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from torch import nn

from configs.folder import RunFolder
from configs.schema import RunConfig
from data.manifest import Manifest, read_manifest
from data.prepare import prepare
from data.shards import ShardReader
from data.vocabulary import stored_tokenizer
from tests.tiny import ALONE, CONFIGS, on_ranks, open_readers, read_samples, shrink, write_texts
from trainer.distributed import World, seed_all
from trainer.evaluation.calibration import BINS, calibration_error, confidence_sums
from trainer.evaluation.contract import Result
from trainer.evaluation.masked import evaluate, masked_metrics, score_unigram, show_examples, unigram
from trainer.evaluation.passages import Passages, passage_figures, score_passages, stderr_of_calibration
from trainer.models.cross_entropy import IGNORE
from trainer.tasks import build_task
from trainer.tasks.masked_lm import MaskedLM, hidden_logits

DEMO = next(path for path in CONFIGS if path.stem == "demo-mlm")


class Prepared:
    """Shards of a few generated texts, and a small encoder of random weights."""

    def __init__(self, root: Path) -> None:
        source = f"{{kind: files, paths: ['{write_texts(root / 'raw')}'], document: line}}"
        self.settings = {"data__source": source, "data__packing": "document"}
        self.run: RunConfig = shrink(DEMO, **self.settings)
        self.folder = RunFolder(root / "run")
        self.folder.logs.mkdir(parents=True)
        prepare(self.run, self.folder)
        self.manifest: Manifest = read_manifest(self.folder.manifest)
        self.readers: dict[str, ShardReader] = open_readers(self.folder, self.manifest)
        task = build_task(self.run, self.manifest, stored_tokenizer(self.folder.tokenizer))
        assert isinstance(task, MaskedLM)
        self.task = task
        seed_all(0)
        self.net = task.networks()["model"].eval()

    def evaluate(self, world: World = ALONE, *, net: nn.Module | None = None, **changes: int) -> Result:
        run = shrink(DEMO, **self.settings, **changes) if changes else self.run
        nets = {"model": net or self.net}
        return evaluate(run, self.folder, self.manifest, self.readers, self.task, nets, world)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return Prepared(tmp_path_factory.mktemp("masked"))


def passages_of(numbers: np.ndarray, gaps: np.ndarray) -> Passages:
    """As many samples as there are numbers, each of which is all of a sample's."""
    return Passages(np.arange(len(numbers)), nll=numbers, correct=numbers, tokens=numbers, gaps=gaps)


def targets_of(prepared: Prepared) -> list[np.ndarray]:
    """The tokens to predict of each test sample."""
    samples = read_samples(prepared.readers["test"], range(len(prepared.readers["test"])))
    rows = [prepared.task.collate([sample]).tensors["targets"][0].numpy() for sample in samples]
    return [row[row != IGNORE] for row in rows]


def test_the_test_split_is_scored_beside_the_unigram_baseline(prepared: Prepared) -> None:
    result = prepared.evaluate(task__evaluation__pseudo_documents=0)
    names = ("accuracy", "loss", "masked_perplexity")
    values = {metric.name: metric.value for metric in result.metrics if metric.value is not None}
    assert list(values) == [
        *(f"test/{name}" for name in (*names, "calibration_error")),
        *(f"baseline/unigram/{name}" for name in names),
    ]
    assert {metric.protocol for metric in result.metrics} == set(result.protocols)
    assert {metric.n for metric in result.metrics} == {sum(map(len, targets_of(prepared)))}
    assert values["test/masked_perplexity"] == pytest.approx(math.exp(values["test/loss"]))


def test_the_numbers_are_the_same_for_any_number_of_ranks(prepared: Prepared) -> None:
    alone = prepared.evaluate()
    for result in on_ranks(3, prepared.evaluate):
        for ours, theirs in zip(result.metrics, alone.metrics, strict=True):
            assert ours.value == pytest.approx(theirs.value, rel=1e-6)
            assert (ours.stderr or 0.0) == pytest.approx(theirs.stderr or 0.0, rel=1e-5)


def test_the_baseline_is_that_of_the_shares_in_the_train_split(prepared: Prepared) -> None:
    train = read_samples(prepared.readers["train"], range(len(prepared.readers["train"])))
    counts = np.bincount(
        np.concatenate([sample["tokens"][1:] for sample in train]), minlength=prepared.task.vocabulary_size
    ).astype(float)
    counts[prepared.task.ordinary] += 1
    counts[~prepared.task.ordinary] = 0
    shares = unigram(prepared.readers["train"], prepared.task, ALONE)
    assert shares.numpy() == pytest.approx(counts / counts.sum())
    sums = score_unigram(prepared.readers["test"], prepared.task, shares, ALONE, batch=4)
    wanted = np.concatenate(targets_of(prepared))
    assert sums["nll"] == pytest.approx(-np.log(counts[wanted] / counts.sum()).sum())
    assert sums["correct"] == (wanted == counts.argmax()).sum()
    assert sums["clusters"] == len(prepared.readers["test"])


def test_an_empty_test_split_leaves_every_metric_undefined_and_says_why(prepared: Prepared) -> None:
    readers = prepared.readers | {"test": ShardReader(prepared.folder.data, (), prepared.manifest.fields)}
    nets, run = {"model": prepared.net}, shrink(DEMO, **prepared.settings, task__evaluation__pseudo_documents=2)
    result = evaluate(run, prepared.folder, prepared.manifest, readers, prepared.task, nets, ALONE)
    assert {metric.undefined for metric in result.metrics} == {"the split has no token to score"}
    names = {metric.name.rpartition("/")[2] for metric in result.metrics}
    assert names == {"accuracy", "loss", "masked_perplexity", "calibration_error", "pseudo_perplexity"}
    assert not result.units


def test_units_are_samples_and_make_up_the_metrics_on_any_number_of_ranks(prepared: Prepared) -> None:
    result = prepared.evaluate(task__evaluation__pseudo_documents=3)
    values = {metric.name: metric.value for metric in result.metrics}
    assert set(result.units) == {"test/loss", "test/accuracy", "test/pseudo_perplexity"}
    for name, units in result.units.items():
        ratio = units.sums.sum() / units.sizes.sum()
        assert values[name] == pytest.approx(math.exp(ratio) if "perplexity" in name else ratio, rel=1e-9)
    assert result.units["test/loss"].ids.tolist() == list(range(len(prepared.readers["test"])))
    assert result.units["test/loss"].sizes.tolist() == [len(row) for row in targets_of(prepared)]
    first, second = on_ranks(2, lambda world: prepared.evaluate(world, task__evaluation__pseudo_documents=3))
    for name, units in result.units.items():
        assert first.units[name].ids.tolist() == units.ids.tolist()
        assert first.units[name].sums == pytest.approx(units.sums, rel=1e-5)
    assert (second.units, second.figures, second.samples) == ({}, (), ())


def test_figures_show_the_hardest_samples_and_how_sure_the_network_is(prepared: Prepared) -> None:
    result = prepared.evaluate()
    units = result.units["test/loss"]
    reliable, table, bars = result.figures
    assert [each["kind"] for each in result.figures] == ["bars", "table", "bars"]
    assert "hidden" in reliable["title"]
    bits = units.sums / units.sizes / math.log(2)
    assert table["rows"][0][:3] == [bits.argmax(), units.sizes[bits.argmax()], round(bits.max(), 4)]
    assert table["rows"][-1][0] == bits.argmin()
    assert all(isinstance(row[-1], str) and row[-1] for row in table["rows"])
    assert sum(bars["y"]) == len(units.ids)
    assert json.loads(json.dumps(result.figures, allow_nan=False)) == list(result.figures)


@torch.no_grad()
def test_the_calibration_is_that_of_the_likeliest_token_of_every_hidden_place(prepared: Prepared) -> None:
    samples = read_samples(prepared.readers["test"], range(len(prepared.readers["test"])))
    batch = prepared.task.collate(samples)
    p = hidden_logits(prepared.net, batch).softmax(1).max(1)
    targets = batch.tensors["targets"]
    sums = confidence_sums(p.values, p.indices == targets[targets != IGNORE])
    expected = calibration_error({name: float(value) for name, value in sums.items()})
    values = {metric.name: metric.value for metric in prepared.evaluate().metrics}
    assert values["test/calibration_error"] == pytest.approx(expected, abs=1e-6)


def test_the_calibration_s_error_is_that_of_drawing_other_samples_on_any_number_of_ranks(prepared: Prepared) -> None:
    reader, rng = prepared.readers["test"], np.random.default_rng(0)
    _, passages = score_passages(prepared.task, {"model": prepared.net}, reader, ALONE, batch=3)
    drawn = rng.integers(0, len(passages.ids), (4000, len(passages.ids)))
    errors = [np.abs(passages.gaps[row].sum(0)).sum() / passages.tokens[row].sum() for row in drawn]
    found = [result.metrics[3] for result in (prepared.evaluate(), *on_ranks(3, prepared.evaluate))]
    assert {(metric.name, metric.interval) for metric in found} == {("test/calibration_error", None)}
    assert found[0].stderr == pytest.approx(np.std(errors), rel=0.1)
    assert [metric.stderr for metric in found] == pytest.approx([found[0].stderr] * 4, rel=1e-5)


def test_one_sample_gives_the_calibration_no_error() -> None:
    gaps = np.eye(BINS)[:2] * [[0.25], [0.5]]
    two, one = (passages_of(np.ones(size), gaps[:size]) for size in (2, 1))
    assert stderr_of_calibration(two, ALONE)
    assert stderr_of_calibration(one, ALONE) is None


def test_of_samples_without_a_hidden_token_there_is_no_figure(prepared: Prepared) -> None:
    tokenizer = Tokenizer.from_file(str(prepared.folder.tokenizer))
    nothing = passages_of(np.zeros(2), np.zeros((2, BINS)))
    assert passage_figures(nothing, prepared.readers["test"], tokenizer) == []


def test_errors_are_those_of_ratios_over_samples() -> None:
    tokens, correct = np.array([3.0, 5.0, 2.0, 4.0]), np.array([1.0, 4.0, 0.0, 2.0])
    nll = np.array([9.0, 8.0, 7.0, 6.0])
    pairs = {"nll": nll, "correct": correct}
    sums = {"tokens": tokens.sum(), "clusters": 4.0, "tokens_tokens": (tokens**2).sum()}
    for name, each in pairs.items():
        sums |= {name: each.sum(), f"{name}_{name}": (each**2).sum(), f"{name}_tokens": (each * tokens).sum()}
    got = {metric.name: (metric.value, metric.stderr) for metric in masked_metrics("test", sums, "p")}
    for name, each in (("accuracy", correct), ("loss", nll)):
        ratio = each.sum() / tokens.sum()
        error = math.sqrt(((each - ratio * tokens) ** 2).sum() * 4 / 3) / tokens.sum()
        assert got[f"test/{name}"] == pytest.approx((ratio, error))
    loss, error = got["test/loss"]
    assert loss is not None
    assert error is not None
    assert got["test/masked_perplexity"] == pytest.approx((math.exp(loss), error * math.exp(loss)))


def test_examples_show_the_passage_its_hidden_tokens_and_the_guesses(prepared: Prepared) -> None:
    tokenizer = Tokenizer.from_file(str(prepared.folder.tokenizer))
    examples = show_examples(prepared.readers["test"], prepared.task, prepared.net, tokenizer, ALONE, examples=3)
    assert len(examples) == 3
    assert all(isinstance(value, str) for example in examples for value in example.values())
    first = examples[0]
    assert first["sample"] == "0"
    (sample,) = read_samples(prepared.readers["test"], [0])
    batch = prepared.task.collate([sample])
    hidden = [tokenizer.decode([token]) for token in targets_of(prepared)[0].tolist()]
    lines = first["hidden, and what the model put there"].split("; ")
    assert [line.split(": ")[0] for line in lines] == [f"[{n}] {word}" for n, word in enumerate(hidden, 1)]
    assert [f"[{n}]" in first["passage"] for n in range(1, len(hidden) + 2)] == [True] * len(hidden) + [False]
    assert "[MASK]" not in first["passage"]
    assert "[PAD]" not in first["passage"]
    with torch.inference_mode():
        right = int(prepared.task.evaluate({"model": prepared.net}, batch)["correct"])
    assert first["right"] == f"{right} of {len(hidden)}"
