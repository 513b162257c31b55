"""What the fake cluster tells everybody about itself: its kinds, by group and version, and the fields of some."""

import re
from collections.abc import Mapping
from typing import Any

VERSIONS = {"trainer.kubeflow.org": "v1alpha1", "kueue.x-k8s.io": "v1beta2"}
"""Served of a group, where it is not v1"""
SCHEMAS: dict[str, dict[str, Any]] = {
    "PyTorchJob": {"runPolicy": {"properties": {"suspend": {}}}, "nprocPerNode": {"type": "string"}},
    "TrainJob": {"runtimePatches": {"type": "array"}},
}
"""Fields under `spec` of kinds, as far as anybody asks"""
_PATH = re.compile(r"^(?P<schema>/openapi/v3)?/apis/(?P<group>[^/]+)(?:/(?P<version>[^/]+))?/?$")


def discover(path: str, kinds: Mapping[tuple[str, str], str], schemas: Mapping[str, Any]) -> dict[str, Any] | None:
    """The answer about a group of kinds, a version of it, or its schemas; None for any other path."""
    asked = _PATH.match(path)
    found = {plural: kind for (group, plural), kind in kinds.items() if asked and group == asked["group"]}
    if not asked or not found:
        return None
    version = VERSIONS.get(asked["group"], "v1")
    if asked["version"] is None:
        served = {"groupVersion": f"{asked['group']}/{version}", "version": version}
        return {"kind": "APIGroup", "name": asked["group"], "versions": [served], "preferredVersion": served}
    if asked["version"] != version:
        return None
    if asked["schema"]:
        return {"components": {"schemas": {kind: _schema(kind, schemas.get(kind)) for kind in found.values()}}}
    return {"kind": "APIResourceList", "resources": [{"name": name, "kind": kind} for name, kind in found.items()]}


def _schema(kind: str, fields: Any) -> dict[str, Any]:
    spec = {"properties": {"spec": {"properties": fields}}} if fields is not None else {}
    return spec | {"x-kubernetes-group-version-kind": [{"kind": kind}]}
