"""Which rights the launcher and whoever submits use, and whether these credentials have them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from configs.cluster import ClusterConfig
from configs.schema import RunConfig
from k8s.api import Api, RefusedError, Resource
from k8s.checks.finding import Finding, failed, ok
from k8s.checks.kinds import KINDS
from k8s.pytorchjob import PYTORCHJOB
from k8s.trainjob import TRAINJOB

NAME = "rights"
REVIEWS = Resource("authorization.k8s.io", "v1", "selfsubjectaccessreviews", namespaced=False)
PIPELINES_SERVICE = "ml-pipeline:http"
"""Kubeflow Pipelines, as the cluster's API passes calls on to it"""


@dataclass(frozen=True)
class Right:
    """A verb on a resource."""

    verb: str
    group: str
    resource: str
    sub: str = ""
    name: str = ""
    who: tuple[Literal["launcher", "submitter"], ...] = ("launcher", "submitter")
    """The launcher runs in a step's pod; the submitter is whoever types `trainworks submit`, `status` and the like"""

    def __str__(self) -> str:
        resource = "/".join(part for part in (self.resource, self.sub) if part)
        named = f" {self.name}" if self.name else ""
        return f"{self.verb} {resource}{f'.{self.group}' if self.group else ''}{named}"


def _of_kind(group: str, plural: str) -> tuple[Right, ...]:
    both = [Right(verb, group, plural) for verb in ("get", "list", "delete")]
    return (*both, *(Right(verb, group, plural, who=("launcher",)) for verb in ("create", "patch")))


RIGHTS = (
    *_of_kind(PYTORCHJOB.group, PYTORCHJOB.plural),
    *_of_kind(TRAINJOB.group, TRAINJOB.plural),
    Right("list", "", "pods"),
    Right("watch", "", "pods", who=("launcher",)),
    Right("get", "", "pods", "log"),
    Right("get", "", "persistentvolumeclaims", who=("submitter",)),
    *(Right(verb, "", "services", "proxy", PIPELINES_SERVICE, ("submitter",)) for verb in ("get", "create")),
)


def needed(cluster: ClusterConfig) -> list[Right]:
    """Those that runs of this cluster section use."""
    unused = {kind.plural for name, kind in KINDS.items() if name != cluster.job}
    unused |= {"services"} if cluster.pipelines.url else set()
    return [each for each in RIGHTS if each.resource not in unused]


def rights(run: RunConfig, api: Api) -> Iterator[Finding]:
    """Whether the API would allow each: what these credentials may, which a launcher's own may differ from."""
    cluster = run.cluster
    try:
        missing = [str(right) for right in needed(cluster) if not allowed(right, cluster, api)]
    except RefusedError as error:
        if error.status != 403:
            raise
        says = "the cluster does not tell these credentials even their own rights: they belong to nobody it knows"
        yield failed(NAME, says, "log in to the cluster again")
        return
    if missing:
        yield failed(
            NAME,
            f"these credentials may not {', '.join(missing)}",
            f"have them bound to the Role that k8s/manifests has, in namespace {cluster.namespace}",
        )
    else:
        yield ok(NAME, f"all {len(needed(cluster))} that launching, following and cancelling need")


def allowed(right: Right, cluster: ClusterConfig, api: Api) -> bool:
    """What the API's own review says of a right."""
    place = cluster.pipelines.namespace if right.resource == "services" else cluster.namespace
    asked = {"namespace": place, "verb": right.verb, "group": right.group, "resource": right.resource}
    asked |= {"subresource": right.sub} if right.sub else {}
    asked |= {"name": right.name} if right.name else {}
    review = {
        "apiVersion": f"{REVIEWS.group}/{REVIEWS.version}",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": asked},
    }
    return bool(api.create(REVIEWS, review)["status"]["allowed"])
