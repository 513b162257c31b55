"""The Kubernetes API as a launcher needs it: plain objects, patience with outages, clear refusals."""

import contextlib
import json
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kubernetes.client import ApiClient
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from configs.errors import OutageError, UserError

TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
"""Answers after which the same question may be answered"""
CONNECT_S, READ_S = 10.0, 60.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 20.0
WATCH_S = 240
"""Seconds after which a watch is begun anew, from where it was: a connection that died unnoticed is found then"""
UNAUTHORIZED_TRIES = 3
MERGE = "application/merge-patch+json"

Object = dict[str, Any]


@dataclass(frozen=True)
class Resource:
    """A kind of object, by where it is served."""

    group: str
    version: str
    plural: str
    namespaced: bool = True

    def path(self, namespace: str, name: str = "", sub: str = "") -> str:
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        place = f"/namespaces/{namespace}" if self.namespaced else ""
        return "/".join(part for part in (f"{root}{place}/{self.plural}", name, sub) if part)


PODS = Resource("", "v1", "pods")
EVENTS = Resource("", "v1", "events")
CLAIMS = Resource("", "v1", "persistentvolumeclaims")


class RefusedError(UserError):
    """The API will not do it: forbidden, unknown, invalid. `status` is HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class CutError(Exception):
    """A connection ended before what was read from it did."""


class GoneError(Exception):
    """What a watch was to go on from is no longer known: list again."""


@dataclass
class Api:
    """One namespace of a cluster. Every call waits out an API that is away, `outage_s` seconds at most.

    Raises RefusedError for what waiting would not change, OutageError when the API stayed away.
    """

    client: ApiClient
    namespace: str
    outage_s: float = 1800.0
    tell: Callable[[str], None] = field(default=lambda text: None)
    """Hears, once for each outage, that the API is away and that it is back"""
    pause: Callable[[float], object] = time.sleep

    def get(self, resource: Resource, name: str) -> Object | None:
        """An object; None where there is none of that name, or no such kind."""
        return self.read(resource.path(self.namespace, name))

    def read(self, path: str) -> Object | None:
        """What is served at a path, such as /version or the list of a group's kinds; None where nothing is."""
        try:
            return self._json("GET", path)
        except RefusedError as error:
            if error.status == 404:
                return None
            raise

    def ask(self, method: str, path: str, query: Iterable[tuple[str, str]] = (), body: Any = None) -> Object:
        """Any call that is answered with an object: of a service that the API passes calls on to, for one."""
        return self._json(method, path, list(query), body)

    def list(self, resource: Resource, *, labels: str = "", fields: str = "") -> tuple[list[Object], str]:
        """Objects by selectors, and the version from which a watch goes on."""
        found = self._json("GET", resource.path(self.namespace), _selection(labels, fields))
        return found["items"], found["metadata"].get("resourceVersion", "")

    def create(self, resource: Resource, manifest: Mapping[str, Any], *, dry_run: bool = False) -> Object:
        """Make an object. Raises RefusedError with status 409 when one of that name exists."""
        query = [("fieldValidation", "Strict"), *([("dryRun", "All")] if dry_run else [])]
        return self._json("POST", resource.path(self.namespace), query, manifest)

    def patch(self, resource: Resource, name: str, change: Mapping[str, Any]) -> Object:
        """Merge a change into an object."""
        return self._json("PATCH", resource.path(self.namespace, name), (), change)

    def delete(self, resource: Resource, name: str) -> bool:
        """Delete an object and, before it goes, all that it owns; whether there was one."""
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Foreground"}
        try:
            self._json("DELETE", resource.path(self.namespace, name), (), body)
        except RefusedError as error:
            if error.status == 404:
                return False
            if error.status != 409:  # it is being deleted already
                raise
        return True

    def watch(self, resource: Resource, *, labels: str, version: str) -> Iterator[tuple[str, Object]]:
        """Changes from a version on, as type and object, until the connection ends.

        Raises GoneError when that version is too old; anything that goes wrong on the way only ends it.
        """
        query = [*_selection(labels, ""), ("watch", "true"), ("resourceVersion", version)]
        query += [("allowWatchBookmarks", "true"), ("timeoutSeconds", str(WATCH_S))]
        try:
            answer = self._open("GET", resource.path(self.namespace), query, read_s=WATCH_S + 30.0)
            with contextlib.closing(answer):
                for line in lines_of(answer):
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        if event["object"].get("code") == 410:
                            raise GoneError
                        return
                    yield event["type"], event["object"]
        except ApiException as error:
            if error.status == 410:
                raise GoneError from None
            if error.status not in TRANSIENT:
                raise _refusal(error) from None
        except (HTTPError, OSError, ValueError):
            return

    def log(self, pod: str, *, since: str = "", container: str = "") -> Iterator[bytes]:
        """The lines of a pod's container, each with its time before it, as they come, until the connection ends.

        A container is named where a pod has several. Raises CutError where it ends before the answer does,
        RefusedError: 400 while it waits to start, 404 when the pod is gone.
        """
        query = [("follow", "true"), ("timestamps", "true"), *([("sinceTime", since)] if since else [])]
        query += [("container", container)] if container else []
        try:
            answer = self._open("GET", PODS.path(self.namespace, pod, "log"), query, read_s=None)
            with contextlib.closing(answer):
                yield from lines_of(answer)
        except ApiException as error:
            if error.status not in TRANSIENT:
                raise _refusal(error) from None
            raise CutError(str(error.status)) from None
        except (HTTPError, OSError) as error:
            raise CutError(str(error)) from None

    def _json(self, method: str, path: str, query: Any = (), body: Mapping[str, Any] | None = None) -> Object:
        answer = self._patiently(lambda: self._open(method, path, query, body))
        return json.loads(answer.data)

    def _open(self, method: str, path: str, query: Any = (), body: Any = None, *, read_s: float | None = READ_S) -> Any:
        headers = {"Accept": "application/json", "Content-Type": MERGE if method == "PATCH" else "application/json"}
        return self.client.call_api(
            path,
            method,
            query_params=list(query),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
            _preload_content=False,
            _return_http_data_only=True,
            _request_timeout=(CONNECT_S, read_s),
        )

    def _patiently(self, call: Callable[[], Any]) -> Any:
        """Call until it is answered or refused."""
        started, away, unauthorized, pause = time.monotonic(), "", 0, FIRST_PAUSE_S
        while True:
            try:
                answer = call()
            except ApiException as error:
                unauthorized += error.status == 401  # a token may be exchanged under our hands
                if error.status not in TRANSIENT and not 0 < unauthorized < UNAUTHORIZED_TRIES:
                    raise _refusal(error) from None
                reason, asked = f"{error.status} {error.reason}", _retry_after(error)
            except (HTTPError, OSError) as error:
                reason, asked = type(error).__name__, 0.0
            else:
                if away:
                    self.tell("the cluster's API answers again")
                return answer
            if time.monotonic() - started > self.outage_s:
                raise OutageError(f"the cluster's API stayed away for {self.outage_s:g} s: {reason}")
            if not away and time.monotonic() - started > LONGEST_PAUSE_S / 4:
                away = reason
                self.tell(f"the cluster's API is away ({reason}); the job goes on meanwhile")
            self.pause(max(asked, pause * random.uniform(0.5, 1.0)))
            pause = min(2 * pause, LONGEST_PAUSE_S)


def lines_of(answer: Any) -> Iterator[bytes]:
    """The lines of a streamed answer; one without an end, as a cut connection leaves, is left out."""
    rest = b""
    for content in answer.stream(None, decode_content=True):
        *whole, rest = (rest + content).split(b"\n")
        yield from whole


def _selection(labels: str, fields: str) -> list[tuple[str, str]]:
    named = (("labelSelector", labels), ("fieldSelector", fields))
    return [(name, value) for name, value in named if value]


def _retry_after(error: ApiException) -> float:
    """Seconds that the API asks to wait, within reason."""
    text = (error.headers or {}).get("Retry-After", "")
    return min(float(text), 60.0) if text.isdecimal() else 0.0


def _refusal(error: ApiException) -> RefusedError:
    """What the API says, with what to do where the status tells it."""
    try:
        said = json.loads(error.body or "")["message"]
    except (ValueError, TypeError, KeyError):
        said = f"{error.status} {error.reason}"
    remedies = {
        401: "the cluster does not know these credentials, or they have expired: log in to it again",
        403: "ask for the Role that k8s/manifests has for this account; `trainworks doctor` names every right that is "
        "missing",
    }
    remedy = remedies.get(error.status or 0)
    return RefusedError(error.status or 0, f"{said}; {remedy}" if remedy else said)
