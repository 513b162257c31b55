"""How a call changes an object: the whole of it, a merge patch (RFC 7386) or a list of operations (RFC 6902)."""

from collections.abc import Mapping
from typing import Any

from tests.cluster.fake.objects import Object, StatusError, copied

MERGE, OPERATIONS = "application/merge-patch+json", "application/json-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
KEPT = ("uid", "creationTimestamp", "generation", "name", "namespace", "deletionTimestamp", "resourceVersion")
"""Of metadata, what no call changes"""


def apply(found: Object, change: Any, *, whole: bool, only: str = "", without: str = "") -> None:
    """Change an object in place: one field of it `only`, or all but the field `without`. Raises StatusError.

    Lists are replaced as a whole: a strategic merge is taken for a merge.
    """
    old = copied(found)
    if isinstance(change, list):
        for operation in change:
            _operate(found, operation)
    else:
        _refuse_stale(found, change)
        if whole:
            found.clear()
            found.update(copied(change))
        else:
            merge(found, change)
    for key in set(found) | set(old) if only or without else ():
        if key != "metadata" and ((only and key != only) or key == without):
            _restore(found, old, key)
    found["metadata"] = found.get("metadata") or {} if not only else copied(old["metadata"])
    for key in KEPT:
        _restore(found["metadata"], old["metadata"], key)


def merge(found: dict[str, Any], change: Mapping[str, Any]) -> None:
    for key, value in change.items():
        if value is None:
            found.pop(key, None)
        elif isinstance(value, dict):
            if not isinstance(found.get(key), dict):
                found[key] = {}
            merge(found[key], value)
        else:
            found[key] = copied(value)


def _refuse_stale(found: Object, change: Mapping[str, Any]) -> None:
    version = (change.get("metadata") or {}).get("resourceVersion")
    if version and version != found["metadata"]["resourceVersion"]:
        name = found["metadata"]["name"]
        message = f'Operation cannot be fulfilled on "{name}": the object has been modified; please apply your changes'
        raise StatusError(409, "Conflict", f"{message} to the latest version and try again")


def _restore(found: dict[str, Any], old: Mapping[str, Any], key: str) -> None:
    found.pop(key, None)
    if key in old:
        found[key] = copied(old[key])


def _operate(found: Object, operation: Mapping[str, Any]) -> None:
    """One operation of a JSON patch. Raises StatusError 422 where it does not fit."""
    kind = operation["op"]
    try:
        if kind == "test":
            if _read(found, operation["path"]) != operation["value"]:
                raise StatusError(422, "Invalid", f"testing value {operation['path']} failed")
        elif kind in ("remove", "replace"):
            _read(found, operation["path"])
            _take(found, operation["path"])
        value = operation.get("value")
        if kind in ("copy", "move"):
            value = copied(_read(found, operation["from"]))
        if kind == "move":
            _take(found, operation["from"])
        if kind in ("add", "replace", "copy", "move"):
            _insert(found, operation["path"], copied(value))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise StatusError(422, "Invalid", f"{kind} operation does not apply: {operation}: {error}") from None


def _keys(path: str) -> list[str]:
    if not path.startswith("/"):
        raise ValueError(f"{path!r} is no path")
    return [key.replace("~1", "/").replace("~0", "~") for key in path.split("/")[1:]]


def _parent(found: Object, path: str) -> tuple[Any, str]:
    *above, last = _keys(path)
    value: Any = found
    for key in above:
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value, last


def _read(found: Object, path: str) -> Any:
    parent, last = _parent(found, path)
    return parent[int(last)] if isinstance(parent, list) else parent[last]


def _take(found: Object, path: str) -> None:
    parent, last = _parent(found, path)
    del parent[int(last) if isinstance(parent, list) else last]


def _insert(found: Object, path: str, value: Any) -> None:
    parent, last = _parent(found, path)
    if not isinstance(parent, list):
        parent[last] = value
    elif last == "-":
        parent.append(value)
    else:
        if not 0 <= int(last) <= len(parent):
            raise IndexError(last)
        parent.insert(int(last), value)
