"""Pseudo-perplexity against hiding each token by hand."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.tiny import ALONE, on_ranks, read_samples
from tests.unit.test_masked import Prepared
from trainer.distributed import World
from trainer.evaluation.pseudo import PerToken, pseudo_metric, score_alone


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return Prepared(tmp_path_factory.mktemp("pseudo"))


def alone(prepared: Prepared, world: World = ALONE, batch: int = 7) -> PerToken:
    samples = read_samples(prepared.readers["test"], [0, 3, 5])
    return score_alone(prepared.task, {"model": prepared.net}, samples, batch=batch, world=world)


@torch.inference_mode()
def test_each_token_is_predicted_from_all_others_of_its_sample(prepared: Prepared) -> None:
    nll, tokens, owners = alone(prepared)
    expected: list[float] = []
    for sample in read_samples(prepared.readers["test"], [0, 3, 5]):
        ids = torch.from_numpy(sample["tokens"][1:].astype(np.int64))
        for place in torch.from_numpy(prepared.task.ordinary)[ids].nonzero()[:, 0].tolist():
            inputs = ids.clone()
            inputs[place] = prepared.task.mask
            logits = prepared.net(inputs[None])[0, place]
            expected.append(float(F.cross_entropy(logits, ids[place])))
    assert nll.numpy() == pytest.approx(np.array(expected), rel=1e-5)
    assert len(nll) == len(tokens) == len(owners)
    assert owners.unique().tolist() == [0, 1, 2]


@pytest.mark.parametrize("batch", [1, 1000])
def test_it_is_the_same_for_any_batch_beside_longer_samples_and_on_any_number_of_ranks(
    prepared: Prepared, batch: int
) -> None:
    nll, _, _ = alone(prepared)
    torch.testing.assert_close(alone(prepared, batch=batch)[0], nll, rtol=1e-6, atol=1e-6)
    for each, _, _ in on_ranks(4, lambda world: alone(prepared, world)):
        torch.testing.assert_close(each, nll, rtol=1e-6, atol=1e-6)


def test_it_is_reported_beside_the_unigram_under_a_protocol_of_its_own(prepared: Prepared) -> None:
    result = prepared.evaluate(task__evaluation__pseudo_documents=3)
    metrics = {metric.name: metric for metric in result.metrics}
    ours, theirs = metrics["test/pseudo_perplexity"], metrics["baseline/unigram/pseudo_perplexity"]
    assert ours.protocol == theirs.protocol != metrics["test/masked_perplexity"].protocol
    assert set(result.protocols) == {metric.protocol for metric in result.metrics}
    assert "no likelihood of the text" in result.protocols[ours.protocol]["metric"]
    assert ours.n == theirs.n > 0
    off = prepared.evaluate(task__evaluation__pseudo_documents=0)
    assert "test/pseudo_perplexity" not in {metric.name for metric in off.metrics}


def test_its_error_is_that_of_a_ratio_over_samples() -> None:
    nll, owners = torch.tensor([1.0, 2.0, 4.0, 3.0], dtype=torch.float64), torch.tensor([0, 0, 1, 2])
    metric = pseudo_metric("test", nll, owners, "p")
    of_sample, sizes = np.array([3.0, 4.0, 3.0]), np.array([2.0, 1.0, 1.0])
    error = math.sqrt(((of_sample - 2.5 * sizes) ** 2).sum() * 3 / 2) / 4
    assert (metric.value, metric.stderr) == pytest.approx((math.exp(2.5), error * math.exp(2.5)))


def test_without_a_token_or_with_outputs_that_are_no_numbers_it_is_undefined_and_says_why(prepared: Prepared) -> None:
    empty = pseudo_metric("test", torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.int64), "p")
    assert empty.value is None
    assert empty.undefined == "the split has no token to score"
    broken = prepared.evaluate(net=spoilt(prepared.net), task__evaluation__pseudo_documents=2)
    told = {metric.name: metric.undefined for metric in broken.metrics if metric.name.startswith("test/")}
    assert len(told) == 5
    assert all(reason and "no numbers" in reason for reason in told.values())


def spoilt(net: nn.Module) -> nn.Module:
    """The network with a bias that is no number."""

    broken = copy.deepcopy(net)
    next(parameter for name, parameter in broken.named_parameters() if name.endswith("norm.weight")).data[0] = math.nan
    return broken
