"""Jobs in each of their states: in a queue, waiting, running, starting again; cancelled there, or ended by a budget."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.bench import STEPS, Bench, bench
from tests.runs import steps_of, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
HASTY = ("world.timeout_s=5", "cluster.patience.stall_s=6")


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with bench(tmp_path_factory.mktemp("states"), {"queue": "trainworks"}, admits=False) as made:
        yield made


def assert_nothing_is_left(there: Bench, folder: Path) -> None:
    assert there.jobs(folder) == []
    assert there.pods(folder) == []


def admit(there: Bench, folder: Path, *, admitted: bool = True) -> None:
    assert wait_until(lambda: len(there.jobs(folder)) == 1)
    there.operator.admit(there.jobs(folder)[0]["metadata"]["name"], admitted=admitted)


def into_queue(there: Bench, folder: Path) -> None:
    """The job is there, and waits to be admitted."""


def into_pending(there: Bench, folder: Path) -> None:
    there.kubelet.hold(f"train-{folder.name}-*")
    admit(there, folder)
    assert wait_until(lambda: len(there.pods(folder)) == 2)


def into_half(there: Bench, folder: Path) -> None:
    there.kubelet.hold(f"train-{folder.name}-*-worker-0")
    admit(there, folder)
    assert wait_until(lambda: there.kubelet.running(there.pod(folder, 0)) if there.pods(folder) else False)


def into_running(there: Bench, folder: Path) -> None:
    admit(there, folder)
    assert there.steps[-1].reaches(10), there.steps[-1].text


def into_restart(there: Bench, folder: Path) -> None:
    into_running(there, folder)
    there.kubelet.kill(there.pod(folder, 1))
    assert there.steps[-1].says("starting again"), there.steps[-1].text


@pytest.mark.parametrize("enter", [into_queue, into_pending, into_half, into_running, into_restart])
def test_a_step_that_is_cancelled_leaves_nothing_whatever_its_job_does(there: Bench, enter) -> None:
    name = enter.__name__.replace("_", "-")
    folder = there.folder(name, f"name={name}")
    step = there.start(folder)
    assert step.says("waits in the queue"), step.text
    enter(there, folder)
    step.stop(signal.SIGTERM)
    assert step.wait() == 143, step.text
    there.kubelet.release()
    assert step.reason == "stopped by SIGTERM; its job was deleted"
    assert_nothing_is_left(there, folder)
    if enter is into_running:
        assert "which is saved" in (folder / "logs" / "train.log").read_text(), "the ranks had time to save"


def test_a_queue_that_takes_its_place_back_costs_no_restart(there: Bench) -> None:
    folder = there.folder("preempted", "name=preempted")
    step = there.start(folder)
    into_running(there, folder)
    admit(there, folder, admitted=False)
    assert step.says("the queue took its place back"), step.text
    assert wait_until(lambda: there.pods(folder) == [], 60)
    admit(there, folder)
    assert step.wait() == 0, step.text
    assert "starting again" not in step.text
    assert max(steps_of(folder)) == STEPS
    assert_nothing_is_left(there, folder)


@pytest.mark.parametrize(
    ("how", "reason"),
    [("", "further starts brought no new checkpoint"), ("OOMKilled", "ran out of memory (OOMKilled)")],
)
def test_a_pod_that_dies_again_and_again_ends_the_job(there: Bench, how: str, reason: str) -> None:
    name = f"dies-{how.lower() or 'often'}"
    folder = there.folder(name, f"name={name}", "world.restarts=1", "train.checkpoint.every_steps=1000")
    step = there.start(folder)
    admit(there, folder)
    for start in (1, 2):
        assert wait_until(lambda: step.text.count("from the start") == start, 60), step.text  # noqa: B023
        there.kubelet.kill(there.pod(folder, 1), reason=how)
    assert step.wait() == 137, step.text
    assert reason in step.reason
    assert "starting again (1 of 1)" in step.text
    assert_nothing_is_left(there, folder)


@pytest.mark.parametrize(
    ("name", "reason", "message"),
    [
        ("image", "ImagePullBackOff", "Back-off pulling image: denied"),
        ("settings", "CreateContainerConfigError", 'secret "wandb" not found'),
    ],
)
def test_a_pod_that_can_never_start_ends_the_job_with_the_kubelet_s_words(
    there: Bench, name: str, reason: str, message: str
) -> None:
    folder = there.folder(f"stuck-{name}", f"name=stuck-{name}", *HASTY)
    there.kubelet.hold(f"train-stuck-{name}-*", reason, message)
    step = there.start(folder)
    admit(there, folder)
    assert step.wait() == 1, step.text
    assert f"could not start for 6 s: {reason}: {message}" in step.reason
    there.kubelet.release()
    assert_nothing_is_left(there, folder)


def test_a_job_that_is_past_its_deadline_is_deleted(there: Bench) -> None:
    folder = there.folder("late", "name=late", "cluster.patience.deadline_s=1", "train.steps=5000")
    step = there.start(folder)
    admit(there, folder)
    assert step.wait() == 1, step.text
    assert "patience.deadline_s=1 s" in step.reason
    assert_nothing_is_left(there, folder)


def test_a_job_for_another_configuration_is_not_taken_for_this_one(there: Bench) -> None:
    folder = there.folder("other", "name=other")
    first = there.start(folder)
    assert first.says("waits in the queue"), first.text
    first.stop(signal.SIGKILL)
    first.wait()
    config = folder / "run.yaml"
    config.write_text(config.read_text().replace("shared_memory: 2Gi", "shared_memory: 1Gi"))
    second = there.start(folder)
    assert second.wait() == 2, second.text
    assert "exists, for another configuration of this run; delete it (trainworks cancel)" in second.reason
    third = there.start(folder, pipeline_run="another")
    assert third.says("waits in the queue"), third.text
    assert len(there.jobs(folder)) == 2, "another pipeline run has a job of its own"
    third.stop()
    assert third.wait() == 143


def test_a_trainjob_trains_the_same_and_is_made_again_after_a_loss(there: Bench) -> None:
    folder = there.folder("second", "name=second", "cluster.job=trainjob")
    step = there.start(folder)
    into_running(there, folder)
    there.kubelet.kill(there.pod(folder, 1))
    assert step.says("its job is made again"), step.text
    assert wait_until(lambda: len(there.jobs(folder)) == 2)
    there.operator.admit(there.jobs(folder)[1]["metadata"]["name"])
    assert step.wait() == 0, step.text
    assert max(steps_of(folder)) == STEPS
    assert_nothing_is_left(there, folder)
