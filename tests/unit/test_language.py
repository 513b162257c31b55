"""Perplexity by rolling window: against the loop that Hugging Face documents, and on any number of ranks."""

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchmetrics.text import Perplexity
from transformers import GPT2Config, GPT2LMHeadModel

import trainer.evaluation.language
import trainer.evaluation.ngram
from configs.errors import ConfigError
from configs.folder import RunFolder
from configs.schema import RunConfig
from data.manifest import Manifest, split_digest
from data.shards import ShardReader
from tests.peers import gpt2_weights
from tests.tiny import ALONE, Ids, on_ranks, open_readers, random_documents, tiny_run, write_dataset
from trainer.checkpoint import load_weights
from trainer.distributed import World
from trainer.evaluation.baselines import document_sums
from trainer.evaluation.calibration import calibration_error, confidence_sums
from trainer.evaluation.contract import Result, cluster_sums, ratio_stderr
from trainer.evaluation.language import evaluate, language_metrics, read_documents
from trainer.evaluation.ngram import KneserNey
from trainer.evaluation.windows import known_nll, rolling_windows, windows_of
from trainer.models import heads
from trainer.models.cross_entropy import IGNORE, linear_scores
from trainer.task import Sums
from trainer.tasks import build_task
from trainer.tasks.causal_lm import CausalLM

BLOCK = 15
LENGTHS = (1, 2, 9, BLOCK - 1, BLOCK, BLOCK + 1, 40)
METRICS = ("loss", "perplexity", "word_perplexity", "bits_per_byte")


def float_sums(sums: Sums) -> dict[str, float]:
    return {name: float(value) for name, value in sums.items()}


@settings(max_examples=100, deadline=None)
@given(length=st.integers(1, 90), block=st.integers(1, 20), data=st.data())
def test_every_token_is_scored_once_with_the_context_that_the_stride_promises(
    length: int, block: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, block))
    scored: list[int] = []
    for begin, end, count in rolling_windows(length, block + 1, stride):
        assert 0 < count < end - begin <= block + 1
        for place in range(end - count, end):
            assert place - begin >= min(place, block - stride)
            scored.append(place)
    assert scored == list(range(1, length))  # the first is the start token: context alone


class Prepared:
    """A data set of random documents, a GPT-2 of `transformers`, and the same weights in our decoder."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        run = self.run()
        end = 0  # where the tokenizer puts its only special token
        documents = {
            "train": random_documents([80, 3, 1, 120], vocabulary_size=270, end=end, seed=1),
            "test": random_documents(LENGTHS, vocabulary_size=270, end=end, seed=2),
        }
        self.manifest: Manifest = write_dataset(run, folder, documents)
        assert self.manifest.text.end_of_document_id == end
        self.end, self.documents = end, documents["test"]
        self.readers = open_readers(folder, self.manifest)
        self.theirs = self._gpt2()
        ours = build_task(run, self.manifest).networks()["model"].eval()
        load_weights(
            ours,
            {name: t for name, t in gpt2_weights(self.theirs).items() if name != "positions.weight"}
            | {"positions.weight": self.theirs.get_parameter("transformer.wpe.weight")[:BLOCK]},
        )
        self.ours = ours

    def _gpt2(self) -> nn.Module:
        torch.manual_seed(0)
        theirs = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=self.manifest.text.vocabulary_size,
                n_positions=BLOCK + 1,
                n_embd=32,
                n_layer=2,
                n_head=4,
                bos_token_id=self.end,
                eos_token_id=self.end,
            )
        )
        for parameter in theirs.parameters():
            parameter.data.add_(0.15 * torch.randn(parameter.shape))
        return theirs.eval()

    def run(self, **overrides: object) -> RunConfig:
        model = (
            "{kind: decoder, num_layers: 2, width: 32, num_heads: 4, norm: layer_norm, positions: learned, "
            "activation: gelu, bias: true}"
        )
        return tiny_run(
            **{"data__block_tokens": BLOCK, "task__model": model, "task__evaluation__sampling": None} | overrides
        )

    def evaluate(self, world: World = ALONE, *, net: nn.Module | None = None, **overrides: object) -> Result:
        run = self.run(**{f"task__evaluation__{key}": value for key, value in overrides.items()})
        task = build_task(run, self.manifest)
        return evaluate(run, self.folder, self.manifest, self.readers, task, {"model": net or self.ours}, world)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return Prepared(RunFolder(tmp_path_factory.mktemp("language") / "run"))


def values(result: Result) -> dict[str, float]:
    return {metric.name: metric.value for metric in result.metrics if metric.value is not None}


def errors(result: Result) -> dict[str, float]:
    return {metric.name: metric.stderr for metric in result.metrics if metric.stderr is not None}


@torch.inference_mode()
def documented_loop(model: Any, ids: Ids, *, max_length: int, stride: int) -> tuple[float, int]:
    """https://huggingface.co/docs/transformers/perplexity, with sums instead of a mean of the windows' means."""
    input_ids = torch.from_numpy(ids)[None]
    seq_len = input_ids.size(1)
    nll_sum, n_tokens, prev_end_loc = 0.0, 0, 0
    for begin_loc in range(0, seq_len, stride):
        end_loc = min(begin_loc + max_length, seq_len)
        trg_len = end_loc - prev_end_loc
        window = input_ids[:, begin_loc:end_loc]
        target_ids = window.clone()
        target_ids[:, :-trg_len] = -100
        scored = int((target_ids[:, 1:] != -100).sum())  # the model shifts labels, so a window's first is never one
        if scored:
            nll_sum += model(window, labels=target_ids).loss.double().item() * scored
        n_tokens += scored
        prev_end_loc = end_loc
        if end_loc == seq_len:
            break
    return nll_sum, n_tokens


@pytest.mark.parametrize("stride", [1, 4, 8, BLOCK])
def test_the_likelihood_equals_the_documented_strided_loop_of_transformers(prepared: Prepared, stride: int) -> None:
    theirs = [
        documented_loop(prepared.theirs, np.append(prepared.end, each), max_length=BLOCK + 1, stride=stride)
        for each in prepared.documents
    ]
    nll, tokens = (sum(column) for column in zip(*theirs, strict=True))
    result = prepared.evaluate(stride_tokens=stride, baseline_order=0)
    assert tokens == sum(LENGTHS) == result.metrics[0].n
    assert values(result)["test/loss"] == pytest.approx(nll / tokens, abs=1e-5)
    assert abs(values(result)["test/loss"] - math.log(270)) > 0.05  # the weights do matter


def test_a_smaller_stride_changes_the_number_and_its_protocol(prepared: Prepared) -> None:
    first, second = (prepared.evaluate(stride_tokens=stride, baseline_order=0) for stride in (1, BLOCK))
    assert values(first)["test/loss"] != values(second)["test/loss"]
    assert first.metrics[0].protocol != second.metrics[0].protocol


@pytest.mark.parametrize("batch_windows", [1, 3, 1000])
def test_the_result_is_the_same_for_any_batch_of_windows(prepared: Prepared, batch_windows: int) -> None:
    base = prepared.evaluate(stride_tokens=4, baseline_order=0)
    other = prepared.evaluate(stride_tokens=4, baseline_order=0, batch_windows=batch_windows)
    assert values(other) == pytest.approx(values(base), rel=1e-6)
    assert other.protocols == base.protocols
    assert errors(other) == pytest.approx(errors(base), rel=1e-5, abs=1e-12)


@pytest.mark.parametrize(("size", "stride"), [(2, 4), (4, 4), (20, BLOCK)])  # the last: more ranks than windows
def test_the_result_is_the_same_on_any_number_of_ranks(prepared: Prepared, size: int, stride: int) -> None:
    results = on_ranks(size, lambda world: prepared.evaluate(world, stride_tokens=stride, baseline_order=2))
    alone = prepared.evaluate(stride_tokens=stride, baseline_order=2)
    for result in results:
        assert values(result) == pytest.approx(values(alone), rel=1e-6)
        assert errors(result) == pytest.approx(errors(alone), rel=1e-4, abs=1e-12)
        assert [metric.n for metric in result.metrics] == [metric.n for metric in alone.metrics]


def mean_nll(per_document: Sequence[np.ndarray[Any, Any]]) -> float:
    return float(np.concatenate(per_document).mean())


def test_the_baselines_score_the_same_tokens_under_the_same_protocol(prepared: Prepared) -> None:
    result = prepared.evaluate(stride_tokens=8, baseline_order=3)
    names = ["test", *(f"baseline/{name}" for name in ("uniform", "unigram", "bigram", "trigram"))]
    of_text = [metric.name for metric in result.metrics if metric.name != "test/calibration_error"]
    assert of_text == [f"{name}/{metric}" for name in names for metric in METRICS]
    assert {metric.n for metric in result.metrics} == {sum(LENGTHS)}
    assert {metric.protocol for metric in result.metrics} == set(result.protocols)
    assert len(result.protocols) == 1
    training = read_documents(prepared.readers["train"], prepared.end)
    assert [len(document) for document in training] == [80, 3, 1, 120]
    got = values(result)
    assert got["baseline/uniform/loss"] == pytest.approx(math.log(270), rel=1e-12)
    for order, name in ((1, "unigram"), (2, "bigram"), (3, "trigram")):
        model = KneserNey(training, order=order, vocabulary_size=270, boundary=prepared.end)
        expected = mean_nll([model.nll(document) for document in prepared.documents])
        assert got[f"baseline/{name}/loss"] == pytest.approx(expected, rel=1e-12)


def test_units_turn_into_one_another_by_the_manifests_counts(prepared: Prepared) -> None:
    got, split = values(prepared.evaluate(stride_tokens=8, baseline_order=0)), prepared.manifest.splits["test"]
    nll = got["test/loss"] * split.tokens
    assert got["test/perplexity"] == pytest.approx(math.exp(nll / split.tokens))
    assert got["test/word_perplexity"] == pytest.approx(math.exp(nll / split.words))
    assert got["test/bits_per_byte"] == pytest.approx(nll / math.log(2) / split.bytes)


def test_written_samples_are_the_same_for_the_same_seed_and_start_from_the_prompts(prepared: Prepared) -> None:
    sampling = "{prompts: ['the king', ''], max_tokens: 6, temperature: 1.0}"
    first, second = (prepared.evaluate(stride_tokens=8, baseline_order=0, sampling=sampling).samples for _ in range(2))
    assert first == second
    assert [each["prompt"] for each in first] == ["the king", ""]
    assert all(isinstance(each["text"], str) for each in first)


def test_only_the_first_rank_writes_samples(prepared: Prepared, tmp_path: Path) -> None:
    sampling = "{prompts: ['the king'], max_tokens: 3}"
    results = on_ranks(2, lambda world: prepared.evaluate(world, sampling=sampling, baseline_order=0))
    assert [len(result.samples) for result in results] == [1, 0]


@torch.inference_mode()
def test_the_calibration_is_that_of_the_likeliest_next_token_of_every_window(prepared: Prepared) -> None:
    confidence, correct = [], []
    for document in prepared.documents:
        ids = torch.from_numpy(np.append(prepared.end, document))
        for begin, end, scored in rolling_windows(len(ids), BLOCK + 1, 8):
            p = prepared.ours(ids[None, begin : end - 1])[0, -scored:].softmax(-1).max(-1)
            confidence.append(p.values)
            correct.append(p.indices == ids[end - scored : end])
    sums = confidence_sums(torch.cat(confidence), torch.cat(correct))
    expected = calibration_error({name: float(value) for name, value in sums.items()})
    result = prepared.evaluate(stride_tokens=8, baseline_order=0)
    assert values(result)["test/calibration_error"] == pytest.approx(expected, abs=1e-6)
    assert sum(float(value) for name, value in sums.items() if "count" in name) == sum(LENGTHS)


def test_units_are_documents_and_make_up_the_loss(prepared: Prepared) -> None:
    result = prepared.evaluate(stride_tokens=8, baseline_order=0)
    units = result.units["test/loss"]
    assert units.ids.tolist() == list(range(len(LENGTHS)))
    assert units.sizes.tolist() == list(LENGTHS)
    assert values(result)["test/loss"] == pytest.approx(units.sums.sum() / units.sizes.sum(), rel=1e-12)


def test_figures_and_units_are_on_the_first_rank_alone_and_no_other_for_more_ranks(prepared: Prepared) -> None:
    alone = prepared.evaluate(stride_tokens=8, baseline_order=1)
    first, second = on_ranks(2, lambda world: prepared.evaluate(world, stride_tokens=8, baseline_order=1))
    assert [figure["kind"] for figure in first.figures] == ["bars", "table", "bars", "table"]
    assert [figure["title"] for figure in first.figures] == [figure["title"] for figure in alone.figures]
    assert first.units["test/loss"].sums == pytest.approx(alone.units["test/loss"].sums, rel=1e-6)
    assert (second.figures, second.units) == ((), {})


def test_the_baselines_name_what_they_were_counted_on_outside_of_the_protocol(prepared: Prepared) -> None:
    result = prepared.evaluate(stride_tokens=8, baseline_order=2)
    train = split_digest(prepared.manifest, "train")[:16]
    assert [row[2] for row in result.figures[-1]["rows"]] == ["nothing", *[f"train split {train}"] * 2]
    assert train not in str(result.protocols)


def test_an_empty_test_split_leaves_every_metric_undefined_and_says_why(prepared: Prepared) -> None:
    run = prepared.run()
    nothing = prepared.readers | {"test": ShardReader(prepared.folder.data, (), prepared.manifest.fields)}
    task, nets = build_task(run, prepared.manifest), {"model": prepared.ours}
    result = evaluate(run, prepared.folder, prepared.manifest, nothing, task, nets, ALONE)
    assert {metric.undefined for metric in result.metrics} == {"the split has no token to score"}
    assert not result.units


def test_without_training_documents_ngrams_are_undefined_and_say_why(prepared: Prepared) -> None:
    run = prepared.run(task__evaluation__baseline_order=2)
    nothing = prepared.readers | {"train": ShardReader(prepared.folder.data, (), prepared.manifest.fields)}
    task, nets = build_task(run, prepared.manifest), {"model": prepared.ours}
    result = evaluate(run, prepared.folder, prepared.manifest, nothing, task, nets, ALONE)
    for metric in result.metrics:
        counted = metric.name.startswith(("baseline/unigram", "baseline/bigram"))
        assert metric.undefined == ("the train split has no token to count" if counted else None)


@pytest.mark.parametrize("change", [{"cut_tokens": 3}, {"tokens": 90}])
def test_bits_per_byte_are_undefined_where_other_tokens_were_scored_than_the_bytes_are_of(
    prepared: Prepared, change: dict[str, int]
) -> None:
    split = prepared.manifest.splits["test"].model_copy(update=change)
    nll, tokens = torch.tensor([9.0], dtype=torch.float64), torch.tensor([float(sum(LENGTHS))], dtype=torch.float64)
    sums = float_sums(cluster_sums(nll, tokens))
    told = {metric.name: metric.undefined for metric in language_metrics("test", sums, split, "p")}
    assert told["test/loss"] is told["test/perplexity"] is None
    for name in ("test/word_perplexity", "test/bits_per_byte"):
        assert f"those of {split.tokens + split.cut_tokens} tokens, {sum(LENGTHS)} were scored" in str(told[name])


def test_the_error_is_that_of_drawing_other_documents_whatever_the_stride() -> None:
    rng = np.random.default_rng(0)
    per_token = [1.0 + rng.normal(0, 0.5) + rng.normal(0, 0.1, 200) for _ in range(40)]
    documents = [np.zeros(200, np.int64) for _ in per_token]
    errors = []
    for stride in (64, 16, 2):
        windows = windows_of(documents, tokens=64, stride=stride)
        errors.append(ratio_stderr(float_sums(document_sums(known_nll(per_token, windows), windows))))
    assert errors == pytest.approx([float(np.std([each.mean() for each in per_token], ddof=1)) / 40**0.5] * 3)
    one = windows_of(documents[:1], tokens=64, stride=16)
    alone = document_sums(known_nll(per_token[:1], one), one)
    assert ratio_stderr(float_sums(alone)) is None, "one document says nothing of others"


def test_n_grams_that_cannot_be_counted_are_refused_before_anything_is_scored(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer.evaluation.language, "score_windows", None)
    monkeypatch.setattr(trainer.evaluation.ngram, "MOST", 1000)
    with pytest.raises(ConfigError, match=r"task\.evaluation\.baseline_order=2: 2-grams over"):
        prepared.evaluate(baseline_order=2)


@torch.no_grad()
def test_the_perplexity_is_that_of_torchmetrics(prepared: Prepared) -> None:
    task = build_task(prepared.run(), prepared.manifest)
    theirs = Perplexity(ignore_index=IGNORE)
    for window in windows_of(prepared.documents, tokens=BLOCK, stride=8):
        document, begin, end, scored = window
        ids = np.append(prepared.end, prepared.documents[document])[begin:end]
        batch = task.collate([{"id": 0, "position": 0, "tokens": ids, "scored": scored}])
        theirs.update(prepared.ours(batch.tensors["tokens"]), batch.tensors["targets"])
    result = prepared.evaluate(stride_tokens=8, baseline_order=0)
    assert values(result)["test/perplexity"] == pytest.approx(float(theirs.compute()), rel=1e-5)


def test_outputs_that_are_no_numbers_leave_the_models_metrics_undefined_and_not_the_baselines(
    prepared: Prepared,
) -> None:
    broken = copy.deepcopy(prepared.ours)
    broken.get_parameter("norm.weight").data[0] = math.nan
    sampling = "{prompts: ['the king'], max_tokens: 3}"
    result = prepared.evaluate(net=broken, stride_tokens=8, baseline_order=1, sampling=sampling)
    for metric in result.metrics:
        assert (metric.undefined is not None) == metric.name.startswith("test/")
        assert metric.undefined is None or "add up to nan" in metric.undefined
    assert (result.units, result.samples) == ({}, ())


def test_the_output_layer_sees_the_scored_tokens_alone(prepared: Prepared) -> None:
    task = build_task(prepared.run(), prepared.manifest)
    assert isinstance(task, CausalLM)
    rows: list[int] = []
    ids = prepared.documents[-1]
    samples = [
        {"id": n, "position": n, "tokens": ids[: BLOCK + 1 - n], "scored": scored} for n, scored in ((0, 4), (5, 2))
    ]
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(
            heads, "linear_scores", lambda hidden, *rest: rows.append(len(hidden)) or linear_scores(hidden, *rest)
        )
        together, _ = task.score({"model": prepared.ours}, task.collate(samples))
        alone = [task.score({"model": prepared.ours}, task.collate([each]))[0] for each in samples]
    assert rows == [6, 4, 2]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-6, atol=1e-6)
