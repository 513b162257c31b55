"""Kubeflow Pipelines over HTTP (v2beta1), as far as the commands use it; what is submitted really runs, in one pod."""

import json
import re
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.fake.api import FakeCluster
from tests.cluster.fake.kubelet import Kubelet

PROXY = "/api/v1/namespaces/{}/services/ml-pipeline:http/proxy"
ENDED = ("SUCCEEDED", "FAILED", "CANCELED")
_BEGUN = re.compile(r"Executing task \S*'([\w-]+)'")
_DONE = re.compile(r"Task \S*'([\w-]+)'\S* finished with status \S*?(SUCCESS|FAILURE)")
Answer = tuple[int, Any]


@dataclass
class FakeKfp:
    """Its state and its answers. Without a kubelet runs stay as tests set them, by `set_state`."""

    cluster: FakeCluster
    scratch: Path
    kubelet: Kubelet | None = None
    kubeconfig: Path | None = None
    namespace: str = "trainworks"
    """Where the pods of steps go"""
    home: str = "kubeflow"
    """Where it is installed"""
    multi_user: bool = True
    version: str = "2.15.0"
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    recurring: dict[str, dict[str, Any]] = field(default_factory=dict)
    experiments: dict[str, dict[str, Any]] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    """Methods and paths that were asked for"""
    lose_answers: int = 0
    """So many of the next calls that make something are carried out, and answered with 503"""
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _pods: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.cluster.mount(PROXY.format(self.home), self.answer)

    def set_state(self, run: str, state: str, **more: Any) -> None:
        """A run, or one task of it, as a test wants it."""
        self.runs[run] |= {"state": state, **more}

    def fire(self, recurring: str) -> dict[str, Any]:
        """As its time had come."""
        body = self.recurring[recurring]
        kept = {key: body[key] for key in ("experiment_id", "pipeline_spec", "runtime_config")}
        return self._create_run({**kept, "display_name": f"{body['display_name']} 1", "recurring_run_id": recurring})[1]

    def answer(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes
    ) -> Answer:
        """Of one call."""
        path = path.removeprefix("/apis/v2beta1")
        with self._lock:
            self.calls.append((method, path))
            status, content = self._answer(method, path, query, json.loads(body) if body and body != b"null" else {})
            if method == "POST" and ":" not in path and status == 200 and self.lose_answers:
                self.lose_answers -= 1
                return 503, {"message": "the answer was lost"}
            return status, content

    def _answer(self, method: str, path: str, query: Mapping[str, str], body: dict[str, Any]) -> Answer:
        if path == "/healthz":
            return 200, {"multi_user": self.multi_user, "tag_name": self.version}
        collection, _, rest = path.strip("/").partition("/")
        identity, _, verb = rest.partition(":")
        tables = {"runs": self.runs, "recurringruns": self.recurring, "experiments": self.experiments}
        if collection not in tables:
            return 404, {"message": f"{path} not found"}
        table = tables[collection]
        makers: dict[str, Callable[[dict[str, Any]], Answer]] = {
            "runs": self._create_run,
            "recurringruns": self._create_recurring,
            "experiments": self._create_experiment,
        }
        if not identity:
            return makers[collection](body) if method == "POST" else self._list(collection, table, query)
        if identity not in table:
            return 404, {"message": f"{collection} {identity} not found"}
        if verb:
            return self._change(collection, table[identity], verb)
        if method == "DELETE":
            del table[identity]
            return 200, {}
        return 200, self._refreshed(table[identity]) if collection == "runs" else table[identity]

    def _list(self, collection: str, table: Mapping[str, dict[str, Any]], query: Mapping[str, str]) -> Answer:
        found = list(table.values())
        for predicate in json.loads(query["filter"])["predicates"] if "filter" in query else ():
            assert predicate["operation"] == "EQUALS"
            found = [each for each in found if each[predicate["key"]] == predicate["string_value"]]
        if "experiment_id" in query:
            found = [each for each in found if each["experiment_id"] == query["experiment_id"]]
        if collection == "runs":
            found = [{k: v for k, v in self._refreshed(each).items() if k != "run_details"} for each in found]
        if query.get("sort_by") == "created_at desc":
            found = found[::-1]
        size, start = int(query.get("page_size", 10)), int(query.get("page_token") or 0)
        key = {"recurringruns": "recurringRuns"}.get(collection, collection)
        more = {"next_page_token": str(start + size)} if start + size < len(found) else {}
        return 200, {key: found[start : start + size], **more}

    def _create_experiment(self, body: dict[str, Any]) -> Answer:
        if self.multi_user and not body.get("namespace"):
            return 400, {"message": "Invalid input error: namespace is empty"}
        identity = str(uuid.uuid4())
        self.experiments[identity] = {"experiment_id": identity, "created_at": stamp(), **body}
        return 200, self.experiments[identity]

    def _create_run(self, body: dict[str, Any]) -> Answer:
        if refusal := self._refusal(body):
            return refusal
        identity = str(uuid.uuid4())
        run = {"run_id": identity, "state": "PENDING", "storage_state": "AVAILABLE", "created_at": stamp(), **body}
        self.runs[identity] = run
        self._start(run)
        return 200, run

    def _create_recurring(self, body: dict[str, Any]) -> Answer:
        if refusal := self._refusal(body):
            return refusal
        identity = str(uuid.uuid4())
        status = "ENABLED" if body.get("mode") == "ENABLE" else "DISABLED"
        self.recurring[identity] = {"recurring_run_id": identity, "created_at": stamp(), "status": status, **body}
        return 200, self.recurring[identity]

    def _refusal(self, body: Mapping[str, Any]) -> Answer | None:
        if body.get("experiment_id") not in self.experiments:
            return 400, {"message": "Invalid input error: the experiment does not exist"}
        parameters = json.dumps((body.get("runtime_config") or {}).get("parameters") or {})
        if len(parameters) > 10_000:
            return 400, {"message": "The input parameter length exceed maximum size of 10000"}
        return None

    def _change(self, collection: str, found: dict[str, Any], verb: str) -> Answer:
        if collection == "recurringruns" and verb in ("enable", "disable"):
            found["status"] = {"enable": "ENABLED", "disable": "DISABLED"}[verb]
        elif verb == "terminate":
            if self._refreshed(found)["state"] not in ENDED:
                found["state"] = "CANCELING" if self._running(found) else "CANCELED"
                self._signal(found)
        elif verb == "retry":
            if self._refreshed(found)["state"] not in ("FAILED", "CANCELED"):
                return 400, {"message": "Bad request: the workflow must be Failed/Error to retry"}
            found["state"] = "PENDING"
            self._start(found)
        else:
            return 404, {"message": f":{verb} not found"}
        return 200, {}

    def _start(self, run: dict[str, Any]) -> None:
        """A pod that carries out the pipeline."""
        if self.kubelet is None:
            return
        name = f"{run['display_name']}-{uuid.uuid4().hex[:5]}"
        place = self.scratch / name
        place.mkdir(parents=True)
        pipeline = run["pipeline_spec"]
        documents = [pipeline["pipeline_spec"], *([pipeline["platform_spec"]] if "platform_spec" in pipeline else [])]
        (place / "pipeline.yaml").write_text(yaml.safe_dump_all(documents, sort_keys=False))
        (place / "parameters.json").write_text(json.dumps(run["runtime_config"]["parameters"]))
        (place / "run").write_text(run["run_id"])
        labels = {"app.kubernetes.io/name": "trainworks", "app.kubernetes.io/component": "step"}
        labels |= {"pipeline/runid": run["run_id"]}
        environment = {"KUBECONFIG": str(self.kubeconfig), "KFP_POD_NAME": name, "PYTHONUNBUFFERED": "1"}
        container = {
            "name": "main",
            "command": ["python", "-m", "tests.cluster.fake.steps", str(place)],
            "env": [{"name": key, "value": value} for key, value in environment.items()],
        }
        manifest = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": labels},
            "spec": {"containers": [container], "restartPolicy": "Never"},
        }
        self._pods[run["run_id"]] = name
        self.cluster.create("pods", manifest, self.namespace)

    def _running(self, run: Mapping[str, Any]) -> bool:
        return bool(self.kubelet and self.kubelet.running(self._pods[run["run_id"]]))

    def _signal(self, run: Mapping[str, Any]) -> None:
        if self.kubelet and self._running(run):
            self.kubelet.kill(self._pods[run["run_id"]], 15)

    def _refreshed(self, run: dict[str, Any]) -> dict[str, Any]:
        """A run with what its pod tells by now."""
        name = self._pods.get(run["run_id"])
        if name is None or self.kubelet is None:
            return run
        pod = self.cluster.get("pods", name, self.namespace)
        phase = (pod or {}).get("status", {}).get("phase", "Pending")
        states = {"Pending": "PENDING", "Running": "RUNNING", "Succeeded": "SUCCEEDED", "Failed": "FAILED"}
        if run["state"] in ("CANCELING", "CANCELED"):
            run["state"] = "CANCELED" if phase in ("Succeeded", "Failed") or pod is None else "CANCELING"
        else:
            run["state"] = states[phase]
        if run["state"] in ENDED:
            run.setdefault("finished_at", stamp())
        run["run_details"] = {"task_details": self._tasks(name)}
        return run

    def _tasks(self, name: str) -> list[dict[str, Any]]:
        """The steps, by what kfp's local runner has printed of them."""
        tasks: dict[str, dict[str, Any]] = {}
        try:
            lines = self.kubelet.timed_lines(name) if self.kubelet else []
        except IndexError:
            return []
        for when, line in lines:
            if found := _BEGUN.search(line):
                tasks[found[1]] = {"display_name": found[1], "state": "RUNNING", "start_time": when}
            if (found := _DONE.search(line)) and found[1] in tasks:
                state = "SUCCEEDED" if found[2] == "SUCCESS" else "FAILED"
                tasks[found[1]] |= {"state": state, "end_time": when}
        return list(tasks.values())


def stamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
