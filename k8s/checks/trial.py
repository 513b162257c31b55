"""A pod like those of a job, which lives for a moment and tells what it finds: the image, the volume, the way out."""

import contextlib
import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs.cluster import bytes_of
from configs.schema import RunConfig
from k8s.api import EVENTS, PODS, Api, CutError, Object, RefusedError
from k8s.checks import inside
from k8s.checks.demand import access_mode
from k8s.checks.finding import Finding, failed, ok, skipped, unknown
from k8s.job import JOB_PODS, Job
from k8s.pods import NO_SIDECAR, USER, pod_spec

POD = "trial pod"
CONTAINER = "trainworks"
LOOK_S = 2.0
"""Seconds between two looks at the pod"""
LASTING_S = 60
"""Seconds that it runs at most"""
SILENT = ("disabled", "offline")
"""Modes of W&B in which nobody asks for its server"""
HOPELESS = {
    "ImagePullBackOff": "look at the name and digest of cluster.image, and at cluster.pull_secrets",
    "InvalidImageName": "mend cluster.image",
    "ErrImageNeverPull": "load the image onto the machines",
    "CreateContainerConfigError": "make the secrets that cluster.secrets names, with their keys",
    "CreateContainerError": "ask whoever runs the cluster",
}


def try_pod(run: RunConfig, api: Api, *, wait_s: float) -> Iterator[Finding]:
    """Start one, wait until it has told, and delete it whatever happens."""
    pod = trial_pod(run, f"trainworks-doctor-{secrets.token_hex(4)}", wait_s=wait_s)
    name, refused = pod["metadata"]["name"], False
    try:
        try:
            api.create(PODS, pod)
        except RefusedError as error:
            refused = True
            yield failed(
                POD, f"the cluster refuses it: {error}", "mend what it says; --try-pod needs the right to create pods"
            )
            return
        yield from _follow(run, api, name, wait_s)
    finally:
        if not refused:
            api.delete(PODS, name)


def trial_pod(run: RunConfig, name: str, *, wait_s: float) -> dict[str, Any]:
    """The pod: as a job's, less its probes, with our look in place of the training."""
    spec = pod_spec(Job(run, "train", run.cluster.mount, volume=_volume(run)), CONTAINER)
    text = Path(inside.__file__).read_text(encoding="utf-8")
    words = ["python", "-c", text, run.cluster.mount, *([] if run.wandb.mode in SILENT else ["wandb"])]
    spec["containers"][0] |= {"command": words}
    for probe in ("startupProbe", "livenessProbe"):
        del spec["containers"][0][probe]
    spec |= {"restartPolicy": "Never", "activeDeadlineSeconds": int(wait_s) + LASTING_S}
    metadata = {"name": name, "namespace": run.cluster.namespace, "labels": dict(JOB_PODS), "annotations": NO_SIDECAR}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _volume(run: RunConfig) -> dict[str, Any] | None:
    """Without a claim one like what KFP makes, which is gone with the pod."""
    settings = run.cluster.workspace
    if settings.claim is not None:
        return None
    claim: dict[str, Any] = {
        "accessModes": [access_mode(run)],
        "resources": {"requests": {"storage": settings.size}},
    }
    if settings.storage_class:
        claim["storageClassName"] = settings.storage_class
    return {"ephemeral": {"volumeClaimTemplate": {"spec": claim}}}


def _follow(run: RunConfig, api: Api, name: str, wait_s: float) -> Iterator[Finding]:
    """Wait for its end, `wait_s` seconds at most, and read what it told."""
    deadline = time.monotonic() + wait_s
    while True:
        found = api.get(PODS, name)
        if found is None:
            yield failed(POD, "somebody deleted it", "ask whoever runs the cluster what removes pods")
            return
        if (phase := (found.get("status") or {}).get("phase")) in ("Succeeded", "Failed"):
            break
        if (reason := _waiting(found)) in HOPELESS:
            yield failed(POD, f"{reason}: {_why(api, found)}", HOPELESS[reason])
            return
        if time.monotonic() > deadline:
            yield failed(
                POD, f"not started within {wait_s:g} s: {_why(api, found)}", "mend that, or wait longer: --wait"
            )
            return
        api.pause(LOOK_S)
    told = _told(api, name)
    if told is None:
        yield failed(
            POD, f"it {phase.lower()} without a word: {_why(api, found)}", "is cluster.image the one of trainworks?"
        )
        return
    yield ok(POD, "the image was pulled and the pod ran")
    yield from judge(run, told)


def _waiting(pod: Object) -> str:
    """Why its container has not started."""
    for each in (pod.get("status") or {}).get("containerStatuses") or ():
        return ((each.get("state") or {}).get("waiting") or {}).get("reason", "")
    return ""


def _why(api: Api, pod: Object) -> str:
    """What the cluster says last about the pod."""
    status = pod.get("status") or {}
    said = [each.get("message") or "" for each in status.get("conditions") or () if each["status"] == "False"]
    for each in status.get("containerStatuses") or ():
        for state in (each.get("state") or {}).values():
            said.append((state or {}).get("message") or (state or {}).get("reason") or "")
    with contextlib.suppress(RefusedError):  # told without them then
        events = api.list(EVENTS, fields=f"involvedObject.name={pod['metadata']['name']}")[0]
        said += [each.get("message") or "" for each in events if each.get("type") == "Warning"]
    return next((text for text in reversed(said) if text), "the cluster gives no reason")


def _told(api: Api, name: str) -> dict[str, Any] | None:
    """What it printed, as the log has it: each line after its time."""
    with contextlib.suppress(RefusedError, CutError):
        for line in api.log(name):
            _, mark, text = line.decode(errors="replace").partition(inside.MARK)
            if mark:
                return json.loads(text)
    return None


def judge(run: RunConfig, told: dict[str, Any]) -> Iterator[Finding]:
    """What the pod told, against what a run needs."""
    cluster = run.cluster
    size = told["shared_memory_bytes"]
    if size < 0.99 * bytes_of(cluster.node.shared_memory):
        says = f"{size / 2**20:.0f} MiB, though cluster.node.shared_memory={cluster.node.shared_memory}"
        yield failed("pod's /dev/shm", says, "is something of the cluster changing volumes of pods?")
    else:
        yield ok("pod's /dev/shm", f"{size / 2**30:.3g} GiB")
    for name, what, remedy in (
        ("workspace", "the shared volume", f"give it to group {USER}, or use a class that honours fsGroup"),
        ("scratch", "/tmp", "is something of the cluster changing volumes of pods?"),  # noqa: S108
    ):
        wrong = told[name]
        yield failed(f"pod's {name}", wrong, remedy) if wrong else ok(f"pod's {name}", f"{what} can be written")
    if told["user"] != USER:
        yield failed(
            "pod's user", f"it is {told['user']}, not {USER}", "is something of the cluster changing pods' users?"
        )
    else:
        yield ok("pod's user", str(USER))
    if told["gpus"] < cluster.node.gpus:
        says = f"{told['gpus']} are seen, cluster.node.gpus={cluster.node.gpus}"
        yield failed("pod's GPUs", says, "is the machine's device plugin and container runtime set up for them?")
    yield _wandb(run, told)


def _wandb(run: RunConfig, told: dict[str, Any]) -> Finding:
    name = "pod's W&B"
    if run.wandb.mode in SILENT:
        return skipped(name, f"wandb.mode={run.wandb.mode}")
    if told["wandb"]:
        return ok(name, "its server answers")
    if run.wandb.mode == "auto":
        return unknown(
            name, "its server does not answer: the run would stay offline", "open the way out, if it is wanted"
        )
    return failed(
        name, "its server does not answer", "open the way out in the NetworkPolicy, or use wandb.mode=offline"
    )
