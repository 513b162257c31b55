"""The final evaluation of every family says the same on any ranks, in any batches and with padding on either side."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.quantities import matching, metrics_of
from data.vocabulary import stored_tokenizer
from tests.contract.cases import Case, Kitchen, Recipe, recipes
from tests.contract.evaluations import evaluated, first_of_each, kind_of, run_of, stirred
from trainer.evaluation.contract import Result
from trainer.models.attention import PADDING
from trainer.models.cross_entropy import IGNORE
from trainer.tasks import FAMILIES, build_task

TOLERANCE = 1e-6
"""Of a value, relative"""
RANKS, BATCHES = (1, 2, 4), (1, 3, 64)
BESIDE = 9
"""Tokens of padding"""


def others() -> list[Recipe]:
    """The recipes that are no family's first."""
    return [recipe for recipe in recipes() if recipe not in first_of_each()]


def texts() -> list[Recipe]:
    return [recipe for recipe in recipes() if kind_of(recipe, "data") == "text"]


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory: pytest.TempPathFactory) -> Kitchen:
    return Kitchen(tmp_path_factory.mktemp("kitchen"))


@pytest.fixture(scope="module", params=first_of_each(), ids=lambda recipe: recipe.name)
def family(request: pytest.FixtureRequest, kitchen: Kitchen) -> Case:
    recipe: Recipe = request.param
    return kitchen.cook(recipe)


@pytest.fixture(scope="module")
def alone(family: Case) -> Result:
    """What one rank says of a family's network."""
    return evaluated(family, stirred(family.networks()), batch=5)


@pytest.fixture(params=others(), ids=lambda recipe: recipe.name)
def other(request: pytest.FixtureRequest, kitchen: Kitchen) -> Case:
    recipe: Recipe = request.param
    return kitchen.cook(recipe)


@pytest.fixture(params=texts(), ids=lambda recipe: recipe.name)
def text(request: pytest.FixtureRequest, kitchen: Kitchen) -> Case:
    recipe: Recipe = request.param
    return kitchen.cook(recipe)


def require_same(ours: Result, theirs: Result) -> None:
    """Metrics, protocols and units alike."""
    assert ours.protocols == theirs.protocols
    assert [metric.name for metric in ours.metrics] == [metric.name for metric in theirs.metrics]
    for mine, other in zip(ours.metrics, theirs.metrics, strict=True):
        exact = ("n", "unit", "better", "protocol", "undefined")
        assert [asdict(mine)[name] for name in exact] == [asdict(other)[name] for name in exact], mine.name
        assert near(mine.value, other.value, TOLERANCE), (mine, other)
        scale = abs(other.value or 0.0)
        assert near(mine.stderr, other.stderr, 1e-4, scale), (mine, other)
        assert (mine.interval is None) == (other.interval is None), mine.name
        for one, another in zip(mine.interval or (), other.interval or (), strict=True):
            assert near(one, another, 1e-4, scale), (mine, other)
    assert set(ours.units) == set(theirs.units)
    for name, units in theirs.units.items():
        np.testing.assert_array_equal(ours.units[name].ids, units.ids)
        np.testing.assert_array_equal(ours.units[name].sizes, units.sizes)
        np.testing.assert_allclose(ours.units[name].sums, units.sums, rtol=1e-5, atol=1e-5)


def near(mine: float | None, other: float | None, tolerance: float, scale: float = 0.0) -> bool:
    """Whether both are numbers that are near each other, or neither is one."""
    if mine is None or other is None:
        return mine is other
    return abs(mine - other) <= tolerance * max(abs(other), 1e-6) + 1e-6 * scale


def test_every_registered_family_is_among_the_cases() -> None:
    assert {recipe.run().task.kind for recipe in first_of_each()} == set(FAMILIES)


def test_its_configuration_declares_every_metric_with_unit_and_direction(family: Case, alone: Result) -> None:
    declared = metrics_of(type(family.run.task)).evaluated
    own = {metric.name: metric for metric in alone.metrics if not metric.name.startswith("baseline/")}
    for name, metric in own.items():
        found = matching(declared, name)
        assert found, f"{name} is not declared"
        assert (metric.unit, metric.better) == (found.unit, found.better), name
    assert {each.name for each in declared if not each.asked} <= set(own)


@pytest.mark.parametrize(("ranks", "batch"), [(ranks, batch) for ranks in RANKS for batch in BATCHES])
def test_a_familys_metrics_are_the_same_on_any_ranks_in_any_batches(
    family: Case, alone: Result, ranks: int, batch: int
) -> None:
    require_same(evaluated(family, stirred(family.networks()), batch=batch, ranks=ranks), alone)


def test_any_networks_metrics_are_the_same_on_three_ranks_in_small_batches(other: Case) -> None:
    nets = stirred(other.networks())
    require_same(evaluated(other, nets, batch=2, ranks=3), evaluated(other, nets, batch=64))


class Padded(nn.Module):
    """A network of texts that is given more tokens than there are, before or after them, and hears that they are none.

    What it says of them is dropped.
    """

    def __init__(self, network: nn.Module, before: int, after: int) -> None:
        super().__init__()
        self.network, self.sides = network, (before, after)

    def forward(
        self, tokens: Tensor, targets: Tensor | None = None, documents: Tensor | None = None, **asked: bool
    ) -> Tensor:
        length = tokens.shape[1]
        documents = torch.zeros_like(tokens) if documents is None else documents
        wanted = None if targets is None else F.pad(targets, self.sides, value=IGNORE)
        documents = F.pad(documents, self.sides, value=PADDING)
        found: Tensor = self.network(F.pad(tokens, self.sides, value=1), wanted, documents, **asked)
        before, after = self.sides
        if found.dim() < 2 or found.shape[1] != length + before + after:
            return found  # of whole texts
        return found[:, before : before + length]


def test_padding_on_either_side_changes_no_metric_of_a_text(text: Case) -> None:
    """A head that reads the first token alone has it at the beginning, and reads the mean here."""
    changes = {"task__pooling": "mean"} if hasattr(text.run.task, "pooling") else {}
    roomy = text.manifest.model_copy(update={"block_tokens": text.manifest.block_tokens + BESIDE})
    run = run_of(text, 5, **changes)
    nets = stirred(build_task(run, roomy, stored_tokenizer(text.folder.tokenizer)).networks())
    whole = evaluated(text, nets, batch=5, changes=changes)
    for sides in ((BESIDE, 0), (0, BESIDE)):
        padded = {name: Padded(net, *sides) for name, net in nets.items()}
        require_same(evaluated(text, padded, batch=5, changes=changes), whole)
