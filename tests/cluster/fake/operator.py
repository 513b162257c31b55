"""The operators of the fake cluster: what training-operator 1.9 does with a PyTorchJob, Trainer 2.2 with a TrainJob."""

import contextlib
import itertools
import queue
import socket
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tests.cluster.fake.api import FakeCluster
from tests.cluster.fake.objects import Object, StatusError, now
from tests.cluster.fake.selectors import Selector

RETRYABLE = 128
QUEUE = "kueue.x-k8s.io/queue-name"
TICK_S = 0.05
OWNED = {"PyTorchJob": "training.kubeflow.org/job-name", "TrainJob": "jobset.sigs.k8s.io/jobset-name"}
"""The label of pods that names their job, by its kind"""
PLURALS = {"PyTorchJob": "pytorchjobs", "TrainJob": "trainjobs"}


class FakeOperator:
    """Makes pods of jobs and reads how they end. `admits`: whether a queue lets every job in at once."""

    def __init__(self, cluster: FakeCluster, *, admits: bool = True) -> None:
        self.cluster, self.store, self.admits = cluster, cluster.store, admits
        self._due: queue.Queue[tuple[str, str, str] | None] = queue.Queue()
        self._pending: set[tuple[str, str, str]] = set()
        self._lock = threading.Lock()
        self._ports: dict[str, int] = {}
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
        for plural in PLURALS.values():
            with contextlib.suppress(StatusError):
                self.store.change(plural, namespace, name, lambda job: _suspend(job, not admitted))

    def _heard(self, kind: str, found: Object) -> None:
        metadata = found["metadata"]
        if found.get("kind") in PLURALS:
            self._remember(found["kind"], metadata.get("namespace", ""), metadata["name"])
        for job, label in OWNED.items() if found.get("kind") == "Pod" else ():
            if name := (metadata.get("labels") or {}).get(label):
                self._remember(job, metadata["namespace"], name)

    def _remember(self, *job: str) -> None:
        kind, namespace, name = job
        with self._lock:
            if (kind, namespace, name) in self._pending:
                return
            self._pending.add((kind, namespace, name))
        self._due.put((kind, namespace, name))

    def _run(self) -> None:
        pause = threading.Event()
        while (job := self._due.get()) is not None:
            pause.wait(TICK_S if self._due.empty() else 0)  # what comes at once is looked at once
            with self._lock:
                self._pending.discard(job)
            with contextlib.suppress(StatusError):  # somebody was faster
                self._reconcile(*job)

    def _reconcile(self, kind: str, namespace: str, name: str) -> None:
        plural = PLURALS[kind]
        job = self.store.get(plural, namespace, name)
        if job is None or "deletionTimestamp" in job["metadata"]:
            return
        pods = self.store.list("pods", namespace, Selector(((OWNED[kind], "=", (name,)),)))
        pods = [each for each in pods if _owned(each, job)]
        if self.admits and QUEUE in (job["metadata"].get("labels") or {}) and _suspended(job) and not _ended(job):
            self.store.change(plural, namespace, name, lambda each: _suspend(each, False))
            return
        if _suspended(job) and not _ended(job):
            for each in pods:
                self._delete(each)
            self._set(plural, job, "Suspended", "suspended", clear=("Running", "Restarting"))
            return
        if not _has(job, "Created"):
            self._set(plural, job, "Created", f"{kind} {name} is created.")
        if _has(job, "Suspended"):
            self._set(plural, job, "Resumed", "resumed", clear=("Suspended", "Resumed"))
        (self._pytorchjob if kind == "PyTorchJob" else self._trainjob)(job, pods)

    def _pytorchjob(self, job: Object, pods: Sequence[Object]) -> None:
        name, spec = job["metadata"]["name"], job["spec"]
        there = {each["metadata"]["name"]: each for each in pods}
        if _ended(job):
            if spec["runPolicy"].get("cleanPodPolicy") == "Running":
                for each in pods:
                    if _phase(each) in ("Pending", "Running"):
                        self._delete(each)
            return None
        for wanted, make in self._replicas(job):
            found = there.get(wanted)
            if found is None:
                with contextlib.suppress(StatusError):
                    self.store.create("pods", make(), job["metadata"]["namespace"])
            elif _phase(found) == "Failed":
                code = _code(found)
                if code is not None and code < RETRYABLE:
                    message = f"PyTorchJob {name} is failed because 1 replica(s) failed ({wanted}, exit code {code})."
                    return self._set("pytorchjobs", job, "Failed", message, clear=("Running", "Restarting"))
                self._set("pytorchjobs", job, "Restarting", f"{wanted} ended with {code}", clear=("Running",))
                self._delete(found)
        if _phase(there.get(f"{name}-master-0")) == "Succeeded":
            return self._set("pytorchjobs", job, "Succeeded", f"PyTorchJob {name} is successfully completed.")
        if pods and all(_phase(each) == "Running" for each in pods) and not _has(job, "Running"):
            self._set("pytorchjobs", job, "Running", f"PyTorchJob {name} is running.", clear=("Restarting",))
        return None

    def _replicas(self, job: Object) -> Iterator[tuple[str, Callable[[], Object]]]:
        """Names of the pods that a PyTorchJob is to have, and how each is made."""
        spec, name = job["spec"], job["metadata"]["name"]
        replicas = spec["pytorchReplicaSpecs"]
        nodes, rank = sum(each["replicas"] for each in replicas.values()), itertools.count()
        for role in ("Master", "Worker"):
            for index in range(replicas.get(role, {"replicas": 0})["replicas"]):
                wanted, node = f"{name}-{role.lower()}-{index}", next(rank)
                labels = {
                    OWNED["PyTorchJob"]: name,
                    "training.kubeflow.org/replica-type": role.lower(),
                    "training.kubeflow.org/replica-index": str(index),
                    "training.kubeflow.org/operator-name": "pytorchjob-controller",
                }
                environment = self._meeting(job, nodes, node, spec["nprocPerNode"])
                environment |= {
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": environment["PET_MASTER_PORT"],
                    "WORLD_SIZE": str(nodes * int(spec["nprocPerNode"])),
                    "RANK": str(node),
                }
                template = replicas[role]["template"]
                yield (
                    wanted,
                    lambda wanted=wanted, template=template, labels=labels, environment=environment: _pod(
                        job, wanted, template, labels, environment
                    ),
                )

    def _trainjob(self, job: Object, pods: Sequence[Object]) -> None:
        name, trainer = job["metadata"]["name"], job["spec"]["trainer"]
        if _ended(job):
            return
        template = _runtime_template(job)
        there = {each["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] for each in pods}
        for node in range(trainer["numNodes"]):
            if str(node) not in there:
                labels = {OWNED["TrainJob"]: name, "batch.kubernetes.io/job-completion-index": str(node)}
                environment = self._meeting(job, trainer["numNodes"], node, str(trainer["numProcPerNode"]))
                pod = _pod(job, f"{name}-node-0-{node}-{uuid.uuid4().hex[:5]}", template, labels, environment)
                self.store.create("pods", pod, job["metadata"]["namespace"])
        phases = [_phase(each) for each in pods]
        status = {"name": "node", "active": sum(phase in ("Pending", "Running") for phase in phases)}
        if job.get("status", {}).get("jobsStatus") != [status]:
            self.store.change(*_place("trainjobs", job), lambda each: each["status"].update(jobsStatus=[status]))
        if "Failed" in phases:
            for each in pods:
                if _phase(each) in ("Pending", "Running"):
                    self._delete(each)
            self._set("trainjobs", job, "Failed", "jobset failed due to one or more job failures")
        elif phases and all(phase == "Succeeded" for phase in phases):
            self._set("trainjobs", job, "Complete", "jobset completed successfully")

    def _meeting(self, job: Object, nodes: int, node: int, per_node: str) -> dict[str, str]:
        """What both operators set; the same address for all nodes of a job."""
        port = self._ports.setdefault(job["metadata"]["uid"], _free_pair())
        return {
            "PYTHONUNBUFFERED": "1",
            "PET_MASTER_ADDR": "127.0.0.1",
            "PET_MASTER_PORT": str(port),
            "PET_NNODES": str(nodes),
            "PET_NPROC_PER_NODE": per_node,
            "PET_NODE_RANK": str(node),
        }

    def _delete(self, pod: Object) -> None:
        with contextlib.suppress(StatusError):
            self.store.delete("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])

    def _set(self, plural: str, job: Object, name: str, message: str, clear: Sequence[str] = ()) -> None:
        """Make a condition true, and others untrue."""

        def edit(found: Object) -> None:
            status = found.setdefault("status", {})
            status.setdefault("startTime", now())
            if name in ("Suspended", "Resumed"):
                status["startTime"] = now()
            kept = [each for each in status.get("conditions", ()) if each["type"] not in (name, *clear)]
            fresh = {"type": name, "status": "True", "reason": f"Job{name}", "message": message}
            status["conditions"] = [*kept, fresh | {"lastTransitionTime": now()}]

        if not _has(job, name):
            self.store.change(*_place(plural, job), edit)


def _pod(job: Object, name: str, template: Object, labels: dict[str, str], environment: dict[str, str]) -> Object:
    """A pod of a template, with what the operator adds."""
    spec = {**template["spec"], "containers": [dict(each) for each in template["spec"]["containers"]]}
    added = [{"name": key, "value": value} for key, value in environment.items()]
    spec["containers"][0]["env"] = [*spec["containers"][0].get("env", ()), *added]
    owner = {"apiVersion": job["apiVersion"], "kind": job["kind"], "uid": job["metadata"]["uid"], "controller": True}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {**template["metadata"].get("labels", {}), **labels},
            "annotations": template["metadata"].get("annotations", {}),
            "ownerReferences": [owner | {"name": job["metadata"]["name"]}],
        },
        "spec": spec,
        "status": {"phase": "Pending"},
    }


def _runtime_template(job: Object) -> Object:
    """The pod template that the runtime `torch-distributed` makes of a TrainJob and its patches."""
    trainer, patch = job["spec"]["trainer"], job["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]
    pod = patch["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    container = {**pod["spec"]["containers"][0], "image": trainer["image"], "command": trainer["command"]}
    container |= {"env": trainer["env"], "resources": trainer["resourcesPerNode"]}
    return {"metadata": pod["metadata"], "spec": {**pod["spec"], "containers": [container], "restartPolicy": "Never"}}


def _owned(pod: Object, job: Object) -> bool:
    return any(each["uid"] == job["metadata"]["uid"] for each in pod["metadata"].get("ownerReferences", ()))


def _place(plural: str, job: Object) -> tuple[str, str, str]:
    return plural, job["metadata"]["namespace"], job["metadata"]["name"]


def _phase(pod: Object | None) -> str:
    return (pod or {}).get("status", {}).get("phase", "")


def _code(pod: Object) -> int | None:
    states: Any = (each.get("state", {}).get("terminated") for each in pod["status"].get("containerStatuses", ()))
    return next((each["exitCode"] for each in states if each), None)


def _has(job: Object, name: str) -> bool:
    return any(each["type"] == name for each in job.get("status", {}).get("conditions", ()))


def _ended(job: Object) -> bool:
    return any(_has(job, name) for name in ("Succeeded", "Failed", "Complete"))


def _suspended(job: Object) -> bool:
    return bool(job["spec"].get("suspend") or job["spec"].get("runPolicy", {}).get("suspend"))


def _suspend(job: Object, value: bool) -> None:
    (job["spec"]["runPolicy"] if "runPolicy" in job["spec"] else job["spec"])["suspend"] = value


def _free_pair() -> int:
    """A port that is free together with the next one."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            with contextlib.suppress(OSError):
                second.bind(("127.0.0.1", port + 1))
                return port
