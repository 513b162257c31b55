"""Pods without processes: they run for a time and succeed, so that ten thousand of them fit on one machine."""

import heapq
import itertools
import threading
import time
from collections.abc import Iterator, Mapping

from tests.cluster.fake.api import FakeCluster
from tests.cluster.fake.objects import Object, StatusError


class SimulatedKubelet:
    """Every pod runs at once and succeeds after `run_s` seconds, having printed two lines. A context manager."""

    def __init__(self, cluster: FakeCluster, *, run_s: float) -> None:
        self.store, self.run_s = cluster.store, run_s
        self._due: list[tuple[float, int, Object, str]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._ended = False
        self._over: dict[str, threading.Event] = {}
        cluster.logs = self._log
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "SimulatedKubelet":
        self.store.listeners.append(self._heard)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.store.listeners.remove(self._heard)
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join(10)

    def _heard(self, kind: str, pod: Object) -> None:
        if pod.get("kind") != "Pod":
            return
        uid = pod["metadata"]["uid"]
        if kind == "ADDED":
            self._over[uid] = threading.Event()
            with self._changed:
                for after_s, phase in ((0.0, "Running"), (self.run_s, "Succeeded")):
                    heapq.heappush(self._due, (time.monotonic() + after_s, next(self._numbers), pod, phase))
                self._changed.notify()
        elif kind == "DELETED":
            self._over.pop(uid).set()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._ended and (not self._due or self._due[0][0] > time.monotonic()):
                    self._changed.wait(self._due[0][0] - time.monotonic() if self._due else None)
                if self._ended:
                    return
                _, _, pod, phase = heapq.heappop(self._due)
            self._move(pod, phase)

    def _move(self, pod: Object, phase: str) -> None:
        metadata = pod["metadata"]

        def edit(found: Object) -> None:
            if found["metadata"]["uid"] == metadata["uid"]:
                found["status"] = {"phase": phase}

        try:
            self.store.change("pods", metadata["namespace"], metadata["name"], edit)
        except StatusError:
            return
        if phase == "Succeeded" and (over := self._over.get(metadata["uid"])):
            over.set()

    def _log(self, pod: Object, query: Mapping[str, str]) -> Iterator[bytes]:
        over = self._over.get(pod["metadata"]["uid"])
        if query.get("sinceTime"):
            return
        yield b"2026-01-01T00:00:00.000000000Z train | begun\n"
        if over:
            over.wait()
        yield b"2026-01-01T00:00:01.000000000Z train | done\n"
