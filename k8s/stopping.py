"""Signals that ask for an end, while a launcher waits for answers from elsewhere."""

import contextlib
import signal
from collections.abc import Iterator

from configs.process import STOPPING


class StoppedError(BaseException):
    """This process was asked to end: raised where it stands, as that may be a wait of minutes."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Within the block the first signal raises StoppedError, and further ones do nothing: what is left is clearing up.

    Only in the main thread may handlers be set, and only there are they called.
    """

    def stop(number: int, frame: object) -> None:
        for each in STOPPING:
            signal.signal(each, signal.SIG_IGN)
        raise StoppedError(number)

    old = {number: signal.signal(number, stop) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
