"""Series of metrics, as events fill them."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipelines.series import Columns, Series

NUMBERS = st.one_of(st.floats(allow_nan=False, width=32), st.integers(-1000, 1000), st.booleans())
FIELDS = st.fixed_dictionaries({}, optional={"train/loss": NUMBERS, "b": NUMBERS, "samples_digest": st.just("00")})
EVENTS = st.lists(st.tuples(st.integers(0, 6), FIELDS), max_size=12)


@given(EVENTS)
def test_the_last_number_of_each_step_and_metric_counts(events: list[tuple[int, dict[str, Any]]]) -> None:
    columns, numbers = Columns(), dict[str, dict[int, float]]()
    for step, event in events:
        columns.add(step, event)
        for name, value in event.items():
            if name != "samples_digest":
                numbers.setdefault(name, {})[step] = float(value)
    found = columns.series()
    assert found == numbers
    assert all((np.diff(series.steps) > 0).all() for series in found.values())


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
