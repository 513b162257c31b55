"""The pods of jobs: made of a template with what an operator adds to it, and read."""

import contextlib
import random
import socket
from typing import Any

from tests.cluster.fake.objects import Object

OWNED = {"PyTorchJob": "training.kubeflow.org/job-name", "TrainJob": "jobset.sigs.k8s.io/jobset-name"}
"""The label of pods that names their job, by its kind"""
ALIVE = ("Pending", "Running")


def pod_of(job: Object, name: str, template: Object, labels: dict[str, str], variables: dict[str, str]) -> Object:
    """A pod of a template."""
    spec = {**template["spec"], "containers": [dict(each) for each in template["spec"]["containers"]]}
    added = [{"name": key, "value": value} for key, value in variables.items()]
    spec["containers"][0]["env"] = [*spec["containers"][0].get("env", ()), *added]
    owner = {"apiVersion": job["apiVersion"], "kind": job["kind"], "name": job["metadata"]["name"]}
    metadata = template.get("metadata") or {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {**metadata.get("labels", {}), **labels},
            "annotations": metadata.get("annotations", {}),
            "ownerReferences": [{**owner, "uid": job["metadata"]["uid"], "controller": True}],
        },
        "spec": spec,
        "status": {"phase": "Pending"},
    }


def owned(pod: Object, job: Object) -> bool:
    return any(each["uid"] == job["metadata"]["uid"] for each in pod["metadata"].get("ownerReferences", ()))


def phase(pod: Object | None) -> str:
    return ((pod or {}).get("status") or {}).get("phase", "")


def exit_code(pod: Object) -> int | None:
    """None where no container has told one, as when its node gave the pod up."""
    states: Any = (each.get("state", {}).get("terminated") for each in pod["status"].get("containerStatuses", ()))
    return next((each["exitCode"] for each in states if each), None)


def restarts(pod: Object) -> int:
    return sum(each.get("restartCount", 0) for each in (pod.get("status") or {}).get("containerStatuses", ()))


BELOW = 32_000
"""From the next thousand on, the system gives ports to connections that go out: one of those could take a job's port"""


class Ports:
    """Where the ranks of each job meet: a port that was free together with the next one, the same for all its pods."""

    def __init__(self) -> None:
        self._of: dict[str, int] = {}

    def of(self, job: Object) -> str:
        uid = job["metadata"]["uid"]
        if uid not in self._of:
            self._of[uid] = _free_pair()
        return str(self._of[uid])


def _free_pair() -> int:
    while True:
        port = random.randrange(15_000, BELOW)
        with socket.socket() as first, socket.socket() as second, contextlib.suppress(OSError):
            first.bind(("127.0.0.1", port))
            second.bind(("127.0.0.1", port + 1))
            return port
