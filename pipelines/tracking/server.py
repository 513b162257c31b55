"""What is asked of a W&B server without its library: whether it answers, takes the key, and how far a run of it is."""

import base64
import contextlib
import http.client
import json
import netrc
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from configs.errors import OutageError, UserError

ANSWER_S = 3.0
"""How long a server may take to say that it is there"""
CLOUD = "https://api.wandb.ai"
KEY = "WANDB_API_KEY"
_RUN = """query RunOfTrainworks($entity: String, $project: String!, $run: String!) {
  project(name: $project, entityName: $entity) { run(name: $run) { historyLineCount tags } } }"""
_VIEWER = "query Viewer { viewer { id entity username } }"
_TAGS = """mutation UpsertBucket($entity: String, $project: String, $name: String, $tags: [String!]) {
  upsertBucket(input: {entityName: $entity, modelName: $project, name: $name, tags: $tags}) { inserted } }"""


@dataclass(frozen=True)
class Place:
    """Where a run of W&B is."""

    project: str
    entity: str | None
    run: str


@dataclass(frozen=True)
class Known:
    """What a server says of a run."""

    rows: int
    tags: tuple[str, ...]


def address() -> str:
    """Where the server is: WANDB_BASE_URL, else the cloud."""
    return os.environ.get("WANDB_BASE_URL", CLOUD).rstrip("/")


def key() -> str | None:
    """The account's key: WANDB_API_KEY, else what `wandb login` left in .netrc; None without one."""
    if own := os.environ.get(KEY):
        return own
    with contextlib.suppress(OSError, netrc.NetrcParseError, ValueError):
        found = netrc.netrc().authenticators(urlsplit(address()).hostname or "")
        return found[2] if found else None
    return None


def require_server() -> None:
    """Raises UserError where the key is refused, OutageError where nobody answers within ANSWER_S seconds."""
    told = _ask(_VIEWER, {}, seconds=ANSWER_S)
    if not (told.get("viewer") or {}).get("id"):
        raise UserError(f"{address()} knows no account of this {KEY}; copy the key from the account's settings again")


def look_up(place: Place, *, seconds: float = 10.0) -> Known | None:
    """What the server has of a run; None where there is none. Raises UserError and OutageError."""
    told = _ask(_RUN, {"entity": place.entity, "project": place.project, "run": place.run}, seconds=seconds)
    run = (told.get("project") or {}).get("run")
    if run is None:
        return None
    return Known(int(run.get("historyLineCount") or 0), tuple(run.get("tags") or ()))


def set_tags(place: Place, tags: tuple[str, ...]) -> None:
    """Give a run these tags and no others. Raises UserError and OutageError."""
    named = {"entity": place.entity, "project": place.project, "name": place.run}
    _ask(_TAGS, named | {"tags": list(tags)}, seconds=10.0)


def _ask(query: str, variables: dict[str, Any], *, seconds: float) -> dict[str, Any]:
    sign = base64.b64encode(f"api:{key() or ''}".encode()).decode()
    headers = {"Content-Type": "application/json", "Authorization": f"Basic {sign}"}
    body = json.dumps({"query": query, "variables": variables}).encode()
    try:
        request = urllib.request.Request(f"{address()}/graphql", body, headers)
        with urllib.request.urlopen(request, timeout=seconds) as response:
            told = json.load(response)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise UserError(
                f"{address()} refuses the key of {KEY} ({error.code}); copy it from the account's settings again"
            ) from None
        raise OutageError(f"{address()} answers with {error.code}") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise OutageError(f"{address()} does not answer: {reason}") from None
    data = told.get("data") if isinstance(told, dict) else None
    return data if isinstance(data, dict) else {}
