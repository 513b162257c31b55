"""When the validation split is scored: every so many steps, every so many seconds, and at the last step."""

import time
from collections.abc import Callable

from configs.schema import TrainConfig


class Timetable:
    """Counts seconds from when it is made or the last `restart`; each rank has one, and the first rank's clock counts.

    Ranks must agree, so what a clock says takes the way of all words between ranks (trainer/feed.py) and acts a step
    later.
    """

    def __init__(self, config: TrainConfig, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._config, self._clock = config, clock
        self._since = clock()

    def falls_on(self, step: int, *, overdue: bool) -> bool:
        """Whether a pass comes after `step` updates; `overdue` is what the first rank's clock said."""
        every = self._config.validate_every_steps
        return overdue or step == self._config.steps or (every is not None and step % every == 0)

    @property
    def overdue(self) -> bool:
        """Whether this rank's clock says that a pass is due."""
        every_s = self._config.validate_every_s
        return every_s is not None and self._clock() - self._since >= every_s

    def restart(self) -> None:
        """Count from now: a pass has ended."""
        self._since = self._clock()
