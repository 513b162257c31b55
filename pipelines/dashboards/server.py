"""The few calls that saved views need of a W&B server: each is one HTTP POST with a limit of time, and never retried.

wandb's own client starts a process for them that tries a silent server for 27 s and then blames the key.
"""

import base64
import json
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from queue import Empty, Queue
from typing import Any

from configs.errors import OutageError, UserError

PREFLIGHT_S = 3.0
CALL_S = 15.0
PAGE = 100
MOST_PAGES = 100
LARGEST_BYTES = 64 << 20
TOLD_LETTERS = 300
"""Of what a server says"""

VIEWER = "query Viewer { viewer { entity username } }"
VIEWS = """query Views($entity: String, $project: String, $first: Int, $after: String) {
  project(name: $project, entityName: $entity) {
    allViews(viewType: "project-view", first: $first, after: $after) {
      edges { node { id name displayName } }
      pageInfo { hasNextPage endCursor }
    }
  }
}"""
UPSERT = """mutation UpsertView($id: ID, $entity: String, $project: String, $name: String, $displayName: String,
    $spec: String) {
  upsertView(input: {id: $id, entityName: $entity, projectName: $project, name: $name, displayName: $displayName,
      description: "", type: "project-view", spec: $spec, createdUsing: WANDB_SDK}) {
    view { id name }
    inserted
  }
}"""


@dataclass(frozen=True)
class View:
    """A saved view as the server lists it."""

    id: str
    name: str
    display_name: str


@dataclass(frozen=True)
class Server:
    """Where views are saved, and by whose leave."""

    address: str
    key: str = field(repr=False)
    preflight_s: float = PREFLIGHT_S
    call_s: float = CALL_S

    def default_entity(self) -> str:
        """Whose projects the key's account means when it names none; also says soon whether anybody answers."""
        viewer = self._ask(VIEWER, {}, limit_s=self.preflight_s).get("viewer")
        if not viewer:
            raise self._refused("it knows no account of it")
        return viewer.get("entity") or viewer.get("username") or ""

    def views(self, entity: str, project: str) -> Iterator[View]:
        """Every saved view of a project. Raises UserError where there is no such project."""
        after = None
        for _ in range(MOST_PAGES):
            given = {"entity": entity, "project": project, "first": PAGE, "after": after}
            found = self._ask(VIEWS, given, limit_s=self.call_s).get("project")
            if found is None:
                raise UserError(
                    f"{self.address} shows this key no project {entity}/{project}; make it there or by a first run, or "
                    "name another with --entity and --project"
                )
            listed = found.get("allViews") or {}
            for edge in listed.get("edges") or ():
                node = edge["node"]
                yield View(node["id"], node.get("name") or "", node.get("displayName") or "")
            page = listed.get("pageInfo") or {}
            if not page.get("hasNextPage"):
                return
            after = page.get("endCursor")

    def save(self, entity: str, project: str, view: View, spec: str) -> View:
        """Write a view over the one of its id, or make one where that is empty; as the server then has it."""
        given = {"id": view.id or None, "entity": entity, "project": project, "name": view.name}
        given |= {"displayName": view.display_name, "spec": spec}
        found = self._ask(UPSERT, given, limit_s=self.call_s).get("upsertView")
        if not found or not found.get("view"):
            raise UserError(f"{self.address} did not save {view.display_name} in {entity}/{project}; {self._rights()}")
        return View(found["view"]["id"], found["view"]["name"], view.display_name)

    def _ask(self, query: str, variables: Mapping[str, Any], *, limit_s: float) -> dict[str, Any]:
        """The answer's data. Raises OutageError where nobody answers in time, UserError where it is a refusal."""
        try:
            status, body = _within(limit_s, lambda: self._post({"query": query, "variables": variables}, limit_s))
        except _AddressError as error:
            raise UserError(f"{self.address} is no address ({error}); set WANDB_BASE_URL") from None
        except TimeoutError:
            raise self._silent(f"does not answer within {limit_s:g} s") from None
        except urllib.error.URLError as error:
            slow = isinstance(error.reason, TimeoutError)
            reason = f"within {limit_s:g} s" if slow else f"({self._clean(str(error.reason))})"
            raise self._silent(f"does not answer {reason}") from None
        except (OSError, HTTPException) as error:
            raise self._silent(f"broke the connection off ({self._clean(repr(error))})") from None
        if status in (401, 403):
            raise self._refused(f"HTTP {status}")
        if status >= 500 or status == 429:
            raise self._silent(f"fails (HTTP {status})")
        return self._data(status, body)

    def _data(self, status: int, body: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(body)
            data, errors = answer.get("data"), answer.get("errors") or []
        except (ValueError, AttributeError):
            raise UserError(
                f"{self.address} is no W&B server: HTTP {status} without JSON; look at WANDB_BASE_URL"
            ) from None
        if errors or status >= 400:
            said = [str(each.get("message", each)) if isinstance(each, dict) else str(each) for each in errors]
            told = self._clean("; ".join(said)) or f"HTTP {status}"
            raise UserError(f"{self.address} refuses: {told}; {self._rights()}")
        return data if isinstance(data, dict) else {}

    def _post(self, request: Mapping[str, Any], limit_s: float) -> tuple[int, bytes]:
        """Status and body; the key goes to this address alone, so that no redirection is followed."""
        login = base64.b64encode(f"api:{self.key}".encode()).decode()
        headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json", "User-Agent": "trainworks"}
        asked = urllib.request.Request(_require(self.address) + "/graphql", json.dumps(request).encode(), headers)
        try:
            with _OPENER.open(asked, timeout=limit_s) as answer:
                return answer.status, _read(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, b"" if error.fp is None else _read(error.fp)

    def _refused(self, why: str) -> UserError:
        place = f"{app(self.address)}/authorize"
        return UserError(f"{self.address} refuses the key ({why}); set WANDB_API_KEY to one from {place}")

    def _silent(self, what: str) -> OutageError:
        return OutageError(f"{self.address} {what}; nothing more was saved: look at WANDB_BASE_URL, or try again later")

    def _rights(self) -> str:
        return "the key's account has to be allowed to write there: see --entity and --project"

    def _clean(self, text: str) -> str:
        """One line of it, without the key."""
        return " ".join(text.replace(self.key, "***").split())[:TOLD_LETTERS]


class _AddressError(Exception):
    """Why nobody can be asked at an address."""


def _require(address: str) -> str:
    """The address, which is one of HTTP. Raises _AddressError."""
    try:
        parts = urllib.parse.urlsplit(address)
        parts.port  # noqa: B018  it is read, and refused, when it is asked for
    except ValueError as error:
        raise _AddressError(str(error)) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not address.isprintable() or " " in address:
        raise _AddressError("http://... or https://... is wanted")
    return address


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def _read(answer: HTTPResponse | Any) -> bytes:
    """A body. Raises OSError where it has no end."""
    body = answer.read(LARGEST_BYTES + 1)
    if len(body) > LARGEST_BYTES:
        raise OSError("an answer without end")
    return body


def _within(limit_s: float, call: Callable[[], tuple[int, bytes]]) -> tuple[int, bytes]:
    """What a call returns. Raises TimeoutError after so long: a socket's own limit is of each wait, and of no name."""
    done: Queue[tuple[int, bytes] | Exception] = Queue()

    def work() -> None:
        try:
            done.put(call())
        except Exception as error:  # raised again below, where it is awaited
            done.put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        found = done.get(timeout=limit_s)
    except Empty:
        raise TimeoutError from None
    if isinstance(found, Exception):
        raise found
    return found


def app(address: str) -> str:
    """Where people look at what an address of the API holds."""
    return address.replace("://api.wandb.ai", "://wandb.ai")
