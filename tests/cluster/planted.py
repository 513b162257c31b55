"""A cluster over HTTP that is as a test says: objects by path, what is forbidden, which rights are denied."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from configs.cluster import ClusterConfig
from configs.schema import RunConfig
from tests.tiny import tiny_run

HOME = "/api/v1/namespaces/ours"
DIGEST = "reg.example/trainworks@sha256:" + "0" * 64
SETTINGS: dict[str, Any] = {
    "image": DIGEST,
    "namespace": "ours",
    "nodes": 2,
    "node": {"gpus": 1, "cpu": "4", "memory": "16Gi", "scratch": "10Gi"},
    "workspace": {"claim": "shared"},
    "queue": "team",
    "priority": "nightly",
    "secrets": {"WANDB_API_KEY": {"name": "wandb", "key": "api-key"}},
}
COVERED = {"cpu": "64", "memory": "256Gi", "ephemeral-storage": "1Ti", "nvidia.com/gpu": "8"}
COLLECTIONS = {"resourcequotas", "limitranges", "nodes", "storageclasses", "clusterqueues", "events"}
COLLECTIONS |= {"clustertrainingruntimes"}


def cluster_run(**changes: Any) -> RunConfig:
    """A run of two nodes with a GPU each, which uses all that a cluster section has."""
    run = tiny_run(world__processes=2)
    return run.model_copy(update={"cluster": ClusterConfig.model_validate(SETTINGS | changes)})


def named(name: str, **more: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, **more.pop("metadata", {})}, **more}


def schema(kind: str, **fields: Any) -> dict[str, Any]:
    """The part of an OpenAPI document that tells a kind's fields."""
    told = {"properties": {"spec": {"properties": fields}}, "x-kubernetes-group-version-kind": [{"kind": kind}]}
    return {"components": {"schemas": {"other": {}, kind: told}}}


def flavor(name: str, quota: dict[str, str], **more: Any) -> dict[str, Any]:
    return {"name": name, "resources": [{"name": each, "nominalQuota": size, **more} for each, size in quota.items()]}


def cluster_queue(*flavors: dict[str, Any], name: str = "all", **spec: Any) -> dict[str, Any]:
    covered = [each["name"] for each in flavors[0]["resources"]]
    groups = [{"coveredResources": covered, "flavors": list(flavors)}]
    return named(name, spec={"namespaceSelector": {}, "resourceGroups": groups, **spec})


def healthy() -> dict[str, Any]:
    """What a cluster serves on which `cluster_run` would run."""
    kueue, trainer = "/apis/kueue.x-k8s.io", "/apis/trainer.kubeflow.org/v1alpha1"
    proxied = "/api/v1/namespaces/kubeflow/services/ml-pipeline:http/proxy/apis/v2beta1/healthz"
    template = {"spec": {"replicatedJobs": [{"name": "node"}]}}
    machine = {"allocatable": {"cpu": "32", "memory": "128Gi", "ephemeral-storage": "100Gi", "nvidia.com/gpu": "4"}}
    return {
        "/version": {"gitVersion": "v1.31.2"},
        "/api/v1/namespaces/ours": named("ours"),
        "/apis/kubeflow.org": {"versions": [{"version": "v1"}]},
        "/apis/kubeflow.org/v1": {"resources": [{"name": "pytorchjobs"}]},
        "/openapi/v3/apis/kubeflow.org/v1": schema(
            "PyTorchJob", runPolicy={"properties": {"suspend": {}}}, nprocPerNode={"type": "string"}
        ),
        trainer: {"resources": [{"name": "trainjobs"}]},
        f"/openapi/v3{trainer}": schema("TrainJob", runtimePatches={}),
        f"{trainer}/clustertrainingruntimes/torch-distributed": named("torch-distributed", spec={"template": template}),
        proxied: {"tag_name": "2.15.0"},
        f"{HOME}/persistentvolumeclaims/shared": named(
            "shared", spec={"accessModes": ["ReadWriteMany"]}, status={"phase": "Bound"}
        ),
        f"{HOME}/serviceaccounts/trainworks-job": named("trainworks-job"),
        f"{HOME}/secrets/wandb": named("wandb", data={"api-key": "c2VjcmV0LXZhbHVl"}),
        "/apis/scheduling.k8s.io/v1/priorityclasses/nightly": named("nightly"),
        kueue: {"preferredVersion": {"version": "v1beta2"}},
        f"{kueue}/v1beta2/namespaces/ours/localqueues/team": named("team", spec={"clusterQueue": "all"}),
        f"{kueue}/v1beta2/clusterqueues/all": cluster_queue(flavor("gpu", COVERED)),
        "/api/v1/nodes/big": named("big", status=machine),
    }


class Planted:
    """A server of such a cluster, and what it was asked."""

    def __init__(self) -> None:
        self.served = healthy()
        self.forbidden: set[str] = set()
        """Plural names of resources that may not be read or made"""
        self.denied: set[str] = set()
        """Rights such as `create pytorchjobs`, of which a review says no"""
        self.refusal = 0
        """Status of every answer, when not 0"""
        self.made: Callable[[str, dict[str, Any]], None] = lambda path, content: None
        """Hears of each object that is made"""
        self.asked: list[tuple[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def _reply(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                path = urlsplit(self.path).path
                outer.asked.append((self.command, path))
                status, content = outer.answer(self.command, path, json.loads(body or b"{}"))
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_DELETE = _reply  # noqa: N815

            def log_message(self, format: str, *args: object) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True

    @property
    def creations(self) -> list[str]:
        """Paths at which something was made, or tried to be."""
        return [path for method, path in self.asked if method == "POST" and "selfsubject" not in path]

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if self.refusal:
            return self.refusal, {"message": "Unauthorized"}
        words = path.strip("/").split("/")
        if kinds := self.forbidden & set(words):
            return 403, {"message": f"{', '.join(kinds)} is forbidden: User cannot do it"}
        if "selfsubjectaccessreviews" in words:
            asked = body["spec"]["resourceAttributes"]
            resource = "/".join(asked[key] for key in ("resource", "subresource") if key in asked)
            return 201, body | {"status": {"allowed": f"{asked['verb']} {resource}" not in self.denied}}
        if method == "POST":
            place = f"{path}/{body['metadata']['name']}"
            self.served[place] = body
            self.made(place, body)
            return 201, body
        if method == "DELETE":
            return (200, {}) if self.served.pop(path, None) else (404, {"message": "not found"})
        if path in self.served:
            return 200, self.served[path]
        children = [each for place, each in self.served.items() if place.rpartition("/")[0] == path]
        if words[-1] in COLLECTIONS:
            return 200, {"items": children, "metadata": {}}
        return 404, {"message": f"{path} not found"}


@contextmanager
def planted() -> Iterator[Planted]:
    cluster = Planted()
    thread = threading.Thread(target=cluster.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield cluster
    finally:
        cluster.http.shutdown()
        cluster.http.server_close()
        thread.join()


def kubeconfig(path: Path, cluster: Planted) -> Path:
    """The file that leads to it."""
    place = {
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{cluster.http.server_port}"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
    }
    path.write_text(yaml.safe_dump(place | {"apiVersion": "v1", "kind": "Config", "current-context": "x"}))
    return path
