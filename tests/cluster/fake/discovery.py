"""What the fake cluster tells everybody about itself: its kinds, by group and version, and the fields of some."""

import re
from collections.abc import Mapping
from typing import Any

from tests.cluster.fake.kinds import CLUSTER_WIDE, SHORT, WITH_STATUS, versions

SCHEMAS: dict[str, dict[str, Any]] = {
    "PyTorchJob": {"runPolicy": {"properties": {"suspend": {}}}, "nprocPerNode": {"type": "string"}},
    "TrainJob": {"runtimePatches": {"type": "array"}},
}
"""Fields under `spec` of kinds, as far as anybody asks"""
VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
_PATH = re.compile(r"^(?P<schema>/openapi/v3)?/(?:api|apis/(?P<group>[^/]+))(?:/(?P<version>v[^/]+))?/?$")
Kinds = Mapping[tuple[str, str], str]


def discover(path: str, kinds: Kinds, schemas: Mapping[str, Any]) -> dict[str, Any] | None:
    """The answer about all groups, a group of kinds, a version of it, or its schemas; None for any other path."""
    groups = sorted({group for group, _ in kinds if group})
    if path.rstrip("/") == "/apis":
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(each) for each in groups]}
    asked = _PATH.match(path)
    if not asked:
        return None
    group = asked["group"] or ""
    found = {plural: kind for (of, plural), kind in kinds.items() if of == group}
    if not found:
        return None
    if asked["version"] is None:
        return _group(group) if group else {"kind": "APIVersions", "versions": ["v1"]}
    if asked["version"] not in versions(group):
        return None
    if asked["schema"]:
        return {"components": {"schemas": {kind: _schema(kind, schemas.get(kind)) for kind in found.values()}}}
    served = f"{group}/{asked['version']}" if group else "v1"
    resources = [each for plural, kind in found.items() for each in _resources(plural, kind)]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": served, "resources": resources}


def _group(group: str) -> dict[str, Any]:
    served = [{"groupVersion": f"{group}/{version}", "version": version} for version in versions(group)]
    return {"kind": "APIGroup", "apiVersion": "v1", "name": group, "versions": served, "preferredVersion": served[0]}


def _resources(plural: str, kind: str) -> list[dict[str, Any]]:
    """A kind and what is below its objects."""
    whole = {"name": plural, "singularName": kind.lower(), "kind": kind, "namespaced": plural not in CLUSTER_WIDE}
    parts = [{**whole, "name": f"{plural}/status", "verbs": ["get", "patch", "update"]}]
    short = {"shortNames": [SHORT[plural]]} if plural in SHORT else {}
    return [{**whole, **short, "verbs": VERBS}, *(parts if plural in WITH_STATUS else ())]


def _schema(kind: str, fields: Any) -> dict[str, Any]:
    spec = {"properties": {"spec": {"properties": fields}}} if fields is not None else {}
    return spec | {"x-kubernetes-group-version-kind": [{"kind": kind}]}
