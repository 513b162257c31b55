"""A run as a PyTorchJob (kubeflow.org/v1, training-operator 1.9), and what its object and pods tell."""

from collections.abc import Mapping
from typing import Any

from k8s.job import Job, describe
from k8s.pods import NO_SIDECAR, RENDEZVOUS_PORT, pod_spec
from k8s.state import Kind, State, condition, message_of, suspended

CONTAINER = "pytorch"
"""The name that the operator looks for"""


def pytorchjob(job: Job) -> dict[str, Any]:
    """The manifest: one Master, which is node 0, and a Worker for each other node.

    Restarts are the operator's where an exit code of 128 or more promises something (`ExitCode`); how many is the
    launcher's matter, as the operator does not count them. So is the deadline, for which the operator has no timer.
    """
    cluster = job.run.cluster
    policy: dict[str, Any] = {
        "cleanPodPolicy": "Running",
        "ttlSecondsAfterFinished": cluster.patience.keep_failed_s,
        "suspend": cluster.queue is not None,
    }
    replicas = {"Master": replica(job, 1)}
    if cluster.nodes > 1:
        replicas["Worker"] = replica(job, cluster.nodes - 1)
    spec = {"nprocPerNode": str(job.per_node), "runPolicy": policy, "pytorchReplicaSpecs": replicas}
    return describe(spec, job, api_version=PYTORCHJOB.api_version, kind="PyTorchJob")


def replica(job: Job, count: int) -> dict[str, Any]:
    """Pods of one role."""
    spec = pod_spec(job, CONTAINER)
    spec["containers"][0]["ports"] = [{"name": "pytorchjob-port", "containerPort": RENDEZVOUS_PORT}]
    template = {"metadata": {"labels": job.labels, "annotations": NO_SIDECAR}, "spec": spec}
    return {"replicas": count, "restartPolicy": "ExitCode", "template": template}


def state(found: Mapping[str, Any]) -> State:
    """Where a job stands, by its conditions."""
    if done := condition(found, "Succeeded"):
        return State("succeeded", message_of(done))
    if failed := condition(found, "Failed"):
        return State("failed", message_of(failed))
    if suspended(found):
        return State("queued", message_of(condition(found, "Suspended")))
    return State("running" if condition(found, "Running") else "starting", message_of(condition(found, "Restarting")))


def node_of(pod: Mapping[str, Any]) -> int:
    """Which node of the job a pod is."""
    labels = pod["metadata"]["labels"]
    index = int(labels["training.kubeflow.org/replica-index"])
    return index + 1 if labels["training.kubeflow.org/replica-type"] == "worker" else 0


PYTORCHJOB = Kind(
    name="PyTorchJob",
    group="kubeflow.org",
    version="v1",
    plural="pytorchjobs",
    build=pytorchjob,
    state=state,
    node_of=node_of,
)
