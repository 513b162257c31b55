"""What a call to the Kubernetes API asks for: its path, verb and selectors read, its changes merged."""

import re
from typing import Any, NamedTuple

from tests.cluster.fake.store import Object, Selector, StatusError

_PATH = re.compile(
    r"^/(?:api|apis/(?P<group>[^/]+))/(?P<version>v[^/]+)"
    r"(?:/namespaces/(?P<namespace>[^/]+)(?=/))?/(?P<resource>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>[^/]+))?$"
)
_REQUIREMENT = re.compile(r"^(?P<name>[^\s=!,]+)\s*(?P<operator>==|=|!=|\bin\b|\bnotin\b)?\s*(?P<value>.*)$")


class Asked(NamedTuple):
    """What a path names."""

    group: str
    version: str
    namespace: str
    resource: str
    name: str
    subresource: str

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version


def parse_path(path: str) -> Asked:
    found = _PATH.match(path)
    if not found:
        raise StatusError(404, "NotFound", "the server could not find the requested resource")
    keys = ("group", "version", "namespace", "resource", "name", "sub")
    return Asked(*(found[key] or "" for key in keys))


def verb_of(method: str, asked: Asked, query: dict[str, str]) -> str:
    """As RBAC names it."""
    if method == "GET" and not asked.name:
        return "watch" if query.get("watch") in ("true", "1") else "list"
    if method == "DELETE" and not asked.name:
        raise StatusError(405, "MethodNotAllowed", "deletecollection is not served here")
    return {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}[method]


def selector_of(query: dict[str, str]) -> Selector:
    labels = []
    for text in re.split(r",(?![^(]*\))", query.get("labelSelector", "")):
        if not text.strip():
            continue
        found = _REQUIREMENT.match(text.strip())
        assert found, text
        operator, value = found["operator"] or "exists", found["value"].strip()
        values = tuple(part.strip() for part in value.strip("()").split(","))
        labels.append((found["name"], {"==": "=", "notin": "!="}.get(operator, operator), values))
    fields = [tuple(text.split("=", 1)) for text in query.get("fieldSelector", "").split(",") if text]
    return Selector(tuple(labels), tuple((name, value.lstrip("=")) for name, value in fields))


def merge(found: Object, change: Any, *, whole: bool) -> None:
    """A merge patch (RFC 7386), or the whole object where it is an update. Raises StatusError 409."""
    version = (change.get("metadata") or {}).get("resourceVersion")
    if version and version != found["metadata"]["resourceVersion"]:
        name = found["metadata"]["name"]
        raise StatusError(409, "Conflict", f'"{name}": the object has been modified; apply it to the latest version')
    if whole:
        kept = {key: found["metadata"][key] for key in ("uid", "creationTimestamp")}
        found.clear()
        found.update(change)
        found["metadata"] |= kept
    else:
        _merge(found, change)


def _merge(found: dict[str, Any], change: dict[str, Any]) -> None:
    for key, value in change.items():
        if value is None:
            found.pop(key, None)
        elif isinstance(value, dict) and isinstance(found.get(key), dict):
            _merge(found[key], value)
        else:
            found[key] = value
