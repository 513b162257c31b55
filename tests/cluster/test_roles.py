"""The Roles of the manifests against what is really asked of the API: enough for all of it, and no verb beyond."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.cluster import ClusterConfig
from configs.folder import RunFolder
from k8s.api import Api
from k8s.checks import examine
from k8s.connect import connect
from k8s.job import Job, Owner
from k8s.joblauncher import KINDS, JobLauncher
from tests.cluster import plants
from tests.cluster.bench import IMAGE, ROOT
from tests.cluster.conftest import Site
from tests.cluster.fake.api import FakeCluster
from tests.cluster.fake.handler import Request
from tests.cluster.fake.operator import FakeOperator
from tests.cluster.fake.simulated import SimulatedKubelet
from tests.cluster.planted import COVERED, QUEUES, Planted, cluster_queue, cluster_run, flavor
from tests.cluster.test_status import job_on, pod_of
from tests.tiny import tiny_run

pytestmark = pytest.mark.cluster
MANIFESTS = ROOT / "k8s" / "manifests"
Grants = set[tuple[str, str, str]]
"""Verb, group, resource with its subresource"""


def granted(*files: str) -> Grants:
    """What the Roles in some files allow."""
    documents = [each for file in files for each in yaml.safe_load_all((MANIFESTS / file).read_text())]
    rules = [rule for each in documents if each["kind"] in ("Role", "ClusterRole") for rule in each["rules"]]
    return {
        (verb, group, resource)
        for rule in rules
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


LAUNCHER = granted("base/launcher-role.yaml")
SUBMITTER = granted("base/submitter-role.yaml")
DOCTOR = granted("base/doctor-role.yaml", "components/cluster-doctor/role.yaml")
PIPELINES = granted("pipelines/role.yaml")


def grant_of(request: Request) -> tuple[str, str, str]:
    resource = "/".join(part for part in (request.resource, request.subresource) if part)
    return request.verb, request.group, resource


def used(cluster: FakeCluster) -> Grants:
    """Everybody may ask what he may do."""
    return {grant_of(each) for each in cluster.requests if each.resource != "selfsubjectaccessreviews"}


@pytest.fixture
def strict() -> Iterator[FakeCluster]:
    """A cluster that allows what the launcher's Role allows."""
    with FakeCluster() as cluster, FakeOperator(cluster), SimulatedKubelet(cluster, run_s=1.0):
        cluster.create("namespaces", {"kind": "Namespace", "metadata": {"name": "trainworks"}})
        cluster.policy = lambda request: grant_of(request) in LAUNCHER
        yield cluster


def step_pod(cluster: FakeCluster, name: str) -> Owner:
    """The pod of a step, which owns the job: one that were not there would take it away."""
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [{"name": "main"}]}}
    return Owner(name, cluster.create("pods", pod, "trainworks")["metadata"]["uid"])


def test_the_launcher_s_role_is_enough_and_holds_nothing_that_it_does_not_use(
    strict: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(strict.write_kubeconfig(tmp_path / "kubeconfig")))
    api = Api(connect(), "trainworks", 20.0)
    for name, kind in KINDS.items():
        settings = {"image": IMAGE, "job": name, "workspace": {"claim": "w"}, "patience": {"deadline_s": 60}}
        run = tiny_run(world__processes=1).model_copy(update={"cluster": ClusterConfig.model_validate(settings)})
        job = Job(run, "train", f"/workspace/{name}", "run-1", owner=step_pod(strict, f"{name}-first"))
        folder = RunFolder(tmp_path / name)
        with JobLauncher(api, kind, job, folder, lambda line: None) as first:
            first.submit(run)
        adopting = replace(job, owner=step_pod(strict, f"{name}-second"))
        with JobLauncher(api, kind, adopting, folder, lambda line: None) as second:
            assert second.wait(second.submit(run)).code == 0
    assert used(strict) == LAUNCHER


def test_the_submitter_s_role_is_enough_and_holds_nothing_that_it_does_not_use(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.cluster.policy = lambda request: grant_of(request) in SUBMITTER
    identity = site.submitted()
    job = job_on(site, identity, conditions=[{"type": "Failed", "status": "True"}])
    assert site("logs") == 0, "of a job without pods"
    pod_of(site, job, 0, phase="Succeeded")
    labels = {**job["metadata"]["labels"], "trainworks.dev/key": "another"}
    trainjob: dict[str, Any] = {"kind": "TrainJob", "metadata": {"name": "t", "labels": labels}, "spec": {}}
    site.cluster.create("trainjobs", trainjob, "trainworks")
    assert site("status") == 0
    assert site("logs") == 0
    site.cluster.store.remove("pods", "trainworks", "pod-0")
    assert site("cancel") == 0
    assert site("resume") == 0
    capsys.readouterr()
    assert used(site.cluster) == SUBMITTER


def test_the_doctor_s_roles_are_enough_and_hold_nothing_that_it_does_not_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over every cluster that the checks are tested on."""
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    asked: Grants = set()
    for name, _, _, plant, changes in [*plants.ROWS, LENT]:
        with Planted() as cluster:
            monkeypatch.setenv("KUBECONFIG", str(cluster.write_kubeconfig(tmp_path / "kubeconfig")))
            plant(cluster)
            run = cluster_run(**({"job": "trainjob"} if "runtime" in changes else {}), **changes)
            assert list(examine(run, Api(connect(), run.cluster.namespace, 5.0))), name
            asked |= used(cluster)
    assert DOCTOR - asked == set(), "granted and never used"
    assert asked - DOCTOR - SUBMITTER - KNOWN == set(), "used and not granted"


OWN = flavor("gpu", plants.ONE_GPU)
LENT: plants.Row = (
    "queue",
    "ok",
    "",
    plants.both(
        plants.having(f"{QUEUES}/all", cluster_queue(OWN, cohortName="house")),
        plants.having(f"{QUEUES}/theirs", cluster_queue(flavor("gpu", COVERED), name="theirs", cohortName="house")),
    ),
    {},
)
KNOWN: Grants = {("get", "", "secrets"), ("get", "", "configmaps")}
"""What is asked for in case it is allowed, and not granted: secrets, and the settings of Kueue"""


def test_pipelines_are_reached_with_the_verbs_that_their_role_has(site: Site) -> None:
    """Calls that go through the API's proxy: a GET is a get, a POST a create, a DELETE a delete."""
    methods = {"GET": "get", "POST": "create", "DELETE": "delete"}
    site.submitted()
    assert site("cancel") == 0
    assert {methods[method] for method, _ in site.kfp.calls} | {"delete"} == {verb for verb, _, _ in PIPELINES}
