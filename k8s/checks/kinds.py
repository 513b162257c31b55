"""Whether the cluster has the kind of job that the run asks for, in a version new enough."""

from collections.abc import Iterator, Mapping
from typing import Any

from configs.schema import RunConfig
from k8s.api import Api, RefusedError, Resource
from k8s.checks.finding import Finding, failed, ok, unknown
from k8s.pytorchjob import PYTORCHJOB
from k8s.state import Kind
from k8s.trainjob import NODES, TRAINJOB

KIND, RUNTIME = "kind of job", "training runtime"
KINDS = {"pytorchjob": PYTORCHJOB, "trainjob": TRAINJOB}
RUNTIMES = Resource(TRAINJOB.group, TRAINJOB.version, "clustertrainingruntimes", namespaced=False)
OPERATORS = {
    "pytorchjob": "install Kubeflow's training-operator 1.9: kubectl apply --server-side -k "
    "'github.com/kubeflow/trainer/manifests/overlays/standalone?ref=release-1.9'; or use cluster.job=trainjob",
    "trainjob": "install Kubeflow Trainer 2.2 or newer: kubectl apply --server-side -k "
    "'github.com/kubeflow/trainer/manifests/overlays/manager?ref=v2.2.0'; or use cluster.job=pytorchjob",
}
STANDARD_RUNTIMES = (
    "kubectl apply --server-side -k 'github.com/kubeflow/trainer/manifests/overlays/runtimes?ref=v2.2.0'"
)


def kind_served(run: RunConfig, api: Api) -> Iterator[Finding]:
    """Whether the operator's kind is served in our version, with the fields that our manifests use.

    From what every account may read: the list of kinds and their schemas.
    """
    kind = KINDS[run.cluster.job]
    served = api.read(f"/apis/{kind.api_version}")
    if served is None or all(each["name"] != kind.plural for each in served["resources"]):
        says = f"{kind.name} is not served as {kind.api_version}{_others(api, kind)}"
        yield failed(KIND, says, OPERATORS[run.cluster.job])
        return
    try:
        fields = spec_fields(api.read(f"/openapi/v3/apis/{kind.api_version}"), kind)
    except RefusedError:
        fields = None
    if fields is None:
        yield unknown(KIND, f"{kind.name} is served as {kind.api_version}; the cluster does not tell its fields")
    elif lacking := list(LACKING[run.cluster.job](fields)):
        says = f"the operator of {kind.api_version} is too old: {', '.join(lacking)}"
        yield failed(KIND, says, OPERATORS[run.cluster.job])
    else:
        yield ok(KIND, f"{kind.name} ({kind.api_version})")


def _others(api: Api, kind: Kind) -> str:
    """The versions of its group that are served instead."""
    group = api.read(f"/apis/{kind.group}") or {}
    versions = [each["version"] for each in group.get("versions", ())]
    return f" (of that group there is {', '.join(versions)})" if versions else ""


def spec_fields(document: Mapping[str, Any] | None, kind: Kind) -> Mapping[str, Any] | None:
    """The schemas of a kind's fields under `spec`, by name, in an OpenAPI document."""
    for schema in ((document or {}).get("components") or {}).get("schemas", {}).values():
        names = [each.get("kind") for each in schema.get("x-kubernetes-group-version-kind", ())]
        if kind.name in names:
            return schema.get("properties", {}).get("spec", {}).get("properties")
    return None


def _lacking_in_pytorchjob(fields: Mapping[str, Any]) -> Iterator[str]:
    if "suspend" not in fields.get("runPolicy", {}).get("properties", {}):
        yield "it has no runPolicy.suspend, by which a job waits in a queue"
    if fields.get("nprocPerNode", {}).get("type") != "string":
        yield "it has no nprocPerNode as text"


def _lacking_in_trainjob(fields: Mapping[str, Any]) -> Iterator[str]:
    if "runtimePatches" not in fields:
        yield "it has no runtimePatches, which came with 2.2"


LACKING = {"pytorchjob": _lacking_in_pytorchjob, "trainjob": _lacking_in_trainjob}


def runtime(run: RunConfig, api: Api) -> Iterator[Finding]:
    """Whether the training runtime that a TrainJob refers to is there, and has the part that we patch."""
    if run.cluster.job != "trainjob":
        return
    name = run.cluster.runtime
    found = api.get(RUNTIMES, name)
    if found is None:
        yield failed(RUNTIME, f"cluster.runtime={name} does not exist{_names(api)}", STANDARD_RUNTIMES)
        return
    jobs = (((found["spec"].get("template") or {}).get("spec") or {}).get("replicatedJobs")) or ()
    if NODES not in [each["name"] for each in jobs]:
        yield failed(
            RUNTIME,
            f"{name} has no replicated job named {NODES}",
            "use cluster.runtime=torch-distributed, or one like it",
        )
    else:
        yield ok(RUNTIME, name)


def _names(api: Api) -> str:
    try:
        names = [each["metadata"]["name"] for each in api.list(RUNTIMES)[0]]
    except RefusedError:  # whatever there is, it is not this one
        return ""
    return f" (there is {', '.join(names)})" if names else ""
