"""A run as a TrainJob (trainer.kubeflow.org/v1alpha1, Kubeflow Trainer 2.2), and what its object and pods tell."""

from collections.abc import Mapping
from typing import Any

from k8s.job import LABEL, Job, describe
from k8s.pods import (
    NO_SIDECAR,
    container_security,
    environment,
    mounts,
    pod_security,
    resources,
    termination_s,
    tolerations,
    volumes,
)
from k8s.state import Kind, State, condition, message_of, suspended

NODES = "node"
"""The replicated job of the runtime that trains, and its container"""


def trainjob(job: Job) -> dict[str, Any]:
    """The manifest: what the training runtime leaves open, and patches to it.

    A TrainJob cannot give probes, a priority class or the token's mount: those belong in the runtime, and
    k8s/manifests/examples/training-runtime.yaml is one. `cluster.priority` becomes Kueue's label here, and
    `cluster.spread` a preference of the pods to keep apart.
    """
    cluster = job.run.cluster
    spec = {
        "runtimeRef": {"name": cluster.runtime},
        "suspend": cluster.queue is not None,
        "trainer": {
            "image": cluster.image,
            "command": job.command,
            "env": environment(job),
            "numNodes": cluster.nodes,
            "numProcPerNode": job.per_node,
            "resourcesPerNode": resources(cluster.node),
        },
        "runtimePatches": [{"manager": f"{LABEL}launcher", "trainingRuntimeSpec": {"template": _patch(job)}}],
    }
    manifest = describe(spec, job, api_version=TRAINJOB.api_version, kind="TrainJob")
    if cluster.priority:
        manifest["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] = cluster.priority
    return manifest


def _patch(job: Job) -> dict[str, Any]:
    """What is changed in the pods that the runtime describes."""
    pod = {"metadata": {"labels": job.labels, "annotations": NO_SIDECAR}, "spec": _pod_patch(job)}
    return {"spec": {"replicatedJobs": [{"name": NODES, "template": {"spec": {"template": pod}}}]}}


def _pod_patch(job: Job) -> dict[str, Any]:
    cluster = job.run.cluster
    spec: dict[str, Any] = {
        "serviceAccountName": cluster.service_account,
        "terminationGracePeriodSeconds": termination_s(job),
        "securityContext": pod_security(),
        "volumes": volumes(job),
        "containers": [
            {"name": NODES, "volumeMounts": mounts(job), "securityContext": container_security(cluster.node)}
        ],
    }
    if cluster.node_selector:
        spec["nodeSelector"] = dict(cluster.node_selector)
    if cluster.tolerations:
        spec["tolerations"] = tolerations(cluster)
    if cluster.pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in cluster.pull_secrets]
    if cluster.spread:
        spec["affinity"] = {"podAntiAffinity": _apart(job, cluster.spread)}
    return spec


def _apart(job: Job, topology: str) -> dict[str, Any]:
    term = {"topologyKey": topology, "labelSelector": {"matchLabels": job.labels}}
    return {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": term}]}


def state(found: Mapping[str, Any]) -> State:
    """Where a job stands, by its conditions."""
    if done := condition(found, "Complete"):
        return State("succeeded", message_of(done))
    if failed := condition(found, "Failed"):
        return State("failed", message_of(failed))
    if suspended(found):
        return State("queued", message_of(condition(found, "Suspended")))
    active = sum(each.get("active") or 0 for each in (found.get("status") or {}).get("jobsStatus") or ())
    return State("running" if active else "starting")


def node_of(pod: Mapping[str, Any]) -> int:
    """Which node of the job a pod is."""
    return int(pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"])


TRAINJOB = Kind(
    name="TrainJob",
    group="trainer.kubeflow.org",
    version="v1alpha1",
    plural="trainjobs",
    build=trainjob,
    state=state,
    node_of=node_of,
)
