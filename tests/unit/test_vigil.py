"""What a launcher makes of what it sees of a job: incidents, budgets, waiting and stalls, on a clock of the test's."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from configs.cluster import ClusterConfig
from configs.schema import RunConfig
from k8s.budget import Budget
from k8s.podview import PodView, read_pod
from k8s.pytorchjob import node_of
from k8s.state import State
from k8s.vigil import REMINDER_S, SETTLE_S, Vigil
from tests.tiny import tiny_run

RUNNING = State("running")


class Seen:
    """A vigil over a job of two nodes, and the checkpoints that it finds."""

    def __init__(self, run: RunConfig) -> None:
        self.checkpoints: set[str] = set()
        self.vigil = Vigil(run, "job", Budget(run, lambda: self.checkpoints), 0.0)
        self.uids = 0

    def pod(self, node: int, phase: str, now: float, **more: Any) -> PodView:
        view = PodView(f"pod-{node}", f"uid-{self.uids}-{node}", node, phase, **more)
        self.vigil.pod(view, now)
        return view

    def start(self, now: float) -> None:
        """New pods on both nodes, which run."""
        self.uids += 1
        for node in (0, 1):
            self.pod(node, "Running", now)
        self.vigil.job(RUNNING, 0.0, now)

    def crash(self, node: int, now: float, cause: str = "crashed", code: int = 137) -> None:
        self.pod(node, "Failed", now, cause=cause, code=code, words=f"ended with exit code {code}")


@pytest.fixture
def run() -> RunConfig:
    return cluster_run({"nodes": 2})


def cluster_run(cluster: dict[str, Any]) -> RunConfig:
    run = tiny_run(world__processes=2, world__restarts=2)
    return run.model_copy(update={"cluster": ClusterConfig.model_validate(cluster)})


def test_a_job_that_goes_on_has_no_verdict_and_one_that_succeeded_has(run: RunConfig) -> None:
    seen = Seen(run)
    seen.start(0.0)
    assert seen.vigil.verdict(1.0) is None
    seen.vigil.job(State("succeeded"), 5.0, 5.0)
    verdict = seen.vigil.verdict(5.0)
    assert verdict is not None
    assert (verdict.kind, verdict.code) == ("succeeded", 0)


def test_pods_that_go_down_together_are_one_restart(run: RunConfig) -> None:
    seen = Seen(run)
    seen.start(0.0)
    seen.crash(1, 1.0)
    seen.crash(0, 1.5)
    assert seen.vigil.verdict(1.0 + SETTLE_S) is None
    assert seen.vigil.messages == ["node 1 (pod-1) ended with exit code 137; starting again (1 of 2)"]
    seen.start(10.0)
    assert seen.vigil.verdict(20.0) is None
    assert len(seen.vigil.messages) == 1


def test_the_budget_is_spent_by_restarts_without_a_new_checkpoint(run: RunConfig) -> None:
    seen = Seen(run)
    verdicts = []
    for start in range(3):
        seen.start(start * 100.0)
        seen.crash(0, start * 100.0 + 1)
        verdicts.append(seen.vigil.verdict(start * 100.0 + 1 + SETTLE_S))
    assert verdicts[:2] == [None, None]
    assert (verdicts[2].kind, verdicts[2].code) == ("failed", 137)
    assert "2 further starts brought no new checkpoint" in verdicts[2].reason


def test_a_new_checkpoint_gives_the_budget_back(run: RunConfig) -> None:
    seen = Seen(run)
    for start in range(6):
        seen.checkpoints.add(str(start))
        seen.start(start * 100.0)
        seen.crash(0, start * 100.0 + 1)
        assert seen.vigil.verdict(start * 100.0 + 1 + SETTLE_S) is None


def test_a_budget_outlives_its_launcher_until_the_job_is_over(run: RunConfig, tmp_path: Path) -> None:
    checkpoints, path = ["10"], tmp_path / "starts.json"

    def budget() -> Budget:
        return Budget(run, lambda: checkpoints, path)

    assert budget().charge("crashed")
    assert budget().charge("crashed")
    assert not budget().charge("crashed")
    assert budget().charge("evicted")
    checkpoints.append("20")
    assert budget().spent("crashed") == 0
    assert budget().charge("crashed")
    budget().close()
    assert not path.exists()
    assert budget().spent("crashed") == 0


def test_pods_that_are_cleared_away_after_a_crash_do_not_hide_it(run: RunConfig) -> None:
    """The controller of a TrainJob deletes the other pods of a start that has failed."""
    seen = Seen(run)
    seen.start(0.0)
    seen.crash(0, 1.0)
    seen.pod(1, "Running", 1.5, leaving=True)
    seen.pod(
        1, "Failed", 2.0, leaving=True, cause="evicted", code=143, words="was deleted, and ended with exit code 143"
    )
    assert seen.vigil.verdict(1.0 + SETTLE_S) is None
    assert seen.vigil.messages == ["node 0 (pod-0) ended with exit code 137; starting again (1 of 2)"]


def test_a_pod_that_was_deleted_first_is_why_its_peers_crash(run: RunConfig) -> None:
    seen = Seen(run)
    seen.start(0.0)
    seen.pod(1, "Running", 0.5, leaving=True)
    seen.crash(0, 1.0)
    seen.pod(
        1, "Failed", 1.5, leaving=True, cause="evicted", code=143, words="was deleted, and ended with exit code 143"
    )
    assert seen.vigil.verdict(1.0 + SETTLE_S) is None
    assert seen.vigil.messages == ["node 1 (pod-1) was deleted, and ended with exit code 143; starting again (1 of 50)"]


def test_causes_have_budgets_of_their_own(run: RunConfig) -> None:
    seen = Seen(run)
    for start in range(5):  # more than world.restarts
        seen.start(start * 100.0)
        seen.crash(1, start * 100.0 + 1, "evicted", 143)
        seen.crash(0, start * 100.0 + 2)  # it only lost its peer
        assert seen.vigil.verdict(start * 100.0 + 1 + SETTLE_S) is None
    memory = Seen(run)
    for start in range(2):
        memory.start(start * 100.0)
        memory.crash(1, start * 100.0 + 1, "memory")
    verdict = memory.vigil.verdict(101.0 + SETTLE_S)
    assert verdict is not None
    assert verdict.kind == "failed"


def test_starts_that_fail_at_once_do_not_escape_the_count(run: RunConfig) -> None:
    seen = Seen(run)
    for start in range(4):
        seen.start(start / 10)
        seen.crash(0, start / 10)
    verdict = seen.vigil.verdict(0.4)
    assert verdict is not None
    assert verdict.kind == "failed"


def test_what_the_program_says_of_itself_is_no_restart(run: RunConfig) -> None:
    seen = Seen(run)
    seen.start(0.0)
    seen.crash(0, 1.0, "failed", 2)
    assert seen.vigil.verdict(1.0 + SETTLE_S) is None
    assert seen.vigil.messages == []
    seen.vigil.job(State("failed", "replica failed"), 5.0, 5.0)
    assert seen.vigil.verdict(5.0) is None, "its pods may still have to be heard of"
    verdict = seen.vigil.verdict(5.0 + SETTLE_S)
    assert verdict is not None
    assert (verdict.kind, verdict.code) == ("failed", 2)


def test_a_job_that_failed_for_what_may_go_well_is_made_again(run: RunConfig) -> None:
    seen = Seen(run)
    seen.start(0.0)
    seen.crash(0, 1.0)
    seen.vigil.job(State("failed", "replica failed"), 1.0, 1.0)
    seen.vigil.verdict(1.0)
    verdict = seen.vigil.verdict(1.0 + SETTLE_S)
    assert verdict is not None
    assert (verdict.kind, verdict.code) == ("again", 137)


def test_a_queue_is_waited_for_without_limit_and_takes_pods_back_for_free(run: RunConfig) -> None:
    seen = Seen(run)
    seen.vigil.job(State("queued", "no room"), 0.0, 0.0)
    assert seen.vigil.messages == ["waits in the queue: no room"]
    assert seen.vigil.verdict(1e7) is None
    seen.vigil.job(RUNNING, 0.0, 1e7)
    assert "job: admitted" in seen.vigil.messages
    seen.start(1e7)
    view = seen.vigil.pods["pod-1"]
    seen.vigil.gone(view, 1e7 + 1)
    seen.vigil.job(State("queued", "preempted"), 0.0, 1e7 + 2)
    assert seen.vigil.verdict(1e7 + 100) is None
    assert not any("starting again" in text for text in seen.vigil.messages)


def test_a_reminder_is_not_repeated_at_once(run: RunConfig) -> None:
    seen = Seen(run)
    for now in (0.0, 10.0, REMINDER_S + 1):
        seen.vigil.job(State("queued", "no room"), 0.0, now)
    assert len(seen.vigil.messages) == 2


def test_a_pod_that_is_gone_without_a_word_was_taken_away(run: RunConfig) -> None:
    seen = Seen(run)
    seen.start(0.0)
    seen.vigil.gone(seen.vigil.pods["pod-1"], 1.0)
    assert seen.vigil.verdict(1.0 + SETTLE_S) is None
    (message,) = seen.vigil.messages
    assert "its node was lost, or somebody deleted it; starting again (1 of 50)" in message


def test_what_a_cut_watch_missed_shows_in_the_next_list(run: RunConfig) -> None:
    seen = Seen(run)
    seen.start(0.0)
    old = seen.vigil.pods["pod-1"]
    seen.vigil.listed([seen.vigil.pods["pod-0"], replace(old, uid="another")], 1.0)
    seen.vigil.verdict(1.0 + SETTLE_S)
    assert len(seen.vigil.messages) == 1


def test_pods_wait_for_machines_as_long_as_the_configuration_says(run: RunConfig) -> None:
    patient, hasty = Seen(run), Seen(cluster_run({"nodes": 2, "patience": {"pending_s": 60}}))
    for seen in (patient, hasty):
        seen.vigil.job(State("starting"), 0.0, 0.0)
        seen.pod(0, "Running", 0.0)
        seen.pod(1, "Pending", 0.0, waits="0/3 nodes are available: insufficient nvidia.com/gpu")
        assert seen.vigil.verdict(59.0) is None
    assert patient.vigil.verdict(1e6) is None
    verdict = hasty.vigil.verdict(61.0)
    assert verdict is not None
    assert "patience.pending_s=60 s: node 1 (pod-1): 0/3 nodes are available" in verdict.reason


def test_a_pod_that_cannot_start_is_not_waited_for_longer_than_a_stall(run: RunConfig) -> None:
    seen = Seen(run)
    seen.vigil.job(State("starting"), 0.0, 0.0)
    for now in range(0, 1000, 100):  # the reason alternates
        waits = "ErrImagePull: denied" if now % 200 else "ImagePullBackOff: denied"
        seen.pod(0, "Pending", float(now), waits=waits, stuck=True)
        verdict = seen.vigil.verdict(float(now))
    verdict = seen.vigil.verdict(901.0)
    assert verdict is not None
    assert "could not start for 900 s: ErrImagePull: denied" in verdict.reason


def test_ranks_that_print_nothing_are_a_stall_and_get_another_job(run: RunConfig) -> None:
    seen = Seen(run)
    seen.start(0.0)
    seen.vigil.heard(500.0)
    assert seen.vigil.verdict(1300.0) is None
    verdict = seen.vigil.verdict(1401.0)
    assert verdict is not None
    assert (verdict.kind, verdict.code) == ("again", 137)


def test_a_job_without_pods_is_a_stall_of_the_operator(run: RunConfig) -> None:
    seen = Seen(run)
    seen.vigil.job(State("starting"), 0.0, 0.0)
    verdict = seen.vigil.verdict(901.0)
    assert verdict is not None
    assert "no pod was made for 900 s" in verdict.reason


def test_the_deadline_counts_from_the_job_s_start() -> None:
    seen = Seen(cluster_run({"nodes": 2, "patience": {"deadline_s": 100}}))
    seen.start(0.0)
    seen.vigil.job(RUNNING, 99.0, 99.0)
    assert seen.vigil.verdict(99.0) is None
    seen.vigil.job(RUNNING, 101.0, 101.0)
    verdict = seen.vigil.verdict(101.0)
    assert verdict is not None
    assert "patience.deadline_s=100 s" in verdict.reason


def test_a_job_that_somebody_deleted_has_ended(run: RunConfig) -> None:
    seen = Seen(run)
    seen.start(0.0)
    seen.vigil.job(None, 0.0, 1.0)
    verdict = seen.vigil.verdict(1.0)
    assert verdict is not None
    assert (verdict.kind, verdict.code) == ("deleted", 143)


def pod(status: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    labels = {"training.kubeflow.org/replica-type": "worker", "training.kubeflow.org/replica-index": "2"}
    return {"metadata": {"name": "p", "uid": "u", "labels": labels, **metadata}, "spec": {}, "status": status}


def terminated(code: int, reason: str = "Error") -> list[dict[str, Any]]:
    return [{"state": {"terminated": {"exitCode": code, "reason": reason}}}]


@pytest.mark.parametrize(
    ("status", "cause", "words"),
    [
        ({"containerStatuses": terminated(2)}, "failed", "ended with exit code 2"),
        ({"containerStatuses": terminated(137)}, "crashed", "ended with exit code 137"),
        ({"containerStatuses": terminated(137, "OOMKilled")}, "memory", "ran out of memory"),
        ({"reason": "Evicted", "message": "low on disk"}, "evicted", "(Evicted: low on disk)"),
        (
            {
                "containerStatuses": terminated(143),
                "conditions": [{"type": "DisruptionTarget", "status": "True", "message": "drained"}],
            },
            "evicted",
            "(disruption: drained)",
        ),
        ({}, "evicted", "without an exit code"),
    ],
)
def test_why_a_pod_failed_is_read_from_its_status(status: dict[str, Any], cause: str, words: str) -> None:
    view = read_pod(pod({"phase": "Failed", **status}), node_of)
    assert view.node == 3
    assert view.cause == cause
    assert words in view.words


def test_a_pod_that_was_deleted_while_it_ran_was_taken_away() -> None:
    status = {"phase": "Failed", "containerStatuses": terminated(143)}
    assert read_pod(pod(status, deletionTimestamp="2026-01-01T00:00:00Z"), node_of).cause == "evicted"


@pytest.mark.parametrize(
    ("status", "waits", "stuck"),
    [
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}]},
            "0/3 nodes are available",
            False,
        ),
        ({"containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]}, "ContainerCreating", False),
        (
            {"containerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull", "message": "denied"}}}]},
            "ErrImagePull: denied",
            True,
        ),
        (
            {
                "initContainerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff"}}}],
                "containerStatuses": [{"state": {"waiting": {"reason": "PodInitializing"}}}],
            },
            "ImagePullBackOff",
            True,
        ),
    ],
)
def test_what_a_pod_waits_for_is_read_from_its_status(status: dict[str, Any], waits: str, stuck: bool) -> None:
    view = read_pod(pod({"phase": "Pending", **status}), node_of)
    assert (view.waits, view.stuck) == (waits, stuck)
