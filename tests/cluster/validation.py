"""What is wrong with a manifest, found without a cluster, as strictly as an API server and what stands behind it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from jsonschema import ValidationError

from tests.cluster.schemas import validator

Path = tuple[str | int, ...]
QUANTITY = re.compile(r"^(?P<number>\d+(\.\d*)?|\.\d+)(?P<unit>[KMGTPE]i|[numkMGTPE]|[eE][+-]?\d+)?$")
UNITS = {"": 0, "n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
BINARY = {f"{letter}i": 1024**power for power, letter in enumerate("KMGTPE", start=1)}
AMOUNTS = {"sizeLimit", "nominalQuota", "borrowingLimit", "lendingLimit"}
"""Fields that hold one quantity; `requests`, `limits` and `hard` hold some by name"""
CLOSED = {
    "cleanPodPolicy": {"None", "Running", "All"},
    "imagePullPolicy": {"Always", "IfNotPresent", "Never"},
    "medium": {"", "Memory"},
    "effect": {"NoSchedule", "PreferNoSchedule", "NoExecute"},
    "whenUnsatisfiable": {"DoNotSchedule", "ScheduleAnyway"},
    "fsGroupChangePolicy": {"OnRootMismatch", "Always"},
    "preemptionPolicy": {"PreemptLowerPriority", "Never"},
    "accessModes": {"ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"},
    "policyTypes": {"Ingress", "Egress"},
    "protocol": {"TCP", "UDP", "SCTP"},
    "verbs": {"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "*"},
    "pod-security.kubernetes.io/enforce": {"privileged", "baseline", "restricted"},
}
"""Fields whose few values no schema names, and those values"""
RESTARTS = {"Always", "OnFailure", "Never"}
LABEL_VALUE = re.compile(r"^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$")
OBJECT_NAME = re.compile(r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")
RBAC_GROUP = "rbac.authorization.k8s.io"


def problems(manifest: Mapping[str, Any]) -> list[str]:
    """Everything wrong with one object, each with the path of its field; an empty list when it would be accepted.

    Custom kinds are held against the CRD files in the folder that TRAINWORKS_CRD_DIR names, in the manifest's own
    version, built-in ones against kubernetes-validate's strict schemas: unknown and missing fields, types, enums,
    patterns, lists whose items must differ. Beyond the schemas: quantities, requests above their limits, values of
    fields that the schemas leave open, names and labels, and what the training-operator's webhook refuses. Rules in CEL
    (x-kubernetes-validations) are not evaluated.
    """
    api_version, kind = manifest.get("apiVersion"), manifest.get("kind")
    checker = validator(str(api_version), str(kind))
    if checker is None:
        return [f"no schema for {kind} of {api_version}"]
    found = [line for error in checker.iter_errors(manifest) for line in _described(error)]
    if found:
        return sorted(found)
    return [*_beyond(manifest, ()), *_named(manifest), *(_pytorchjob(manifest) if kind == "PyTorchJob" else ())]


def show(path: Sequence[str | int]) -> str:
    """`spec.containers[0].name`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".") or "the object"


def _described(error: ValidationError) -> Iterator[str]:
    path = tuple(error.absolute_path)
    if error.validator == "additionalProperties" and isinstance(error.instance, Mapping):
        known = error.schema.get("properties", {}) if isinstance(error.schema, Mapping) else {}
        yield from (f"{show((*path, name))}: unknown field" for name in error.instance if name not in known)
    else:
        yield f"{show(path)}: {error.message}"


def quantity(value: str | int | float) -> Decimal | None:
    """The number that `1500m`, `16Gi` or 2 stand for; None for what is no quantity."""
    found = QUANTITY.match(str(value))
    if not found or isinstance(value, bool):
        return None
    number, unit = Decimal(found["number"]), found["unit"] or ""
    if unit in BINARY:
        return number * BINARY[unit]
    return number.scaleb(UNITS[unit] if unit in UNITS else int(unit[1:]))


def _beyond(value: Any, path: Path) -> Iterator[str]:
    """What schemas leave open, in every field."""
    if isinstance(value, Mapping):
        for key, inside in value.items():
            yield from _field(key, inside, (*path, key), value)
            yield from _beyond(inside, (*path, key))
    elif isinstance(value, list):
        for number, inside in enumerate(value):
            yield from _beyond(inside, (*path, number))
    elif value is None:
        yield f"{show(path)}: null"


def _field(key: str, value: Any, path: Path, around: Mapping[str, Any]) -> Iterator[str]:
    allowed = CLOSED.get(key)
    if key == "restartPolicy":
        allowed = RESTARTS | ({"ExitCode"} if path[-3:-2] == ("pytorchReplicaSpecs",) else set())
    if allowed:
        for each in value if isinstance(value, list) else [value]:
            if each not in allowed:
                yield f"{show(path)}: {each!r} is not one of {', '.join(sorted(allowed))}"
    if key in AMOUNTS:
        yield from _quantity(value, path)
    if key in ("requests", "limits", "hard") and isinstance(value, Mapping):
        for name, amount in value.items():
            yield from _quantity(amount, (*path, name))
    if key == "limits" and isinstance(value, Mapping):
        yield from _requests_fit(around.get("requests", {}), value, path[:-1])
    if key in ("labels", "matchLabels") and isinstance(value, Mapping):
        for name, text in value.items():
            if not LABEL_VALUE.match(text):
                yield f"{show((*path, name))}: {text!r} is no value of a label"


def _quantity(value: Any, path: Path) -> Iterator[str]:
    if quantity(value) is None:
        yield f"{show(path)}: {value!r} is no quantity"


def _requests_fit(requests: Mapping[str, Any], limits: Mapping[str, Any], path: Path) -> Iterator[str]:
    for name in requests.keys() & limits.keys():
        wanted, most = quantity(requests[name]), quantity(limits[name])
        if wanted is None or most is None:
            continue
        if wanted > most:
            yield f"{show((*path, 'requests', name))}: {requests[name]} is more than its limit {limits[name]}"
        if "/" in name and wanted != most:
            yield f"{show((*path, 'requests', name))}: must equal its limit, as devices are not shared"


def _named(manifest: Mapping[str, Any]) -> Iterator[str]:
    name = manifest["metadata"].get("name", "")
    rights = manifest["apiVersion"].startswith(RBAC_GROUP)  # their names may be any part of a path
    if not rights and not OBJECT_NAME.match(name):
        yield f"metadata.name: {name!r} is no name of an object"


def _pytorchjob(manifest: Mapping[str, Any]) -> Iterator[str]:
    """What the operator's webhook refuses, or takes without doing what was meant."""
    spec = manifest["spec"]
    replicas, place = spec["pytorchReplicaSpecs"], ("spec", "pytorchReplicaSpecs")
    for role in replicas.keys() - {"Master", "Worker"}:
        yield f"{show((*place, role))}: not a role of a PyTorchJob"
    if replicas.get("Master", {}).get("replicas", 0) != 1:
        yield f"{show((*place, 'Master', 'replicas'))}: must be 1"
    if not spec.get("nprocPerNode", "1").isdecimal():
        yield f"spec.nprocPerNode: {spec['nprocPerNode']!r} is no number; `auto` would mean the number of cores"
    if "cleanPodPolicy" not in spec.get("runPolicy", {}):
        yield "spec.runPolicy.cleanPodPolicy: missing, so that pods would stay"
    for role, replica in replicas.items():
        pod: Path = (*place, role, "template", "spec")
        containers = replica.get("template", {}).get("spec", {}).get("containers", [])
        if not any(each["name"] == "pytorch" for each in containers):
            yield f"{show((*pod, 'containers'))}: none is named pytorch"
