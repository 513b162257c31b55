"""Fake clusters: a bare one and its clients, and one with Kubeflow Pipelines on it and the commands that use it."""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config

from tests.cluster.fake.api import FakeCluster
from tests.cluster.fake.kfp import FakeKfp
from tests.cluster.fake.kubelet import Kubelet
from tests.cluster.fake.operator import FakeOperator
from tests.cluster.things import NAMESPACE, Connect
from tests.golden.__main__ import CONFIGS

DIGEST = f"registry.example/trainworks@sha256:{'0' * 64}"


@dataclass
class Site:
    """A cluster, its KFP, and the commands as somebody types them who is logged in to it."""

    cluster: FakeCluster
    kfp: FakeKfp
    overlay: Path

    def __call__(self, command: str, *words: str) -> int:
        """The exit code of `trainworks COMMAND demo-lm.yaml overlay.yaml WORDS`."""
        module = importlib.import_module(f"pipelines.cluster.{command}")
        return module.main([str(CONFIGS / "demo-lm.yaml"), str(self.overlay), *words])

    def submitted(self, *words: str) -> str:
        """The identity of a pipeline run that was just submitted."""
        assert self("submit", *words) == 0
        return list(self.kfp.runs)[-1]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A cluster on which runs stand still; what it lacks for them is the business of other tests."""
    overlay = tmp_path / "cluster.yaml"
    overlay.write_text(f"cluster: {{image: '{DIGEST}', workspace: {{claim: shared, path: /mnt/runs}}}}\n")
    with FakeCluster() as cluster:
        cluster.create("namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "trainworks"}})
        monkeypatch.setenv("KUBECONFIG", str(cluster.write_kubeconfig(tmp_path / "kubeconfig")))
        for command in ("submit", "cancel", "logs", "follow"):
            module = importlib.import_module(f"pipelines.cluster.{command}")
            if hasattr(module, "LOOK_S"):
                monkeypatch.setattr(module, "LOOK_S", 0.05)
        monkeypatch.setattr("pipelines.cluster.submit.preflight", lambda run, api: [])
        yield Site(cluster, FakeKfp(cluster, tmp_path / "kfp"), overlay)


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    """One with a namespace and nothing in it."""
    with FakeCluster() as made:
        made.create("namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        yield made


@pytest.fixture
def kubelet(cluster: FakeCluster) -> Iterator[Kubelet]:
    """That of the cluster, which has operators then."""
    with Kubelet(cluster) as made, FakeOperator(cluster):
        yield made


@pytest.fixture
def connect(cluster: FakeCluster, tmp_path: Path) -> Iterator[Connect]:
    made: list[client.ApiClient] = []

    def connected(**written: str) -> client.ApiClient:
        path = cluster.write_kubeconfig(tmp_path / f"kubeconfig-{len(made)}", namespace=NAMESPACE, **written)
        settings: Any = client.Configuration()
        config.load_kube_config(str(path), client_configuration=settings)
        settings.retries = False
        made.append(client.ApiClient(settings))
        return made[-1]

    yield connected
    for each in made:
        each.close()


@pytest.fixture
def core(connect: Connect) -> Any:
    return client.CoreV1Api(connect())


@pytest.fixture
def jobs(connect: Connect) -> Any:
    return client.CustomObjectsApi(connect())
