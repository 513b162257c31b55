"""The jobs of a pipeline run and their pods, as the cluster has them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from k8s.api import PODS, Api, Object, RefusedError, Resource
from k8s.job import JOB_PODS, LABEL
from k8s.joblauncher import KINDS, attempt_of
from k8s.podview import PodView, read_pod
from k8s.state import Kind, State


@dataclass(frozen=True)
class Found:
    """A job's object."""

    kind: Kind
    body: Object

    @property
    def name(self) -> str:
        return self.body["metadata"]["name"]

    @property
    def labels(self) -> Mapping[str, str]:
        return self.body["metadata"]["labels"]

    @property
    def stage(self) -> str:
        return self.labels[f"{LABEL}stage"]

    @property
    def fold(self) -> str:
        return self.labels.get(f"{LABEL}fold", "")

    @property
    def attempt(self) -> int:
        return attempt_of(self.body)

    @property
    def resource(self) -> Resource:
        return Resource(self.kind.group, self.kind.version, self.kind.plural)

    @property
    def state(self) -> State:
        return self.kind.state(self.body)


def jobs_of(api: Api, pipeline_run: str) -> list[Found]:
    """The jobs of a pipeline run, of whichever kind; in order of stage, fold and attempt."""
    found = [Found(kind, body) for kind in KINDS.values() for body in _listed(api, kind, of_run(pipeline_run))]
    return sorted(found, key=lambda each: (each.body["metadata"].get("creationTimestamp", ""), each.name))


def of_run(pipeline_run: str) -> str:
    return f"{LABEL}pipeline-run={pipeline_run}"


def _listed(api: Api, kind: Kind, labels: str) -> list[Object]:
    try:
        return api.list(Resource(kind.group, kind.version, kind.plural), labels=labels)[0]
    except RefusedError as error:
        if error.status in (403, 404):  # a kind that is not installed, or that this account has nothing to do with
            return []
        raise


def job_pods(api: Api, pipeline_run: str) -> list[Object]:
    """The pods of all jobs of a pipeline run."""
    mine = ",".join(f"{name}={value}" for name, value in JOB_PODS.items())
    return api.list(PODS, labels=f"{of_run(pipeline_run)},{mine}")[0]


def pods_of(job: Found, pods: list[Object]) -> Iterator[tuple[Object, PodView]]:
    """Those of one attempt, node by node."""
    mine = [pod for pod in pods if _names(pod["metadata"].get("labels") or {}) == _names(job.labels)]
    views = [(pod, read_pod(pod, job.kind.node_of)) for pod in mine]
    yield from sorted(views, key=lambda pair: pair[1].node)


def _names(labels: Mapping[str, str]) -> tuple[str | None, ...]:
    return tuple(labels.get(LABEL + name) for name in ("key", "attempt"))


def restarts_of(pod: Mapping[str, Any]) -> int:
    """How often the containers of a pod were started again."""
    told = (pod.get("status") or {}).get("containerStatuses") or ()
    return sum(each.get("restartCount") or 0 for each in told)
