"""Kubeflow Pipelines as the commands need it: its runs and recurring runs as plain objects, over its REST API."""

import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from configs.cluster import ClusterConfig
from configs.errors import OutageError, UserError
from k8s.api import Api, Object, RefusedError
from k8s.connect import connect

API = "/apis/v2beta1"
PAGE = 100
TRIES = 3
"""Of a call that makes something, when its answers are lost"""
ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
"""States in which a run stays"""


@dataclass
class Kfp:
    """One experiment of Kubeflow Pipelines; a call waits out an API that is away, as Api does."""

    api: Api
    prefix: str
    """Path below which it answers"""
    experiment: str
    _found: str = ""

    @classmethod
    def of(cls, cluster: ClusterConfig, api: Api) -> "Kfp":
        """By its own address if it has one, else through the cluster's API."""
        place = cluster.pipelines
        if place.url is None:
            prefix = f"/api/v1/namespaces/{place.namespace}/services/ml-pipeline:http/proxy"
            return cls(api, prefix, place.experiment)
        from kubernetes.client import ApiClient, Configuration

        settings = Configuration(host=place.url.rstrip("/"))
        settings.retries = False  # type: ignore[assignment]
        return cls(replace(api, client=ApiClient(settings)), "", place.experiment)

    def multi_user(self) -> bool:
        """Whether each namespace has runs of its own; else all are where it is installed."""
        return bool(self._ask("GET", "/healthz").get("multi_user"))

    def run(self, identity: str) -> Object | None:
        """A run by its identity."""
        try:
            return self._ask("GET", f"/runs/{identity}")
        except RefusedError as error:
            if error.status in (400, 404):
                return None
            raise

    def runs(self, name: str) -> list[Object]:
        """The runs of a name, the newest first; those that were archived are left out."""
        if (experiment := self._experiment(make=False)) is None:
            return []
        query = {"experiment_id": experiment, "filter": _equals("display_name", name), "sort_by": "created_at desc"}
        return [each for each in self._all("/runs", "runs", query) if each.get("storage_state") != "ARCHIVED"]

    def create_run(self, body: Mapping[str, Any]) -> Object:
        """Start a run, once, however often the answer is lost."""
        return self._create("/runs", body, lambda: self.runs(body["display_name"]))

    def change_run(self, identity: str, verb: str) -> None:
        """`terminate` or `retry`."""
        self._ask("POST", f"/runs/{identity}:{verb}")

    def recurring(self) -> list[Object]:
        """All recurring runs of the experiment."""
        if (experiment := self._experiment(make=False)) is None:
            return []
        return list(self._all("/recurringruns", "recurringRuns", {"experiment_id": experiment}))

    def create_recurring(self, body: Mapping[str, Any]) -> Object:
        """Make a recurring run, once, however often the answer is lost."""
        return self._create("/recurringruns", body, self.recurring)

    def change_recurring(self, identity: str, verb: str) -> None:
        """`enable` or `disable`."""
        self._ask("POST", f"/recurringruns/{identity}:{verb}")

    def delete_recurring(self, identity: str) -> None:
        try:
            self._ask("DELETE", f"/recurringruns/{identity}")
        except RefusedError as error:
            if error.status != 404:  # gone is what was asked for
                raise

    def _create(self, path: str, body: Mapping[str, Any], there: Callable[[], list[Object]]) -> Object:
        """A call that is lost may have been carried out: what it makes is known again by a mark of its own."""
        mark = f"request {uuid.uuid4().hex[:12]}"
        marked = {
            **body,
            "experiment_id": self._experiment(make=True),
            "description": f"{body['description']}\n{mark}",
        }
        impatient = replace(self.api, outage_s=0.0)
        for attempt in range(TRIES):
            try:
                return impatient.ask("POST", self.prefix + API + path, (), marked)
            except OutageError:
                made = next((each for each in there() if mark in each.get("description", "")), None)
                if made is not None:
                    return made
                if attempt == TRIES - 1:
                    raise
                self.api.pause(1.0)
        raise AssertionError("the last attempt returns or raises")

    def _experiment(self, *, make: bool) -> str | None:
        """The experiment's identity."""
        if not self._found:
            query = {"filter": _equals("display_name", self.experiment)}
            body = {"display_name": self.experiment}
            if self.multi_user():
                query["namespace"] = body["namespace"] = self.api.namespace
            found = next(self._all("/experiments", "experiments", query), None)
            if found is None and make:
                found = self._ask("POST", "/experiments", body=body)
            self._found = found["experiment_id"] if found else ""
        return self._found or None

    def _all(self, path: str, key: str, query: Mapping[str, str]) -> Iterator[Object]:
        """Every object of a list, page by page."""
        token = ""
        while True:
            page = {"page_size": str(PAGE), **query, **({"page_token": token} if token else {})}
            found = self._ask("GET", path, page)
            yield from found.get(key) or ()
            token = found.get("next_page_token") or ""
            if not token:
                return

    def _ask(self, method: str, path: str, query: Mapping[str, str] | None = None, body: Any = None) -> Object:
        return self.api.ask(method, self.prefix + API + path, (query or {}).items(), body)


def open_cluster(cluster: ClusterConfig, tell: Callable[[str], None], outage_s: float | None = None) -> tuple[Api, Kfp]:
    """The cluster and its Kubeflow Pipelines. Raises UserError where there is no way to it."""
    api = Api(connect(cluster.context), cluster.namespace, outage_s or cluster.patience.outage_s, tell)
    return api, Kfp.of(cluster, api)


def is_over(run: Mapping[str, Any]) -> bool:
    return state_of(run) in ENDED


def state_of(found: Mapping[str, Any]) -> str:
    """A run's state, or a task's; one that has only been asked for is pending."""
    return found.get("state") or "PENDING"


def missing(name: str, experiment: str) -> UserError:
    return UserError(
        f"there is no run {name} in experiment {experiment} of the cluster; name one by --name, or by the identity "
        "that `trainworks submit` printed: --run"
    )


def _equals(key: str, value: str) -> str:
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": key, "string_value": value}]})
