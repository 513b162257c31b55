"""A cluster on which a run has all that it needs, until a test takes something away, hides or changes it."""

from typing import Any

from configs.cluster import ClusterConfig
from configs.schema import RunConfig
from tests.cluster.fake.api import FakeCluster
from tests.cluster.fake.handler import Request
from tests.cluster.fake.requests import parse_path
from tests.cluster.fake.store import StatusError
from tests.tiny import tiny_run

HOME = "/api/v1/namespaces/ours"
HEALTH = "/api/v1/namespaces/kubeflow/services/ml-pipeline:http/proxy/apis/v2beta1/healthz"
CLAIM = f"{HOME}/persistentvolumeclaims/shared"
KUEUE = "/apis/kueue.x-k8s.io"
QUEUES = f"{KUEUE}/v1beta2/clusterqueues"
RUNTIMES = "/apis/trainer.kubeflow.org/v1alpha1/clustertrainingruntimes"
PRIORITIES = "/apis/scheduling.k8s.io/v1/priorityclasses"
SETTINGS: dict[str, Any] = {
    "image": "reg.example/trainworks@sha256:" + "0" * 64,
    "namespace": "ours",
    "nodes": 2,
    "node": {"gpus": 1, "cpu": "4", "memory": "16Gi", "scratch": "10Gi"},
    "workspace": {"claim": "shared"},
    "queue": "team",
    "priority": "nightly",
    "secrets": {"WANDB_API_KEY": {"name": "wandb", "key": "api-key"}},
}
COVERED = {"cpu": "64", "memory": "256Gi", "ephemeral-storage": "1Ti", "nvidia.com/gpu": "8"}
SECRET = "secret-value"


def cluster_run(**changes: Any) -> RunConfig:
    """A run of two nodes with a GPU each, which uses all that a cluster section has."""
    run = tiny_run(world__processes=2)
    return run.model_copy(update={"cluster": ClusterConfig.model_validate(SETTINGS | changes)})


def named(name: str, **more: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, **more.pop("metadata", {})}, **more}


def flavor(name: str, quota: dict[str, str], **more: Any) -> dict[str, Any]:
    return {"name": name, "resources": [{"name": each, "nominalQuota": size, **more} for each, size in quota.items()]}


def cluster_queue(*flavors: dict[str, Any], name: str = "all", **spec: Any) -> dict[str, Any]:
    covered = [each["name"] for each in flavors[0]["resources"]]
    groups = [{"coveredResources": covered, "flavors": list(flavors)}]
    return named(name, spec={"namespaceSelector": {}, "resourceGroups": groups, **spec})


def healthy() -> dict[str, Any]:
    """The objects that `cluster_run` needs, by path."""
    template = {"spec": {"replicatedJobs": [{"name": "node"}]}}
    machine = {"allocatable": {"cpu": "32", "memory": "128Gi", "ephemeral-storage": "100Gi", "nvidia.com/gpu": "4"}}
    return {
        HOME: named("ours"),
        HEALTH: {"tag_name": "2.15.0"},
        CLAIM: named("shared", spec={"accessModes": ["ReadWriteMany"]}, status={"phase": "Bound"}),
        f"{RUNTIMES}/torch-distributed": named("torch-distributed", spec={"template": template}),
        f"{HOME}/serviceaccounts/trainworks-job": named("trainworks-job"),
        f"{HOME}/secrets/wandb": named("wandb", data={"api-key": SECRET}, stringData={"api-key": SECRET}),
        f"{PRIORITIES}/nightly": named("nightly"),
        f"{KUEUE}/v1beta2/namespaces/ours/localqueues/team": named("team", spec={"clusterQueue": "all"}),
        f"{QUEUES}/all": cluster_queue(flavor("gpu", COVERED)),
        "/api/v1/nodes/big": named("big", status=machine),
    }


class Planted(FakeCluster):
    """Such a cluster."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds[("kueue.x-k8s.io", "cohorts")] = "Cohort"
        self.forbidden: set[str] = set()
        """Plural names of resources that may not be read or made"""
        self.denied: set[str] = set()
        """Rights such as `create pytorchjobs`"""
        self.policy = self._allows
        for path, content in healthy().items():
            self.put(path, content)

    def _allows(self, request: Request) -> bool:
        resource = "/".join(part for part in (request.resource, request.subresource) if part)
        return request.resource not in self.forbidden and f"{request.verb} {resource}" not in self.denied

    @property
    def creations(self) -> list[str]:
        """Resources of which something was made, or tried to be."""
        made = [each.resource for each in self.requests if each.verb in ("create", "update", "patch")]
        return [each for each in made if each != "selfsubjectaccessreviews"]

    def put(self, path: str, content: Any, status: int = 200) -> None:
        """Serve an object at its path, or any content at a path that is no object's."""
        try:
            asked = parse_path(path)
        except StatusError:
            return self.mount(path, lambda *call: (status, content))
        if (asked.group, asked.resource) not in self.kinds or status != 200:
            return self.mount(path, lambda *call: (status, content))
        self.store.remove(asked.resource, asked.namespace, asked.name)
        whole = content | {"metadata": {"name": asked.name, **content.get("metadata", {})}}
        self.store.create(asked.resource, whole, asked.namespace)
        return None

    def drop(self, path: str) -> None:
        """Serve it no more."""
        if self.mounted.pop(path, None) is None:
            asked = parse_path(path)
            self.store.remove(asked.resource, asked.namespace, asked.name)

    def drop_group(self, group: str) -> None:
        """As a cluster on which an operator was never installed."""
        self.kinds = {key: kind for key, kind in self.kinds.items() if key[0] != group}
