"""What ends a training before its last step, and which pass was the best: decisions on losses alone."""

import json
import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.engine import BestConfig, EarlyStoppingConfig
from configs.errors import ConfigError
from tests.tiny import tiny_run
from trainer.stopping import Watch

LOSSES = st.lists(st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.25]), min_size=1, max_size=30)


def watch_of(stopping: Mapping[str, Any] | None = None, best: Mapping[str, Any] | None = None) -> Watch:
    return Watch(
        EarlyStoppingConfig.model_validate(stopping) if stopping else None,
        BestConfig.model_validate(best) if best else None,
    )


def until_spent(watch: Watch, losses: list[float]) -> int | None:
    for step, loss in enumerate(losses, 1):
        watch.look(step, {"validation/loss": loss})
        if watch.spent:
            return step
    return None


@given(LOSSES, st.integers(1, 4), st.sampled_from([0.0, 0.5, 0.75]))
def test_patience_ends_where_so_many_passes_brought_no_improvement(losses: list[float], patience: int, least: float):
    mark, waited, expected = math.inf, 0, None
    for step, loss in enumerate(losses, 1):
        mark, waited = (loss, 0) if mark - loss > least else (mark, waited + 1)
        if waited == patience:
            expected = step
            break
    assert until_spent(watch_of({"patience": patience, "least": least}), losses) == expected


@given(LOSSES, st.integers(1, 4))
def test_higher_is_lower_with_the_other_sign(losses: list[float], patience: int):
    other = watch_of({"patience": patience, "better": "higher"})
    assert until_spent(watch_of({"patience": patience}), losses) == until_spent(other, [-loss for loss in losses])


@given(LOSSES, st.integers(0, 30), st.integers(1, 4))
def test_a_watch_restored_through_json_decides_as_one_that_went_on(losses: list[float], at: int, patience: int):
    config = tiny_run(train__validate_every_steps=2, train__early_stopping=f"{{patience: {patience}}}").train
    whole, parted = Watch.restore(config, {}), Watch.restore(config, {})
    for step, loss in enumerate(losses, 1):
        if step == at:
            parted = Watch.restore(config, json.loads(json.dumps(parted.state())))
        scores = {"validation/loss": loss}
        assert whole.look(step, scores) == parted.look(step, scores)
        assert (whole.spent, whole.best, whole.state()) == (parted.spent, parted.best, parted.state())


@given(LOSSES)
def test_the_best_pass_is_the_last_of_the_lowest_and_is_kept(losses: list[float]):
    watch = watch_of(best={"metric": "validation/loss"})
    kept = [step for step, loss in enumerate(losses, 1) if watch.look(step, {"validation/loss": loss})]
    lowest = max(step for step, loss in enumerate(losses, 1) if loss == min(losses))
    assert watch.best == (lowest, min(losses))
    assert kept[-1] == lowest
    assert not watch.spent


def test_a_watch_of_another_metric_begins_anew():
    state = {"metric": ["validation/accuracy", "higher"], "best": [3, 0.5], "mark": 0.5, "waited": 7}
    watch = Watch.restore(tiny_run(train__validate_every_steps=2, train__early_stopping="{patience: 2}").train, state)
    assert watch.best is None
    assert not watch.spent
    assert Watch.restore(tiny_run(train__validate_every_steps=2).train, state).state() == {}


@pytest.mark.parametrize(
    ("scores", "names"), [({"validation/loss": 1.0, "validation/bits": 2.0}, "bits, validation/loss"), ({}, "none")]
)
def test_a_metric_that_validation_lacks_is_an_error_that_names_those_it_has(scores: dict[str, float], names: str):
    watch = watch_of({"patience": 1, "metric": "validation/accuracy"})
    with pytest.raises(ConfigError, match=f"early_stopping.metric=validation/accuracy is no metric .*{names}"):
        watch.look(1, scores)
