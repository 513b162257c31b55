"""The node of the fake cluster: every pod is a process of this machine, with its phases, its log and its end."""

import contextlib
import fnmatch
import functools
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

from tests.cluster.fake import podstatus
from tests.cluster.fake.api import FakeCluster
from tests.cluster.fake.container import environment, folders, words
from tests.cluster.fake.objects import Object, StatusError, copied
from tests.cluster.fake.podstatus import UNSCHEDULABLE, Status
from tests.cluster.fake.program import JOIN_S, Program

GRACE_S = 30


class Started(NamedTuple):
    """A pod, and how its program will have ended: its exit code; cancelled if it goes before it has begun."""

    pod: Object
    code: "Future[int]"


class Kubelet:
    """Starts, follows and ends the pods of a cluster; `hold` keeps some from starting. A context manager.

    `volumes` names host folders by claim: in command lines and variables of pods that mount one, paths below the mount
    become those of the host; a claim that is neither there nor an object keeps a pod from starting. Without `volumes`
    pods see paths as they are. A pod without `restartPolicy` has Never.
    The store is never called under a lock of the kubelet: it calls back.
    """

    def __init__(self, cluster: FakeCluster, *, volumes: Mapping[str, Path] | None = None) -> None:
        self.cluster, self.store, self.volumes = cluster, cluster.store, volumes
        self.backoff_s = 0.3
        """Before a container is started again in its pod"""
        self._pods: dict[str, Program] = {}
        self._held: list[tuple[str, str, str]] = []
        self._lock = threading.RLock()
        self._threads: set[threading.Thread] = set()
        self._closed = False
        cluster.logs = self._log
        self.store.graceful = self._is_graceful
        self.store.listeners.append(self._heard)

    def __enter__(self) -> "Kubelet":
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing that it started is left."""
        self.store.listeners.remove(self._heard)
        with self._lock:
            self._closed = True
            programs, threads = list(self._pods.values()), list(self._threads)
        for program in programs:
            program.leaving.set()
            program.signal(signal.SIGKILL)
        for thread in threads:
            thread.join(JOIN_S)
        self.store.graceful = lambda found: False

    def hold(self, pattern: str, reason: str | None = UNSCHEDULABLE, message: str = "0/1 nodes are available") -> None:
        """Keep pods whose names match from starting, for a reason that their status gives, if any."""
        with self._lock:
            self._held.append((pattern, reason or "", message))

    def release(self) -> None:
        """Start what was held."""
        with self._lock:
            self._held.clear()
        self._retry()

    def run_pod(
        self, manifest: Mapping[str, Any], command: Sequence[str], variables: Mapping[str, str], namespace: str
    ) -> Started:
        """A pod with this command line and more variables; deleted like any other."""
        pod = copied(manifest)
        container = pod["spec"].setdefault("containers", [{}])[0]
        added = [{"name": key, "value": value} for key, value in variables.items()]
        container |= {"command": list(command), "args": [], "env": [*container.get("env", ()), *added]}
        container.setdefault("name", "main")
        made = self.cluster.create("pods", {"apiVersion": "v1", "kind": "Pod", **pod}, namespace)
        with self._lock:
            return Started(made, self._pods[made["metadata"]["uid"]].code)

    def kill(self, name: str, number: int = signal.SIGKILL, *, reason: str = "") -> None:
        """Send a pod's program a signal; `reason` is that of the container's end."""
        program = self._named(name)
        program.reason = reason
        program.signal(number)

    def oom(self, name: str) -> None:
        """As the kernel does to a container that wants more memory than its limit."""
        self.kill(name, reason="OOMKilled")

    def evict(self, name: str, *, pressure: str = "") -> None:
        """As a drain does: the pod is marked, has its grace, and goes. `pressure`, such as "The node was low on
        resource: memory.", says why its node gives it up: then it fails, and stays to be seen."""
        program = self._named(name)
        if pressure:
            program.evicted = pressure
            return self._in_thread(self._end, program, program.pod)
        condition = podstatus.disrupted("EvictionByEvictionAPI", "Eviction API: evicting")
        place = ("pods", program.namespace, name)
        self.store.change(
            *place, lambda pod: pod.setdefault("status", {}).setdefault("conditions", []).append(condition)
        )
        self.store.delete(*place)
        return None

    def lose(self, name: str) -> None:
        """As a node that vanished: the program is gone, and so is the object, without a word."""
        program = self._named(name)
        self.store.remove("pods", program.namespace, name)
        program.signal(signal.SIGKILL)

    def running(self, name: str) -> bool:
        with self._lock:
            return any(each.process and not each.ended for each in self._pods.values() if each.name == name)

    def lines(self, name: str) -> list[str]:
        """What the newest pod of a name has printed."""
        return [line for _, line in self.timed_lines(name)]

    def timed_lines(self, name: str) -> list[tuple[str, str]]:
        """The same, each with its time."""
        return [(when, line.decode("utf-8", "replace")) for when, line in self._named(name).log.lines]

    def _named(self, name: str) -> Program:
        with self._lock:
            return [each for each in self._pods.values() if each.name == name][-1]

    def _in_thread(self, call: Callable[..., None], *arguments: Any) -> None:
        def carry_out() -> None:
            try:
                call(*arguments)
            finally:
                with self._lock:
                    self._threads.discard(thread)

        thread = threading.Thread(target=carry_out, daemon=True, name=f"kubelet {call.__name__}")
        with self._lock:  # who joins it finds it started
            self._threads.add(thread)
            thread.start()

    def _heard(self, kind: str, found: Object) -> None:
        if found.get("kind") in ("Secret", "ConfigMap") and kind == "ADDED":
            return self._retry()
        if found.get("kind") != "Pod" or not found["spec"].get("containers"):
            return None  # one without containers stands for a process that somebody else has started
        uid = found["metadata"]["uid"]
        with self._lock:
            if kind == "ADDED":
                self._pods[uid] = Program(found)
            program = self._pods.get(uid)
        if program is None:
            return None
        if kind == "ADDED":
            self._in_thread(self._begin, program)
        elif kind == "DELETED":
            self._in_thread(self._vanish, program)
        elif "deletionTimestamp" in found["metadata"] and not program.leaving.is_set():
            program.leaving.set()
            self._in_thread(self._end, program, found)
        return None

    def _is_graceful(self, found: Object) -> bool:
        with self._lock:
            program = self._pods.get(found["metadata"]["uid"])
            return program is not None and program.begun and not program.ended

    def _retry(self) -> None:
        with self._lock:
            waiting = [each for each in self._pods.values() if not each.begun and not each.leaving.is_set()]
        for each in waiting:
            self._in_thread(self._begin, each)

    def _begin(self, program: Program) -> None:
        """Start a pod's program and stay with it, unless something keeps it from starting."""
        pod = program.pod
        with self._lock:
            held = next((each for each in self._held if fnmatch.fnmatch(program.name, each[0])), None)
        if held:
            return self._status(program, podstatus.held(pod, *held[1:]), only_before=True)
        try:
            mounted = folders(pod, self.store, self.volumes) if self.volumes is not None else {}
        except KeyError as error:
            message = f"persistentvolumeclaim {error} not found"
            return self._status(program, podstatus.held(pod, UNSCHEDULABLE, message), only_before=True)
        try:
            variables = environment(pod, self.store, mounted)
        except KeyError as error:
            status = podstatus.waiting(pod, "CreateContainerConfigError", f"{error.args[0]} not found")
            return self._status(program, status, only_before=True)
        with self._lock:
            if program.begun or program.leaving.is_set() or self._closed:
                return None
            program.begun = True
        return self._live(program, words(pod, variables, mounted), variables)

    def _live(self, program: Program, command: Sequence[str], variables: Mapping[str, str]) -> None:
        """The container, again and again where the pod wants it so, to the end."""
        policy, number = program.pod["spec"].get("restartPolicy", "Never"), 0
        tell = functools.partial(self._status, program)
        last = program.carry_out(command, variables, tell)
        while True:
            again = policy == "Always" or (policy == "OnFailure" and last["exitCode"] != 0)
            if not again or program.leaving.is_set():
                break
            message = f"back-off {self.backoff_s:g}s restarting failed container"
            status = podstatus.waiting(program.pod, "CrashLoopBackOff", message, last=last, restarts=number)
            tell(status)
            if program.leaving.wait(self.backoff_s):
                break
            number += 1
            last = program.carry_out(command, variables, tell, number=number, last=last)
        with self._lock:
            program.ended = True
        tell(podstatus.ended(program.pod, last, restarts=number, evicted=program.evicted))
        program.over.set()
        program.code.set_result(last["exitCode"])
        found = self.store.get("pods", program.namespace, program.name)
        if found and found["metadata"]["uid"] == program.pod["metadata"]["uid"]:
            self._leave(found)

    def _end(self, program: Program, pod: Object) -> None:
        """A pod is to go: SIGTERM, its grace, SIGKILL."""
        program.leaving.set()
        program.signal(signal.SIGTERM, only_first=True)
        grace = pod["metadata"].get("deletionGracePeriodSeconds", pod["spec"].get("terminationGracePeriodSeconds"))
        if program.begun and not program.over.wait(GRACE_S if grace is None else grace):
            program.signal(signal.SIGKILL)

    def _vanish(self, program: Program) -> None:
        """The object is gone, and with it what may still run."""
        program.leaving.set()
        program.signal(signal.SIGKILL)
        with self._lock:
            if program.begun:
                return
        program.code.cancel()
        program.log.end()

    def _leave(self, pod: Object) -> None:
        """Remove the object of a pod that has ended and was to go."""
        if "deletionTimestamp" in pod["metadata"]:
            self.store.remove("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])

    def _status(self, program: Program, status: Status, *, only_before: bool = False) -> None:
        """Write a status, if this pod is still there; `only_before` it has begun."""

        def edit(pod: Object) -> None:
            same = pod["metadata"]["uid"] == program.pod["metadata"]["uid"]
            if same and not (only_before and program.begun):
                podstatus.written(pod, status)

        with contextlib.suppress(StatusError):
            self.store.change("pods", program.namespace, program.name, edit)

    def _log(self, pod: Object, query: Mapping[str, str]) -> Iterator[bytes]:
        with self._lock:
            program = self._pods.get(pod["metadata"]["uid"])
        if program is None:
            return iter(())
        return program.read(query)
