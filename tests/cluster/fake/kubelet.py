"""The node of the fake cluster: every pod is a process of this machine, with its phases, its log and its end."""

import contextlib
import fnmatch
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.cluster.fake.api import FakeCluster
from tests.cluster.fake.objects import Object, StatusError

ROOT = Path(__file__).parent.parent.parent.parent
HOST = "fake-node"
UNSCHEDULABLE = "Unschedulable"


@dataclass
class Running:
    """A pod's process, its lines with their times, and what is to be said of its end."""

    pod: Object
    process: subprocess.Popen[bytes] | None = None
    lines: list[tuple[str, bytes]] = field(default_factory=list)
    news: threading.Condition = field(default_factory=threading.Condition)
    ended: bool = False
    reason: str = ""
    """Of the container's end, such as OOMKilled; that of its exit code when empty"""
    lost: bool = False
    """Whether the pod's object went before it"""


class Kubelet:
    """Starts, follows and ends the pods of a cluster; `hold` keeps some from starting. A context manager."""

    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster, self.store = cluster, cluster.store
        self._pods: dict[str, Running] = {}
        self._held: list[tuple[str, str, str]] = []
        self._lock = threading.RLock()
        cluster.logs = self._log
        self.store.graceful = self._is_graceful
        self.store.listeners.append(self._heard)

    def __enter__(self) -> "Kubelet":
        return self

    def __exit__(self, *error: object) -> None:
        self.store.listeners.remove(self._heard)
        for running in list(self._pods.values()):
            self._signal(running, signal.SIGKILL)

    def hold(self, pattern: str, reason: str = UNSCHEDULABLE, message: str = "0/1 nodes are available") -> None:
        """Keep pods whose names match from starting, for a reason that their status gives."""
        with self._lock:
            self._held.append((pattern, reason, message))

    def release(self) -> None:
        """Start what was held."""
        with self._lock:
            self._held.clear()
            waiting = [each for each in self._pods.values() if each.process is None and not each.ended]
        for each in waiting:
            self._begin(each)

    def kill(self, name: str, number: int = signal.SIGKILL, *, reason: str = "") -> None:
        """Send a pod's program a signal; `reason` is that of the container's end."""
        running = self._named(name)
        running.reason = reason
        self._signal(running, number)

    def evict(self, name: str) -> None:
        """As a drain does: the pod is marked, has its grace, and goes."""
        running = self._named(name)
        place = ("pods", running.pod["metadata"]["namespace"], name)
        condition = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
        self.store.change(*place, lambda pod: pod["status"].setdefault("conditions", []).append(condition))
        self.store.delete(*place)

    def lose(self, name: str) -> None:
        """As a node that vanished: the program is gone, and so is the object, without a word."""
        running = self._named(name)
        running.lost = True
        self._signal(running, signal.SIGKILL)
        self.store.remove("pods", running.pod["metadata"]["namespace"], name)

    def running(self, name: str) -> bool:
        with self._lock:
            return any(each.process and not each.ended for each in self._pods.values() if _name(each.pod) == name)

    def lines(self, name: str) -> list[str]:
        """What the newest pod of a name has printed."""
        return [line.decode("utf-8", "replace") for _, line in self._named(name).lines]

    def _named(self, name: str) -> Running:
        with self._lock:
            return [each for each in self._pods.values() if _name(each.pod) == name][-1]

    def _heard(self, kind: str, pod: Object) -> None:
        if pod.get("kind") != "Pod" or not pod["spec"].get("containers"):
            return  # one without containers stands for a process that somebody else has started
        uid = pod["metadata"]["uid"]
        with self._lock:
            if kind == "ADDED":
                self._pods[uid] = Running(pod)
                threading.Thread(target=self._begin, args=(self._pods[uid],), daemon=True).start()
            elif "deletionTimestamp" in pod["metadata"] and kind == "MODIFIED" and uid in self._pods:
                threading.Thread(target=self._end, args=(self._pods[uid], pod), daemon=True).start()

    def _is_graceful(self, found: Object) -> bool:
        if found.get("kind") != "Pod":
            return False
        with self._lock:
            running = self._pods.get(found["metadata"]["uid"])
            return running is not None and running.process is not None and not running.ended

    def _begin(self, running: Running) -> None:
        """Start a pod's program, unless it is held. The store is never called under the lock: it calls back."""
        pod = running.pod
        container = pod["spec"]["containers"][0]
        try:
            environment = self._environment(pod)
        except KeyError as error:
            waiting = {"reason": "CreateContainerConfigError", "message": f"secret {error} not found"}
            return self._status(running, _waiting_status(waiting))
        with self._lock:
            if running.process is not None or running.ended:
                return None
            held = next((each for each in self._held if fnmatch.fnmatch(_name(pod), each[0])), None)
            if not held:
                running.process = _spawn([*container["command"], *container.get("args", ())], environment)
        if held:
            return self._status(running, _held_status(*held[1:]))
        state = {"running": {"startedAt": _stamp()}}
        self._status(running, {"phase": "Running", "containerStatuses": [{"name": container["name"], "state": state}]})
        threading.Thread(target=self._follow, args=(running,), daemon=True).start()
        return None

    def _environment(self, pod: Object) -> dict[str, str]:
        """The container's variables; raises KeyError for a secret that is not there."""
        found = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        found |= {"PYTHONPATH": str(ROOT)}
        for each in pod["spec"]["containers"][0].get("env", ()):
            if "value" in each:
                found[each["name"]] = each["value"]
            elif "secretKeyRef" in each["valueFrom"]:
                reference = each["valueFrom"]["secretKeyRef"]
                secret = self.store.get("secrets", pod["metadata"]["namespace"], reference["name"])
                if secret is None:
                    raise KeyError(reference["name"])
                found[each["name"]] = secret["stringData"][reference["key"]]
        return found

    def _follow(self, running: Running) -> None:
        """Keep what the program prints, and say how it ended."""
        assert running.process
        assert running.process.stdout
        with running.process.stdout as output:
            for line in output:
                with running.news:
                    running.lines.append((_stamp(), line.rstrip(b"\n")))
                    running.news.notify_all()
        code = running.process.wait()
        code = code if code >= 0 else 128 - code
        reason = running.reason or ("Completed" if code == 0 else "Error")
        state = {"terminated": {"exitCode": code, "reason": reason, "finishedAt": _stamp()}}
        name = running.pod["spec"]["containers"][0]["name"]
        phase = "Failed" if code else "Succeeded"
        with self._lock:
            running.ended = True
        with running.news:
            running.news.notify_all()
        self._status(running, {"phase": phase, "containerStatuses": [{"name": name, "state": state}]})
        found = self.store.get("pods", running.pod["metadata"]["namespace"], _name(running.pod))
        if found and found["metadata"]["uid"] == running.pod["metadata"]["uid"]:
            self._leave(found)

    def _end(self, running: Running, pod: Object) -> None:
        """A pod is to go: SIGTERM, its grace, SIGKILL."""
        if running.process is None or running.ended:
            return self._leave(pod)
        self._signal(running, signal.SIGTERM, only_first=True)
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.process.wait(pod["spec"].get("terminationGracePeriodSeconds", 30))
        self._signal(running, signal.SIGKILL)
        return None

    def _leave(self, pod: Object) -> None:
        """Remove the object of a pod that has ended and was to go."""
        if "deletionTimestamp" in pod["metadata"]:
            self.store.remove("pods", pod["metadata"]["namespace"], _name(pod))

    def _signal(self, running: Running, number: int, *, only_first: bool = False) -> None:
        if running.process is None or running.ended:
            return
        with contextlib.suppress(ProcessLookupError):
            if only_first:
                running.process.send_signal(number)  # as a container's first process gets it
            else:
                os.killpg(running.process.pid, number)

    def _status(self, running: Running, status: Mapping[str, Any]) -> None:
        def edit(pod: Object) -> None:
            if pod["metadata"]["uid"] == running.pod["metadata"]["uid"]:
                old = pod.get("status", {}).get("conditions", [])
                pod["status"] = {"conditions": old, **status}
                if status["phase"] != "Pending":
                    pod["spec"]["nodeName"] = HOST

        if not running.lost:
            with contextlib.suppress(StatusError):
                self.store.change("pods", running.pod["metadata"]["namespace"], _name(running.pod), edit)

    def _log(self, pod: Object, query: Mapping[str, str]) -> Iterator[bytes]:
        """A pod's lines from a time on, and those that come while it runs."""
        running = self._pods.get(pod["metadata"]["uid"])
        if running is None:
            return
        given, stamps = 0, query.get("timestamps") == "true"
        since = query.get("sinceTime", "").rstrip("Z")
        while True:
            with running.news:
                if given >= len(running.lines):
                    if running.ended or query.get("follow") != "true":
                        return
                    running.news.wait(0.5)
                lines = running.lines[given:]
            given += len(lines)
            for stamp, line in lines:
                if stamp[: len(since)] >= since:
                    yield (stamp.encode() + b" " if stamps else b"") + line + b"\n"


def _spawn(words: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable if word in ("python", "python3") else word for word in words],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _held_status(reason: str, message: str) -> dict[str, Any]:
    if reason == UNSCHEDULABLE:
        condition = {"type": "PodScheduled", "status": "False", "reason": reason, "message": message}
        return {"phase": "Pending", "conditions": [condition]}
    return _waiting_status({"reason": reason, "message": message})


def _waiting_status(waiting: Mapping[str, str]) -> dict[str, Any]:
    return {"phase": "Pending", "conditions": [], "containerStatuses": [{"state": {"waiting": dict(waiting)}}]}


def _name(pod: Object) -> str:
    return pod["metadata"]["name"]


def _stamp() -> str:
    return datetime.fromtimestamp(time.time(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
