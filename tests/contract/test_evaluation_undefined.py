"""What no evaluation can say of a split or of a network is left out with a reason: never a number that is none."""

import json
import math
from collections.abc import Mapping

import pytest
import torch
from torch import nn

from data.manifest import split_digest
from data.shards import ShardReader
from tests.contract.cases import Case, Kitchen, Recipe
from tests.contract.evaluations import evaluated, first_of_each, stirred
from trainer.evaluation.contract import Result


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory: pytest.TempPathFactory) -> Kitchen:
    return Kitchen(tmp_path_factory.mktemp("kitchen"))


@pytest.fixture(scope="module", params=first_of_each(), ids=lambda recipe: recipe.name)
def family(request: pytest.FixtureRequest, kitchen: Kitchen) -> Case:
    recipe: Recipe = request.param
    return kitchen.cook(recipe)


def broken(nets: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """As a training that diverged leaves them."""
    with torch.no_grad():
        for net in nets.values():
            for parameter in net.parameters():
                parameter.fill_(math.nan)
    return {name: net.eval() for name, net in nets.items()}


def without_test_samples(case: Case) -> Case:
    """The same data, all of whose test samples went to another split."""
    splits = dict(case.manifest.splits)
    splits["test"] = splits["test"].model_copy(
        update={"documents": 0, "tokens": 0, "bytes": 0, "words": 0, "samples": 0, "shards": (), "classes": {}}
    )
    manifest = case.manifest.model_copy(update={"splits": splits})
    assert split_digest(manifest, "test") != split_digest(case.manifest, "test")
    reader = ShardReader(case.folder.data, (), manifest.fields)
    return Case(case.recipe, case.run, case.folder, manifest, case.readers | {"test": reader}, case.task)


def require_reasons(result: Result) -> None:
    """The test split's metrics are there, without values; what is written is JSON without NaN."""
    own = [metric for metric in result.metrics if metric.name.startswith("test/")]
    assert own
    assert [metric.name for metric in own if metric.value is not None] == []
    assert all(metric.undefined and metric.stderr is None and metric.interval is None for metric in own)
    assert not [name for name in result.units if name.startswith("test/")]
    json.dumps([result.record(), list(result.figures), list(result.samples)], allow_nan=False)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_network_whose_scores_are_no_numbers_has_reasons_for_metrics(family: Case, ranks: int) -> None:
    result = evaluated(family, broken(family.networks()), batch=5, ranks=ranks)
    require_reasons(result)
    assert all("no" in str(metric.undefined) for metric in result.metrics if metric.name.startswith("test/"))


def test_an_empty_test_split_has_reasons_for_metrics(family: Case) -> None:
    empty = without_test_samples(family)
    require_reasons(evaluated(empty, stirred(family.networks()), batch=5, ranks=2))


def test_those_reasons_stand_under_the_names_of_the_metrics_that_there_are(family: Case) -> None:
    whole = evaluated(family, stirred(family.networks()), batch=5)
    wanted = {metric.name for metric in whole.metrics if metric.name.startswith("test/")}
    found = evaluated(family, broken(family.networks()), batch=5)
    assert {metric.name for metric in found.metrics if metric.name.startswith("test/")} == wanted
