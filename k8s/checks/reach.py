"""Whether the cluster answers, knows who asks, and has the namespace."""

import re
from collections.abc import Iterator

from configs.schema import RunConfig
from k8s.api import Api, RefusedError, Resource
from k8s.checks.finding import Finding, failed, ok, unknown

API, NAMESPACE = "cluster API", "namespace"
NAMESPACES = Resource("", "v1", "namespaces", namespaced=False)
OLDEST = (1, 27)
"""Since when a manifest's unknown fields are refused, and schemas of all kinds are served"""
ENFORCED = "pod-security.kubernetes.io/enforce"


def reachable(api: Api) -> Finding:
    """Whether the API answers to these credentials. Raises OutageError when it stays away."""
    try:
        told = api.read("/version") or {}
        version = told["gitVersion"]
    except RefusedError as error:
        return failed(API, f"refused: {error}", "log in to the cluster again, or name another cluster.context")
    except (ValueError, KeyError, TypeError):
        return failed(
            API, "what answers is no Kubernetes API", "look at the server of the kubeconfig's context: a proxy?"
        )
    number = re.match(r"v?(\d+)\.(\d+)", version)
    if number and (int(number[1]), int(number[2])) < OLDEST:
        return failed(API, f"Kubernetes {version} is older than 1.{OLDEST[1]}", "upgrade the cluster")
    return ok(API, f"Kubernetes {version}")


def namespace(run: RunConfig, api: Api) -> Iterator[Finding]:
    """Whether the namespace is there, and lets the job's pods in."""
    cluster = run.cluster
    found = api.get(NAMESPACES, cluster.namespace)
    if found is None:
        remedy = f"kubectl create namespace {cluster.namespace}, or name another: cluster.namespace=NAME"
        yield failed(NAMESPACE, f"{cluster.namespace} does not exist", remedy)
    elif found["metadata"].get("deletionTimestamp"):
        yield failed(NAMESPACE, f"{cluster.namespace} is being deleted", "wait until it is gone, and make it again")
    elif restricted(run, found["metadata"].get("labels") or {}):
        yield unknown(
            NAMESPACE,
            f"{cluster.namespace} enforces Pod Security `restricted`, under which the operator's own init container of "
            "a worker is forbidden unless its template was mended",
            f"label it {ENFORCED}=baseline, or use cluster.job=trainjob",
        )
    else:
        yield ok(NAMESPACE, cluster.namespace)


def restricted(run: RunConfig, labels: dict[str, str]) -> bool:
    """Whether the rules of the namespace are stricter than what training-operator adds to workers."""
    return labels.get(ENFORCED) == "restricted" and run.cluster.job == "pytorchjob" and run.cluster.nodes > 1
