"""Jobs that are disturbed: two nodes train on the fake cluster while pods, its API, watches or the launcher fail."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from k8s.job import RETRIES
from tests.cluster.bench import STEPS, Bench, bench, seconds
from tests.runs import losses_of, run, steps_of, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with bench(tmp_path_factory.mktemp("faults"), {}) as made:
        yield made


@pytest.fixture(scope="module")
def local(there: Bench) -> Path:
    """The same training on this machine, without a cluster and undisturbed."""
    folder = there.folder("local")
    done = run("train", folder / "run.yaml", "--runs", folder.parent, "--name", folder.name)
    assert done.returncode == 0, done.stderr
    return folder


def assert_trained_alike(folder: Path, local: Path) -> None:
    """Every step has the loss of the undisturbed training, bit for bit."""
    assert max(steps_of(folder)) == STEPS
    assert losses_of(folder) == losses_of(local)


def assert_nothing_is_left(there: Bench, folder: Path) -> None:
    assert there.jobs(folder) == []
    assert there.pods(folder) == []


def test_two_nodes_train_as_two_processes_do_and_leave_nothing(there: Bench, local: Path) -> None:
    folder = there.folder("plain", "name=plain")
    step = there.start(folder)
    assert step.wait() == 0, step.text
    assert_trained_alike(folder, local)
    assert_nothing_is_left(there, folder)
    assert "2 nodes with 1 rank each" in step.text


@pytest.mark.parametrize(("name", "node"), [("master", 0), ("worker", 1)])
def test_a_pod_that_is_killed_costs_a_restart_and_not_a_step(there: Bench, local: Path, name: str, node: int) -> None:
    folder = there.folder(f"{name}-killed", f"name={name}-killed")
    step = there.start(folder)
    assert step.reaches(20), step.text
    there.kubelet.kill(there.pod(folder, node))
    assert step.wait() == 0, step.text
    assert f"node {node} " in step.text
    assert "starting again (1 of 3)" in step.text
    assert "starting again (2 of 3)" not in step.text, "pods that go down together are one restart"
    assert_trained_alike(folder, local)
    assert_nothing_is_left(there, folder)


@pytest.mark.parametrize("how", ["evict", "lose"])
def test_a_pod_that_the_cluster_takes_away_is_made_again(there: Bench, local: Path, how: str) -> None:
    folder = there.folder(f"taken-{how}", f"name=taken-{how}")
    step = there.start(folder)
    assert step.reaches(20), step.text
    getattr(there.kubelet, how)(there.pod(folder, 1))
    assert step.wait() == 0, step.text
    assert "starting again (1 of 50)" in step.text
    assert_trained_alike(folder, local)
    assert_nothing_is_left(there, folder)


def test_a_permanent_failure_is_told_with_its_reason_and_code(there: Bench) -> None:
    folder = there.folder("broken", "name=broken")
    shard = next((folder / "data").glob("train-*.tar"))
    shard.write_bytes(shard.read_bytes()[:2048])
    step = there.start(folder)
    assert step.wait() == 1, step.text
    assert shard.name in step.reason
    assert "starting again" not in step.text
    (job,) = there.jobs(folder)
    assert job["status"]["conditions"][-1]["type"] == "Failed", "kept for a day, to be looked at"
    assert not [each for each in there.pods(folder) if each["status"]["phase"] == "Running"]
    again = there.start(folder)
    assert (again.wait(), again.reason) == (1, step.reason), "a step that is started again by itself does no better"
    assert [each["metadata"]["name"] for each in there.jobs(folder)] == [job["metadata"]["name"]]


def test_a_pod_that_waits_for_a_machine_is_waited_for(there: Bench, local: Path) -> None:
    folder = there.folder("pending", "name=pending")
    there.kubelet.hold("train-pending-*-worker-0", message="0/1 nodes are available: insufficient nvidia.com/gpu")
    step = there.start(folder)
    assert step.says("waits: 0/1 nodes are available: insufficient nvidia.com/gpu"), step.text
    assert wait_until(seconds(8)), "longer than the ranks' own patience"
    assert steps_of(folder) == {}, "no rank starts before its peers"
    there.kubelet.release()
    assert step.wait() == 0, step.text
    assert "starting again" not in step.text
    assert_trained_alike(folder, local)


def test_a_job_that_somebody_deletes_is_not_made_again(there: Bench) -> None:
    folder = there.folder("deleted", "name=deleted")
    step = there.start(folder)
    assert step.reaches(10), step.text
    (job,) = there.jobs(folder)
    there.cluster.store.delete("pytorchjobs", "trainworks", job["metadata"]["name"])
    assert step.wait() == 143, step.text
    assert "was deleted by somebody else; go on with it: trainworks resume" in step.reason
    assert_nothing_is_left(there, folder)
    for _ in range(RETRIES):
        again = there.start(folder)
        assert again.wait() == 143, "a step that is started again by itself does not bring back what was taken away"
        assert there.jobs(folder) == []
    asked = there.start(folder)
    assert asked.says("2 nodes with 1 rank each"), "one that somebody asks for does"
    asked.stop()
    assert asked.wait() == 143


def test_an_api_that_is_away_for_20_seconds_is_waited_for(there: Bench, local: Path) -> None:
    folder = there.folder("away", "name=away")
    step = there.start(folder)
    assert step.reaches(10), step.text
    there.cluster.down()
    assert wait_until(seconds(20), 30)
    assert step.process.poll() is None, step.text
    there.cluster.up()
    assert step.wait() == 0, step.text
    assert "the cluster's API is away" in step.text
    assert "the cluster's API answers again" in step.text
    assert_trained_alike(folder, local)
    assert_lines_are_whole(folder)
    assert_nothing_is_left(there, folder)


def assert_lines_are_whole(folder: Path) -> None:
    """Every line of the job's log once, although its connections were cut."""
    lines = [line for line in (folder / "logs" / "train.log").read_text().splitlines() if "validation/loss" in line]
    assert len(lines) == len(set(lines)) == 1


def test_busy_answers_and_expired_versions_change_nothing(there: Bench, local: Path) -> None:
    folder = there.folder("busy", "name=busy")
    there.cluster.refuse(2, 429, retry_after="1")
    there.cluster.refuse(2, 500)
    step = there.start(folder)
    assert step.reaches(10), step.text
    there.cluster.refuse(3, 503)
    there.cluster.expire()
    assert step.wait() == 0, step.text
    assert_trained_alike(folder, local)
    assert_nothing_is_left(there, folder)


def test_a_launcher_that_is_killed_three_times_finds_its_one_job(there: Bench, local: Path) -> None:
    folder = there.folder("launchers", "name=launchers")
    made = there.cluster.count("create", "pytorchjobs")
    for number in range(3):
        step = there.start(folder)
        assert step.says("is there already, and is gone on with" if number else "2 nodes with 1 rank each"), step.text
        step.stop(signal.SIGKILL)
        step.wait()
        assert len(there.jobs(folder)) == 1
    last = there.start(folder)
    assert last.wait() == 0, last.text
    assert there.cluster.count("create", "pytorchjobs") == made + 1
    assert_trained_alike(folder, local)
    assert_nothing_is_left(there, folder)


def test_the_job_goes_with_the_pod_that_owns_it(there: Bench) -> None:
    folder = there.folder("orphan", "name=orphan")
    step = there.start(folder)
    assert step.reaches(10), step.text
    step.stop(signal.SIGKILL)
    step.wait()
    there.cluster.store.delete("pods", "trainworks", step.pod)
    assert wait_until(lambda: not there.jobs(folder) and not there.pods(folder), 30)


def test_a_watch_that_is_cut_every_second_misses_nothing(there: Bench, local: Path) -> None:
    folder = there.folder("cut", "name=cut")
    there.cluster.cut_watches_every(1.0)
    step = there.start(folder)
    assert step.reaches(20), step.text
    there.kubelet.kill(there.pod(folder, 1))
    assert step.wait() == 0, step.text
    assert "starting again (1 of 3)" in step.text
    assert_trained_alike(folder, local)
    assert_lines_are_whole(folder)
    assert_nothing_is_left(there, folder)


def test_the_evaluation_is_a_job_too_and_has_the_numbers_of_this_machine(there: Bench, local: Path) -> None:
    folder = there.folder("measured", "name=measured")
    for stage in ("train", "evaluate"):
        step = there.start(folder, stage=stage)
        assert step.wait() == 0, step.text
    done = run("evaluate", local / "run.yaml", "--runs", local.parent, "--name", local.name)
    assert done.returncode == 0, done.stderr
    ours, theirs = (json.loads((each / "evaluation" / "metrics.json").read_text()) for each in (folder, local))
    assert ours["metrics"] == theirs["metrics"]
    assert_nothing_is_left(there, folder)
