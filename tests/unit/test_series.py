"""Series of metrics, as events fill them."""

import math
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipelines.series import Columns, Series

NAMES = st.sampled_from(["train/loss", "train/a", "b", "text"])
VALUES = st.one_of(st.floats(allow_nan=False, width=32), st.integers(-1000, 1000), st.booleans(), st.just("word"))
EVENTS = st.lists(st.tuples(st.integers(0, 6), st.dictionaries(NAMES, VALUES, max_size=4)), max_size=12)


@given(EVENTS)
def test_the_last_number_of_each_step_and_metric_counts(events: list[tuple[int, dict[str, Any]]]) -> None:
    columns, numbers = Columns(), dict[str, dict[int, float]]()
    for step, event in events:
        columns.add(step, event)
        for name, value in event.items():
            if isinstance(value, int | float):
                numbers.setdefault(name, {})[step] = float(value)
    found = columns.series()
    for name, wanted in numbers.items():
        said = {step: value for step, value in found[name].items() if not math.isnan(value)}
        assert {step: wanted[step] for step in said} == said
        assert (np.diff(found[name].steps) > 0).all()
        assert set(wanted) >= set(said)


def test_a_value_that_is_no_number_is_lost_and_told() -> None:
    columns = Columns()
    for step, loss in enumerate([3.0, None, 1.0], 1):
        columns.add(step, {"event": "step", "step": step, "train/loss": loss, "samples_digest": "00"})
    (series,) = columns.series().values()
    assert series.lost == [2]
    assert dict(series.known) == {1: 3.0, 3: 1.0}


def test_a_series_is_read_by_step() -> None:
    series = Series.of({5: 0.5, 2: 0.25})
    assert list(series.items()) == [(2, 0.25), (5, 0.5)]
    assert (series[5], series.get(3)) == (0.5, None)
