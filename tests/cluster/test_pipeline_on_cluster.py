"""A run that is submitted to the fake cluster really runs there: its pipeline, its jobs of two nodes, its end."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster.conftest import DIGEST
from tests.cluster.fake.api import FakeCluster
from tests.cluster.fake.kfp import FakeKfp
from tests.cluster.fake.kubelet import Kubelet
from tests.cluster.fake.operator import FakeOperator
from tests.runs import run, tiny_config, wait_until, write_corpus

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


class Live:
    """A cluster that works, and a tiny run for it."""

    def __init__(self, cluster: FakeCluster, kubelet: Kubelet, home: Path) -> None:
        self.cluster, self.kubelet, self.home = cluster, kubelet, home
        self.config = tiny_config(home, write_corpus(home / "corpus"))
        self.volume = home / "volume"
        self.volume.mkdir()
        self.overlay = home / "cluster.yaml"
        settings = {"image": DIGEST, "workspace": {"claim": "shared", "path": str(self.volume)}, "nodes": 2}
        self.overlay.write_text(yaml.safe_dump({"cluster": settings}))
        kubeconfig = cluster.write_kubeconfig(home / "kubeconfig")
        self.kfp = FakeKfp(cluster, home / "kfp", kubelet, kubeconfig)

    @property
    def words(self) -> list[str]:
        return [str(self.config), str(self.overlay)]

    def nothing_is_left(self) -> bool:
        jobs = self.cluster.objects("pytorchjobs")
        pods = [pod for pod in self.cluster.objects("pods") if pod["status"]["phase"] in ("Pending", "Running")]
        return not jobs and not pods


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    home = tmp_path_factory.mktemp("live")
    with FakeCluster() as cluster, Kubelet(cluster) as kubelet, FakeOperator(cluster):
        cluster.create("namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "trainworks"}})
        yield Live(cluster, kubelet, home)


@pytest.fixture(autouse=True)
def logged_in(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(live.home / "kubeconfig"))
    monkeypatch.setattr("pipelines.cluster.submit.preflight", lambda run, api: [])
    monkeypatch.setattr("pipelines.cluster.follow.LOOK_S", 0.2)
    monkeypatch.setattr("pipelines.cluster.cancel.LOOK_S", 0.2)


def metrics_of(folder: Path) -> dict[str, float]:
    return {
        each["name"]: each["value"]
        for each in json.loads((folder / "evaluation" / "metrics.json").read_text())["metrics"]
    }


def test_a_submitted_run_ends_with_the_metrics_of_a_run_on_this_machine(
    live: Live, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipelines.cluster import submit

    assert submit.main([*live.words, "--follow"]) == 0, capsys.readouterr()
    told = capsys.readouterr()
    done = run("run", live.config, "--runs", live.home / "local")
    assert done.returncode == 0, done.stderr
    assert metrics_of(live.volume / "tiny") == metrics_of(live.home / "local" / "tiny")
    assert "2 nodes with 1 rank each" in told.out
    assert "perplexity" in told.out, "the headline"
    assert (live.volume / "tiny" / "report.html").is_file()
    assert live.nothing_is_left()
    (finished,) = live.kfp.runs.values()
    assert live.kfp.answer("GET", f"/runs/{finished['run_id']}", {}, {}, b"")[1]["state"] == "SUCCEEDED"


def test_a_cancelled_run_leaves_nothing_and_is_resumed_where_it_was(
    live: Live, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipelines.cluster import cancel, resume, submit

    words = [*live.words, "train.steps=2000", "--name", "long"]
    assert submit.main(words) == 0
    assert wait_until(lambda: any((live.volume / "long" / "train").glob("step-*/complete.json")), 120)
    assert cancel.main(words) == 0
    assert live.nothing_is_left()
    assert "no job of it is left, no pod runs" in capsys.readouterr().out
    assert resume.main(words) == 0
    log = live.volume / "long" / "train" / "events.jsonl"
    before = log.read_bytes()
    assert wait_until(lambda: len(log.read_bytes()) > len(before), 120)
    assert cancel.main(words) == 0
    assert live.nothing_is_left()
