"""A pod of a job, read: which node it is, whether it runs, what it waits for, and why it ended."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Cause = Literal["failed", "crashed", "memory", "evicted"]
"""failed: its program said so, and would again. crashed: it was killed, or lost a peer. memory: it had too little.
evicted: the cluster took it away
"""
STUCK = {
    "ImagePullBackOff",
    "ErrImagePull",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "CrashLoopBackOff",
}
"""What a container waits for that time alone seldom brings"""
TAKEN = {"Evicted", "Preempting", "Preempted", "NodeLost", "NodeShutdown", "Shutdown", "Terminated", "NodeAffinity"}
TAKEN |= {"UnexpectedAdmissionError", "OutOfcpu", "OutOfmemory", "OutOfpods"}
"""Reasons of a pod that say that its node could not keep it"""
PERMANENT = range(1, 128)
"""Exit codes after which the operator does not start again"""


@dataclass(frozen=True)
class PodView:
    """What matters of a pod at one moment."""

    name: str
    uid: str
    node: int
    """Which node of the job"""
    phase: str
    """As Kubernetes has it: Pending, Running, Succeeded, Failed, Unknown"""
    waits: str = ""
    """What a pod that does not run yet waits for"""
    stuck: bool = False
    """Whether waiting is not likely to help"""
    host: str = ""
    """The machine it was put on; empty while it has none"""
    code: int | None = None
    """Exit code of its program, once it ended"""
    cause: Cause | None = None
    """Why it failed"""
    words: str = ""
    """Why it failed, for a person"""
    leaving: bool = False
    """Whether it is being deleted"""

    @property
    def ended(self) -> bool:
        return self.phase in ("Succeeded", "Failed")


def read_pod(pod: Mapping[str, Any], node_of: Callable[[Mapping[str, Any]], int]) -> PodView:
    """What matters of a pod's object."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    phase, host = status.get("phase", "Pending"), (pod.get("spec") or {}).get("nodeName", "")
    container = _container(status)
    waits, stuck = _waiting(status, container) if phase == "Pending" else ("", False)
    code, cause, words = _end(status, container) if phase == "Failed" else (None, None, "")
    if cause == "crashed" and "deletionTimestamp" in metadata:
        cause, words = "evicted", f"was deleted, and {words}"
    return PodView(
        metadata["name"],
        metadata["uid"],
        node_of(pod),
        phase,
        waits,
        stuck,
        host,
        code,
        cause,
        words,
        "deletionTimestamp" in metadata,
    )


def vanished(view: PodView) -> tuple[Cause, str]:
    """Why a pod that ran is gone."""
    return "evicted", f"{called(view)} is gone: its node was lost, or somebody deleted it"


def called(view: PodView) -> str:
    """`node 1 (POD on HOST)`."""
    return f"node {view.node} ({view.name}{view.host and ' on '}{view.host})"


def _container(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state of the one container, or of the init container that it waits for."""
    for each in status.get("initContainerStatuses") or ():
        state = each.get("state") or {}
        if "waiting" in state or (state.get("terminated") or {}).get("exitCode"):
            return state
    return next((each.get("state") or {} for each in status.get("containerStatuses") or ()), {})


def _waiting(status: Mapping[str, Any], container: Mapping[str, Any]) -> tuple[str, bool]:
    """What a pending pod waits for, and whether in vain."""
    unscheduled = _condition(status, "PodScheduled")
    if unscheduled and unscheduled.get("status") == "False":
        return str(unscheduled.get("message") or unscheduled.get("reason") or "a node"), False
    waiting = container.get("waiting") or {}
    reason, message = waiting.get("reason") or "", waiting.get("message") or ""
    return ": ".join(part for part in (reason, message) if part), reason in STUCK


def _end(status: Mapping[str, Any], container: Mapping[str, Any]) -> tuple[int | None, Cause, str]:
    """Exit code, cause and words of a failed pod."""
    ended = container.get("terminated") or {}
    code, reason = ended.get("exitCode"), status.get("reason") or ""
    disrupted = _condition(status, "DisruptionTarget")
    if reason in TAKEN or (disrupted and disrupted.get("status") == "True"):
        told = status.get("message") or (disrupted or {}).get("message") or ""
        return code, "evicted", f"was taken away by the cluster ({reason or 'disruption'}{told and ': '}{told})"
    if ended.get("reason") == "OOMKilled":
        return code, "memory", "ran out of memory (OOMKilled)"
    if code is None:
        return code, "evicted", f"failed without an exit code ({reason or 'no reason given'})"
    return code, "failed" if code in PERMANENT else "crashed", f"ended with exit code {code}"


def _condition(status: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    return next((each for each in status.get("conditions") or () if each["type"] == name), None)
