"""What is planted in a cluster and what the checks say of it: one row for each."""

from collections.abc import Callable
from typing import Any

from tests.cluster.planted import (
    CLAIM,
    COVERED,
    HEALTH,
    HOME,
    PRIORITIES,
    QUEUES,
    RUNTIMES,
    Planted,
    cluster_queue,
    flavor,
    named,
)

CLASSES = "/apis/storage.k8s.io/v1/storageclasses"
PYTORCHJOBS = "/apis/kubeflow.org/v1"
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
ONE: dict[str, Any] = {"nodes": 1}
MADE: dict[str, Any] = {"workspace": {}}
MINE: dict[str, Any] = {"runtime": "mine"}
TOLERANT: dict[str, Any] = {"tolerations": [{"key": "k"}]}
TAINTS = [{"key": "k", "effect": "NoSchedule"}]
ONE_GPU = COVERED | {"nvidia.com/gpu": "1"}
NO_GPU = {name: size for name, size in COVERED.items() if "gpu" not in name}
NO_DISK = {name: size for name, size in COVERED.items() if "storage" not in name}
Change = Callable[[Planted], object]


def nothing(cluster: Planted) -> None:
    """The run itself asks for what is not there."""


def without(path: str) -> Change:
    return lambda cluster: cluster.drop(path)


def having(path: str, content: Any, status: int = 200) -> Change:
    return lambda cluster: cluster.put(path, content, status)


def hidden(*plurals: str) -> Change:
    return lambda cluster: cluster.forbidden.update(plurals)


def both(*changes: Change) -> Change:
    return lambda cluster: [change(cluster) for change in changes]


def volume(*modes: str, phase: str = "Bound", **spec: Any) -> Change:
    return having(CLAIM, named("shared", spec={"accessModes": list(modes), **spec}, status={"phase": phase}))


def storage(maker: str, *, default: bool = True, name: str = "fast", late: bool = False) -> Change:
    mark = {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}} if default else {}
    mode = "WaitForFirstConsumer" if late else "Immediate"
    return having(f"{CLASSES}/{name}", named(name, metadata=mark, provisioner=maker, volumeBindingMode=mode))


def quota(hard: dict[str, str], **spec: Any) -> Change:
    return having(f"{HOME}/resourcequotas/most", named("most", spec={"hard": hard, **spec}))


def limit(**item: Any) -> Change:
    return having(f"{HOME}/limitranges/range", named("range", spec={"limits": [{"type": "Container", **item}]}))


def queue(*flavors: dict[str, Any], **spec: Any) -> Change:
    return having(f"{QUEUES}/all", cluster_queue(*flavors, **spec))


def machine(allocatable: dict[str, str], **spec: Any) -> Change:
    return having("/api/v1/nodes/big", named("big", status={"allocatable": allocatable}, spec=spec))


def of_priority(name: str) -> dict[str, Any]:
    return {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": [name]}]}


Row = tuple[str, str, str, Change, dict[str, Any]]
"""Name of the finding, its state, what it says, what is planted, what the run has otherwise"""
ROWS: list[Row] = [
    ("namespace", "failed", "does not exist", without(HOME), {}),
    ("namespace", "failed", "being deleted", having(HOME, named("ours", metadata={"deletionTimestamp": "x"})), {}),
    ("namespace", "unknown", "right to get namespaces", hidden("namespaces"), {}),
    (
        *("namespace", "unknown", "restricted"),
        having(HOME, named("ours", metadata={"labels": {"pod-security.kubernetes.io/enforce": "restricted"}})),
        {},
    ),
    ("cluster API", "failed", "older than 1.27", having("/version", {"gitVersion": "v1.24.1"}), {}),
    ("cluster API", "failed", "no Kubernetes API", having("/version", b"<html>"), {}),
    ("kind of job", "failed", "not served as kubeflow.org/v1", lambda c: c.drop_group("kubeflow.org"), {}),
    ("kind of job", "failed", "not served", having(PYTORCHJOBS, {"resources": [{"name": "mpijobs"}]}), {}),
    ("kind of job", "unknown", "does not tell its fields", having(f"/openapi/v3{PYTORCHJOBS}", {}, 404), {}),
    ("training runtime", "failed", "does not exist (there is torch-distributed)", nothing, MINE),
    ("training runtime", "failed", "no replicated job", having(f"{RUNTIMES}/mine", named("mine", spec={})), MINE),
    ("training runtime", "unknown", "get clustertrainingruntimes", hidden("clustertrainingruntimes"), MINE),
    ("rights", "failed", "create pytorchjobs.kubeflow.org", lambda c: c.denied.add("create pytorchjobs"), {}),
    ("rights", "failed", "get pods/log", lambda c: c.denied.add("get pods/log"), {}),
    ("rights", "failed", "create services/proxy ml-pipeline:http", lambda c: c.denied.add("create services/proxy"), {}),
    ("rights", "failed", "their own rights", having(REVIEWS, {}, 403), {}),
    ("pipelines", "failed", "there is no service ml-pipeline", having(HEALTH, {}, 404), {}),
    ("pipelines", "failed", "2.14.3, older than 2.15", having(HEALTH, {"tag_name": "2.14.3"}), {}),
    ("pipelines", "unknown", "does not tell its version", having(HEALTH, {"tag_name": "unknown"}), {}),
    ("pipelines", "unknown", "does not tell its version", having(HEALTH, b"<html>"), {}),
    ("pipelines", "unknown", "services/proxy", having(HEALTH, {}, 403), {}),
    ("pipelines", "failed", "does not answer", nothing, {"pipelines": {"url": "http://127.0.0.1:9"}}),
    ("image", "failed", "is a tag", nothing, {"image": "reg.example:5000/trainworks:0.1.0"}),
    ("workspace", "failed", "does not exist", without(CLAIM), {}),
    ("workspace", "failed", "allows ReadWriteOnce, but cluster.nodes=2", volume("ReadWriteOnce"), {}),
    ("workspace", "ok", "enough for one node", volume("ReadWriteOnce"), ONE),
    ("workspace", "failed", "at the same time", volume("ReadWriteOncePod"), ONE),
    ("workspace", "failed", "at the same time", volume("ReadOnlyMany"), {}),
    ("workspace", "failed", "Lost", volume("ReadWriteMany", phase="Lost"), {}),
    ("workspace", "failed", "nothing has made a volume", volume("ReadWriteMany", phase="Pending"), {}),
    (
        *("workspace", "ok", "bound when the first pod is"),
        both(storage("x", late=True), volume("ReadWriteMany", phase="Pending", storageClassName="fast")),
        {},
    ),
    (
        *("workspace", "unknown", "waits for a pod"),
        both(hidden("storageclasses"), volume("ReadWriteMany", phase="Pending")),
        {},
    ),
    ("workspace", "unknown", "right to get persistentvolumeclaims", hidden("persistentvolumeclaims"), {}),
    ("workspace", "failed", "no default storage class", storage("x", default=False), MADE),
    ("workspace", "failed", "slow does not exist", nothing, {"workspace": {"storage_class": "slow"}}),
    ("workspace", "failed", "one machine at a time", storage("ebs.csi.aws.com"), MADE),
    ("workspace", "ok", "for many machines", storage("efs.csi.aws.com"), MADE),
    ("workspace", "unknown", "may or may not", storage("vendor.example/disks"), MADE),
    ("workspace", "ok", "for each pipeline run", storage("ebs.csi.aws.com"), MADE | ONE),
    ("quota", "failed", "requests.nvidia.com/gpu=1, one job asks for 2", quota({"requests.nvidia.com/gpu": "1"}), {}),
    ("quota", "failed", "limits.memory=31Gi, one job asks for 32Gi", quota({"limits.memory": "31Gi"}), {}),
    ("quota", "failed", "pods=1", quota({"pods": "1"}), {}),
    ("quota", "failed", "storage=5Gi", both(storage("nfs.csi.k8s.io"), quota({"requests.storage": "5Gi"})), MADE),
    ("quota", "ok", "one job fits", quota({"cpu": "8", "memory": "32Gi", "pods": "2"}), {}),
    ("quota", "ok", "none", quota({"pods": "1"}, scopes=["BestEffort"]), {}),
    ("quota", "failed", "pods=1", quota({"pods": "1"}, scopeSelector=of_priority("nightly")), {}),
    ("quota", "ok", "none", quota({"pods": "1"}, scopeSelector=of_priority("other")), {}),
    ("quota", "unknown", "right to list resourcequotas", hidden("resourcequotas"), {}),
    ("limit range", "failed", "cpu=2 at most, asked for 4", limit(max={"cpu": "2"}), {}),
    ("limit range", "failed", "memory=32Gi at least, got 16Gi", limit(min={"memory": "32Gi"}), {}),
    ("limit range", "ok", "fit", limit(max={"cpu": "4"}), {}),
    ("limit range", "unknown", "right to list limitranges", hidden("limitranges"), {}),
    ("queue", "skipped", "jobs start at once", nothing, {"queue": None}),
    ("queue", "failed", "no Kueue", lambda c: c.drop_group("kueue.x-k8s.io"), {}),
    ("queue", "failed", "LocalQueue other does not exist", nothing, {"queue": "other"}),
    ("queue", "failed", "ClusterQueue all of LocalQueue team does not exist", without(f"{QUEUES}/all"), {}),
    ("queue", "failed", "stopPolicy is Hold", queue(flavor("gpu", COVERED), stopPolicy="Hold"), {}),
    ("queue", "failed", "no namespaceSelector", queue(flavor("gpu", COVERED), namespaceSelector=None), {}),
    ("queue", "failed", "nvidia.com/gpu=2 asked for, 1 at most", queue(flavor("gpu", ONE_GPU)), {}),
    (
        *("queue", "ok", "large enough"),
        queue(*(flavor(name, ONE_GPU) for name in ("a", "b"))),
        {},
    ),
    (
        *("queue", "failed", "no one flavor of a, b has room for 2 pods"),
        queue(*(flavor(name, ONE_GPU) for name in ("a", "b"))),
        {"job": "trainjob"},
    ),
    ("queue", "failed", "does not cover ephemeral-storage", queue(flavor("gpu", NO_DISK)), {}),
    (
        *("queue", "unknown", "right to get configmaps"),
        both(hidden("configmaps"), queue(flavor("gpu", NO_DISK))),
        {},
    ),
    (
        *("queue", "ok", "overlooks ephemeral-storage"),
        both(
            queue(flavor("gpu", NO_DISK)),
            having(
                "/api/v1/namespaces/kueue-system/configmaps/kueue-manager-config",
                {"data": {"controller_manager_config.yaml": "resources: {excludeResourcePrefixes: [ephemeral-]}"}},
            ),
        ),
        {},
    ),
    ("queue's quota", "unknown", "right to get clusterqueues", hidden("clusterqueues"), {}),
    ("queue", "unknown", "right to get localqueues", hidden("localqueues"), {}),
    ("priority", "failed", "no PriorityClass", without(f"{PRIORITIES}/nightly"), {}),
    ("priority", "failed", "no WorkloadPriorityClass", nothing, {"job": "trainjob"}),
    ("priority", "failed", "no effect", nothing, {"job": "trainjob", "queue": None}),
    ("priority", "unknown", "right to get priorityclasses", hidden("priorityclasses"), {}),
    ("priority", "skipped", "not given", nothing, {"priority": None}),
    ("service account", "failed", "does not exist", without(f"{HOME}/serviceaccounts/trainworks-job"), {}),
    ("service account", "unknown", "right to get serviceaccounts", hidden("serviceaccounts"), {}),
    ("secret wandb", "failed", "does not exist", without(f"{HOME}/secrets/wandb"), {}),
    ("secret wandb", "failed", "has no api-key", having(f"{HOME}/secrets/wandb", named("wandb", data={"x": ""})), {}),
    ("secret wandb", "unknown", "right to get secrets", hidden("secrets"), {}),
    ("secret pull", "failed", "does not exist", nothing, {"pull_secrets": ["pull"]}),
    ("machines", "failed", "nvidia.com/gpu=1 asked for, 0 at most", machine(NO_GPU), {}),
    ("machines", "failed", "room for 1 pods, and a job has 2", machine(COVERED | {"cpu": "7"}), {}),
    ("machines", "failed", "cluster.tolerations lacks", machine(COVERED, taints=TAINTS), {}),
    ("machines", "ok", "room for", machine(COVERED, taints=TAINTS), TOLERANT),
    ("machines", "unknown", "autoscaler may add some", both(machine({}), having("/apis/karpenter.sh", {})), {}),
    ("machines", "unknown", "not known", both(machine({}), hidden("configmaps")), {}),
    ("machines", "unknown", "right to list nodes", hidden("nodes"), {}),
]  # fmt: skip
