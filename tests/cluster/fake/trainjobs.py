"""What Kubeflow Trainer 2.2 and the JobSet that it makes do with a TrainJob."""

import uuid
from collections.abc import Sequence
from typing import Any

from tests.cluster.fake.jobpods import ALIVE, OWNED, Ports, phase, pod_of
from tests.cluster.fake.jobstatus import ended, turn
from tests.cluster.fake.objects import Object
from tests.cluster.fake.pytorchjobs import Change, delete
from tests.cluster.fake.store import Store

NODES = "node"
INDEX = "batch.kubernetes.io/job-completion-index"
ATTEMPT = "jobset.sigs.k8s.io/restart-attempt"


def reconcile(
    store: Store, job: Object, pods: Sequence[Object], ports: Ports, change: Change, attempts: dict[str, int]
) -> None:
    """Make the pods that are missing and read how the others do; when one fails, all are made anew or none.

    How often is the runtime's word: `failurePolicy.maxRestarts` of its template, 0 where there is none. `attempts`
    counts by the job's uid.
    """
    uid = job["metadata"]["uid"]
    attempt = attempts.setdefault(uid, 0)
    old = [each for each in pods if each["metadata"]["labels"][ATTEMPT] != str(attempt)]
    if ended(job):
        return
    for each in old:
        delete(store, each)
    if old:
        return
    _make_missing(store, job, pods, ports, attempt)
    phases = [phase(each) for each in pods]
    active = sum(each in ALIVE for each in phases)
    told = {"name": NODES, "ready": 0, "succeeded": phases.count("Succeeded"), "failed": phases.count("Failed")}
    change(lambda each: each.setdefault("status", {}).update(jobsStatus=[{**told, "active": active, "suspended": 0}]))
    if "Failed" in phases and attempt < max_restarts(store, job):
        attempts[uid] += 1
        for each in pods:
            delete(store, each)
    elif "Failed" in phases:
        change(lambda each: turn(each, "Failed", "jobset failed due to one or more job failures", reason="FailedJobs"))
        for each in pods:
            if phase(each) in ALIVE:
                delete(store, each)
    elif len(phases) == num_nodes(job) and all(each == "Succeeded" for each in phases):
        change(lambda each: turn(each, "Complete", "jobset completed successfully", reason="AllJobsCompleted"))


def num_nodes(job: Object) -> int:
    return (job["spec"].get("trainer") or {}).get("numNodes", 1)


def max_restarts(store: Store, job: Object) -> int:
    runtime = store.get("clustertrainingruntimes", "", job["spec"]["runtimeRef"]["name"]) or {}
    jobset = ((runtime.get("spec") or {}).get("template") or {}).get("spec") or {}
    return (jobset.get("failurePolicy") or {}).get("maxRestarts", 0)


def _make_missing(store: Store, job: Object, pods: Sequence[Object], ports: Ports, attempt: int) -> None:
    name, template = job["metadata"]["name"], _template(job)
    there = {each["metadata"]["labels"][INDEX] for each in pods}
    per_node = str((job["spec"].get("trainer") or {}).get("numProcPerNode", 1))
    for node in range(num_nodes(job)):
        if str(node) in there:
            continue
        labels = {
            OWNED["TrainJob"]: name,
            "jobset.sigs.k8s.io/replicatedjob-name": NODES,
            ATTEMPT: str(attempt),
            INDEX: str(node),
        }
        variables = {
            "PET_MASTER_ADDR": "127.0.0.1",
            "PET_MASTER_PORT": ports.of(job),
            "PET_NNODES": str(num_nodes(job)),
            "PET_NPROC_PER_NODE": per_node,
            "PET_NODE_RANK": str(node),
        }
        pod = pod_of(job, f"{name}-node-0-{node}-{uuid.uuid4().hex[:5]}", template, labels, variables)
        store.create("pods", pod, job["metadata"]["namespace"])


def _template(job: Object) -> Object:
    """The pod template that the runtime `torch-distributed` makes of a TrainJob and its patches."""
    trainer: dict[str, Any] = job["spec"].get("trainer") or {}
    patches = job["spec"].get("runtimePatches") or [{}]
    jobset = ((patches[0].get("trainingRuntimeSpec") or {}).get("template") or {}).get("spec") or {}
    patched = (jobset.get("replicatedJobs") or [{}])[0].get("template", {}).get("spec", {}).get("template", {})
    spec = patched.get("spec") or {}
    container = {"name": NODES, **(spec.get("containers") or [{}])[0]}
    container |= {key: trainer[key] for key in ("image", "command", "args", "env") if key in trainer}
    container["resources"] = trainer.get("resourcesPerNode", {})
    return {"metadata": patched.get("metadata"), "spec": {**spec, "containers": [container], "restartPolicy": "Never"}}
