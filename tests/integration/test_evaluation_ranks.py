"""Every family's evaluation on two real ranks says what it says on one."""

import json
from pathlib import Path

import pytest

from tests.contract.cases import Kitchen
from tests.contract.evaluations import evaluated, first_of_each, stirred
from tests.runs import run_on_ranks

pytestmark = pytest.mark.slow


def test_two_processes_score_every_family_as_one_does(tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path)
    cases = {recipe.name: kitchen.cook(recipe) for recipe in first_of_each()}
    recipes = [[name, str(case.recipe.path), case.recipe.changes] for name, case in cases.items()]
    (tmp_path / "recipes.json").write_text(json.dumps(recipes), encoding="utf-8")
    run_on_ranks(2, "evaluation_worker.py", tmp_path, 3)
    together = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert list(together) == list(cases)
    for name, case in cases.items():
        alone, found = evaluated(case, stirred(case.networks()), batch=64), together[name]
        assert found["protocols"] == json.loads(json.dumps(alone.protocols))
        assert {each: len(units.ids) for each, units in alone.units.items()} == found["units"]
        for ours, metric in zip(found["metrics"], alone.metrics, strict=True):
            exact = (metric.name, metric.n, metric.undefined, metric.protocol)
            assert (ours["name"], ours["n"], ours["undefined"], ours["protocol"]) == exact
            assert ours["value"] == (metric.value if metric.value is None else pytest.approx(metric.value, rel=1e-6))
