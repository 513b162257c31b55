"""How far two checkpoints are apart."""

import math
from pathlib import Path

import pytest
import torch

from configs.errors import DamageError
from trainer.compare import Measured, compare, measure, measure_apart


def test_equal_tensors_are_equal_to_the_last_bit() -> None:
    ours = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(3)}
    assert measure(ours, {name: each.clone() for name, each in ours.items()}) == Measured(True, 0.0, None)


def test_the_difference_is_relative_to_the_length_of_all_numbers_and_names_the_worst_tensor() -> None:
    theirs = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[4.0]])}  # of length 5
    ours = {"a": torch.tensor([3.0, 0.3]), "b": torch.tensor([[4.4]])}  # 0.5 away
    found = measure(ours, theirs)
    assert found.difference == pytest.approx(0.1)
    assert (found.equal, found.worst) == (False, "b")


def test_the_sign_of_a_zero_is_a_bit() -> None:
    found = measure({"a": torch.tensor([0.0, 1.0])}, {"a": torch.tensor([-0.0, 1.0])})
    assert (found.equal, found.difference) == (False, 0.0)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"a": torch.zeros(2)}, {"a": torch.zeros(2), "b": torch.zeros(1)}),
        ({"a": torch.zeros(2), "b": torch.zeros(1)}, {"a": torch.zeros(2)}),
        ({"a": torch.zeros(2), "b": torch.zeros(1, 2)}, {"a": torch.zeros(2), "b": torch.zeros(2, 1)}),
    ],
)
def test_a_tensor_that_is_missing_or_misshapen_is_named(
    ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]
) -> None:
    assert measure(ours, theirs) == Measured(False, None, "b")


def test_a_number_that_is_none_is_no_distance() -> None:
    bad, good = {"a": torch.tensor([math.nan])}, {"a": torch.tensor([1.0])}
    assert measure(bad, good).difference is None
    assert measure(bad, {"a": torch.tensor([math.nan])}) == Measured(True, 0.0, "a")


def test_numbers_beside_nothing_are_all_of_the_difference() -> None:
    assert measure({"a": torch.ones(2)}, {"a": torch.zeros(2)}).difference == 1.0


def test_small_moments_are_not_hidden_by_large_counters() -> None:
    theirs = {"w/exp_avg": torch.tensor([1e-6]), "w/step": torch.tensor([1000.0])}
    ours = theirs | {"w/exp_avg": torch.tensor([2e-6])}
    assert measure(ours, theirs).difference == pytest.approx(1e-9)
    found = measure_apart(ours, theirs, by=lambda name, tensor: name.rpartition("/")[2])
    assert found.difference == pytest.approx(1.0)
    assert (found.equal, found.worst) == (False, "w/exp_avg")
    alone = measure_apart({}, theirs, by=lambda name, tensor: 0)
    assert alone == Measured(False, None, "w/exp_avg")


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DamageError, match=r"complete\.json"):
        compare(tmp_path, tmp_path)
