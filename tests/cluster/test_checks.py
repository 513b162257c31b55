"""Each check of a cluster: well, wrong, and not to be known; and what stands in a run's way before anything is made."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from kubernetes.client import ApiClient, Configuration

from configs.schema import RunConfig
from k8s.api import Api, RefusedError
from k8s.checks import Finding, examine, preflight
from k8s.checks.kinds import KINDS, LACKING, spec_fields
from k8s.checks.rights import RIGHTS, needed
from k8s.job import Job
from tests.cluster import plants
from tests.cluster.fake.api import TOKEN
from tests.cluster.planted import COVERED, KUEUE, QUEUES, SECRET, Planted, cluster_queue, cluster_run, flavor, named

pytestmark = pytest.mark.cluster
RUN = cluster_run()


@pytest.fixture
def cluster() -> Iterator[Planted]:
    with Planted() as made:
        yield made


def api_of(cluster: Planted) -> Api:
    settings = Configuration()
    settings.host, settings.retries = cluster.url, False  # type: ignore[assignment]
    settings.api_key = {"authorization": f"Bearer {TOKEN}"}
    return Api(ApiClient(settings), "ours", 5.0, pause=lambda seconds: None)


def examined(cluster: Planted, run: RunConfig) -> dict[str, Finding]:
    return {each.name: each for each in examine(run, api_of(cluster))}


def test_nothing_is_wrong_with_a_cluster_that_has_all(cluster: Planted) -> None:
    assert {each.state for each in examine(cluster_run(), api_of(cluster))} == {"ok"}
    assert preflight(cluster_run(), api_of(cluster)) == []
    assert preflight(cluster_run(job="trainjob", priority=None), api_of(cluster)) == []
    assert cluster.creations == []


@pytest.mark.parametrize(("name", "state", "says", "plant", "changes"), plants.ROWS)
def test_a_check_tells_what_it_finds(
    cluster: Planted, name: str, state: str, says: str, plant: plants.Change, changes: dict[str, Any]
) -> None:
    plant(cluster)
    run = cluster_run(**({"job": "trainjob"} if "runtime" in changes else {}), **changes)
    found = examined(cluster, run)[name]
    assert (found.state, says in found.says) == (state, True), found
    assert found.remedy or state in ("ok", "skipped", "unknown")
    if name != "machines":  # which come and go: nothing is refused for want of them
        assert (state == "failed") == any(line.startswith(f"{name}: ") for line in preflight(run, api_of(cluster)))
    assert cluster.creations == []


@pytest.mark.parametrize(
    ("job", "kind", "lacking"),
    [("pytorchjob", "PyTorchJob", "runPolicy.suspend"), ("trainjob", "TrainJob", "came with 2.2")],
)
def test_an_old_operator_is_known_by_the_fields_of_its_kind(
    cluster: Planted, job: str, kind: str, lacking: str
) -> None:
    cluster.schemas[kind] = {}
    (problem,) = preflight(cluster_run(job=job, priority=None), api_of(cluster))
    assert "too old" in problem
    assert lacking in problem
    assert "; install Kubeflow" in problem


@pytest.mark.skipif("TRAINWORKS_CRD_DIR" not in os.environ, reason="TRAINWORKS_CRD_DIR names no folder of real CRDs")
@pytest.mark.parametrize("job", KINDS)
def test_the_operators_of_today_lack_nothing(job: str) -> None:
    kind = KINDS[job]
    path = Path(os.environ["TRAINWORKS_CRD_DIR"]) / f"{kind.group}_{kind.plural}.yaml"
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the files are long
    (version,) = yaml.load(path.read_text(encoding="utf-8"), loader)["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"] | {"x-kubernetes-group-version-kind": [{"kind": kind.name}]}
    fields = spec_fields({"components": {"schemas": {"it": schema}}}, kind)
    assert fields is not None
    assert list(LACKING[job](fields)) == []


def test_parallel_folds_need_a_volume_for_many_machines(cluster: Planted) -> None:
    plants.volume("ReadWriteOnce")(cluster)
    run = cluster_run(nodes=1)
    run = run.model_copy(update={"world": run.world.model_copy(update={"parallel_folds": 3})})
    (problem,) = preflight(run, api_of(cluster))
    assert "world.parallel_folds=3 jobs write to it" in problem


@pytest.mark.parametrize(
    ("limit", "other", "enough"),
    [(None, "1", True), ("0", "1", False), (None, "0", False)],
    ids=["lent", "may not borrow", "nothing to lend"],
)
def test_what_a_cohort_lends_counts_as_far_as_it_may_be_borrowed(
    cluster: Planted, limit: str | None, other: str, enough: bool
) -> None:
    own = flavor("gpu", plants.ONE_GPU, **({"borrowingLimit": limit} if limit else {}))
    plants.having(f"{QUEUES}/all", cluster_queue(own, cohortName="house"))(cluster)
    lender = flavor("gpu", COVERED | {"nvidia.com/gpu": other})
    plants.having(f"{QUEUES}/theirs", cluster_queue(lender, name="theirs", cohortName="house"))(cluster)
    assert (examined(cluster, cluster_run())["queue"].state == "ok") is enough


def test_a_cohort_with_quota_of_its_own_has_no_known_limit(cluster: Planted) -> None:
    own = flavor("gpu", plants.ONE_GPU)
    plants.having(f"{QUEUES}/all", cluster_queue(own, cohortName="house"))(cluster)
    plants.having(f"{KUEUE}/v1beta2/cohorts/house", named("house", spec={"parentName": "city"}))(cluster)
    assert examined(cluster, cluster_run())["queue"].state == "ok"


def test_expired_credentials_are_a_finding_and_end_the_looking(cluster: Planted) -> None:
    cluster.tokens.clear()
    (only,) = examine(cluster_run(), api_of(cluster))
    assert only.state == "failed"
    assert "log in to" in only.remedy
    assert len(preflight(cluster_run(), api_of(cluster))) == 1


def test_credentials_that_expire_in_between_are_told_as_such(cluster: Planted) -> None:
    rest = examine(cluster_run(), api_of(cluster))
    next(rest)
    cluster.tokens.clear()
    with pytest.raises(RefusedError, match="log in to it again"):
        list(rest)


def test_a_cluster_that_forbids_every_look_refuses_nothing_but_what_is_known(cluster: Planted) -> None:
    cluster.forbidden = {"namespaces", "nodes", "clusterqueues", "configmaps", "priorityclasses"}
    found = examined(cluster, cluster_run())
    assert {each.state for each in found.values()} == {"ok", "unknown"}
    assert preflight(cluster_run(), api_of(cluster)) == []


def test_no_value_of_a_secret_is_told(cluster: Planted) -> None:
    assert SECRET not in str(examined(cluster, cluster_run()))


def test_without_a_run_only_the_api_is_looked_at(cluster: Planted) -> None:
    assert [(each.name, each.state) for each in examine(None, api_of(cluster))] == [
        ("cluster API", "ok"),
        ("the rest", "skipped"),
    ]
    assert list(examine(cluster_run(), None)) == []


def test_rights_are_those_of_the_kind_that_is_used() -> None:
    resources = {each.resource for each in needed(cluster_run().cluster)}
    assert resources == {each.resource for each in RIGHTS} - {"trainjobs"}
    elsewhere = cluster_run(job="trainjob", pipelines={"url": "https://kfp.example"}).cluster
    assert {each.resource for each in needed(elsewhere)} == resources - {"pytorchjobs", "services"} | {"trainjobs"}
    assert len(set(RIGHTS)) == len(RIGHTS)


@given(
    name=st.from_regex(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", fullmatch=True),
    stage=st.sampled_from(["train", "evaluate"]),
    attempt=st.integers(0, 99),
)
def test_a_job_and_its_pods_have_names_that_dns_takes(name: str, stage: str, attempt: int) -> None:
    job = Job(RUN.model_copy(update={"name": name}), stage, "/workspace/run", attempt=attempt)
    for each in (job.name, f"{job.name}-master-0", f"{job.name}-worker-255"):
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", each)
        assert len(each) <= 63
