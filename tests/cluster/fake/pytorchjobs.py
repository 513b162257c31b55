"""What training-operator 1.9 does with a PyTorchJob."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tests.cluster.fake.jobpods import ALIVE, OWNED, Ports, exit_code, phase, pod_of, restarts
from tests.cluster.fake.jobstatus import begin, count, ended, turn
from tests.cluster.fake.objects import Object, StatusError
from tests.cluster.fake.store import Store

RETRYABLE = 128
ROLES = ("Master", "Worker")
Change = Callable[[Callable[[Object], None]], object]
"""Edits the job in the store"""


class Replica(NamedTuple):
    """One pod that a job is to have."""

    role: str
    number: int
    """Among those of its role"""
    rank: int
    """Of its node"""
    name: str


def reconcile(store: Store, job: Object, pods: Sequence[Object], ports: Ports, change: Change) -> None:
    """Make the pods that are missing and read how the others do. Without a restart policy pods are not restarted."""
    name, there = job["metadata"]["name"], {each["metadata"]["name"]: each for each in pods}
    if ended(job):
        return clean(store, job, pods)
    change(begin)
    failed = False
    for replica in replicas(job):
        found = there.get(replica.name)
        if found is None:
            with contextlib.suppress(StatusError):  # one of that name is still going
                store.create("pods", _pod(job, replica, ports), job["metadata"]["namespace"])
        elif phase(found) == "Failed" and (message := _failure(job, replica, found)):
            return _end(store, job, pods, change, "Failed", message)
        elif phase(found) == "Failed":
            message = f"PyTorchJob {name} is restarting because 1 {replica.role} replica(s) failed."
            change(lambda each, message=message: turn(each, "Restarting", message))
            delete(store, found)
            failed = True
    phases = {role: [phase(there.get(each.name)) for each in replicas(job) if each.role == role] for role in ROLES}
    change(lambda each: count(each, {role: found for role, found in phases.items() if found}))
    if past_backoff(job, pods):
        message = f"PyTorchJob {name} has failed because it has reached the specified backoff limit"
        return _end(store, job, pods, change, "Failed", message)
    if phases["Master"] == ["Succeeded"]:
        return _end(store, job, pods, change, "Succeeded", f"PyTorchJob {name} is successfully completed.")
    if phases["Master"] == ["Running"] and not failed:  # the real one, too, looks at the master alone
        change(lambda each: turn(each, "Running", f"PyTorchJob {name} is running."))
    return None


def replicas(job: Object) -> Iterator[Replica]:
    """In the order of their nodes' ranks."""
    rank = 0
    for role in ROLES:
        spec = job["spec"]["pytorchReplicaSpecs"].get(role)
        for index in range(spec.get("replicas", 1) if spec else 0):
            yield Replica(role, index, rank, f"{job['metadata']['name']}-{role.lower()}-{index}")
            rank += 1


def _failure(job: Object, replica: Replica, pod: Object) -> str:
    """Why the job fails with a failed pod; empty when the pod is to be made anew."""
    policy = job["spec"]["pytorchReplicaSpecs"][replica.role].get("restartPolicy", "Never")
    code = exit_code(pod)
    if policy == "ExitCode" and (code is None or code >= RETRYABLE):
        return ""
    named = f"({replica.name}, exit code {code})"
    return f"PyTorchJob {job['metadata']['name']} is failed because 1 {replica.role} replica(s) failed {named}."


def past_backoff(job: Object, pods: Sequence[Object]) -> bool:
    """Whether containers were restarted too often: counted in their pods alone, so never with ExitCode."""
    limit = _policy(job).get("backoffLimit")
    return limit is not None and sum(restarts(each) for each in pods) > limit


def _end(store: Store, job: Object, pods: Sequence[Object], change: Change, name: str, message: str) -> None:
    change(lambda each: turn(each, name, message))
    clean(store, job, pods)


def clean(store: Store, job: Object, pods: Sequence[Object]) -> None:
    """Delete pods of a job that has ended; any word that is not a policy deletes them all, as the real one does."""
    policy = _policy(job).get("cleanPodPolicy") or "None"
    for each in pods if policy != "None" else ():
        if policy != "Running" or phase(each) in ALIVE:
            delete(store, each)


def delete(store: Store, pod: Object) -> None:
    if "deletionTimestamp" not in pod["metadata"]:
        with contextlib.suppress(StatusError):
            store.delete("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])


def ttl_s(job: Object) -> float | None:
    return _policy(job).get("ttlSecondsAfterFinished")


def _policy(job: Object) -> Mapping[str, Any]:
    return job["spec"].get("runPolicy") or {}


def _pod(job: Object, replica: Replica, ports: Ports) -> Object:
    spec, role = job["spec"], replica.role
    per_node, nodes = spec.get("nprocPerNode", "1"), sum(1 for _ in replicas(job))
    processes = int(per_node) if per_node.isdecimal() else 1
    variables = {
        "PYTHONUNBUFFERED": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": ports.of(job),
        "WORLD_SIZE": str(nodes * processes),
        "RANK": str(replica.rank),
        "PET_MASTER_ADDR": "127.0.0.1",
        "PET_MASTER_PORT": ports.of(job),
        "PET_NNODES": str(nodes),
        "PET_NPROC_PER_NODE": per_node,
        "PET_NODE_RANK": str(replica.rank),
    }
    labels = {
        OWNED["PyTorchJob"]: job["metadata"]["name"],
        "training.kubeflow.org/replica-type": role.lower(),
        "training.kubeflow.org/replica-index": str(replica.number),
        "training.kubeflow.org/operator-name": "pytorchjob-controller",
        **({"training.kubeflow.org/job-role": "master"} if role == "Master" else {}),
    }
    pod = pod_of(job, replica.name, spec["pytorchReplicaSpecs"][role]["template"], labels, variables)
    policy = spec["pytorchReplicaSpecs"][role].get("restartPolicy", "Never")
    pod["spec"]["restartPolicy"] = "Never" if policy == "ExitCode" else policy
    return pod
