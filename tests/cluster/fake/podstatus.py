"""What a pod's status says in each of its phases, as a kubelet writes it."""

from collections.abc import Mapping, Sequence
from typing import Any

from tests.cluster.fake.container import HOST
from tests.cluster.fake.objects import Object, now

UNSCHEDULABLE = "Unschedulable"
ADDRESS = {"podIP": "127.0.0.1", "hostIP": "127.0.0.1"}
Status = dict[str, Any]
SIGNALS = 128


def held(pod: Object, reason: str, message: str) -> Status:
    """Not begun: without a node, or with a container that waits for a reason; with neither when there is no reason."""
    if not reason:
        return {"phase": "Pending"}
    if reason == UNSCHEDULABLE:
        scheduled = {"type": "PodScheduled", "status": "False", "reason": reason, "message": message}
        return {"phase": "Pending", "conditions": [scheduled]}
    return waiting(pod, reason, message)


def waiting(
    pod: Object, reason: str, message: str, *, last: Mapping[str, Any] | None = None, restarts: int = 0
) -> Status:
    """On a node, with a container that has not started, or will again."""
    state = _container(pod, {"waiting": {"reason": reason, "message": message}}, restarts, last)
    return {"phase": "Running" if last else "Pending", "conditions": _conditions("False"), "containerStatuses": [state]}


def running(
    pod: Object, identity: str, begun: str, *, last: Mapping[str, Any] | None = None, restarts: int = 0
) -> Status:
    state = _container(pod, {"running": {"startedAt": begun}}, restarts, last) | {"containerID": identity}
    return {"phase": "Running", "conditions": _conditions("True"), "containerStatuses": [state], **ADDRESS}


def terminated(identity: str, begun: str, code: int, reason: str) -> Status:
    """How a container has ended; a signal shows as 128 and its number."""
    reason = reason or ("Completed" if code == 0 else "Error")
    ended: Status = {"exitCode": code, "reason": reason, "startedAt": begun, "finishedAt": now()}
    return ended | {"containerID": identity} | ({"signal": code - SIGNALS} if code > SIGNALS else {})


def ended(pod: Object, end: Mapping[str, Any], *, restarts: int = 0, evicted: str = "") -> Status:
    """The container has ended, and so has the pod; `evicted` says why its node gave it up."""
    state = _container(pod, {"terminated": dict(end)}, restarts) | {"containerID": end["containerID"]}
    phase = "Failed" if end["exitCode"] or evicted else "Succeeded"
    told = {"reason": "Evicted", "message": evicted} if evicted else {}
    conditions = _conditions("False", *([disrupted("TerminationByKubelet", evicted)] if evicted else ()))
    return {"phase": phase, "conditions": conditions, "containerStatuses": [state], **told}


def disrupted(reason: str, message: str) -> dict[str, str]:
    return {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}


def written(pod: Object, status: Mapping[str, Any]) -> None:
    """Write a status over a pod's, in place; what disrupts it and when it began stay said."""
    old = pod.get("status") or {}
    told = [each for each in old.get("conditions", ()) if each["type"] == "DisruptionTarget"]
    types = {each["type"] for each in status.get("conditions", ())}
    kept = [each for each in told if each["type"] not in types]
    begun = {key: old[key] for key in ("startTime", *ADDRESS) if key in old}
    pod["status"] = {"startTime": now(), **begun, **status, "conditions": [*status.get("conditions", ()), *kept]}
    scheduled = any((each["type"], each["status"]) == ("PodScheduled", "True") for each in status.get("conditions", ()))
    if scheduled:
        pod["spec"]["nodeName"] = HOST


def _container(pod: Object, state: Mapping[str, Any], restarts: int, last: Mapping[str, Any] | None = None) -> Status:
    container = pod["spec"]["containers"][0]
    return {
        "name": container["name"],
        "image": container.get("image", ""),
        "imageID": container.get("image", ""),
        "ready": "running" in state,
        "started": "running" in state,
        "restartCount": restarts,
        "state": dict(state),
        "lastState": {"terminated": dict(last)} if last else {},
    }


def _conditions(ready: str, *more: Mapping[str, str]) -> Sequence[Mapping[str, str]]:
    return [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": ready}, *more]
