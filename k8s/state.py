"""What a launcher needs to know of a kind of job: where its objects are, how they are made and how they are read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from k8s.job import Job

Phase = Literal["queued", "starting", "running", "succeeded", "failed"]
"""queued: suspended, until a queue admits it. starting: its pods are made, or made again"""


@dataclass(frozen=True)
class State:
    """Where a job stands, and what its operator says of it."""

    phase: Phase
    message: str = ""

    @property
    def ended(self) -> bool:
        return self.phase in ("succeeded", "failed")


@dataclass(frozen=True)
class Kind:
    """A kind of job."""

    name: str
    group: str
    version: str
    plural: str
    build: Callable[[Job], dict[str, Any]]
    """The manifest: a pure function"""
    state: Callable[[Mapping[str, Any]], State]
    node_of: Callable[[Mapping[str, Any]], int]
    """Which node of its job a pod is"""

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}"


def condition(found: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """An object's condition of that type, when it is true."""
    conditions = (found.get("status") or {}).get("conditions") or ()
    return next((each for each in conditions if each["type"] == name and each["status"] == "True"), None)


def message_of(found: Mapping[str, Any] | None) -> str:
    return str((found or {}).get("message") or "")


def suspended(found: Mapping[str, Any]) -> bool:
    """Whether a job waits until somebody, such as a queue, lets it go on."""
    spec = found["spec"]
    return bool(spec.get("suspend") or (spec.get("runPolicy") or {}).get("suspend"))
