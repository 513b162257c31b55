"""What the fake API does with objects for a call: list, get, create, update, patch, delete and review."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.cluster.fake import patches
from tests.cluster.fake.kinds import CLUSTER_WIDE, CUSTOM, WITH_STATUS
from tests.cluster.fake.objects import Object, Place, StatusError, copied, expired, now
from tests.cluster.fake.requests import Asked, Request
from tests.cluster.fake.selectors import selector_of

if TYPE_CHECKING:
    from tests.cluster.fake.api import FakeCluster

Answer = tuple[int, Any]
PATCHES = (patches.MERGE, patches.OPERATIONS, patches.STRATEGIC)


@dataclass(frozen=True)
class Call:
    """One call that is allowed."""

    cluster: "FakeCluster"
    verb: str
    asked: Asked
    query: Mapping[str, str]
    body: bytes
    content_type: str

    @property
    def place(self) -> Place:
        return self.asked.resource, self.asked.namespace, self.asked.name

    @property
    def kind(self) -> str:
        return self.cluster.kinds[(self.asked.group, self.asked.resource)]

    @property
    def dry(self) -> bool:
        return self.query.get("dryRun") == "All" or self.options.get("dryRun") == ["All"]

    @property
    def options(self) -> Mapping[str, Any]:
        """Those of a deletion, which may stand in the body or in the query."""
        found = self.content() if self.body and self.verb in ("delete", "deletecollection") else {}
        return {**{key: self.query[key] for key in ("propagationPolicy",) if key in self.query}, **(found or {})}

    def content(self) -> Any:
        """The body. Raises StatusError 415 for what is no JSON by its type, 400 for what is none in fact."""
        if "json" not in (self.content_type or "json"):
            raise StatusError(415, "UnsupportedMediaType", f"{self.content_type} is not spoken here, JSON is")
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise StatusError(400, "BadRequest", f"the body is no JSON: {error}") from None


def carry_out(call: Call) -> Answer:
    """Raises StatusError."""
    doing = {
        "list": _list,
        "get": _get,
        "create": _create,
        "update": _change,
        "patch": _change,
        "delete": _delete,
        "deletecollection": _delete_all,
    }
    if call.asked.subresource not in ("", *(("status",) if call.asked.resource in WITH_STATUS else ())):
        raise StatusError(404, "NotFound", "the server could not find the requested resource")
    return doing[call.verb](call)


def _list(call: Call) -> Answer:
    """Objects by name, a page at a time where there is a limit."""
    store, asked = call.cluster.store, call.asked
    selector, limit = selector_of(call.query, asked.resource), int(call.query.get("limit") or 0)
    with store.lock:
        items, version = store.list(*call.place[:2], selector), store.version
        if token := call.query.get("continue"):
            version, last = _page(token)
            if version < store.oldest:
                raise StatusError(410, "Expired", "The provided continue parameter is too old")
            items = [each for each in items if _key(each) > last]
        elif call.query.get("resourceVersionMatch") == "Exact" and int(call.query["resourceVersion"]) < store.oldest:
            raise expired(int(call.query["resourceVersion"]), store.oldest)
    metadata: Object = {"resourceVersion": str(version)}
    if limit and len(items) > limit:
        token = json.dumps([version, _key(items[limit - 1])])
        metadata |= {
            "continue": base64.urlsafe_b64encode(token.encode()).decode(),
            "remainingItemCount": len(items) - limit,
        }
        items = items[:limit]
    kept = [_shown(each, asked) if asked.group in CUSTOM else _bare(each) for each in items]
    return 200, {"kind": f"{call.kind}List", "apiVersion": asked.api_version, "metadata": metadata, "items": kept}


def _page(token: str) -> tuple[int, tuple[str, ...]]:
    try:
        version, last = json.loads(base64.urlsafe_b64decode(token))
    except ValueError:
        raise StatusError(400, "BadRequest", "continue key is not valid") from None
    return version, tuple(last)


def _key(found: Object) -> tuple[str, str]:
    return found["metadata"].get("namespace", ""), found["metadata"]["name"]


def _bare(found: Object) -> Object:
    """As built-in kinds stand in lists: without their kind."""
    return {key: value for key, value in found.items() if key not in ("kind", "apiVersion")}


def _shown(found: Object, asked: Asked) -> Object:
    return {**found, "apiVersion": asked.api_version}


def _get(call: Call) -> Answer:
    found = call.cluster.store.get(*call.place)
    if found is None:
        raise missing(call.asked)
    return 200, _shown(found, call.asked)


def missing(asked: Asked) -> StatusError:
    whole = f"{asked.resource}.{asked.group}" if asked.group else asked.resource
    return StatusError(404, "NotFound", f'{whole} "{asked.name}" not found')


def _create(call: Call) -> Answer:
    cluster, asked, manifest = call.cluster, call.asked, call.content()
    _check(call, manifest)
    metadata = manifest.setdefault("metadata", {})
    if not metadata.get("name") and not metadata.get("generateName"):
        raise StatusError(422, "Invalid", f"{call.kind}: metadata.name: Required value: name or generateName")
    if asked.namespace and metadata.get("namespace", asked.namespace) != asked.namespace:
        raise StatusError(400, "BadRequest", "the namespace of the object does not match the namespace of the request")
    if bool(asked.namespace) == (asked.resource in CLUSTER_WIDE):
        raise StatusError(404, "NotFound", "the server could not find the requested resource")
    if asked.namespace and not cluster.store.get("namespaces", "", asked.namespace):
        raise StatusError(404, "NotFound", f'namespaces "{asked.namespace}" not found')
    if asked.resource in WITH_STATUS:
        manifest.pop("status", None)
    if not call.dry:
        return 201, cluster.store.create(asked.resource, manifest, asked.namespace)
    if cluster.store.get(asked.resource, asked.namespace, metadata.get("name", "")):
        raise StatusError(409, "AlreadyExists", f'{asked.resource} "{metadata["name"]}" already exists')
    metadata |= {"uid": "dry-run", "creationTimestamp": now(), "namespace": asked.namespace}
    return 201, manifest


def _check(call: Call, manifest: Any) -> None:
    """Whether an object is one of the kind that the path names, and right by its schema."""
    if not isinstance(manifest, dict) or manifest.get("kind") != call.kind:
        kind = manifest.get("kind") if isinstance(manifest, dict) else type(manifest).__name__
        raise StatusError(400, "BadRequest", f"{kind} is no {call.kind}")
    if manifest.get("apiVersion", call.asked.api_version) != call.asked.api_version:
        raise StatusError(400, "BadRequest", f"{manifest['apiVersion']} is not {call.asked.api_version}")
    problems = call.cluster.validate(manifest)
    if not problems:
        return
    if call.query.get("fieldValidation") == "Strict" and all(each.startswith("unknown field") for each in problems):
        raise StatusError(400, "BadRequest", f"strict decoding error: {', '.join(problems)}")
    name = (manifest.get("metadata") or {}).get("name", "")
    raise StatusError(422, "Invalid", f'{call.kind} "{name}" is invalid: {"; ".join(problems)}')


def _change(call: Call) -> Answer:
    """An update or a patch, of the object or of its status."""
    store, asked, change = call.cluster.store, call.asked, call.content()
    whole = call.verb == "update"
    if call.verb == "patch" and call.content_type not in PATCHES:
        raise StatusError(415, "UnsupportedMediaType", f"the body of the request was in an unknown format: {PATCHES}")
    if asked.group in CUSTOM and call.content_type == patches.STRATEGIC:
        raise StatusError(415, "UnsupportedMediaType", "strategic merge patch is not supported for custom resources")
    if call.verb == "patch" and (call.content_type == patches.OPERATIONS) != isinstance(change, list):
        raise StatusError(400, "BadRequest", f"the body does not fit {call.content_type}")
    if whole and asked.group in CUSTOM and not (change.get("metadata") or {}).get("resourceVersion"):
        raise StatusError(422, "Invalid", "metadata.resourceVersion: Invalid value: must be specified for an update")
    only = asked.subresource
    without = "status" if asked.resource in WITH_STATUS and not only else ""

    def edit(found: Object) -> None:
        patches.apply(found, change, whole=whole, only=only, without=without)
        if not only:
            checked = {**found, "metadata": {key: value for key, value in found["metadata"].items() if value}}
            _check(call, {"kind": call.kind, "apiVersion": asked.api_version, **checked})

    if not call.dry:
        return 200, _shown(store.change(*call.place, edit), asked)
    found = copied(store.get(*call.place))
    if found is None:
        raise missing(asked)
    edit(found)
    return 200, _shown(found, asked)


def _delete(call: Call) -> Answer:
    store, options = call.cluster.store, call.options
    with store.lock:
        found = store.get(*call.place)
        if found is None:
            raise missing(call.asked)
        wanted = (options.get("preconditions") or {}).get("uid")
        if wanted not in (None, found["metadata"]["uid"]):
            message = f"the UID in the precondition ({wanted}) does not match that of the object"
            raise StatusError(409, "Conflict", message)
        return 200, found if call.dry else _begin_deletion(call, call.place, options)


def _delete_all(call: Call) -> Answer:
    store, options = call.cluster.store, call.options
    with store.lock:
        items = store.list(*call.place[:2], selector_of(call.query, call.asked.resource))
        for each in () if call.dry else items:
            place = (call.asked.resource, *_key(each))
            if store.get(*place):  # it may have gone with its owner
                _begin_deletion(call, place, options)
    return 200, {"kind": f"{call.kind}List", "apiVersion": call.asked.api_version, "metadata": {}, "items": items}


def _begin_deletion(call: Call, place: Place, options: Mapping[str, Any]) -> Object:
    store, policy = call.cluster.store, options.get("propagationPolicy")
    grace = options.get("gracePeriodSeconds", call.query.get("gracePeriodSeconds"))
    if grace is not None and place[0] == "pods":
        if int(grace) == 0:  # by force: the object goes without waiting for its program
            found = store.get(*place)
            store.remove(*place)
            return found or {}
        store.change(*place, lambda pod: pod["metadata"].update(deletionGracePeriodSeconds=int(grace)))
    return store.delete(*place, foreground=policy == "Foreground", orphan=policy == "Orphan")


def review(call: Call, user: str) -> Answer:
    """Whether somebody may do something, by the cluster's policy."""
    asked = copied(call.content())
    wanted = (asked.get("spec") or {}).get("resourceAttributes") or {}
    values = [str(wanted.get(key) or "") for key in Request._fields[1:7]]
    request = Request._make((user, *values, 0.0))
    allowed = not wanted or call.cluster.policy(request)
    return 201, asked | {"status": {"allowed": allowed}}
