"""The chunked cross-entropy against torch's own over all logits."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainer.models import cross_entropy
from trainer.models.cross_entropy import IGNORE, linear_cross_entropy, linear_scores

torch.set_num_threads(1)
ROWS, WIDTH, VOCABULARY = 37, 16, 53


@pytest.fixture(autouse=True)
def several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten rows at a time: three whole chunks and a rest; of scores also twenty classes."""
    monkeypatch.setattr(cross_entropy, "TILES", {"cpu": (10, 20)})
    monkeypatch.setattr(cross_entropy, "CHUNK_LOGITS", {"cpu": 10 * VOCABULARY})
    monkeypatch.setattr(cross_entropy, "CHUNK_ROWS", 1)


def inputs(*, bias: bool = True, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(ROWS, WIDTH, generator=generator), torch.randn(VOCABULARY, WIDTH, generator=generator)
    offset = torch.randn(VOCABULARY, generator=generator) if bias else None
    targets = torch.randint(VOCABULARY, (ROWS,), generator=generator)
    targets[[0, 5, 20, 21, 36]] = IGNORE
    leaves = [None if each is None else each.to(dtype).requires_grad_() for each in (hidden, weight, offset)]
    return leaves[0], leaves[1], leaves[2], targets  # type: ignore[return-value]


def plain(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    logits = F.linear(hidden, weight, bias)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="none")


def gradients(nll: Tensor, upstream: Tensor, leaves: Sequence[Tensor | None]) -> list[Tensor]:
    return list(torch.autograd.grad(nll, [each for each in leaves if each is not None], upstream))


UPSTREAM = {
    "sum": torch.ones(()).expand(ROWS),
    "scaled sum": torch.tensor(-0.3).expand(ROWS),
    "equal numbers": torch.full((ROWS,), 2.5),
    "weighted": torch.linspace(-1, 2, ROWS),
}


@pytest.mark.parametrize("upstream", UPSTREAM)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_those_of_all_logits_at_once(upstream: str, bias: bool, dtype: torch.dtype) -> None:
    hidden, weight, offset, targets = inputs(bias=bias, dtype=dtype)
    leaves = [hidden, weight, offset]
    ours, theirs = linear_cross_entropy(hidden, weight, offset, targets), plain(hidden, weight, offset, targets)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, theirs)
    assert (ours[targets == IGNORE] == 0).all()
    scale = UPSTREAM[upstream].to(dtype)
    for one, other in zip(gradients(ours, scale, leaves), gradients(theirs, scale, leaves), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("upstream", ["sum", "weighted"])
def test_under_autocast_it_is_as_near_to_the_exact_gradient_as_all_logits_at_once(upstream: str) -> None:
    hidden, weight, offset, targets = inputs()
    leaves = [hidden, weight, offset]
    exact = inputs(dtype=torch.float64)[:3]
    truth = gradients(plain(*exact, targets), UPSTREAM[upstream].double(), exact)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, theirs = linear_cross_entropy(hidden, weight, offset, targets), plain(hidden, weight, offset, targets)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs)
    mine, others = (gradients(nll, UPSTREAM[upstream], leaves) for nll in (ours, theirs))
    for one, other, right in zip(mine, others, truth, strict=True):
        assert one.dtype == torch.float32
        error, usual = ((each.double() - right).norm() / right.norm() for each in (one, other))
        assert error < max(1.5 * usual, 2e-3)


def test_a_second_backward_pass_gives_the_same_gradients() -> None:
    hidden, weight, bias, targets = inputs()
    nll = linear_cross_entropy(hidden, weight, bias, targets)
    first, second = (torch.autograd.grad((2.0 * nll).sum(), [hidden, weight], retain_graph=True) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other)


def test_only_what_is_trained_gets_a_gradient() -> None:
    hidden, weight, bias, targets = inputs()
    weight.requires_grad_(False)
    linear_cross_entropy(hidden, weight, bias, targets).sum().backward()
    assert hidden.grad is not None
    assert weight.grad is None
    with torch.no_grad():
        assert not linear_cross_entropy(hidden, weight, bias, targets).requires_grad


def test_a_batch_without_a_target_has_loss_and_gradients_of_zero() -> None:
    hidden, weight, bias, targets = inputs()
    linear_cross_entropy(hidden, weight, bias, torch.full_like(targets, IGNORE)).sum().backward()
    assert bias is not None
    for leaf in (hidden, weight, bias):
        assert leaf.grad is not None
        assert not leaf.grad.any()
    assert linear_cross_entropy(hidden[:0], weight, bias, targets[:0]).shape == (0,)


def test_a_target_outside_the_vocabulary_is_refused() -> None:
    hidden, weight, bias, targets = inputs()
    targets[3] = VOCABULARY
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        linear_cross_entropy(hidden, weight, bias, targets)


class Largest(TorchDispatchMode):
    """The most elements of any tensor that was made."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        sizes = [each.numel() for each in tree_leaves(made) if isinstance(each, Tensor)]
        self.elements = max([self.elements, *sizes])
        return made


@pytest.mark.parametrize("upstream", ["sum", "weighted"])
def test_no_tensor_ever_holds_the_logits_of_all_rows(upstream: str) -> None:
    hidden, weight, offset, targets = inputs()
    leaves = [hidden, weight, offset]
    with Largest() as largest:
        gradients(linear_cross_entropy(hidden, weight, offset, targets), UPSTREAM[upstream], leaves)
    assert largest.elements == max(VOCABULARY * WIDTH, ROWS * WIDTH, 10 * VOCABULARY)
    with Largest() as largest:
        gradients(plain(hidden, weight, offset, targets), UPSTREAM[upstream], leaves)
    assert largest.elements == ROWS * VOCABULARY


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_are_the_likelihood_the_largest_probability_and_whether_it_is_the_targets(
    bias: bool, dtype: torch.dtype
) -> None:
    hidden, weight, offset, targets = inputs(bias=bias, dtype=dtype)
    known = targets != IGNORE
    log_p = F.linear(hidden[known], weight, offset).log_softmax(-1)
    targets = targets[known]
    targets[::3] = log_p.argmax(1)[::3]
    found = linear_scores(hidden[known], weight, offset, targets)
    torch.testing.assert_close(found[:, 0], -log_p.gather(1, targets[:, None])[:, 0].detach())
    torch.testing.assert_close(found[:, 1], log_p.amax(1).detach())
    assert torch.equal(found[:, 2], (log_p.argmax(1) == targets).to(dtype))
    assert found.dtype == dtype
    assert not found.requires_grad


def test_of_equally_likely_classes_the_first_is_the_guess() -> None:
    found = linear_scores(torch.zeros(4, WIDTH), torch.zeros(VOCABULARY, WIDTH), None, torch.tensor([0, 1, 2, 0]))
    assert found[:, 2].tolist() == [1, 0, 0, 1]


def test_a_class_of_another_tile_that_is_as_likely_and_comes_first_is_the_guess() -> None:
    weight = torch.zeros(VOCABULARY, WIDTH)
    weight[[7, 27, 47]] = 1.0
    found = linear_scores(torch.ones(4, WIDTH), weight, None, torch.tensor([7, 27, 47, 0]))
    assert found[:, 2].tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("scale", [1e3, -1e3, 1e30])
def test_scores_of_huge_logits_are_those_of_the_whole_row(scale: float) -> None:
    hidden, weight, _, targets = inputs(bias=False)
    known = targets != IGNORE
    log_p = (F.linear(hidden[known].detach(), weight.detach()) * scale).log_softmax(-1)
    found = linear_scores(hidden[known] * scale, weight, None, targets[known])
    torch.testing.assert_close(found[:, 0], -log_p.gather(1, targets[known][:, None])[:, 0])
    torch.testing.assert_close(found[:, 1], log_p.amax(1))


def test_scores_of_a_row_that_is_no_number_are_none_and_those_of_others_stay() -> None:
    hidden, weight, _, targets = inputs(bias=False)
    hidden = hidden.detach().clone()
    hidden[3, 0] = float("nan")
    found = linear_scores(hidden, weight, None, targets.clamp(min=0))
    assert found[:, 0].isnan().nonzero().flatten().tolist() == [3]
    assert found[3, 2] == 0


def test_scores_of_no_row_are_none() -> None:
    empty = torch.zeros(0, dtype=torch.int64)
    assert linear_scores(torch.zeros(0, WIDTH), torch.zeros(VOCABULARY, WIDTH), None, empty).shape == (0, 3)
