"""When validation comes: by steps, by the clock of the first rank, and at the end."""

import pytest

from tests.tiny import (
    on_ranks,
    tiny_run,
)
from trainer.distributed import World
from trainer.feed import Feed
from trainer.heartbeat import NullPulse
from trainer.task import Batch
from trainer.timetable import Timetable


def test_validation_comes_by_steps_by_the_clock_and_at_the_end():
    now = 0.0
    train = tiny_run(
        train__steps=12, train__validate_every_steps=2, train__validate_every_s=60, train__schedule="{warmup_steps: 1}"
    ).train
    table = Timetable(train, clock=lambda: now)
    assert [step for step in range(1, 13) if table.falls_on(step, overdue=False)] == [2, 4, 6, 8, 10, 12]
    assert table.falls_on(3, overdue=True)
    assert not table.overdue
    now = 60.0
    assert table.overdue
    table.restart()
    assert not table.overdue
    alone = train.model_copy(update={"validate_every_steps": None})
    assert [step for step in range(1, 13) if Timetable(alone).falls_on(step, overdue=False)] == [12]
    never = train.model_copy(update={"validate_every_s": None})
    clock = iter([0.0, 1e9])
    assert not Timetable(never, clock=lambda: next(clock)).overdue


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_first_ranks_clock_alone_counts_and_counts_everywhere(size: int):
    def work(world: World) -> list[bool]:
        batches = [Batch({}, count=1, ids=(world.rank,)) for _ in range(2)]
        feed = Feed(iter(batches), world, NullPulse(), turns=1, accumulation=1)
        told = []
        for first in (True, False):
            feed.ahead(0, stop=False, failed=False, overdue=first == (world.rank == 0))
            told.append(feed.take(0).overdue)
        return told

    assert on_ranks(size, work) == [[True, False]] * size
