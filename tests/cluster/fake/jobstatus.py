"""A job's status, as its operator writes it: conditions that come and go, replicas that are counted."""

from collections.abc import Mapping, Sequence

from tests.cluster.fake.objects import Object, now

REPLACES = {"Running": ("Restarting",), "Restarting": ("Running",)}
"""Conditions that a new one takes the place of"""
ENDS_OTHERS = ("Succeeded", "Failed", "Complete", "Suspended")
"""Conditions after which no other one is true, apart from Created"""
ENDS = ("Succeeded", "Failed", "Complete")


def has(job: Object, name: str) -> bool:
    conditions = (job.get("status") or {}).get("conditions", ())
    return any(each["type"] == name and each["status"] == "True" for each in conditions)


def ended(job: Object) -> bool:
    return any(has(job, name) for name in ENDS)


def turn(job: Object, name: str, message: str, *, value: bool = True, reason: str = "") -> None:
    """Make a condition true, or untrue, in place, with what that means for others."""
    status = job.setdefault("status", {})
    conditions = status.get("conditions", [])
    old = next((each for each in conditions if each["type"] == name), None)
    wanted = "True" if value else "False"
    if old and (old["status"], old["message"]) == (wanted, message):
        return
    kept = [each for each in conditions if each["type"] not in (name, *(REPLACES.get(name, ()) if value else ()))]
    for each in kept if value and name in ENDS_OTHERS else ():
        if each["type"] in ("Running", "Restarting", "Suspended"):
            each |= {"status": "False", "lastTransitionTime": now()}
    reason = reason or f"{job['kind'] if job['kind'] == 'PyTorchJob' else 'Job'}{name}"
    stamps = {"lastTransitionTime": now(), "lastUpdateTime": now()}
    told = {"type": name, "status": wanted, "reason": reason, "message": message}
    status["conditions"] = [*kept, {**told, **stamps}]
    if value and name in ENDS:
        status["completionTime"] = now()


def begin(job: Object) -> None:
    job.setdefault("status", {}).setdefault("startTime", now())


def count(job: Object, pods: Mapping[str, Sequence[str]]) -> None:
    """The phases of each role's pods, as replicaStatuses."""
    names = {"Running": "active", "Succeeded": "succeeded", "Failed": "failed"}
    told = {
        role: {key: number for phase, key in names.items() if (number := sum(each == phase for each in phases))}
        for role, phases in pods.items()
    }
    job.setdefault("status", {})["replicaStatuses"] = told
