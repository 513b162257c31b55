"""`trainworks doctor` from the command line against a cluster over HTTP: what it names, how it ends, what it leaves."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.load import load
from k8s.checks import inside, preflight
from k8s.checks.local import local, requirements
from k8s.doctor import STAND_IN, connected, main
from tests.cluster import plants
from tests.cluster.fake.kubelet import Kubelet
from tests.cluster.planted import COVERED, HEALTH, HOME, PRIORITIES, QUEUES, SETTINGS, Planted, cluster_queue, flavor
from tests.corpus import COMPLETE
from tests.runs import wait_until

pytestmark = pytest.mark.cluster
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Planted]:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody answers there
    with Planted() as made:
        monkeypatch.setenv("KUBECONFIG", str(made.write_kubeconfig(tmp_path / "kubeconfig")))
        yield made


def overlay(path: Path, **changes: Any) -> str:
    """A cluster's overlay, for a run of two ranks on two nodes."""
    path.write_text(yaml.safe_dump({"cluster": SETTINGS | changes, "wandb": {"mode": "disabled"}}))
    return str(path)


def test_a_cluster_with_all_that_a_run_needs_is_well(cluster: Planted, tmp_path: Path, capsys: Capture) -> None:
    assert main([str(COMPLETE), overlay(tmp_path / "c.yaml"), "--cluster"]) == 0
    out = capsys.readouterr().out
    assert out.endswith("nothing has to be mended\n")
    assert "FAILED" not in out
    assert cluster.creations == []


def test_ten_planted_faults_are_all_named_with_their_remedies(
    cluster: Planted, tmp_path: Path, capsys: Capture
) -> None:
    cluster.schemas["PyTorchJob"] = {"nprocPerNode": {"type": "integer"}}
    cluster.denied.add("create pytorchjobs")
    cluster.put(HEALTH, {"tag_name": "2.4.0"})
    plants.volume("ReadWriteOnce")(cluster)
    plants.quota({"requests.cpu": "4"})(cluster)
    cluster.put(f"{QUEUES}/all", cluster_queue(flavor("gpu", COVERED | {"memory": "8Gi"})))
    for path in (f"{PRIORITIES}/nightly", f"{HOME}/serviceaccounts/trainworks-job", f"{HOME}/secrets/wandb"):
        cluster.drop(path)
    words = [str(COMPLETE), overlay(tmp_path / "c.yaml", image="trainworks:0.1.0")]

    assert main([*words, "--cluster", "--json"]) == 2
    bad = [each for each in json.loads(capsys.readouterr().out) if each["state"] == "failed"]
    assert {each["name"] for each in bad} == {
        *("kind of job", "rights", "pipelines", "image", "workspace", "quota", "queue", "priority"),
        *("service account", "secret wandb"),
    }
    assert len(bad) == 10
    assert all(each["remedy"] for each in bad)

    assert main([*words, "--cluster"]) == 2
    out = capsys.readouterr().out
    assert out.count("FAILED   ") == 10
    assert out.count(" -> ") >= 10
    assert "10 of " in out.splitlines()[-1]

    assert len(preflight(load(words), connected(load(words)))) == 10
    assert cluster.creations == []


def test_an_expired_token_is_told_with_exit_code_2(cluster: Planted, tmp_path: Path, capsys: Capture) -> None:
    cluster.tokens.clear()
    assert main([overlay(tmp_path / "c.yaml"), "world.processes=2", "--cluster"]) == 2
    out = capsys.readouterr().out
    assert "FAILED   cluster API" in out
    assert "log in to the cluster again" in " ".join(out.split())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no kubeconfig"),
        ("clusters: [", "cannot be read as a kubeconfig"),
        ("apiVersion: v1\nkind: Config\nusers: []\ncontexts: []\nclusters: []\ncurrent-context: x\n", "cannot be used"),
    ],
    ids=["missing", "not YAML", "without its context"],
)
def test_without_a_way_to_a_cluster_the_rest_is_still_told(
    content: str | None, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    path = tmp_path / "kubeconfig"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("KUBECONFIG", str(path))
    assert main([overlay(tmp_path / "c.yaml"), "--cluster"]) == 2
    out = " ".join(capsys.readouterr().out.split())
    assert "ok Python 3.11" in out
    assert "FAILED cluster access" in out
    assert says in out


def test_a_cluster_that_stays_away_is_an_outage(
    cluster: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr("k8s.doctor.OUTAGE_S", 0.0)
    cluster.down()
    assert main([overlay(tmp_path / "c.yaml"), "--cluster"]) == 1
    assert "stayed away" in capsys.readouterr().err


def test_here_alone_no_cluster_is_asked_for(cluster: Planted, tmp_path: Path, capsys: Capture) -> None:
    assert main(["--runs", str(tmp_path / "runs")]) == 0
    out = capsys.readouterr().out
    assert "ok       cluster access" in out
    assert not cluster.requests
    assert not (tmp_path / "runs").exists()


def test_a_wrong_key_is_refused_as_everywhere(tmp_path: Path, capsys: Capture) -> None:
    assert main([overlay(tmp_path / "c.yaml"), "cluster.imagee=x"]) == 2
    assert "did you mean cluster.image?" in capsys.readouterr().err


def test_what_is_installed_here_is_what_the_project_needs(tmp_path: Path) -> None:
    found = {each.name: each for each in local(load([str(STAND_IN)]), tmp_path)}
    assert found["Python"].state == found["disk"].state == "ok"
    needed, pins = requirements(Path(__file__).parents[2])
    assert {"torch", "kfp", "pydantic"} <= needed
    assert pins["kfp"] == "2.17.0"


def test_packages_that_differ_or_lack_are_named(tmp_path: Path) -> None:
    from k8s.checks.local import packages

    (tmp_path / "pyproject.toml").write_text('[project]\ndependencies = ["pyyaml", "absent-thing==1", "numpy==0.1"]\n')
    (tmp_path / "requirements.lock").write_text("numpy==0.1\npyyaml==0.2 ; python_version > '3'\n")
    found = packages(tmp_path)
    assert found.state == "failed"
    assert "absent-thing is missing, numpy is " in found.says
    assert "pyyaml is " in found.says


def trial(tmp_path: Path, **changes: Any) -> list[str]:
    path = str(tmp_path / "workspace")
    settings = {"nodes": 1, "node": {}, "workspace": {"claim": "shared", "path": path}, "queue": None} | changes
    return [str(COMPLETE), overlay(tmp_path / "c.yaml", **settings), "--try-pod", "--wait", "30", "--json"]


def found_in(text: str) -> dict[str, dict[str, str]]:
    return {each["name"]: each for each in json.loads(text)}


@pytest.fixture
def kubelet(cluster: Planted, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kubelet]:
    """Runs each pod as a process of this machine."""
    monkeypatch.setattr("k8s.checks.trial.LOOK_S", 0.05)
    with Kubelet(cluster) as made:
        yield made


def gone(cluster: Planted) -> bool:
    return not cluster.objects("pods")


@pytest.mark.slow
def test_a_trial_pod_tells_what_a_job_would_find_and_is_gone(
    cluster: Planted, kubelet: Kubelet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr("k8s.checks.trial.USER", os.getuid())
    (tmp_path / "workspace").mkdir()
    assert main(trial(tmp_path)) == 0
    found = found_in(capsys.readouterr().out)
    for name in ("trial pod", "pod's /dev/shm", "pod's workspace", "pod's scratch", "pod's user"):
        assert found[name]["state"] == "ok", found[name]
    assert cluster.creations == ["pods"]
    assert gone(cluster)


@pytest.mark.slow
def test_a_volume_that_the_pod_may_not_write_is_named(
    cluster: Planted, kubelet: Kubelet, tmp_path: Path, capsys: Capture
) -> None:
    assert main(trial(tmp_path)) == 2
    found = found_in(capsys.readouterr().out)["pod's workspace"]
    assert (found["state"], "No such file" in found["says"]) == ("failed", True)
    assert gone(cluster)


@pytest.mark.parametrize("reason", ["ImagePullBackOff", "CreateContainerConfigError"])
def test_a_trial_pod_that_cannot_start_is_told_and_deleted(
    reason: str, cluster: Planted, kubelet: Kubelet, tmp_path: Path, capsys: Capture
) -> None:
    kubelet.hold("trainworks-doctor-*", reason, "because of this")
    assert main(trial(tmp_path)) == 2
    assert found_in(capsys.readouterr().out)["trial pod"]["says"] == f"{reason}: because of this"
    assert gone(cluster)


def test_a_trial_pod_that_is_refused_is_a_finding(cluster: Planted, tmp_path: Path, capsys: Capture) -> None:
    cluster.forbidden.add("pods")
    assert main(trial(tmp_path)) == 2
    assert "the cluster refuses it: pods is forbidden" in found_in(capsys.readouterr().out)["trial pod"]["says"]


def test_a_trial_pod_that_waits_too_long_is_told_why(
    cluster: Planted, kubelet: Kubelet, tmp_path: Path, capsys: Capture
) -> None:
    kubelet.hold("*", message="0/3 nodes are available")
    assert main([*trial(tmp_path), "--wait", "0.5"]) == 2
    says = found_in(capsys.readouterr().out)["trial pod"]["says"]
    assert says == "not started within 0.5 s: 0/3 nodes are available"
    assert gone(cluster)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_doctor_that_is_stopped_leaves_no_pod(
    cluster: Planted, kubelet: Kubelet, tmp_path: Path, number: int
) -> None:
    kubelet.hold("*")
    command = [sys.executable, "-m", "pipelines.cli", "doctor", *trial(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    assert wait_until(lambda: cluster.count("get", "pods") > 0)
    os.killpg(process.pid, number)
    process.wait(30)
    assert wait_until(lambda: gone(cluster))


def test_the_look_inside_needs_the_standard_library_alone(tmp_path: Path) -> None:
    text = Path(inside.__file__).read_text(encoding="utf-8")
    command = [sys.executable, "-I", "-S", "-c", text, str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={"WANDB_BASE_URL": "http://127.0.0.1:9"}
    )
    told = json.loads(done.stdout.removeprefix(inside.MARK))
    assert told["workspace"] == told["scratch"] == ""
    assert told["wandb"] is False
