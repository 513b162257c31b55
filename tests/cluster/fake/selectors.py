"""Which objects a call means: labels and fields read from a query, and held against objects."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.cluster.fake.objects import Object, StatusError

_REQUIREMENT = re.compile(r"^(?P<name>[^\s=!,()]+)\s*(?P<operator>==|=|!=|\bin\b|\bnotin\b)?\s*(?P<value>.*)$")
_OUTSIDE_BRACKETS = re.compile(r",(?![^(]*\))")
_FIELDS = {
    "pods": {"status.phase", "spec.nodeName", "spec.restartPolicy", "spec.serviceAccountName"},
    "events": {"reason", "type", "reportingComponent", "source"},
    "namespaces": {"status.phase"},
    "secrets": {"type"},
}
"""What may be selected by, beside names, of some kinds; of others nothing more may"""


@dataclass(frozen=True)
class Selector:
    """Labels and fields that objects must have: label requirements as (name, operator, values)."""

    labels: tuple[tuple[str, str, tuple[str, ...]], ...] = ()
    fields: tuple[tuple[str, str], ...] = ()
    other: tuple[tuple[str, str], ...] = ()
    """Fields and the values that they must not have"""

    def accepts(self, found: Object) -> bool:
        labels = found["metadata"].get("labels") or {}
        return (
            all(_meets(labels.get(name), operator, values) for name, operator, values in self.labels)
            and all(_field(found, path) == value for path, value in self.fields)
            and all(_field(found, path) != value for path, value in self.other)
        )

    @property
    def bucket(self) -> tuple[str, str] | None:
        """A label that every accepted object has, for a quick choice of watchers."""
        return next(((name, values[0]) for name, operator, values in self.labels if operator == "="), None)


def selector_of(query: Mapping[str, str], plural: str = "") -> Selector:
    """What a query selects. Raises StatusError 400 for what cannot be read, or is no field to select `plural` by."""
    parts = [text.strip() for text in _OUTSIDE_BRACKETS.split(query.get("labelSelector", "")) if text.strip()]
    same, other = [], []
    for text in (part.strip() for part in query.get("fieldSelector", "").split(",") if part.strip()):
        name, sign, value = text.partition("=")
        if not sign or not _selectable(name.rstrip("!"), plural):
            raise StatusError(400, "BadRequest", f'field label not supported: "{text}"')
        (other if name.endswith("!") else same).append((name.rstrip("!"), value.lstrip("=")))
    return Selector(tuple(_requirement(each) for each in parts), tuple(same), tuple(other))


def _requirement(text: str) -> tuple[str, str, tuple[str, ...]]:
    if text.startswith("!"):
        return text[1:].strip(), "absent", ()
    found = _REQUIREMENT.match(text)
    if found is None or bool(found["operator"]) != bool(found["value"] or found["operator"] in ("=", "==", "!=")):
        raise StatusError(400, "BadRequest", f'unable to parse requirement: "{text}"')
    operator, value = found["operator"] or "exists", found["value"].strip()
    if operator in ("in", "notin") and not (value.startswith("(") and value.endswith(")")):
        raise StatusError(400, "BadRequest", f'unable to parse requirement: "{text}"')
    values = tuple(part.strip() for part in value.strip("()").split(","))
    return found["name"], {"==": "=", "notin": "!="}.get(operator, operator), values


def _selectable(name: str, plural: str) -> bool:
    known = name in ("metadata.name", "metadata.namespace") or name in _FIELDS.get(plural, ())
    return known or (plural == "events" and name.startswith("involvedObject."))


def _meets(value: str | None, operator: str, values: tuple[str, ...]) -> bool:
    if operator in ("exists", "absent"):
        return (value is not None) == (operator == "exists")
    return (value in values) == (operator != "!=")


def _field(found: Object, path: str) -> str:
    value: Any = found
    for key in path.split("."):
        value = (value or {}).get(key)
    return "" if value is None else str(value)
