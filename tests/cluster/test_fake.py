"""The fake cluster answers the official client as a real one would: objects, watches, rights, faults."""

import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes import client, watch
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from tests.cluster.fake.api import FakeCluster
from tests.cluster.fake.requests import Rule
from tests.cluster.planted import flavor
from tests.cluster.things import GROUP, NAMESPACE, Body, Connect, job, pod, refusal, settings
from tests.runs import wait_until

pytestmark = pytest.mark.cluster
CRDS = pytest.mark.skipif(
    "TRAINWORKS_CRD_DIR" not in os.environ, reason="TRAINWORKS_CRD_DIR names no folder of real CRDs"
)


def test_objects_are_made_read_changed_and_deleted(core: Any) -> None:
    made = core.create_namespaced_config_map(NAMESPACE, settings("one"))
    assert made.metadata.uid
    assert made.metadata.creation_timestamp
    assert made.metadata.generation == 1
    assert refusal(core.create_namespaced_config_map, NAMESPACE, settings("one")) == (409, "AlreadyExists")
    core.patch_namespaced_config_map("one", NAMESPACE, {"data": {"b": "2", "a": None}})
    read = core.read_namespaced_config_map("one", NAMESPACE)
    assert read.data == {"b": "2"}
    assert int(read.metadata.resource_version) > int(made.metadata.resource_version)
    core.patch_namespaced_config_map("one", NAMESPACE, [{"op": "add", "path": "/data/c", "value": "3"}])
    assert core.read_namespaced_config_map("one", NAMESPACE).data == {"b": "2", "c": "3"}
    wrong = [{"op": "replace", "path": "/data/none", "value": "3"}]
    assert refusal(core.patch_namespaced_config_map, "one", NAMESPACE, wrong) == (422, "Invalid")
    core.delete_namespaced_config_map("one", NAMESPACE)
    assert refusal(core.read_namespaced_config_map, "one", NAMESPACE) == (404, "NotFound")
    assert refusal(core.create_namespaced_config_map, "nowhere", settings("one")) == (404, "NotFound")


def test_an_update_of_what_has_changed_meanwhile_is_a_conflict(core: Any) -> None:
    old = core.create_namespaced_config_map(NAMESPACE, settings("one"))
    old.data = {"a": "2"}
    core.replace_namespaced_config_map("one", NAMESPACE, old)
    old.data = {"a": "3"}
    assert refusal(core.replace_namespaced_config_map, "one", NAMESPACE, old) == (409, "Conflict")
    assert core.read_namespaced_config_map("one", NAMESPACE).data == {"a": "2"}


def test_a_call_that_changes_nothing_makes_no_version(core: Any) -> None:
    made = core.create_namespaced_config_map(NAMESPACE, settings("one"))
    same = core.patch_namespaced_config_map("one", NAMESPACE, {"data": {"a": "1"}})
    assert same.metadata.resource_version == made.metadata.resource_version


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("kind=a", ["one"]),
        ("kind==a", ["one"]),
        ("kind!=a", ["three", "two"]),
        ("kind in (a, b)", ["one", "two"]),
        ("kind notin (a)", ["three", "two"]),
        ("kind", ["one", "two"]),
        ("!kind", ["three"]),
        ("kind,size=big", ["two"]),
    ],
)
def test_labels_select(cluster: FakeCluster, core: Any, selector: str, names: list[str]) -> None:
    labels = {"one": {"kind": "a"}, "two": {"kind": "b", "size": "big"}, "three": {}}
    for name, each in labels.items():
        cluster.create("configmaps", settings(name, each), NAMESPACE)
    found = core.list_namespaced_config_map(NAMESPACE, label_selector=selector)
    assert [each.metadata.name for each in found.items] == names


def test_fields_select_where_the_kind_has_them(cluster: FakeCluster, core: Any) -> None:
    for name, state in (("one", "Running"), ("two", "Failed")):
        cluster.create("pods", pod(name) | {"status": {"phase": state}}, NAMESPACE)
    selectors = {"status.phase=Failed": ["two"], "status.phase!=Failed": ["one"], "metadata.name=one": ["one"]}
    for selector, names in selectors.items():
        found = core.list_namespaced_pod(NAMESPACE, field_selector=selector)
        assert [each.metadata.name for each in found.items] == names
    assert refusal(core.list_namespaced_pod, NAMESPACE, field_selector="spec.colour=red") == (400, "BadRequest")
    assert refusal(core.list_namespaced_pod, NAMESPACE, label_selector="in (a)") == (400, "BadRequest")
    event = {"kind": "Event", "metadata": {"name": "e"}, "involvedObject": {"name": "one", "uid": "u"}}
    cluster.create("events", event, NAMESPACE)
    found = core.list_namespaced_event(NAMESPACE, field_selector="involvedObject.name=one,involvedObject.uid=u")
    assert len(found.items) == 1


def test_a_list_comes_in_pages_until_it_is_too_old(cluster: FakeCluster, core: Any) -> None:
    for number in range(5):
        cluster.create("configmaps", settings(f"m{number}"), NAMESPACE)
    names, token = [], None
    for _ in range(3):
        page = core.list_namespaced_config_map(NAMESPACE, limit=2, _continue=token)
        names += [each.metadata.name for each in page.items]
        token = page.metadata._continue
    assert names == [f"m{number}" for number in range(5)]
    assert token is None
    token = core.list_namespaced_config_map(NAMESPACE, limit=2).metadata._continue
    cluster.expire()
    assert refusal(core.list_namespaced_config_map, NAMESPACE, limit=2, _continue=token) == (410, "Expired")


def test_a_dry_run_makes_and_deletes_nothing(cluster: FakeCluster, core: Any) -> None:
    core.create_namespaced_config_map(NAMESPACE, settings("one"), dry_run="All")
    assert cluster.objects("configmaps") == []
    core.create_namespaced_config_map(NAMESPACE, settings("one"))
    assert refusal(core.create_namespaced_config_map, NAMESPACE, settings("one"), dry_run="All")[0] == 409
    core.patch_namespaced_config_map("one", NAMESPACE, {"data": {"a": "2"}}, dry_run="All")
    core.delete_namespaced_config_map("one", NAMESPACE, dry_run="All")
    assert (cluster.get("configmaps", "one", NAMESPACE) or {})["data"] == {"a": "1"}


def test_a_status_is_written_at_its_own_place_alone(cluster: FakeCluster, jobs: Any) -> None:
    forged = {"status": {"startTime": "2020-01-01T00:00:00Z"}}
    jobs.create_namespaced_custom_object(*GROUP, job("one", "") | forged)
    jobs.patch_namespaced_custom_object_status(*GROUP, "one", {"status": {"replicaStatuses": {}}, "spec": None})
    jobs.patch_namespaced_custom_object(*GROUP, "one", {**forged, "metadata": {"uid": "mine"}})
    found = cluster.get("pytorchjobs", "one", NAMESPACE) or {}
    assert found["status"] == {"replicaStatuses": {}}
    assert found["metadata"]["generation"] == 1
    assert found["metadata"]["uid"] != "mine"
    jobs.patch_namespaced_custom_object(*GROUP, "one", {"spec": {"nprocPerNode": "2"}})
    assert (cluster.get("pytorchjobs", "one", NAMESPACE) or {})["metadata"]["generation"] == 2


def test_what_owners_leave_behind_is_collected(cluster: FakeCluster, core: Any) -> None:
    owner = cluster.create("configmaps", settings("owner"), NAMESPACE)
    for name in ("kept", "gone"):
        cluster.create("configmaps", settings(name, {"of": "owner"}, owner), NAMESPACE)
    core.delete_namespaced_config_map("owner", NAMESPACE, propagation_policy="Orphan")
    assert len(cluster.objects("configmaps")) == 2
    assert not any(each["metadata"]["ownerReferences"] for each in cluster.objects("configmaps"))
    first = cluster.create("configmaps", settings("first"), NAMESPACE)
    second = cluster.create("configmaps", settings("second", owner=first), NAMESPACE)
    cluster.create("configmaps", settings("third", owner=second), NAMESPACE)
    core.delete_namespaced_config_map("first", NAMESPACE, propagation_policy="Foreground")
    cluster.create("configmaps", settings("late", owner=first), NAMESPACE)
    assert [each["metadata"]["name"] for each in cluster.objects("configmaps")] == ["gone", "kept"]


def test_a_collection_is_deleted_by_its_labels(cluster: FakeCluster, core: Any) -> None:
    for name, label in (("one", "x"), ("two", "x"), ("three", "y")):
        cluster.create("configmaps", settings(name, {"of": label}), NAMESPACE)
    core.delete_collection_namespaced_config_map(NAMESPACE, label_selector="of=x")
    assert [each["metadata"]["name"] for each in cluster.objects("configmaps")] == ["three"]
    assert cluster.count("deletecollection", "configmaps") == 1


def test_a_kind_that_is_not_installed_is_not_found(cluster: FakeCluster, jobs: Any) -> None:
    assert jobs.list_namespaced_custom_object(*GROUP)["items"] == []
    assert refusal(jobs.list_namespaced_custom_object, "kubeflow.org", "v9", NAMESPACE, "pytorchjobs")[0] == 404
    cluster.remove_kind("pytorchjobs")
    assert refusal(jobs.list_namespaced_custom_object, *GROUP) == (404, "NotFound")


@CRDS
def test_the_real_schemas_refuse_what_they_do_not_know(jobs: Any) -> None:
    wrong = job("one", "")
    wrong["spec"]["runPolicy"]["cleenPodPolicy"] = "Running"
    with pytest.raises(ApiException) as caught:
        jobs.create_namespaced_custom_object(*GROUP, wrong, field_validation="Strict")
    assert caught.value.status == 400
    assert 'strict decoding error: unknown field \\"spec.runPolicy.cleenPodPolicy\\"' in str(caught.value.body)
    wrong = job("one", "")
    wrong["spec"]["nprocPerNode"] = 2
    assert refusal(jobs.create_namespaced_custom_object, *GROUP, wrong) == (422, "Invalid")
    jobs.create_namespaced_custom_object(*GROUP, job("one", ""))
    change = {"spec": {"runPolicy": {"suspend": "yes"}}}
    assert refusal(jobs.patch_namespaced_custom_object, *GROUP, "one", change) == (422, "Invalid")


def test_both_versions_of_a_queue_are_served(cluster: FakeCluster, jobs: Any) -> None:
    spec = {"resourceGroups": [{"coveredResources": ["cpu"], "flavors": [flavor("any", {"cpu": "4"})]}]}
    made = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "ClusterQueue", "metadata": {"name": "all"}, "spec": spec}
    jobs.create_cluster_custom_object("kueue.x-k8s.io", "v1beta2", "clusterqueues", made)
    for version in ("v1beta1", "v1beta2"):
        found = jobs.get_cluster_custom_object("kueue.x-k8s.io", version, "clusterqueues", "all")
        assert found["apiVersion"] == f"kueue.x-k8s.io/{version}"


def test_a_watch_tells_what_is_there_and_then_what_changes(cluster: FakeCluster, core: Any) -> None:
    cluster.create("configmaps", settings("one", {"of": "x"}), NAMESPACE)
    seen: list[tuple[str, str]] = []
    stream: Any = watch.Watch().stream
    for event in stream(core.list_namespaced_config_map, NAMESPACE, label_selector="of=x"):
        seen.append((event["type"], event["object"].metadata.name))
        if seen[-1] == ("ADDED", "one"):
            cluster.create("configmaps", settings("other"), NAMESPACE)
            cluster.create("configmaps", settings("two", {"of": "x"}), NAMESPACE)
            cluster.update("configmaps", "one", lambda each: each["data"].update(a="2"), NAMESPACE)
            cluster.update("configmaps", "one", lambda each: each["metadata"].update(labels={}), NAMESPACE)
            cluster.delete("configmaps", "two", NAMESPACE)
        if seen[-1] == ("DELETED", "two"):
            break
    assert seen == [("ADDED", "one"), ("ADDED", "two"), ("MODIFIED", "one"), ("DELETED", "one"), ("DELETED", "two")]


def raw_watch(core: Any, version: str, **more: Any) -> Iterator[dict[str, Any]]:
    """Events as they are, of one connection, until it ends."""
    watcher = watch.Watch(return_type=object)
    watcher.resource_version = version
    answer = core.list_namespaced_config_map(
        NAMESPACE, watch=True, resource_version=version, _preload_content=False, _request_timeout=10, **more
    )
    try:
        for line in answer:
            for part in line.splitlines():
                yield client.ApiClient().deserialize(Body(part), "object")  # type: ignore[misc]
    except HTTPError:
        return
    finally:
        answer.release_conn()
        answer.close()


def test_a_watch_ends_in_time_and_marks_how_far_it_is(cluster: FakeCluster, core: Any) -> None:
    cluster.bookmark_s = 0.1
    version = core.list_namespaced_config_map(NAMESPACE).metadata.resource_version
    cluster.create("pods", pod("elsewhere"), NAMESPACE)
    begun = time.monotonic()
    events = list(raw_watch(core, version, timeout_seconds=1, allow_watch_bookmarks=True))
    assert 0.9 < time.monotonic() - begun < 5
    assert {each["type"] for each in events} == {"BOOKMARK"}
    assert int(events[-1]["object"]["metadata"]["resourceVersion"]) == cluster.store.version
    assert list(raw_watch(core, version, timeout_seconds=1)) == []


def test_a_watch_that_is_cut_goes_on_from_where_it_was(cluster: FakeCluster, core: Any) -> None:
    version = core.list_namespaced_config_map(NAMESPACE).metadata.resource_version
    cluster.create("configmaps", settings("one"), NAMESPACE)
    names = []
    for event in raw_watch(core, version):
        version = event["object"]["metadata"]["resourceVersion"]
        names.append(event["object"]["metadata"]["name"])
        cluster.cut_watches()
    cluster.create("configmaps", settings("two"), NAMESPACE)
    names.append(next(raw_watch(core, version))["object"]["metadata"]["name"])
    assert names == ["one", "two"]


@pytest.mark.parametrize("as_event", [False, True])
def test_a_version_that_is_too_old_is_gone(cluster: FakeCluster, core: Any, as_event: bool) -> None:
    version = core.list_namespaced_config_map(NAMESPACE).metadata.resource_version
    open_watch: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: open_watch.extend(raw_watch(core, version)))
    thread.start()
    assert wait_until(lambda: cluster.count("watch", "configmaps") == 1)
    assert wait_until(lambda: bool(cluster.store._watchers[("configmaps", None)]))
    cluster.expire(as_event=as_event)
    thread.join(10)
    if as_event:
        assert [each["object"]["code"] for each in open_watch] == [410]
        (event,) = raw_watch(core, version)
        assert (event["type"], event["object"]["code"]) == ("ERROR", 410)
    else:
        assert open_watch == []
        with pytest.raises(ApiException) as caught:
            next(raw_watch(core, version))
        assert caught.value.status == 410
    fresh = core.list_namespaced_config_map(NAMESPACE).metadata.resource_version
    assert list(raw_watch(core, fresh, timeout_seconds=1)) == []


def test_tokens_and_rules_say_who_may(cluster: FakeCluster, connect: Connect) -> None:
    token = cluster.add_user("reader", Rule("get", "", "pods", NAMESPACE), Rule("list", "", "pods"))
    reader = client.CoreV1Api(connect(user="reader"))
    reader.list_namespaced_pod(NAMESPACE)
    cluster.create("pods", pod("one") | {"status": {"phase": "Running"}}, NAMESPACE)
    reader.read_namespaced_pod("one", NAMESPACE)
    with pytest.raises(ApiException) as caught:
        reader.read_namespaced_pod_log("one", NAMESPACE)
    assert caught.value.status == 403
    assert 'User \\"reader\\" cannot get resource \\"pods/log\\" in API group \\"\\"' in str(caught.value.body)
    assert refusal(reader.delete_namespaced_pod, "one", NAMESPACE) == (403, "Forbidden")
    for verb, allowed in (("get", True), ("delete", False)):
        asked = {"resourceAttributes": {"verb": verb, "resource": "pods", "namespace": NAMESPACE, "name": "one"}}
        access: Any = client.AuthorizationV1Api(connect(user="reader"))
        assert access.create_self_subject_access_review({"spec": asked}).status.allowed is allowed
    cluster.expire_token(token)
    assert refusal(reader.list_namespaced_pod, NAMESPACE) == (401, "Unauthorized")
    unknown = client.CoreV1Api(connect(token="unknown"))
    assert refusal(unknown.list_namespaced_pod, NAMESPACE) == (401, "Unauthorized")


def test_calls_are_refused_as_planned(cluster: FakeCluster, core: Any) -> None:
    cluster.refuse(1, 429, retry_after=7)
    with pytest.raises(ApiException) as caught:
        core.list_namespaced_pod(NAMESPACE)
    assert (caught.value.status, (caught.value.headers or {})["Retry-After"]) == (429, "7")
    cluster.refuse(1, 503, verb="create")
    core.list_namespaced_pod(NAMESPACE)
    assert refusal(core.create_namespaced_config_map, NAMESPACE, settings("one"))[0] == 503
    core.create_namespaced_config_map(NAMESPACE, settings("one"))
    assert cluster.count("create", "configmaps") == 2
    first = cluster.requests[0]
    assert (first.user, first.verb, first.resource, first.namespace) == ("tester", "list", "pods", NAMESPACE)
    assert abs(first.time - time.time()) < 60


def test_an_api_that_was_away_is_back_on_its_port(cluster: FakeCluster, core: Any) -> None:
    core.list_namespaced_pod(NAMESPACE)
    for _ in range(2):
        cluster.down()
        with pytest.raises(HTTPError):
            core.list_namespaced_pod(NAMESPACE)
        cluster.up()
        core.list_namespaced_pod(NAMESPACE)


def test_what_is_mounted_answers_below_its_path(cluster: FakeCluster, core: Any) -> None:
    heard = []

    def answer(method: str, path: str, query: dict[str, str], headers: Any, body: bytes) -> tuple[int, Any]:
        heard.append((method, path, query, body, threading.current_thread() is threading.main_thread()))
        return 200, {"well": True}

    cluster.mount("/api/v1/namespaces/kubeflow/services/ml-pipeline:http/proxy", answer)
    found = core.connect_get_namespaced_service_proxy_with_path(
        "ml-pipeline:http", "kubeflow", "apis/v2beta1/healthz", _preload_content=False
    )
    assert b'"well": true' in found.data
    assert heard == [("GET", "/apis/v2beta1/healthz", {}, b"", False)]
