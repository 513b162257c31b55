"""The pods of a job as they change, in a thread of its own: one list, then one watch at a time."""

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from configs.errors import OutageError, UserError
from k8s.api import PODS, Api, GoneError

PAUSE_S = 1.0
"""Least time between the beginnings of two watches: one that ends at once must not become a flood of calls"""


class Change(NamedTuple):
    """What happened to a pod; `listed` holds all that there are, and any other is gone."""

    kind: Literal["changed", "deleted", "listed", "broken"]
    pods: tuple[dict[str, Any], ...] = ()
    error: Exception | None = None


class PodWatch:
    """Follows the pods that have certain labels; `changes` gives what is new. The thread ends with the block."""

    def __init__(self, api: Api, labels: str) -> None:
        self.api, self.labels = api, labels
        self._queue: queue.Queue[Change] = queue.Queue()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="pods")

    def __enter__(self) -> "PodWatch":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()

    def changes(self, timeout_s: float) -> Iterator[Change]:
        """What has happened since; waits `timeout_s` seconds at most for the first."""
        try:
            yield self._queue.get(timeout=timeout_s)
            while True:
                yield self._queue.get_nowait()
        except queue.Empty:
            return

    def _run(self) -> None:
        try:
            while not self._ended.is_set():
                self._follow()
        except (UserError, OutageError) as error:
            self._queue.put(Change("broken", (), error))

    def _follow(self) -> None:
        """From one list to the watch that can no longer go on from it."""
        pods, version = self.api.list(PODS, labels=self.labels)
        self._queue.put(Change("listed", tuple(pods)))
        while not self._ended.is_set():
            begun = time.monotonic()
            try:
                for kind, pod in self.api.watch(PODS, labels=self.labels, version=version):
                    version = pod["metadata"]["resourceVersion"]
                    if kind in ("ADDED", "MODIFIED"):
                        self._queue.put(Change("changed", (pod,)))
                    elif kind == "DELETED":
                        self._queue.put(Change("deleted", (pod,)))
                    if self._ended.is_set():
                        return
            except GoneError:
                self._ended.wait(PAUSE_S)
                return
            self._ended.wait(max(0.0, PAUSE_S - (time.monotonic() - begun)))
