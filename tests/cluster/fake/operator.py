"""The operators of the fake cluster: they hear of jobs and pods, and do what is due; and the queue before them."""

import contextlib
import functools
import heapq
import queue
import threading
import time
from datetime import datetime

from tests.cluster.fake import pytorchjobs, trainjobs
from tests.cluster.fake.api import FakeCluster
from tests.cluster.fake.jobpods import OWNED, Ports, owned
from tests.cluster.fake.jobstatus import begin, ended, has, turn
from tests.cluster.fake.objects import Object, StatusError
from tests.cluster.fake.selectors import Selector

QUEUE = "kueue.x-k8s.io/queue-name"
TICK_S = 0.05
PLURALS = {"PyTorchJob": "pytorchjobs", "TrainJob": "trainjobs"}
Job = tuple[str, str, str]
"""Kind, namespace, name"""


class FakeOperator:
    """Makes pods of jobs and reads how they end. A job with a queue's label waits until `admit` lets it in.

    `admits`: whether its queue lets every job in at once.
    """

    def __init__(self, cluster: FakeCluster, *, admits: bool = True) -> None:
        self.cluster, self.store, self.admits = cluster, cluster.store, admits
        self._due: queue.Queue[Job | None] = queue.Queue()
        self._pending: set[Job] = set()
        self._later: list[tuple[float, Job]] = []
        self._lock = threading.Lock()
        self._ports, self._attempts = Ports(), dict[str, int]()
        self._admitted: set[str] = set()
        """Jobs that were let in, by uid"""
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "FakeOperator":
        self.store.listeners.append(self._heard)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.store.listeners.remove(self._heard)
        self._due.put(None)
        self._thread.join(10)

    def admit(self, name: str, namespace: str = "trainworks", *, admitted: bool = True) -> None:
        """Let a job out of its queue, or take its place back."""

        def edit(job: Object) -> None:
            (self._admitted.add if admitted else self._admitted.discard)(job["metadata"]["uid"])
            _suspend(job, not admitted)

        for plural in PLURALS.values():
            with contextlib.suppress(StatusError):
                self.store.change(plural, namespace, name, edit)

    def _heard(self, kind: str, found: Object) -> None:
        metadata = found["metadata"]
        if found.get("kind") in PLURALS:
            self._remember((found["kind"], metadata.get("namespace", ""), metadata["name"]))
        for job, label in OWNED.items() if found.get("kind") == "Pod" else ():
            if name := (metadata.get("labels") or {}).get(label):
                self._remember((job, metadata["namespace"], name))

    def _remember(self, job: Job) -> None:
        with self._lock:
            if job in self._pending:
                return
            self._pending.add(job)
        self._due.put(job)

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            try:
                job = self._due.get(timeout=max(0.0, self._later[0][0] - time.monotonic()) if self._later else None)
            except queue.Empty:
                job = heapq.heappop(self._later)[1]
            if job is None:
                return
            pause.wait(TICK_S if self._due.empty() else 0)  # what comes at once is looked at once
            with self._lock:
                self._pending.discard(job)
            with contextlib.suppress(StatusError):  # somebody was faster
                self._reconcile(job)

    def _reconcile(self, key: Job) -> None:
        kind, namespace, name = key
        job = self.store.get(PLURALS[kind], namespace, name)
        if job is None or "deletionTimestamp" in job["metadata"] or self._queued(job):
            return
        pods = self.store.list("pods", namespace, Selector(((OWNED[kind], "=", (name,)),)))
        pods = [each for each in pods if owned(each, job)]
        change = functools.partial(self.store.change, PLURALS[kind], namespace, name)
        if _suspended(job) and not ended(job):
            for each in pods:
                pytorchjobs.delete(self.store, each)
            change(lambda each: _halt(each, f"{kind} {name} is suspended."))
            return
        change(lambda each: _start(each, f"{kind} {name} is created.", f"{kind} {name} is resumed."))
        if kind == "PyTorchJob":
            pytorchjobs.reconcile(self.store, job, pods, self._ports, change)
            self._expire(key)
        else:
            trainjobs.reconcile(self.store, job, pods, self._ports, change, self._attempts)

    def _queued(self, job: Object) -> bool:
        """See to a job's queue, as Kueue does; whether it has just changed the job."""
        metadata = job["metadata"]
        if QUEUE not in (metadata.get("labels") or {}) or ended(job):
            return False
        plural = PLURALS[job["kind"]]
        if self.admits and _suspended(job):
            self.admit(metadata["name"], metadata["namespace"])
            return True
        if not self.admits and not _suspended(job) and metadata["uid"] not in self._admitted:
            self.store.change(plural, metadata["namespace"], metadata["name"], lambda each: _suspend(each, True))
            return True
        return False

    def _expire(self, key: Job) -> None:
        """Delete a job whose time after its end is over, or come back when it is."""
        kind, namespace, name = key
        job = self.store.get(PLURALS[kind], namespace, name)
        after = pytorchjobs.ttl_s(job) if job and ended(job) else None
        if job is None or after is None:
            return
        done = datetime.fromisoformat(job["status"]["completionTime"]).timestamp()
        if (left := done + after - time.time()) <= 0:
            self.store.delete(PLURALS[kind], namespace, name)
        elif not any(each == key for _, each in self._later):
            heapq.heappush(self._later, (time.monotonic() + left, key))


def _suspended(job: Object) -> bool:
    return bool(job["spec"].get("suspend") or (job["spec"].get("runPolicy") or {}).get("suspend"))


def _suspend(job: Object, value: bool) -> None:
    spec = job["spec"]
    (spec.setdefault("runPolicy", {}) if job["kind"] == "PyTorchJob" else spec)["suspend"] = value


def _halt(job: Object, message: str) -> None:
    turn(job, "Created", f"{job['kind']} {job['metadata']['name']} is created.")
    turn(job, "Suspended", message)
    job["status"].pop("startTime", None)
    job["status"].pop("replicaStatuses", None)


def _start(job: Object, created: str, resumed: str) -> None:
    if not has(job, "Created"):
        turn(job, "Created", created)
    if has(job, "Suspended"):
        reason = "PyTorchJobResumed" if job["kind"] == "PyTorchJob" else "Resumed"
        turn(job, "Suspended", resumed, value=False, reason=reason)
    begin(job)
