"""What the pods of a job are like, whichever kind of object starts them."""

from typing import Any

from configs.cluster import IN_MEMORY, ClusterConfig, NodeConfig
from k8s.job import Job
from k8s.launch import stopping_time

USER = 10001
"""The image's user"""
HEARTBEAT = "/tmp/trainworks-alive"  # noqa: S108  the pod's own
"""What the node agent touches while it lives"""
BEAT_S = 5
"""Seconds between two touches"""
SILENT_S = 120
"""Seconds without one after which the kubelet ends the container"""
STARTING_S = 600
"""Seconds that the first touch may take: a cold start from a slow volume"""
WORKSPACE, SHARED_MEMORY, SCRATCH = "workspace", "shared-memory", "scratch"
RENDEZVOUS_PORT = 23456
NO_SIDECAR = {"sidecar.istio.io/inject": "false"}
"""A proxy would outlive the training, and stand between the ranks"""


def container(job: Job, name: str) -> dict[str, Any]:
    """The one container, as every kind of job can carry it."""
    node = job.run.cluster.node
    return {
        "name": name,
        "image": job.run.cluster.image,
        "imagePullPolicy": "IfNotPresent",
        "command": job.command,
        "env": environment(job),
        "resources": resources(node),
        "securityContext": container_security(node),
        "volumeMounts": mounts(job),
        "startupProbe": alive(period_s=BEAT_S, failures=STARTING_S // BEAT_S),
        "livenessProbe": alive(period_s=SILENT_S // 4, failures=2),
    }


def pod_spec(job: Job, name: str) -> dict[str, Any]:
    """A pod's spec around that container, less what its kind of job decides."""
    cluster = job.run.cluster
    spec = {
        "serviceAccountName": cluster.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": termination_s(job),
        "securityContext": pod_security(),
        "containers": [container(job, name)],
        "volumes": volumes(job),
    }
    return spec | placement(cluster) | spread(job)


def termination_s(job: Job) -> int:
    """Seconds between SIGTERM and the end: the ranks save, and the agent ends what they leave."""
    return int(stopping_time(job.run)) + 15


def environment(job: Job) -> list[dict[str, Any]]:
    """The container's variables: plain ones, and those whose values lie in secrets."""
    plain = {
        "OMP_NUM_THREADS": str(job.run.world.threads),
        "PYTHONUNBUFFERED": "1",
        "PYTHONSAFEPATH": "1",
        "HOME": "/tmp",  # noqa: S108
        "TRAINWORKS_HEARTBEAT": HEARTBEAT,
        **job.environment,
    }
    return [{"name": name, "value": value} for name, value in plain.items()] + secret_environment(job.run.cluster)


def secret_environment(cluster: ClusterConfig) -> list[dict[str, Any]]:
    """Variables whose values lie in secrets, by reference."""
    return [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": secret.name, "key": secret.key}}}
        for name, secret in cluster.secrets.items()
    ]


def resources(node: NodeConfig) -> dict[str, dict[str, str]]:
    """Requests, and limits that equal them."""
    wanted = {"cpu": node.cpu, "memory": node.memory, "ephemeral-storage": node.scratch}
    if node.gpus:
        wanted[node.gpu_resource] = str(node.gpus)
    if node.rdma:
        wanted[node.rdma.resource] = str(node.rdma.count)
    return {"requests": wanted, "limits": dict(wanted)}


def pod_security() -> dict[str, Any]:
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security(node: NodeConfig) -> dict[str, Any]:
    capabilities: dict[str, Any] = {"drop": ["ALL"]}
    if node.rdma:
        capabilities["add"] = ["IPC_LOCK"]  # network cards write to memory that must not be swapped
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": capabilities,
    }


def volumes(job: Job) -> list[dict[str, Any]]:
    """The shared one, /dev/shm in memory, and a place for temporary files as the root is read-only."""
    cluster = job.run.cluster
    shared = job.volume or {"persistentVolumeClaim": {"claimName": cluster.workspace.claim}}
    return [
        {"name": WORKSPACE, **shared},
        {"name": SHARED_MEMORY, "emptyDir": {"medium": IN_MEMORY, "sizeLimit": cluster.node.shared_memory}},
        {"name": SCRATCH, "emptyDir": {"sizeLimit": cluster.node.scratch}},
    ]


def mounts(job: Job) -> list[dict[str, Any]]:
    return [
        {"name": WORKSPACE, "mountPath": job.run.cluster.mount},
        {"name": SHARED_MEMORY, "mountPath": "/dev/shm"},  # noqa: S108
        {"name": SCRATCH, "mountPath": "/tmp"},  # noqa: S108
    ]


def alive(*, period_s: int, failures: int) -> dict[str, Any]:
    """A probe that asks whether the agent has touched its file of late. Nothing of it comes from a configuration."""
    look = f"test -n \"$(find {HEARTBEAT} -newermt '-{SILENT_S} seconds')\""
    return {
        "exec": {"command": ["sh", "-c", look]},
        "periodSeconds": period_s,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def placement(cluster: ClusterConfig) -> dict[str, Any]:
    """On which nodes, and with what rank among those that wait."""
    found: dict[str, Any] = {}
    if cluster.node_selector:
        found["nodeSelector"] = dict(cluster.node_selector)
    if cluster.tolerations:
        found["tolerations"] = tolerations(cluster)
    if cluster.priority:
        found["priorityClassName"] = cluster.priority
    if cluster.pull_secrets:
        found["imagePullSecrets"] = [{"name": name} for name in cluster.pull_secrets]
    return found


def tolerations(cluster: ClusterConfig) -> list[dict[str, str]]:
    found = []
    for each in cluster.tolerations:
        given = {"key": each.key, "operator": "Exists" if each.value is None else "Equal"}
        given |= {} if each.value is None else {"value": each.value}
        found.append(given | ({} if each.effect is None else {"effect": each.effect}))
    return found


def spread(job: Job) -> dict[str, Any]:
    """Pods of the job over the values of a label of nodes, as evenly as can be."""
    if not job.run.cluster.spread:
        return {}
    return {
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": job.run.cluster.spread,
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": job.labels},
            }
        ]
    }
