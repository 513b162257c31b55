"""What a check says: of one thing, in one line, with the remedy beside it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from configs.schema import RunConfig
from k8s.api import Api, RefusedError

State = Literal["ok", "failed", "unknown", "skipped"]
"""failed: the user has something to mend. unknown: it could not be looked at, which proves nothing"""


@dataclass(frozen=True)
class Finding:
    """What a check found."""

    name: str
    """Of the thing that was looked at"""
    state: State
    says: str
    remedy: str = ""


@dataclass(frozen=True)
class Check:
    """A look at one thing of a cluster."""

    name: str
    reads: str
    """The right that it needs, as RBAC words it"""
    look: Callable[[RunConfig, Api], Iterator[Finding]]

    def findings(self, run: RunConfig, api: Api) -> Iterator[Finding]:
        """What `look` finds, or that these credentials may not read it. Raises RefusedError when they have expired."""
        try:
            yield from self.look(run, api)
        except RefusedError as error:
            if error.status == 401:
                raise
            yield unreadable(self.name, self.reads, error)


def ok(name: str, says: str, remedy: str = "") -> Finding:
    return Finding(name, "ok", says, remedy)


def failed(name: str, says: str, remedy: str) -> Finding:
    return Finding(name, "failed", says, remedy)


def unknown(name: str, says: str, remedy: str = "") -> Finding:
    return Finding(name, "unknown", says, remedy)


def skipped(name: str, says: str) -> Finding:
    return Finding(name, "skipped", says)


def unreadable(name: str, reads: str, error: RefusedError) -> Finding:
    """The cluster did not let it be looked at."""
    if error.status != 403:
        return unknown(name, f"the cluster does not tell: {error}")
    return unknown(name, f"not known without the right to {reads}", "the run does not need that right, only this check")
