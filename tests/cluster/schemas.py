"""Schemas of Kubernetes objects: custom kinds from CRD files, built-in ones from kubernetes-validate, all strict."""

import functools
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import extend
from kubernetes_validate.utils import schema_contents
from referencing import Registry, Resource

CRD_DIR = "TRAINWORKS_CRD_DIR"
"""Variable that names the folder with the CRD files"""
KUBERNETES = "1.37.0"
BUILT_IN = f"kubernetes-json-schema/v{KUBERNETES}-local-strict"
DEFINITIONS = "/api/_definitions.json"
METADATA = {"$ref": f"{DEFINITIONS}#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
OBJECTS = ("properties", "patternProperties")
"""Keywords whose values are schemas by name"""

Schema = dict[str, Any]


def crd_folder() -> Path | None:
    """Where the CRD files are, when the variable says so."""
    return Path(os.environ[CRD_DIR]) if os.environ.get(CRD_DIR) else None


def validator(api_version: str, kind: str) -> Validator | None:
    """For objects of one kind in one version; None where neither the CRD files nor Kubernetes have it."""
    return _validator(crd_folder(), api_version, kind)


@functools.cache
def _validator(folder: Path | None, api_version: str, kind: str) -> Validator | None:
    schema = _custom(folder).get((api_version, kind)) or _built_in(api_version, kind)
    return None if schema is None else KubernetesValidator(schema, registry=_definitions())


@functools.cache
def _custom(folder: Path | None) -> dict[tuple[str, str], Schema]:
    """Schemas of every served version in a folder of CRD files."""
    found = {}
    for path in sorted(folder.glob("*.yaml")) if folder else ():
        with path.open(encoding="utf-8") as file:
            definitions = [each for each in yaml.load_all(file, yaml.CSafeLoader) if each]
        for spec in (each["spec"] for each in definitions if each["kind"] == "CustomResourceDefinition"):
            for version in (each for each in spec["versions"] if each["served"]):
                schema = strict(version["schema"]["openAPIV3Schema"])
                schema["properties"]["metadata"] = METADATA
                schema["required"] = ["apiVersion", "kind", "metadata", *schema.get("required", ())]
                found[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = schema
    return found


def _built_in(api_version: str, kind: str) -> Schema | None:
    place = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)  # networking.k8s.io/v1 -> networking-v1
    try:
        schema = schema_contents(f"{BUILT_IN}/{kind.lower()}-{place}.json", KUBERNETES)
    except FileNotFoundError:
        return None
    return {**schema, "required": ["apiVersion", "kind", "metadata"]}


@functools.cache
def _definitions() -> Registry[Any]:
    contents = schema_contents(f"{BUILT_IN}/_definitions.json", KUBERNETES)
    return Registry().with_resource(DEFINITIONS, Resource.from_contents(contents))


def strict(schema: Mapping[str, Any]) -> Schema:
    """A structural schema of a CRD as JSON schema that refuses unknown fields.

    A field that has a default is not required, as the API fills it in before it looks.
    """
    found: Schema = {key: value for key, value in schema.items() if key not in ("description", "default", "format")}
    fields = schema.get("properties", {})
    for key in OBJECTS:
        if key in schema:
            found[key] = {name: strict(value) for name, value in schema[key].items()}
    for key in ("items", "additionalProperties", "not"):
        if isinstance(schema.get(key), Mapping):
            found[key] = strict(schema[key])
    if "required" in schema:
        found["required"] = [name for name in schema["required"] if "default" not in fields.get(name, {})]
    if schema.get("x-kubernetes-int-or-string"):
        found.pop("anyOf", None)
        found["type"] = ["integer", "string"]
    open_object = "additionalProperties" in schema or schema.get("x-kubernetes-preserve-unknown-fields")
    if schema.get("type") == "object" and not open_object:
        found["additionalProperties"] = False
    if "x-kubernetes-list-map-keys" in schema:
        inside = schema["items"].get("properties", {})
        keys = {name: inside.get(name, {}).get("default") for name in schema["x-kubernetes-list-map-keys"]}
        found["x-kubernetes-list-map-keys"] = keys
    if schema.get("x-kubernetes-list-type") == "set":
        found["uniqueItems"] = True
    return found


def _keys_are_unique(
    validator: Validator, keys: Any, instance: Any, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    """Lists whose items are told apart by some of their fields: no two with the same."""
    if not isinstance(keys, Mapping) or not isinstance(instance, list):
        return
    seen = set()
    for each in (item for item in instance if isinstance(item, Mapping)):
        key = tuple(repr(each.get(name, default)) for name, default in keys.items())
        if key in seen:
            yield ValidationError(f"two items with the same {', '.join(keys)}: {', '.join(key)}")
        seen.add(key)


KubernetesValidator = extend(Draft202012Validator, {"x-kubernetes-list-map-keys": _keys_are_unique})
