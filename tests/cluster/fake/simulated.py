"""Pods without processes: they run for a time and end as a script says, so that 10,000 of them fit on one machine."""

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping

from tests.cluster.fake import podstatus
from tests.cluster.fake.api import FakeCluster
from tests.cluster.fake.objects import Object, StatusError, now


class SimulatedKubelet:
    """Every pod runs at once and ends after `run_s` seconds, having printed two lines. A context manager.

    `script` gives a pod's exit code; without one all succeed.
    """

    def __init__(self, cluster: FakeCluster, *, run_s: float, script: Callable[[Object], int] = lambda pod: 0) -> None:
        self.store, self.run_s, self.script = cluster.store, run_s, script
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
                for after_s, phase in ((0.0, "Running"), (self.run_s, "Ended")):
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
        metadata, ends = pod["metadata"], phase != "Running"
        status = self._end(pod) if ends else {"phase": phase}

        def edit(found: Object) -> None:
            if found["metadata"]["uid"] == metadata["uid"]:
                found["status"] = status

        try:
            self.store.change("pods", metadata["namespace"], metadata["name"], edit)
        except StatusError:
            return
        if ends and (over := self._over.get(metadata["uid"])):
            over.set()

    def _end(self, pod: Object) -> podstatus.Status:
        end = podstatus.terminated(f"fake://{pod['metadata']['uid']}", now(), self.script(pod), "")
        return podstatus.ended(pod, end)

    def _log(self, pod: Object, query: Mapping[str, str]) -> Iterator[bytes]:
        over = self._over.get(pod["metadata"]["uid"])
        if query.get("sinceTime"):
            return
        yield b"2026-01-01T00:00:00.000000000Z train | begun\n"
        if over:
            over.wait()
        yield b"2026-01-01T00:00:01.000000000Z train | done\n"
