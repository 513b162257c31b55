"""Which events are worth a message to whoever is not looking."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

FRESH_S = 3600.0
"""Nobody wants to be told of what is older"""


class Alert(NamedTuple):
    title: str
    text: str
    level: Literal["INFO", "WARN", "ERROR"]


def alert_of(event: Mapping[str, Any], name: str) -> Alert | None:
    """The alert of an event of a run's log; None for one that needs none."""
    reason, step = event.get("reason", ""), event.get("step")
    match event.get("event"):
        case "anomaly":
            doing = {"go on": "it goes on", "rollback": "it goes back to the last checkpoint", "stop": "it ends"}
            action = str(event.get("action", ""))
            return Alert(f"{name}: training runs away", f"step {step}: {reason}; {doing.get(action, action)}", "WARN")
        case "failure":
            return Alert(f"{name}: failed", str(reason), "ERROR")
        case "stop":
            return Alert(f"{name}: stopped", str(reason), "WARN")
        case "early_stop":
            return Alert(f"{name}: ended early", f"after step {step}: {reason}", "INFO")
        case "finish" if event.get("status") == "completed":
            return Alert(f"{name}: completed", "the stage is complete", "INFO")
    return None


def alert_of_incident(incident: Mapping[str, Any], name: str) -> Alert:
    """The alert of an end that the node agent recorded: a rank that crashed, stood still or ran out of memory."""
    kind, rank = incident.get("kind", "incident"), incident.get("rank")
    went = "it starts again" if incident.get("restarted") else "it does not start again"
    return Alert(f"{name}: {kind}", f"rank {rank}: {incident.get('reason') or kind}; {went}", "ERROR")


def alert_of_gate(judgement: Mapping[str, Any], name: str) -> Alert | None:
    """The alert of a regression; None for a verdict that is none."""
    worse = [each for each in judgement.get("verdicts", ()) if each["word"] == "worse" and not each["quarantined"]]
    if not worse:
        return None
    told = "; ".join(f"{each.get('name')}: {each.get('reason')}" for each in worse)
    return Alert(f"{name}: worse than {judgement.get('baseline')}", told, "ERROR")
