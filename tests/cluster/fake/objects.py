"""What everything in the fake cluster is made of: objects as JSON has them, their times, and errors as answers."""

import datetime
import json
from collections.abc import Mapping
from typing import Any

Object = dict[str, Any]
Place = tuple[str, str, str]
"""Plural, namespace, name"""


class StatusError(Exception):
    """What the API answers instead: HTTP's status, Kubernetes's reason and message."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message

    @property
    def body(self) -> Object:
        """As Kubernetes answers it."""
        told = {"reason": self.reason, "message": self.message, "code": self.status}
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", **told}


def expired(version: int, oldest: int) -> StatusError:
    return StatusError(410, "Expired", f"too old resource version: {version} ({oldest})")


def copied(found: Any) -> Any:
    """A copy of what is JSON anyway, which is quicker so than member by member."""
    return json.loads(json.dumps(found))


def event_line(kind: str, found: Mapping[str, Any]) -> bytes:
    """A change as a watch streams it."""
    return json.dumps({"type": kind, "object": found}).encode() + b"\n"


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def stamp() -> str:
    """The time with its nanoseconds, as lines of a log have it."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
