"""What is asked of a training while it goes on: by a signal, or by a file in its folder (RunFolder.request)."""

import signal
import time
from collections.abc import Callable
from typing import Any

from configs.folder import RunFolder

LOOK_S = 2.0
"""Between two looks into the folder, which may lie on a slow file system"""
STOP, CHECKPOINT = "stop", "checkpoint"


class StopRequest:
    """Remembers what is asked until the loop reaches the end of a step. One rank alone watches the folder."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.wanted = False
        """By a signal"""
        self._folder: RunFolder | None = None
        self._found: set[str] = set()
        self._clock, self._looked = clock, clock()
        signal.signal(signal.SIGTERM, self._remember)

    def watch(self, folder: RunFolder) -> None:
        """Look into this folder too. What was asked of an earlier start is not asked of this one."""
        self._folder = folder
        for name in (STOP, CHECKPOINT):
            self.met(name)

    def asked(self, name: str) -> bool:
        """Whether somebody asks for it in the folder."""
        if self._folder and self._clock() - self._looked >= LOOK_S:
            self._looked = self._clock()
            self._found = {name for name in (STOP, CHECKPOINT) if self._folder.request(name).exists()}
        return name in self._found

    def met(self, name: str) -> None:
        """What was asked for is done."""
        self._found.discard(name)
        if self._folder:
            self._folder.request(name).unlink(missing_ok=True)

    def _remember(self, number: int, frame: Any) -> None:
        self.wanted = True
