"""Small objects for a fake cluster, and what tests ask about them and about a client's refusals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from tests.cluster.fake.api import FakeCluster
from tests.cluster.fake.container import MARK

NAMESPACE = "trainworks"
GROUP = ("kubeflow.org", "v1", NAMESPACE, "pytorchjobs")
Connect = Callable[..., client.ApiClient]
"""Makes a client as somebody has it who has the kubeconfig; takes what `write_kubeconfig` does"""
FOREVER = "import time; print('begun', flush=True); time.sleep(600)"


def pod(name: str, code: str = "", **spec: Any) -> dict[str, Any]:
    containers = [{"name": "main", "image": "image", "command": ["python", "-c", code]}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "x"}},
        "spec": {"containers": containers, "restartPolicy": "Never", **spec},
    }


def settings(name: str, labels: dict[str, str] | None = None, owner: dict[str, Any] | None = None) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "labels": labels or {}}
    if owner:
        of = {"apiVersion": "v1", "kind": "ConfigMap", "name": owner["metadata"]["name"]}
        metadata["ownerReferences"] = [of | {"uid": owner["metadata"]["uid"]}]
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"a": "1"}}


def job(name: str, code: str, *, workers: int = 0, policy: str = "ExitCode", **run: Any) -> dict[str, Any]:
    containers = [{"name": "pytorch", "image": "image", "command": ["python", "-c", code]}]
    one = {"restartPolicy": policy, "template": {"spec": {"containers": containers}}}
    roles = {"Master": {"replicas": 1, **one}, **({"Worker": {"replicas": workers, **one}} if workers else {})}
    spec = {"nprocPerNode": "1", "runPolicy": run, "pytorchReplicaSpecs": roles}
    return {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": {"name": name}, "spec": spec}


def is_now(cluster: FakeCluster, name: str, condition: str) -> bool:
    """Whether a condition of a job is true."""
    found = cluster.get("pytorchjobs", name, NAMESPACE) or {}
    conditions = (found.get("status") or {}).get("conditions", ())
    return any((each["type"], each["status"]) == (condition, "True") for each in conditions)


def phase(cluster: FakeCluster, name: str) -> str:
    return ((cluster.get("pods", name, NAMESPACE) or {}).get("status") or {}).get("phase", "")


def processes(uid: str) -> list[str]:
    """Live processes that a pod has started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                text = (entry / "environ").read_bytes()
            except OSError:
                continue
            if f"{MARK}={uid}".encode() in text:
                found.append(entry.name)
    return found


def refusal(call: Callable[..., object], *arguments: Any, **more: Any) -> tuple[int, str]:
    """How the API says no: its status and Kubernetes's reason."""
    with pytest.raises(ApiException) as caught:
        call(*arguments, **more)
    body = client.ApiClient().deserialize(Body(caught.value.body), "object")
    assert body["kind"] == "Status"  # type: ignore[index]
    return caught.value.status, body["reason"]  # type: ignore[index,return-value]


class Body:
    """Bytes, as the client takes an answer."""

    def __init__(self, data: Any) -> None:
        self.data = data
