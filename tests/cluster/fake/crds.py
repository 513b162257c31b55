"""What an API server that has the real CRDs would refuse of a custom resource."""

from tests.cluster.fake.kinds import CUSTOM
from tests.cluster.fake.objects import Object
from tests.cluster.schemas import crd_folder, validator
from tests.cluster.validation import show


def crd_problems(manifest: Object) -> list[str]:
    """Each with the path of its field; none for built-in kinds, or where TRAINWORKS_CRD_DIR names no folder."""
    version, kind = str(manifest.get("apiVersion")), str(manifest.get("kind"))
    checker = validator(version, kind) if crd_folder() and version.partition("/")[0] in CUSTOM else None
    found: list[str] = []
    for error in checker.iter_errors(manifest) if checker else ():
        path = list(error.absolute_path)
        if (
            error.validator == "additionalProperties"
            and isinstance(error.schema, dict)
            and isinstance(error.instance, dict)
        ):
            known = error.schema.get("properties", {})
            found += [f'unknown field "{show([*path, name])}"' for name in error.instance if name not in known]
        else:
            found.append(f"{show(path)}: {error.message}")
    return sorted(found)
