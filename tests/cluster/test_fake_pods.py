"""Pods of the fake cluster are processes, of which none is left behind; jobs fare as with the real operators."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config, watch

from tests.cluster.bench import ROOT
from tests.cluster.fake.api import FakeCluster
from tests.cluster.fake.kubelet import Kubelet
from tests.cluster.fake.operator import FakeOperator
from tests.cluster.fake.simulated import SimulatedKubelet
from tests.cluster.things import FOREVER, GROUP, NAMESPACE, is_now, job, phase, pod, processes, refusal
from tests.runs import wait_until

pytestmark = pytest.mark.cluster
PATIENT = "import signal, time; signal.signal(15, signal.SIG_IGN); print('begun', flush=True); time.sleep(600)"


def test_a_pod_is_a_process_with_a_status_and_a_log(cluster: FakeCluster, kubelet: Kubelet, core: Any):
    cluster.create("secrets", {"kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "c2VjcmV0"}}, NAMESPACE)
    manifest = pod("one", "import os, sys; print(os.environ['KEY'] == 'secret', '$(NAME)'); sys.exit(3)")
    manifest["spec"]["containers"][0]["env"] = [
        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
    ]
    core.create_namespaced_pod(NAMESPACE, manifest)
    assert wait_until(lambda: phase(cluster, "one") == "Failed")
    (state,) = core.read_namespaced_pod("one", NAMESPACE).status.container_statuses
    assert (state.state.terminated.exit_code, state.state.terminated.reason) == (3, "Error")
    assert state.container_id.startswith("fake://")
    assert core.read_namespaced_pod_log("one", NAMESPACE) == "True one\n"
    assert refusal(core.read_namespaced_pod_log, "one", NAMESPACE, previous=True)[0] == 400


def test_a_pod_whose_secret_is_missing_waits_for_it(cluster: FakeCluster, kubelet: Kubelet, core: Any):
    manifest = pod("one", "")
    reference = {"secretKeyRef": {"name": "late", "key": "k"}}
    manifest["spec"]["containers"][0]["env"] = [{"name": "KEY", "valueFrom": reference}]
    core.create_namespaced_pod(NAMESPACE, manifest)
    assert wait_until(lambda: phase(cluster, "one") == "Pending")
    waiting = core.read_namespaced_pod("one", NAMESPACE).status.container_statuses[0].state.waiting
    assert (waiting.reason, waiting.message) == ("CreateContainerConfigError", "secret late not found")
    assert refusal(core.read_namespaced_pod_log, "one", NAMESPACE) == (400, "BadRequest")
    cluster.create("secrets", {"kind": "Secret", "metadata": {"name": "late"}, "stringData": {"k": "v"}}, NAMESPACE)
    assert wait_until(lambda: phase(cluster, "one") == "Succeeded")


def test_a_log_is_followed_and_read_in_part(cluster: FakeCluster, kubelet: Kubelet, core: Any) -> None:
    code = "import sys\nfor line in sys.stdin or (): pass\nfor n in range(5): print('line', n, flush=True)"
    code += "\nimport time; time.sleep(0.5); print('last')"
    core.create_namespaced_pod(NAMESPACE, pod("one", code))
    assert wait_until(lambda: phase(cluster, "one") == "Running")
    followed = list(watch.Watch().stream(core.read_namespaced_pod_log, "one", NAMESPACE))
    whole = [*(f"line {number}" for number in range(5)), "last"]
    assert followed == whole
    assert core.read_namespaced_pod_log("one", NAMESPACE, tail_lines=2) == "line 4\nlast\n"
    assert core.read_namespaced_pod_log("one", NAMESPACE, limit_bytes=9) == "line 0\nli"
    assert core.read_namespaced_pod_log("one", NAMESPACE, since_seconds=3600).splitlines() == whole
    stamped = core.read_namespaced_pod_log("one", NAMESPACE, timestamps=True).splitlines()
    last = stamped[-1].split(" ")[0]
    since = [("sinceTime", last)]
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/one/log"
    answer = core.api_client.call_api(path, "GET", query_params=since, auth_settings=["BearerToken"], response_type=str)
    assert answer[0] == "last\n"  # type: ignore[index]


def test_a_container_starts_again_where_its_pod_wants_it(
    cluster: FakeCluster, kubelet: Kubelet, core: Any, tmp_path: Path
):
    code = f"import os, sys; n = len(os.listdir({str(tmp_path)!r})); open({str(tmp_path)!r} + f'/{{n}}', 'w');"
    code += "print('run', n); sys.exit(0 if n > 1 else 9)"
    kubelet.backoff_s = 0.05
    before = len(list(tmp_path.iterdir()))
    core.create_namespaced_pod(NAMESPACE, pod("one", code.replace("n > 1", f"n > {before}"), restartPolicy="OnFailure"))
    assert wait_until(lambda: phase(cluster, "one") == "Succeeded")
    (state,) = core.read_namespaced_pod("one", NAMESPACE).status.container_statuses
    assert state.restart_count == 1
    assert core.read_namespaced_pod_log("one", NAMESPACE, previous=True) == f"run {before}\n"


def test_a_pod_that_is_deleted_has_its_grace(cluster: FakeCluster, kubelet: Kubelet, core: Any) -> None:
    uid = core.create_namespaced_pod(NAMESPACE, pod("one", PATIENT)).metadata.uid
    assert wait_until(lambda: kubelet.running("one") and kubelet.lines("one") == ["begun"])
    core.delete_namespaced_pod("one", NAMESPACE, grace_period_seconds=1)
    assert core.read_namespaced_pod("one", NAMESPACE).metadata.deletion_timestamp
    assert processes(uid), "SIGTERM alone does not end it"
    assert wait_until(lambda: cluster.get("pods", "one", NAMESPACE) is None)
    assert processes(uid) == []


def test_nothing_that_a_pod_started_outlives_it(cluster: FakeCluster, kubelet: Kubelet, core: Any) -> None:
    child = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'],"
    uid = core.create_namespaced_pod(NAMESPACE, pod("one", f"{child} start_new_session=True)")).metadata.uid
    assert wait_until(lambda: phase(cluster, "one") == "Succeeded")
    assert processes(uid) == []


@pytest.mark.parametrize(("how", "reason"), [("oom", "OOMKilled"), ("kill", "Error")])
def test_how_a_container_was_killed_shows(cluster: FakeCluster, kubelet: Kubelet, how: str, reason: str) -> None:
    cluster.create("pods", pod("one", FOREVER), NAMESPACE)
    assert wait_until(lambda: kubelet.running("one"))
    getattr(kubelet, how)("one")
    assert wait_until(lambda: phase(cluster, "one") == "Failed")
    ended = (cluster.get("pods", "one", NAMESPACE) or {})["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (ended["exitCode"], ended["signal"], ended["reason"]) == (137, 9, reason)


def test_a_node_under_pressure_gives_a_pod_up(cluster: FakeCluster, kubelet: Kubelet) -> None:
    cluster.create("pods", pod("one", FOREVER), NAMESPACE)
    assert wait_until(lambda: kubelet.running("one") and kubelet.lines("one") == ["begun"])
    kubelet.evict("one", pressure="The node was low on resource: memory.")
    assert wait_until(lambda: phase(cluster, "one") == "Failed")
    status = (cluster.get("pods", "one", NAMESPACE) or {})["status"]
    assert status["reason"] == "Evicted"
    assert "DisruptionTarget" in [each["type"] for each in status["conditions"]]


def test_a_claim_is_a_folder_of_the_host(cluster: FakeCluster, tmp_path: Path) -> None:
    mount = {"volumeMounts": [{"name": "w", "mountPath": "/mnt/runs"}]}
    with Kubelet(cluster, volumes={"workspace": tmp_path}):
        for name, claim in (("one", "workspace"), ("two", "nobodys")):
            manifest = pod(name, "open('/mnt/runs/here', 'w').write('x')")
            manifest["spec"]["volumes"] = [{"name": "w", "persistentVolumeClaim": {"claimName": claim}}]
            manifest["spec"]["containers"][0] |= mount
            cluster.create("pods", manifest, NAMESPACE)
        assert wait_until(lambda: phase(cluster, "one") == "Succeeded")
        assert wait_until(lambda: phase(cluster, "two") == "Pending")
    assert (tmp_path / "here").read_text() == "x"


def test_a_step_is_run_as_a_pod_whose_end_is_told(cluster: FakeCluster, kubelet: Kubelet) -> None:
    manifest = {"metadata": {"name": "step"}, "spec": {}}
    command = ["python", "-c", "import os, sys; sys.exit(int(os.environ['CODE']))"]
    started = kubelet.run_pod(manifest, command, {"CODE": "7"}, NAMESPACE)
    assert started.code.result(10) == 7
    assert started.pod["metadata"]["uid"]
    again = kubelet.run_pod({"metadata": {"name": "other"}, "spec": {}}, ["python", "-c", FOREVER], {}, NAMESPACE)
    assert wait_until(lambda: kubelet.running("other") and kubelet.lines("other") == ["begun"])
    cluster.delete("pods", "other", NAMESPACE)
    assert again.code.result(10) == 128 + signal.SIGTERM


def test_pods_without_processes_end_as_their_script_says(cluster: FakeCluster) -> None:
    with FakeOperator(cluster), SimulatedKubelet(cluster, run_s=0.1, script=lambda each: 5):
        cluster.create("pytorchjobs", job("one", "", workers=200), NAMESPACE)
        assert wait_until(lambda: is_now(cluster, "one", "Failed"))
        assert len(cluster.objects("pods")) == 201


def test_a_job_is_told_where_its_ranks_meet(cluster: FakeCluster, kubelet: Kubelet) -> None:
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PET_NODE_RANK", "PET_NNODES", "PET_NPROC_PER_NODE")
    code = f"import os; print(*(os.environ[name] for name in {names}))"
    cluster.create("pytorchjobs", job("one", code, workers=1), NAMESPACE)
    assert wait_until(lambda: is_now(cluster, "one", "Succeeded"))
    assert wait_until(lambda: bool(kubelet.lines("one-worker-0")))
    master, worker = (kubelet.lines(f"one-{role}-0")[0].split() for role in ("master", "worker"))
    assert (master[:3], master[4:]) == (["0", "2", "127.0.0.1"], ["0", "2", "1"])
    assert (worker[0], worker[3]) == ("1", master[3])
    status = (cluster.get("pytorchjobs", "one", NAMESPACE) or {})["status"]
    assert status["completionTime"] >= status["startTime"]
    labels = (cluster.get("pods", "one-master-0", NAMESPACE) or {})["metadata"]["labels"]
    assert labels["training.kubeflow.org/job-role"] == "master"


@pytest.mark.parametrize(("code", "restarted"), [(3, False), (138, True)])
def test_an_exit_code_says_whether_a_pod_is_made_anew(
    cluster: FakeCluster, kubelet: Kubelet, tmp_path: Path, code: int, restarted: bool
) -> None:
    seen = tmp_path / "seen"
    program = f"import os, sys; new = not os.path.exists({str(seen)!r}); open({str(seen)!r}, 'a').write('x')"
    cluster.create("pytorchjobs", job("one", f"{program}; sys.exit({code} if new else 0)"), NAMESPACE)
    assert wait_until(lambda: is_now(cluster, "one", "Succeeded" if restarted else "Failed"))
    assert seen.read_text() == ("xx" if restarted else "x")


def test_a_job_that_has_failed_keeps_the_pods_that_its_policy_says(cluster: FakeCluster, kubelet: Kubelet) -> None:
    code = f"import os, sys\nif os.environ['RANK'] == '1': sys.exit(3)\n{FOREVER}"
    for policy in ("Running", "None", "Runing"):
        name = f"job-{policy.lower()}"
        cluster.create("pytorchjobs", job(name, code, workers=1, cleanPodPolicy=policy), NAMESPACE)
        assert wait_until(lambda name=name: is_now(cluster, name, "Failed"))
    left = {"job-running-worker-0", "job-none-master-0", "job-none-worker-0"}
    assert wait_until(lambda: {each["metadata"]["name"] for each in cluster.objects("pods")} == left)


def test_a_job_is_deleted_when_its_time_after_the_end_is_over(cluster: FakeCluster, kubelet: Kubelet) -> None:
    cluster.create("pytorchjobs", job("one", "", ttlSecondsAfterFinished=1), NAMESPACE)
    assert wait_until(lambda: is_now(cluster, "one", "Succeeded"))
    assert wait_until(lambda: not cluster.objects("pytorchjobs") and not cluster.objects("pods"))


def test_a_job_that_is_suspended_has_no_pods(cluster: FakeCluster, kubelet: Kubelet) -> None:
    cluster.create("pytorchjobs", job("one", FOREVER, suspend=True), NAMESPACE)
    assert wait_until(lambda: is_now(cluster, "one", "Suspended"))
    assert cluster.objects("pods") == []
    for suspend in (False, True):
        edit = {"suspend": suspend}
        cluster.update("pytorchjobs", "one", lambda each, edit=edit: each["spec"]["runPolicy"].update(edit), NAMESPACE)
        assert wait_until(lambda suspend=suspend: is_now(cluster, "one", "Suspended" if suspend else "Running"))
    assert wait_until(lambda: cluster.objects("pods") == [])


def test_a_queue_keeps_jobs_back_until_they_are_admitted(cluster: FakeCluster) -> None:
    with Kubelet(cluster), FakeOperator(cluster, admits=False) as operator:
        manifest = job("one", "")
        manifest["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "team"}
        cluster.create("pytorchjobs", manifest, NAMESPACE)
        assert wait_until(lambda: is_now(cluster, "one", "Suspended")), "though nobody suspended it"
        operator.admit("one", NAMESPACE)
        assert wait_until(lambda: is_now(cluster, "one", "Succeeded"))


def test_deleting_a_job_ends_its_processes(cluster: FakeCluster, kubelet: Kubelet, jobs: Any):
    jobs.create_namespaced_custom_object(*GROUP, job("one", FOREVER, workers=1))
    assert wait_until(lambda: is_now(cluster, "one", "Running") and kubelet.running("one-worker-0"))
    uids = [each["metadata"]["uid"] for each in cluster.objects("pods")]
    assert all(processes(uid) for uid in uids)
    jobs.delete_namespaced_custom_object(*GROUP, "one", propagation_policy="Foreground")
    assert wait_until(lambda: not cluster.objects("pods") and not cluster.objects("pytorchjobs"))
    assert not any(processes(uid) for uid in uids)


def test_a_train_job_starts_again_as_often_as_its_runtime_says(cluster: FakeCluster, kubelet: Kubelet) -> None:
    template = {"spec": {"failurePolicy": {"maxRestarts": 1}}}
    runtime = {"kind": "ClusterTrainingRuntime", "metadata": {"name": "torch"}, "spec": {"template": template}}
    cluster.create("clustertrainingruntimes", runtime)
    code = "import os, sys; print('RANK' in os.environ); sys.exit(os.environ['PET_NODE_RANK'] == '1')"
    trainer = {"numNodes": 2, "numProcPerNode": 1, "command": ["python", "-c", code]}
    manifest = {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": "one"},
        "spec": {"runtimeRef": {"name": "torch"}, "trainer": trainer},
    }
    made: list[str] = []
    cluster.store.listeners.append(
        lambda kind, found: (
            made.append(found["metadata"]["name"]) if (kind, found["kind"]) == ("ADDED", "Pod") else None
        )
    )
    cluster.create("trainjobs", manifest, NAMESPACE)

    def types() -> list[str]:
        status = (cluster.get("trainjobs", "one", NAMESPACE) or {}).get("status") or {}
        return [each["type"] for each in status.get("conditions", ())]

    assert wait_until(lambda: "Failed" in types())
    assert sorted(name.rsplit("-", 1)[0] for name in made) == ["one-node-0-0"] * 2 + ["one-node-0-1"] * 2


def test_the_command_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.cluster.fake", "--folder", str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout
        ready = server.stdout.readline()
        assert ready.startswith(f"export KUBECONFIG={tmp_path / 'kubeconfig'}  # ready at http://127.0.0.1:")
        settings = client.Configuration()
        config.load_kube_config(str(tmp_path / "kubeconfig"), client_configuration=settings)
        with client.ApiClient(settings) as connected:
            claims = client.CoreV1Api(connected).list_namespaced_persistent_volume_claim(NAMESPACE).items
        assert [each.metadata.name for each in claims] == ["workspace"]
        assert (tmp_path / "workspace").is_dir()
        server.send_signal(signal.SIGTERM)
        assert server.wait(10) == 0
    finally:
        server.kill()
        server.communicate()
