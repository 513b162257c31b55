"""A pod's container as a process of this machine: its words, its variables, its end with all that it has started."""

import base64
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.cluster.fake.objects import Object
from tests.cluster.fake.store import Store

ROOT = Path(__file__).parent.parent.parent.parent
MARK = "FAKE_CLUSTER_POD"
"""Variable that every process of a pod has, with the pod's uid and the container's number: how none is left behind"""
HOST = "fake-node"
SWEEP_S = 10.0
_VARIABLE = re.compile(r"\$\((\w+)\)")


def words(pod: Object, environment: Mapping[str, str], folders: Mapping[str, str]) -> list[str]:
    """The container's command line: python is ours, mounted paths are those of the host."""
    container = pod["spec"]["containers"][0]
    given = [*container.get("command", ()), *container.get("args", ())]
    meant = [_VARIABLE.sub(lambda found: environment.get(found[1], found[0]), word) for word in given]
    return [sys.executable if word in ("python", "python3") else moved(word, folders) for word in meant]


def environment(pod: Object, store: Store, folders: Mapping[str, str]) -> dict[str, str]:
    """The container's variables; raises KeyError, with what is missing, for a secret or a map that is not there."""
    found = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    found |= {"PYTHONPATH": str(ROOT)}
    container = pod["spec"]["containers"][0]
    for source in container.get("envFrom", ()):
        for kind, plural in (("secretRef", "secrets"), ("configMapRef", "configmaps")):
            if kind in source:
                found |= _values(pod, store, plural, source[kind])
    for each in container.get("env", ()):
        value = _value(each, pod, store)
        if value is not None:
            found[each["name"]] = moved(value, folders)
    return found


def _value(variable: Mapping[str, Any], pod: Object, store: Store) -> str | None:
    source = variable.get("valueFrom") or {}
    if "fieldRef" in source:
        inside: Any = pod
        for key in source["fieldRef"]["fieldPath"].split("."):
            inside = (inside or {}).get(key)
        return str(inside or "")
    for kind, plural in (("secretKeyRef", "secrets"), ("configMapKeyRef", "configmaps")):
        if kind in source:
            values = _values(pod, store, plural, source[kind])
            if source[kind]["key"] not in values and not source[kind].get("optional"):
                raise KeyError(f"key {source[kind]['key']} of {plural[:-1]} {source[kind]['name']}")
            return values.get(source[kind]["key"])
    return variable.get("value", "")


def _values(pod: Object, store: Store, plural: str, reference: Mapping[str, Any]) -> dict[str, str]:
    found = store.get(plural, pod["metadata"]["namespace"], reference["name"])
    if found is None:
        if reference.get("optional"):
            return {}
        raise KeyError(f"{plural[:-1]} {reference['name']}")
    plain, data = found.get("stringData") or {}, found.get("data") or {}
    if plural == "secrets":
        data = {key: base64.b64decode(value).decode() for key, value in data.items() if key not in plain}
    return {**data, **plain}


def folders(pod: Object, store: Store, volumes: Mapping[str, Path]) -> dict[str, str]:
    """Host folders of claims by the paths where the container has them; raises KeyError for a claim nobody knows."""
    claims = {
        each["name"]: each["persistentVolumeClaim"]["claimName"]
        for each in pod["spec"].get("volumes", ())
        if "persistentVolumeClaim" in each
    }
    for claim in set(claims.values()) - set(volumes):
        if not store.get("persistentvolumeclaims", pod["metadata"]["namespace"], claim):
            raise KeyError(claim)
    mounts = pod["spec"]["containers"][0].get("volumeMounts", ())
    return {
        each["mountPath"]: str(volumes[claims[each["name"]]] / each.get("subPath", ""))
        for each in mounts
        if claims.get(each["name"]) in volumes
    }


def moved(text: str, folders: Mapping[str, str]) -> str:
    """With paths below a mounted one as those of the host."""
    for path, folder in folders.items():
        text = re.sub(rf"(?<![\w./-]){re.escape(path)}(?![\w.-])", lambda found, folder=folder: folder, text)
    return text


def spawn(command: Sequence[str], variables: Mapping[str, str], mark: str) -> subprocess.Popen[bytes]:
    """In a session of its own, marked."""
    return subprocess.Popen(
        command,
        env={**variables, MARK: mark},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def sweep(mark: str) -> None:
    """End all that a container has started, in whatever session: when its first process goes, they all do."""
    deadline = time.monotonic() + SWEEP_S
    while found := list(_marked(f"{MARK}={mark}".encode())):
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {found} do not end")
        time.sleep(0.005)


def _marked(text: bytes) -> Iterator[int]:
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and int(entry) != os.getpid():
            with contextlib.suppress(OSError):
                if text in Path("/proc", entry, "environ").read_bytes().split(b"\0"):
                    yield int(entry)
