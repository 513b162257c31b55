"""The causal language model's collation, loss and statistics."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from configs.language import CausalLMConfig
from tests.tiny import tiny_run
from trainer.evaluation.contract import cluster_sums
from trainer.task import Sample
from trainer.tasks.causal_lm import IGNORE, CausalLM

VOCABULARY = 7


class Fixed(nn.Module):
    """Likelihoods that depend on each token alone, and are known."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(0)))

    def forward(self, tokens: Tensor, targets: Tensor, documents: Tensor | None = None) -> Tensor:
        return F.cross_entropy(self.table[tokens].mT, targets, ignore_index=IGNORE, reduction="none")


@pytest.fixture
def task() -> CausalLM:
    task = CausalLM.__new__(CausalLM)
    config = tiny_run().task
    assert isinstance(config, CausalLMConfig)
    task.config, task.vocabulary_size, task.context_tokens = config, VOCABULARY, 16
    return task


def sample(ids: list[int], number: int = 0, **more: int) -> Sample:
    return {"id": number, "position": number, "tokens": np.array(ids, dtype="<u2"), **more}


def by_hand(model: Fixed, ids: list[int], scored: int) -> float:
    log_probability = model.table.detach().double().log_softmax(-1)
    pairs = list(itertools.pairwise(ids))[len(ids) - 1 - scored :]
    return -sum(float(log_probability[before, after]) for before, after in pairs)


def test_collate_shifts_targets_by_one_and_pads_the_short_with_ignore(task: CausalLM) -> None:
    batch = task.collate([sample([1, 2, 3, 4], 5), sample([6, 0], 9)])
    assert batch.tensors["tokens"].tolist() == [[1, 2, 3], [6, 0, 0]]
    assert batch.tensors["targets"].tolist() == [[2, 3, 4], [0, IGNORE, IGNORE]]
    assert batch.count == 4
    assert batch.ids == (5, 9)
    assert {tensor.dtype for tensor in batch.tensors.values()} == {torch.int64}


def test_scored_counts_targets_from_the_end(task: CausalLM) -> None:
    batch = task.collate([sample([1, 2, 3, 4], scored=1), sample([5, 6, 0], scored=2), sample([5, 6, 0], scored=0)])
    assert batch.tensors["targets"].tolist() == [[IGNORE, IGNORE, 4], [6, 0, IGNORE], [IGNORE] * 3]
    assert batch.count == 3


def test_loss_is_the_sum_over_targets_and_not_their_mean(task: CausalLM) -> None:
    model = Fixed()
    batch = task.collate([sample([1, 2, 3, 4]), sample([6, 0])])
    total, scalars = task.loss("model", {"model": model}, batch)
    assert total.item() == pytest.approx(by_hand(model, [1, 2, 3, 4], 3) + by_hand(model, [6, 0], 1), rel=1e-6)
    assert scalars == {}


def test_documents_reach_the_network_with_padding_marked(task: CausalLM) -> None:
    first = sample([1, 2, 3, 4]) | {"documents": np.array([0, 0, 1], np.int32)}
    second = sample([6, 0]) | {"documents": np.array([0], np.int32)}
    batch = task.collate([first, second])
    assert batch.tensors["documents"].tolist() == [[0, 0, 1], [0, -1, -1]]
    assert "documents" not in task.collate([sample([1, 2])]).tensors


def test_packed_documents_have_the_loss_of_documents_alone(task: CausalLM) -> None:
    """Each begins with the end token before it, as `data.packing.document_ids` counts, and shorter rows are padded."""
    torch.manual_seed(0)
    (model,) = task.networks().values()
    first, second = [0, 3, 1, 4], [0, 2, 6, 5, 5, 1, 0]
    packed = sample([*first, *second]) | {"documents": np.array([0] * 4 + [1] * 6)}
    short = sample([0, 6, 0]) | {"documents": np.array([0, 0])}
    together, _ = task.loss("model", {"model": model}, task.collate([packed, short]))
    alone = [
        task.loss("model", {"model": model}, task.collate([sample(ids)]))[0] for ids in ([*first, 0], second, [0, 6, 0])
    ]
    torch.testing.assert_close(together, torch.stack(alone).sum())
    joined, _ = task.loss("model", {"model": model}, task.collate([sample([*first, *second]), sample([0, 6, 0])]))
    assert (joined - together).abs() > 1e-5, "attention across documents would not show"


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.lists(st.integers(0, VOCABULARY - 1), min_size=2, max_size=9), st.integers(0, 8)),
        min_size=1,
        max_size=6,
    )
)
def test_evaluate_sums_what_each_row_scores_whatever_stands_beside_it(rows: list[tuple[list[int], int]]) -> None:
    task, model = CausalLM.__new__(CausalLM), Fixed()
    scored = [min(wanted, len(ids) - 1) for ids, wanted in rows]
    batch = task.collate([sample(ids, scored=n) for (ids, _), n in zip(rows, scored, strict=True)])
    with torch.inference_mode():
        sums = task.evaluate({"model": model}, batch)
    each = [by_hand(model, ids, n) for (ids, _), n in zip(rows, scored, strict=True)]
    assert float(sums["nll"]) == pytest.approx(sum(each), abs=1e-4)
    assert float(sums["tokens"]) == sum(scored) == batch.count
    assert float(sums["clusters"]) == len(rows)
    assert float(sums["nll_nll"]) == pytest.approx(sum(x * x for x in each), abs=1e-3)
    assert float(sums["nll_tokens"]) == pytest.approx(sum(x * n for x, n in zip(each, scored, strict=True)), abs=1e-3)
    assert float(sums["tokens_tokens"]) == sum(n * n for n in scored)
    assert {value.dtype for value in sums.values()} == {torch.float64}
    assert {value.shape for value in sums.values()} == {torch.Size([])}


def test_metrics_are_the_mean_and_its_exponential(task: CausalLM) -> None:
    assert task.metrics({"nll": 6.0, "tokens": 3.0}) == {"loss": 2.0, "perplexity": pytest.approx(math.exp(2))}
    assert math.isfinite(task.metrics({"nll": 1e6, "tokens": 1.0})["perplexity"])


def test_cluster_sums_of_two_parts_add_up_to_those_of_the_whole() -> None:
    generator = torch.Generator().manual_seed(1)
    nll = torch.rand(10, generator=generator, dtype=torch.float64)
    tokens = torch.randint(1, 9, (10,), generator=generator).double()
    first, second = cluster_sums(nll[:4], tokens[:4]), cluster_sums(nll[4:], tokens[4:])
    for name, whole in cluster_sums(nll, tokens).items():
        torch.testing.assert_close(first[name] + second[name], whole)
