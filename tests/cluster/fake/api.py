"""The Kubernetes API of the fake cluster over HTTP, with the faults that a real one has.

Own code on the standard library: of kmock, which was tried, too much would have been replaced (versions, selectors,
PUT, owners, logs that are followed), and its plugin for pytest asks for another one.
"""

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import yaml

from tests.cluster.fake.discovery import SCHEMAS
from tests.cluster.fake.handler import Handler, Request, Server
from tests.cluster.fake.store import Object, Store

KINDS: dict[tuple[str, str], str] = {
    ("", "namespaces"): "Namespace",
    ("", "nodes"): "Node",
    ("", "pods"): "Pod",
    ("", "services"): "Service",
    ("", "events"): "Event",
    ("", "secrets"): "Secret",
    ("", "configmaps"): "ConfigMap",
    ("", "persistentvolumeclaims"): "PersistentVolumeClaim",
    ("", "serviceaccounts"): "ServiceAccount",
    ("", "resourcequotas"): "ResourceQuota",
    ("", "limitranges"): "LimitRange",
    ("storage.k8s.io", "storageclasses"): "StorageClass",
    ("scheduling.k8s.io", "priorityclasses"): "PriorityClass",
    ("kubeflow.org", "pytorchjobs"): "PyTorchJob",
    ("trainer.kubeflow.org", "trainjobs"): "TrainJob",
    ("trainer.kubeflow.org", "clustertrainingruntimes"): "ClusterTrainingRuntime",
    ("kueue.x-k8s.io", "localqueues"): "LocalQueue",
    ("kueue.x-k8s.io", "clusterqueues"): "ClusterQueue",
    ("kueue.x-k8s.io", "resourceflavors"): "ResourceFlavor",
    ("kueue.x-k8s.io", "workloads"): "Workload",
    ("kueue.x-k8s.io", "workloadpriorityclasses"): "WorkloadPriorityClass",
    ("apiextensions.k8s.io", "customresourcedefinitions"): "CustomResourceDefinition",
    ("authorization.k8s.io", "selfsubjectaccessreviews"): "SelfSubjectAccessReview",
}
"""What the cluster knows, by group and plural"""
TOKEN = "fake-token"


Policy = Callable[[Request], bool]
Mounted = Callable[[str, str, dict[str, str], Mapping[str, str], bytes], tuple[int, Any]]
"""Method, path below the prefix, query, headers and body to status and JSON"""
Logs = Callable[[Object, Mapping[str, str]], Iterator[bytes]]


class Faults:
    """What is wrong with the API at the moment."""

    def __init__(self) -> None:
        self.refusals: list[tuple[int, str, str]] = []
        """Status, Retry-After and verb (any when empty) of the next answers"""
        self.delay_s = 0.0

    def take(self, verb: str) -> tuple[int, str] | None:
        for number, (status, after, only) in enumerate(self.refusals):
            if only in ("", verb):
                del self.refusals[number]
                return status, after
        return None


class FakeCluster:
    """The API on a port of this machine; a context manager."""

    def __init__(self, *, port: int = 0, validate: Callable[[Object], list[str]] | None = None) -> None:
        self.store, self.faults, self.kinds, self.schemas = Store(), Faults(), dict(KINDS), dict(SCHEMAS)
        self.validate = validate or (lambda manifest: [])
        self.tokens = {TOKEN: "tester"}
        self.policy: Policy = lambda request: True
        self.requests: deque[Request] = deque(maxlen=1_000_000)
        self.logs: Logs = lambda pod, query: iter(())
        self.mounted: dict[str, Mounted] = {}
        self.port, self._server = port, None
        self._sockets: dict[socket.socket, bool] = {}
        """Open connections; whether each carries a watch"""
        self._lock = threading.Lock()
        self._cutting = threading.Event()

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(self, *error: object) -> None:
        self._cutting.set()
        self.down()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def up(self) -> None:
        """Answer, on the same port as before."""
        server = Server(("127.0.0.1", self.port), Handler)
        server.cluster, self.port, self._server = self, server.server_port, server
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

    def down(self) -> None:
        """Refuse connections, and cut those that are open."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        self._cut(watches_only=False)

    def cut_watches(self) -> None:
        self._cut(watches_only=True)

    def cut_watches_every(self, seconds: float) -> None:
        """Until the cluster ends."""

        def cut() -> None:
            while not self._cutting.wait(seconds):
                self.cut_watches()

        threading.Thread(target=cut, daemon=True).start()

    def refuse(self, count: int, status: int, *, retry_after: str = "", verb: str = "") -> None:
        """Answer the next calls, of one verb or any, with a status."""
        self.faults.refusals += [(status, retry_after, verb)] * count

    def expire(self) -> None:
        """Forget what was before: watches from there get 410."""
        self.store.expire()
        self.cut_watches()

    def remove_kind(self, plural: str) -> None:
        """As a cluster on which that kind was never installed."""
        self.kinds = {key: kind for key, kind in self.kinds.items() if key[1] != plural}

    def mount(self, prefix: str, handler: Mounted) -> None:
        """Have all below a path answered by somebody else."""
        self.mounted[prefix] = handler

    def create(self, plural: str, manifest: Mapping[str, Any], namespace: str = "") -> Object:
        return self.store.create(plural, manifest, namespace)

    def get(self, plural: str, name: str, namespace: str = "") -> Object | None:
        return self.store.get(plural, namespace, name)

    def objects(self, plural: str, namespace: str = "") -> list[Object]:
        return self.store.list(plural, namespace)

    def count(self, verb: str, resource: str) -> int:
        return sum(1 for each in self.requests if (each.verb, each.resource) == (verb, resource))

    def write_kubeconfig(self, path: Path, *, context: str = "fake", namespace: str = "", token: str = TOKEN) -> Path:
        place = {"cluster": "fake", "user": "fake", **({"namespace": namespace} if namespace else {})}
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": context,
                    "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
                    "users": [{"name": "fake", "user": {"token": token}}],
                    "contexts": [{"name": context, "context": place}],
                }
            )
        )
        return path

    def opened(self, connection: socket.socket, *, watch: bool) -> None:
        with self._lock:
            self._sockets[connection] = watch

    def closed(self, connection: socket.socket) -> None:
        with self._lock:
            self._sockets.pop(connection, None)

    def _cut(self, *, watches_only: bool) -> None:
        with self._lock:
            chosen = [each for each, watch in self._sockets.items() if watch or not watches_only]
        for each in chosen:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
