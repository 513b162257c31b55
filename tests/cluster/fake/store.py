"""The objects of the fake cluster: versions, watches, owners, deletion in its stages."""

import itertools
import threading
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from tests.cluster.fake.objects import Object, Place, StatusError, copied, event_line, expired, now
from tests.cluster.fake.selectors import Selector

HISTORY = 200_000
FOREGROUND = "foregroundDeletion"


@dataclass
class Watcher:
    """Somebody who hears of changes: lines of JSON as the API streams them, None at the end."""

    plural: str
    namespace: str
    selector: Selector
    queue: SimpleQueue[bytes | None] = field(default_factory=SimpleQueue)

    def wants(self, found: Object) -> bool:
        return self.namespace in ("", found["metadata"].get("namespace", "")) and self.selector.accepts(found)

    def hear(self, kind: str, found: Object, before: Object | None) -> None:
        """Of a change, as it looks through the selector: what no longer fits it is gone, what fits now is new."""
        fitted = before is not None and self.wants(before)
        fits = kind != "DELETED" and self.wants(found)
        if fits or fitted:
            seen = "DELETED" if not fits else "MODIFIED" if fitted else "ADDED"
            self.queue.put(event_line(seen, found))


class Store:
    """All objects. `graceful` says which are only marked as being deleted, until somebody calls `remove`.

    An object that was given out is never edited, here or elsewhere: `change` makes a new one.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.graceful: Callable[[Object], bool] = lambda found: False
        self.listeners: list[Callable[[str, Object], None]] = []
        self._objects: dict[str, dict[Place, Object]] = defaultdict(dict)
        self._by_label: dict[tuple[str, str, str], set[Place]] = defaultdict(set)
        self._by_uid: dict[str, Place] = {}
        self._dependents: dict[str, set[Place]] = defaultdict(set)
        self._versions = itertools.count(1)
        self.version, self.oldest = 0, 0
        self._history: deque[tuple[int, str, str, Object, Object | None]] = deque()
        self._watchers: dict[tuple[str, tuple[str, str] | None], list[Watcher]] = defaultdict(list)

    def get(self, plural: str, namespace: str, name: str) -> Object | None:
        with self.lock:
            return self._objects[plural].get((plural, namespace, name))

    def list(self, plural: str, namespace: str = "", selector: Selector | None = None) -> list[Object]:
        """What a selector accepts, in the order of the names."""
        selector = selector or Selector()
        with self.lock:
            objects = self._objects[plural]
            places: Iterable[Place] = objects
            if selector.bucket:
                places = self._by_label.get((plural, *selector.bucket), ())
            chosen = sorted(place for place in places if namespace in ("", place[1]))
            return [objects[place] for place in chosen if selector.accepts(objects[place])]

    def create(self, plural: str, manifest: Mapping[str, Any], namespace: str = "") -> Object:
        """Add an object; one whose owners are all gone does not live long. Raises StatusError 409."""
        found = copied(manifest)
        metadata = found.setdefault("metadata", {})
        if namespace:
            metadata["namespace"] = namespace
        if "name" not in metadata:
            metadata["name"] = f"{metadata['generateName']}{uuid.uuid4().hex[:5]}"
        place = (plural, metadata.get("namespace", ""), metadata["name"])
        with self.lock:
            if place in self._objects[plural]:
                raise StatusError(409, "AlreadyExists", f'{plural} "{place[2]}" already exists')
            metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": now(), "generation": 1}
            self._put("ADDED", place, found)
            if metadata.get("ownerReferences") and not self._has_owner(found):
                self.delete(*place)
            return found

    def change(self, plural: str, namespace: str, name: str, edit: Callable[[Object], None]) -> Object:
        """Let `edit` change an object in place; what changes nothing is no event. Raises StatusError 404."""
        with self.lock:
            place = (plural, namespace, name)
            old = self._objects[plural].get(place)
            if old is None:
                raise StatusError(404, "NotFound", f'{plural} "{name}" not found')
            found = copied(old)
            edit(found)
            if found == old:
                return found
            if found.get("spec") != old.get("spec"):
                found["metadata"]["generation"] = old["metadata"]["generation"] + 1
            self._put("MODIFIED", place, found)
            if "deletionTimestamp" in found["metadata"] and old["metadata"].get("finalizers"):
                self._finish(place)
            return found

    def delete(
        self, plural: str, namespace: str, name: str, *, foreground: bool = False, orphan: bool = False
    ) -> Object:
        """Begin to delete an object: at once, or by marking it; `orphan` lets what it owns live. StatusError 404."""
        with self.lock:
            place = (plural, namespace, name)
            found = self._objects[plural].get(place)
            if found is None:
                raise StatusError(404, "NotFound", f'{plural} "{name}" not found')
            uid = found["metadata"]["uid"]
            owned = list(self._dependents.get(uid, ()))
            for dependent in owned if orphan else ():
                self.change(*dependent, lambda each: _disown(each, uid))
            finalizers: list[str] = list(found["metadata"].get("finalizers") or ())
            if foreground and owned and FOREGROUND not in finalizers:
                finalizers.append(FOREGROUND)
            if not finalizers and not self.graceful(found):
                self.remove(*place)
                return found
            self.change(*place, lambda each: _mark(each, finalizers))
            for dependent in owned if FOREGROUND in finalizers else ():
                if dependent in self._objects[dependent[0]]:
                    self.delete(*dependent, foreground=foreground)
            return self._objects[plural].get(place) or found

    def remove(self, plural: str, namespace: str, name: str) -> None:
        """An object is gone: those that it alone owned go too, and an owner that waited for it may."""
        with self.lock:
            place = (plural, namespace, name)
            old = self._objects[plural].pop(place, None)
            if old is None:
                return
            self._unlist(place, old)
            found = copied(old)
            del self._by_uid[found["metadata"]["uid"]]
            self._publish("DELETED", place, found, old)
            for dependent in list(self._dependents.pop(found["metadata"]["uid"], ())):
                left = self._objects[dependent[0]].get(dependent)
                if left is not None and not self._has_owner(left):
                    self.delete(*dependent)
            self._release_owners(found)

    def watch(self, plural: str, namespace: str, selector: Selector, version: str) -> Watcher:
        """Hear of all that happens after a version; without one, first of what is there. Raises StatusError 410."""
        with self.lock:
            watcher = Watcher(plural, namespace, selector)
            since = int(version or 0)
            if not since:
                for found in self.list(plural, namespace, selector):
                    watcher.queue.put(event_line("ADDED", found))
            elif since < self.oldest:
                raise expired(since, self.oldest)
            else:
                missed = itertools.takewhile(lambda each: each[0] > since, reversed(self._history))
                for _, kind, of, found, before in reversed(list(missed)):
                    if of == plural:
                        watcher.hear(kind, found, before)
            self._watchers[(plural, selector.bucket)].append(watcher)
            return watcher

    def forget(self, watcher: Watcher) -> None:
        with self.lock:
            self._watchers[(watcher.plural, watcher.selector.bucket)].remove(watcher)

    def end_watches(self, last: bytes | None = None) -> None:
        """Every watch ends, after a last line if there is one."""
        with self.lock:
            for watcher in (each for watchers in self._watchers.values() for each in watchers):
                for line in (last, None) if last else (None,):
                    watcher.queue.put(line)

    def expire(self) -> None:
        """Nothing older than now is known any more."""
        with self.lock:
            self.version = next(self._versions)
            self.oldest = self.version
            self._history.clear()

    def _has_owner(self, found: Object) -> bool:
        return any(each["uid"] in self._by_uid for each in found["metadata"].get("ownerReferences") or ())

    def _release_owners(self, found: Object) -> None:
        for owner in found["metadata"].get("ownerReferences") or ():
            place = self._by_uid.get(owner["uid"])
            if place is not None and not self._dependents.get(owner["uid"]):
                self.change(*place, _let_go)

    def _finish(self, place: Place) -> None:
        """Remove what is being deleted, when nobody holds it any more."""
        found = self._objects[place[0]][place]
        if not found["metadata"].get("finalizers") and not self.graceful(found):
            self.remove(*place)

    def _put(self, kind: str, place: Place, found: Object) -> None:
        before = self._objects[place[0]].get(place)
        if before is not None:
            self._unlist(place, before)
        self._objects[place[0]][place] = found
        self._by_uid[found["metadata"]["uid"]] = place
        for label in (found["metadata"].get("labels") or {}).items():
            self._by_label[(place[0], *label)].add(place)
        for owner in found["metadata"].get("ownerReferences") or ():
            self._dependents[owner["uid"]].add(place)
        self._publish(kind, place, found, before)

    def _unlist(self, place: Place, old: Object) -> None:
        for label in (old["metadata"].get("labels") or {}).items():
            self._by_label[(place[0], *label)].discard(place)
        for owner in old["metadata"].get("ownerReferences") or ():
            self._dependents[owner["uid"]].discard(place)

    def _publish(self, kind: str, place: Place, found: Object, before: Object | None) -> None:
        self.version = next(self._versions)
        found["metadata"]["resourceVersion"] = str(self.version)
        self._history.append((self.version, kind, place[0], found, before))
        if len(self._history) > HISTORY:
            self.oldest = self._history.popleft()[0]
        labels = {(place[0], label) for each in (found, before or found) for label in _labels(each)}
        for bucket in ((place[0], None), *labels):
            for watcher in self._watchers.get(bucket, ()):
                watcher.hear(kind, found, before)
        for listener in list(self.listeners):
            listener(kind, found)


def _labels(found: Object) -> Iterable[tuple[str, str]]:
    return (found["metadata"].get("labels") or {}).items()


def _disown(found: Object, uid: str) -> None:
    kept = [each for each in found["metadata"]["ownerReferences"] if each["uid"] != uid]
    found["metadata"]["ownerReferences"] = kept


def _let_go(found: Object) -> None:
    if FOREGROUND in (found["metadata"].get("finalizers") or ()):
        found["metadata"]["finalizers"].remove(FOREGROUND)


def _mark(found: Object, finalizers: list[str]) -> None:
    found["metadata"].setdefault("deletionTimestamp", now())
    if finalizers:
        found["metadata"]["finalizers"] = finalizers
