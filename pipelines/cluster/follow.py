"""A pipeline run followed from afar: the lines of its steps as they come, and its end as this command's."""

import contextlib
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

from configs.lines import FAILURE, Line, parse, read_failure
from k8s.api import PODS
from k8s.podlogs import PodLogs
from k8s.stopping import StoppedError, stoppable
from pipelines.cluster.kfp import is_over, state_of
from pipelines.cluster.place import Place, told
from pipelines.on_cluster import STEP_PODS
from pipelines.screen import Screen

LOOK_S = 2.0
DRAIN_S = 20.0
"""How long the last lines may take to come"""
OF_RUN = "pipeline/runid"
"""KFP's label of pods, with the identity of their pipeline run"""
MAIN = "main"
"""Container of a step's pod that holds the step; KFP's own are beside it"""


def follow(place: Place, identity: str, *, words: str) -> int:
    """Print what the steps print until the pipeline run ends; returns its exit code.

    A signal lets go of it: the run goes on without a follower.
    """
    try:
        with Screen() as screen, stoppable():
            code, reason = _Follower(place, identity, screen.show).wait()
    except StoppedError as stop:
        ending = f"trainworks cancel {words} --run {identity}"
        told(f"no longer followed; pipeline run {identity} goes on: see `trainworks status {words}`, end it: {ending}")
        return 128 + (stop.number if stop.number != signal.SIGHUP else signal.SIGTERM)
    if code:
        told(f"trainworks: {reason}")
    return code


class _Follower:
    def __init__(self, place: Place, identity: str, show: Callable[[Line], None]) -> None:
        self.place, self.identity, self.show = place, identity, show
        self._failure: Line | None = None

    def wait(self) -> tuple[int, str]:
        """Exit code, and why it is not 0."""
        labels = ",".join(f"{name}={value}" for name, value in {OF_RUN: self.identity, **STEP_PODS}.items())
        with contextlib.closing(PodLogs(self.place.api, self._heard, container=MAIN)) as logs:
            while True:
                logs.check()
                run = self.place.kfp.run(self.identity)
                pods = self.place.api.list(PODS, labels=labels)[0]  # after the run: the last are among them
                for pod in pods:
                    _follow_pod(logs, pod)
                if run is None:
                    return 1, f"pipeline run {self.identity} was deleted"
                if is_over(run):
                    logs.drain(DRAIN_S)
                    return self._end(run)
                time.sleep(LOOK_S)

    def _heard(self, _: int, text: bytes) -> None:
        line = parse(text.decode("utf-8", "replace"))
        if line and line.mark == FAILURE:
            self._failure = line
        elif line:
            self.show(line)

    def _end(self, run: Mapping[str, Any]) -> tuple[int, str]:
        state = state_of(run)
        if state == "SUCCEEDED":
            return 0, ""
        if state == "CANCELED":
            return 143, f"pipeline run {self.identity} was cancelled"
        if self._failure:
            code, reason = read_failure(self._failure)
            return code, f"{self._failure.stage}: {reason}"
        message = (run.get("error") or {}).get("message") or "its steps gave no reason; see its page in KFP"
        return 1, f"pipeline run {self.identity} {state.lower()}: {message}"


def _follow_pod(logs: PodLogs, pod: Mapping[str, Any]) -> None:
    """Begin with a pod's log once it has started, and read it to its end once it has ended."""
    phase, uid = (pod.get("status") or {}).get("phase", "Pending"), pod["metadata"]["uid"]
    if phase != "Pending":
        logs.follow(uid, pod["metadata"]["name"], 0)
    if phase in ("Succeeded", "Failed"):
        logs.end(uid)
