"""status, logs and cancel: what is told of a run on a cluster, and that nothing of it remains once it is ended."""

import errno
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from configs.load import load
from k8s.job import Job
from k8s.pytorchjob import pytorchjob
from pipelines.cluster.jobs import Found
from pipelines.cluster.status import told
from tests.cluster.conftest import Site
from tests.cluster.fake.kubelet import Kubelet
from tests.golden.__main__ import CONFIGS

pytestmark = pytest.mark.cluster
NOW = datetime(2026, 1, 2, 3, 30, tzinfo=UTC)
UNSCHEDULABLE = {
    "type": "PodScheduled",
    "status": "False",
    "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
}


def job_on(site: Site, pipeline_run: str, **status: Any) -> dict[str, Any]:
    """A job of two nodes, as it stands in the cluster."""
    run = load([str(CONFIGS / "demo-lm.yaml"), str(site.overlay), "cluster.nodes=2"])
    body = pytorchjob(Job(run, "train", "/mnt/runs/demo-lm", pipeline_run))
    return site.cluster.create("pytorchjobs", body | {"status": status}, "trainworks")


def pod_of(site: Site, job: dict[str, Any], node: int, command: list[str] | None = None, **status: Any) -> None:
    role = {"training.kubeflow.org/replica-type": "worker" if node else "master"}
    role["training.kubeflow.org/replica-index"] = str(max(node - 1, 0))
    labels = {**job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["metadata"]["labels"], **role}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"pod-{node}", "labels": labels},
        "spec": {"containers": [{"name": "pytorch", "command": command or []}]},
        "status": status,
    }
    site.cluster.create("pods", pod, "trainworks")


def test_a_status_tells_steps_jobs_and_what_pods_wait_for(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    identity = site.submitted()
    times = {"create_time": "2026-01-02T03:00:00Z", "start_time": "2026-01-02T03:10:00Z"}
    tasks = [
        {"display_name": "root", "state": "RUNNING", **times},
        {"display_name": "train", "state": "RUNNING", **times | {"create_time": "2026-01-02T03:05:00Z"}},
        {"display_name": "prepare", "state": "SUCCEEDED", **times, "end_time": "2026-01-02T03:05:00Z"},
    ]
    site.kfp.set_state(identity, "RUNNING", run_details={"task_details": tasks})
    job = job_on(site, identity, conditions=[{"type": "Running", "status": "True"}])
    pod_of(site, job, 0, phase="Running", containerStatuses=[{"restartCount": 2}])
    pod_of(site, job, 1, phase="Pending", conditions=[UNSCHEDULABLE])
    capsys.readouterr()
    assert site("status") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"demo-lm: pipeline run {identity}, running since ")
    assert lines[1].split() == ["step", "state", "since"]
    assert lines[2].startswith("prepare  succeeded  2026-01-02 03:05 UTC (")
    assert lines[3].startswith("train    running    2026-01-02 03:10 UTC (")
    assert lines[4] == f"train: PyTorchJob {job['metadata']['name']} running; started again 2 times"
    assert lines[5] == "  pods: 1 Pending, 1 Running"
    assert lines[6] == "  pod-1 waits: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu."


def test_a_job_in_a_queue_tells_the_queue_s_message(site: Site) -> None:
    job = job_on(site, "run-1", conditions=[{"type": "Suspended", "status": "True", "message": "quota is used up"}])
    job["spec"]["runPolicy"]["suspend"] = True
    run = {"run_id": "run-1", "display_name": "demo-lm", "created_at": "2026-01-02T03:00:00Z"}
    from k8s.pytorchjob import PYTORCHJOB

    lines = list(told(run, [Found(PYTORCHJOB, job)], [], NOW))
    assert lines[0] == "demo-lm: pipeline run run-1, pending since 2026-01-02 03:00 UTC (30 min)"
    assert lines[-1] == f"train: PyTorchJob {job['metadata']['name']} waits in its queue: quota is used up"


def test_a_run_that_is_not_there_is_named(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert site("status", "--name", "other") == 2
    assert "there is no run other in experiment trainworks" in capsys.readouterr().err


def test_a_run_is_found_by_its_identity_too(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    first = site.submitted()
    site.kfp.set_state(first, "FAILED")
    site.submitted()
    capsys.readouterr()
    assert site("status", "--run", first) == 0
    assert f"{first}, failed" in capsys.readouterr().out


def test_cancelling_ends_the_run_and_its_jobs_and_may_be_repeated(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    identity = site.submitted()
    job_on(site, identity)
    other = job_on(site, "another-run")
    for _ in range(2):
        assert site("cancel") == 0
        assert f"pipeline run {identity} has ended; no job of it is left" in capsys.readouterr().out
    assert [job["metadata"]["name"] for job in site.cluster.objects("pytorchjobs")] == [other["metadata"]["name"]]
    assert site.kfp.runs[identity]["state"] == "CANCELED"
    assert [path for _, path in site.kfp.calls if path.endswith(":terminate")] == [f"/runs/{identity}:terminate"]


def test_logs_print_every_node_s_lines_until_the_pods_end(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    identity = site.submitted("cluster.nodes=2")
    with Kubelet(site.cluster):
        job = job_on(site, identity)
        for node in range(2):
            pod_of(site, job, node, ["sh", "-c", f"echo first of {node}; sleep 0.3; echo last of {node}"])
        capsys.readouterr()
        assert site("logs", "cluster.nodes=2") == 0
        lines = capsys.readouterr().out.splitlines()
        assert sorted(lines) == [f"node {n}: {word} of {n}" for n in range(2) for word in ("first", "last")]
        assert site("logs", "cluster.nodes=2", "--rank", "1") == 0
        assert capsys.readouterr().out.splitlines() == ["first of 1", "last of 1"]
        assert site("logs", "cluster.nodes=2", "--node", "2") == 2
        assert "--node 2 is not one of the run's 2" in capsys.readouterr().err


def test_of_several_runs_of_a_name_the_one_that_goes_on_is_meant(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    going, ended = site.submitted(), site.submitted("--again")
    site.kfp.set_state(ended, "FAILED")
    assert site("submit") == 2
    assert f"end it with `trainworks cancel --run {going}`" in capsys.readouterr().err
    third = site.submitted("--again")
    assert site("cancel", "--run", going) == 0
    assert f"pipeline run {third} goes on; end it too: --run {third}" in capsys.readouterr().out
    assert site("cancel") == 0
    assert {each["state"] for each in site.kfp.runs.values()} == {"CANCELED", "FAILED"}


def test_logs_end_where_they_cannot_be_written_any_more(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(several: bool) -> Callable[[int, bytes], None]:
        def take(node: int, line: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        return take

    identity = site.submitted()
    monkeypatch.setattr("pipelines.cluster.logs._printer", broken)
    with Kubelet(site.cluster):
        pod_of(site, job_on(site, identity), 0, ["sh", "-c", "echo one; sleep 60"])
        assert site("logs") == 1


def test_logs_of_a_run_without_a_job_say_where_they_are(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.kfp.set_state(site.submitted(), "SUCCEEDED")
    assert site("logs") == 2
    assert "logs/STAGE.log of the run folder" in capsys.readouterr().err


def test_following_prints_the_steps_lines_and_ends_as_the_run_does(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    with Kubelet(site.cluster):
        ended = threading.Thread(target=_fail_a_step, args=(site,), daemon=True)
        ended.start()
        assert site("submit", "--follow") == 3
        ended.join()
    told = capsys.readouterr()
    assert "prepare  40 shards" in told.out
    assert "trainworks: train: out of memory" in told.err


def _fail_a_step(site: Site) -> None:
    """A step's pod of the run that is about to be there, which says why it fails."""
    while not site.kfp.runs:
        threading.Event().wait(0.05)
    (identity,) = site.kfp.runs
    words = """echo 'prepare | 40 shards'; echo 'train ! {"code": 3, "reason": "out of memory"}'; exit 1"""
    labels = {"app.kubernetes.io/name": "trainworks", "app.kubernetes.io/component": "step"}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "step", "labels": labels | {"pipeline/runid": identity}},
        "spec": {"containers": [{"name": "main", "command": ["sh", "-c", words]}]},
    }
    site.cluster.create("pods", pod, "trainworks")
    while (site.cluster.get("pods", "step", "trainworks") or {}).get("status", {}).get("phase") != "Failed":
        threading.Event().wait(0.05)
    site.kfp.set_state(identity, "FAILED")
