"""The objects of the fake cluster: versions, watches, owners, deletion in its stages."""

import datetime
import itertools
import json
import threading
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

Object = dict[str, Any]
Place = tuple[str, str, str]
"""Plural, namespace, name"""
HISTORY = 200_000


class StatusError(Exception):
    """What the API answers instead: HTTP's status, Kubernetes's reason and message."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message


@dataclass(frozen=True)
class Selector:
    """Labels and fields that objects must have: label requirements as (name, operator, values)."""

    labels: tuple[tuple[str, str, tuple[str, ...]], ...] = ()
    fields: tuple[tuple[str, str], ...] = ()

    def accepts(self, found: Object) -> bool:
        labels = found["metadata"].get("labels") or {}
        return all(_meets(labels.get(name), operator, values) for name, operator, values in self.labels) and all(
            _field(found, path) == value for path, value in self.fields
        )

    @property
    def bucket(self) -> tuple[str, str] | None:
        """A label that every accepted object has, for a quick choice of watchers."""
        return next(((name, values[0]) for name, operator, values in self.labels if operator == "="), None)


def _meets(value: str | None, operator: str, values: tuple[str, ...]) -> bool:
    if operator == "exists":
        return value is not None
    return (value in values) == (operator != "!=")


def _field(found: Object, path: str) -> str:
    value: Any = found
    for key in path.split("."):
        value = (value or {}).get(key)
    return "" if value is None else str(value)


@dataclass
class Watcher:
    """Somebody who hears of changes: lines of JSON as the API streams them, None at the end."""

    plural: str
    namespace: str
    selector: Selector
    queue: SimpleQueue[bytes | None] = field(default_factory=SimpleQueue)

    def wants(self, found: Object) -> bool:
        return self.namespace in ("", found["metadata"].get("namespace", "")) and self.selector.accepts(found)


class Store:
    """All objects. `graceful` says which are only marked as being deleted, until somebody calls `remove`.

    An object that was given out is never edited, here or elsewhere: `change` makes a new one.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.graceful: Callable[[Object], bool] = lambda found: False
        self.listeners: list[Callable[[str, Object], None]] = []
        self._objects: dict[Place, Object] = {}
        self._by_label: dict[tuple[str, str, str], set[Place]] = defaultdict(set)
        self._dependents: dict[str, set[Place]] = defaultdict(set)
        self._versions = itertools.count(1)
        self.version, self.oldest = 0, 0
        self._history: deque[tuple[int, str, str, Object]] = deque(maxlen=HISTORY)
        self._watchers: dict[tuple[str, tuple[str, str] | None], list[Watcher]] = defaultdict(list)

    def get(self, plural: str, namespace: str, name: str) -> Object | None:
        with self.lock:
            return self._objects.get((plural, namespace, name))

    def list(self, plural: str, namespace: str = "", selector: Selector | None = None) -> list[Object]:
        """What a selector accepts, in the order of the names."""
        selector = selector or Selector()
        with self.lock:
            places: Iterable[Place] = self._objects
            if selector.bucket:
                places = self._by_label.get((plural, *selector.bucket), ())
            chosen = sorted(place for place in places if place[0] == plural and namespace in ("", place[1]))
            return [self._objects[place] for place in chosen if selector.accepts(self._objects[place])]

    def create(self, plural: str, manifest: Mapping[str, Any], namespace: str = "") -> Object:
        found = copied(manifest)
        metadata = found.setdefault("metadata", {})
        if namespace:
            metadata["namespace"] = namespace
        if "name" not in metadata:
            metadata["name"] = f"{metadata.pop('generateName')}{uuid.uuid4().hex[:5]}"
        place = (plural, metadata.get("namespace", ""), metadata["name"])
        with self.lock:
            if place in self._objects:
                raise StatusError(409, "AlreadyExists", f'{plural} "{place[2]}" already exists')
            metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": now(), "generation": 1}
            self._put("ADDED", place, found)
            return found

    def change(self, plural: str, namespace: str, name: str, edit: Callable[[Object], None]) -> Object:
        """Let `edit` change an object in place. Raises StatusError 404."""
        with self.lock:
            place = (plural, namespace, name)
            if place not in self._objects:
                raise StatusError(404, "NotFound", f'{plural} "{name}" not found')
            found = copied(self._objects[place])
            edit(found)
            self._put("MODIFIED", place, found)
            return found

    def delete(self, plural: str, namespace: str, name: str, *, foreground: bool = False) -> Object:
        """Begin to delete an object: at once, or by marking it. Raises StatusError 404."""
        with self.lock:
            found = self._objects.get((plural, namespace, name))
            if found is None:
                raise StatusError(404, "NotFound", f'{plural} "{name}" not found')
            waits = foreground and bool(self._dependents.get(found["metadata"]["uid"]))
            if not waits and not self.graceful(found):
                self.remove(plural, namespace, name)
                return found
            if "deletionTimestamp" not in found["metadata"]:
                marked = copied(found)
                marked["metadata"] |= {"deletionTimestamp": now()}
                if waits:
                    marked["metadata"]["finalizers"] = ["foregroundDeletion"]
                self._put("MODIFIED", (plural, namespace, name), marked)
            for place in list(self._dependents.get(found["metadata"]["uid"], ())) if waits else ():
                self.delete(*place, foreground=foreground)
            return found

    def remove(self, plural: str, namespace: str, name: str) -> None:
        """An object is gone: those that it alone owned go too, and an owner that waited for it may."""
        with self.lock:
            place = (plural, namespace, name)
            found = self._objects.pop(place, None)
            if found is None:
                return
            for label in (found["metadata"].get("labels") or {}).items():
                self._by_label[(plural, *label)].discard(place)
            for owner in found["metadata"].get("ownerReferences") or ():
                self._dependents[owner["uid"]].discard(place)
            found = copied(found)
            self._publish("DELETED", place, found)
            uid = found["metadata"]["uid"]
            for dependent in list(self._dependents.get(uid, ())):
                owners = self._objects[dependent]["metadata"].get("ownerReferences") or ()
                if not any(self._owned_by(each["uid"]) for each in owners):
                    self.delete(*dependent)
            self._release_owners(found)

    def watch(self, plural: str, namespace: str, selector: Selector, version: str) -> Watcher:
        """Hear of all that happens after a version. Raises StatusError 410 when it is too old."""
        with self.lock:
            since = int(version) if version not in ("", "0") else self.version
            if since < self.oldest:
                raise StatusError(410, "Expired", f"too old resource version: {since} ({self.oldest})")
            watcher = Watcher(plural, namespace, selector)
            for at, kind, of, found in self._history:
                if at > since and of == plural and watcher.wants(found):
                    watcher.queue.put(event_line(kind, found))
            self._watchers[(plural, selector.bucket)].append(watcher)
            return watcher

    def forget(self, watcher: Watcher) -> None:
        with self.lock:
            self._watchers[(watcher.plural, watcher.selector.bucket)].remove(watcher)

    def expire(self) -> None:
        """Nothing older than now is known any more."""
        with self.lock:
            self.oldest = self.version + 1
            self.version = next(self._versions)

    def _owned_by(self, uid: str) -> bool:
        return any(each["metadata"]["uid"] == uid for each in self._objects.values())

    def _release_owners(self, found: Object) -> None:
        for owner in found["metadata"].get("ownerReferences") or ():
            if self._dependents.get(owner["uid"]):
                continue
            for place, other in list(self._objects.items()):
                waits = "foregroundDeletion" in (other["metadata"].get("finalizers") or ())
                if other["metadata"]["uid"] == owner["uid"] and waits:
                    self.remove(*place)

    def _put(self, kind: str, place: Place, found: Object) -> None:
        if old := self._objects.get(place):
            for label in (old["metadata"].get("labels") or {}).items():
                self._by_label[(place[0], *label)].discard(place)
            for owner in old["metadata"].get("ownerReferences") or ():
                self._dependents[owner["uid"]].discard(place)
        self._objects[place] = found
        for label in (found["metadata"].get("labels") or {}).items():
            self._by_label[(place[0], *label)].add(place)
        for owner in found["metadata"].get("ownerReferences") or ():
            self._dependents[owner["uid"]].add(place)
        self._publish(kind, place, found)

    def _publish(self, kind: str, place: Place, found: Object) -> None:
        self.version = next(self._versions)
        found["metadata"]["resourceVersion"] = str(self.version)
        self._history.append((self.version, kind, place[0], found))
        line = event_line(kind, found)
        for bucket in (None, *(found["metadata"].get("labels") or {}).items()):
            for watcher in self._watchers.get((place[0], bucket), ()):
                if watcher.wants(found):
                    watcher.queue.put(line)
        for listener in self.listeners:
            listener(kind, found)


def copied(found: Mapping[str, Any]) -> Object:
    """A copy of what is JSON anyway, which is quicker so than member by member."""
    return json.loads(json.dumps(found))


def event_line(kind: str, found: Mapping[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": found}).encode() + b"\n"


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
