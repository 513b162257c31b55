"""What a cluster is told of the pipeline's steps beside their code: resources, volume, secrets, labels, retries."""

from typing import Any

from kfp import dsl, kubernetes

from configs.cluster import IN_MEMORY, ClusterConfig
from configs.schema import RunConfig
from k8s.checks.demand import access_mode
from k8s.job import LABEL
from k8s.pods import SHARED_MEMORY, USER

LONGEST_RETRYING = "604800s"
"""Counted from the first start: KFP's hour would be over before a training fails"""
STEP_PODS = {"app.kubernetes.io/name": "trainworks", "app.kubernetes.io/component": "step"}


def pipeline_config(run: RunConfig) -> dsl.PipelineConfig:
    """The volume that KFP makes for each pipeline run, unless there is a claim. Every step and node writes to it."""
    place = run.cluster.workspace
    if place.claim is not None:
        return dsl.PipelineConfig()
    patch: dict[str, Any] = {"accessModes": [access_mode(run)]}
    if place.storage_class is not None:
        patch["storageClassName"] = place.storage_class
    kubernetes_part = dsl.KubernetesWorkspaceConfig(pvcSpecPatch=patch)
    return dsl.PipelineConfig(workspace=dsl.WorkspaceConfig(size=place.size, kubernetes=kubernetes_part))


def workspace_of(cluster: ClusterConfig) -> str:
    """The path of the shared volume, or what KFP puts the path of its own for."""
    return dsl.WORKSPACE_PATH_PLACEHOLDER if cluster.workspace.claim is None else cluster.workspace.path


def describe_task(task: Any, cluster: ClusterConfig, labels: dict[str, str], retries: int) -> None:
    """One step's pod: never a GPU, for what trains is its job."""
    step = cluster.step
    task.set_caching_options(False)  # the stages know by digest what is complete; KFP cannot
    task.set_cpu_request(step.cpu).set_cpu_limit(step.cpu)
    task.set_memory_request(step.memory).set_memory_limit(step.memory)
    task.set_env_variable("HOME", "/tmp")  # noqa: S108
    if retries:
        task.set_retry(retries, backoff_max_duration=LONGEST_RETRYING)
    if cluster.workspace.claim is not None:
        kubernetes.mount_pvc(task, cluster.workspace.claim, cluster.workspace.path)
    for variable, secret in cluster.secrets.items():
        kubernetes.use_secret_as_env(task, secret.name, {secret.key: variable})
    if cluster.pull_secrets:
        kubernetes.set_image_pull_secrets(task, [*cluster.pull_secrets])
    kubernetes.set_image_pull_policy(task, "IfNotPresent")
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
    for name, value in (STEP_PODS | labels).items():
        kubernetes.add_pod_label(task, name, value)


def give_a_node(task: Any, cluster: ClusterConfig) -> None:
    """A step that trains in its own pod: what one node of a job has."""
    node = cluster.node
    task.set_cpu_request(node.cpu).set_cpu_limit(node.cpu)
    task.set_memory_request(node.memory).set_memory_limit(node.memory)
    if node.gpus:
        task.set_accelerator_type(node.gpu_resource).set_accelerator_limit(node.gpus)
    kubernetes.empty_dir_mount(task, SHARED_MEMORY, "/dev/shm", IN_MEMORY, node.shared_memory)  # noqa: S108
    for name, value in cluster.node_selector.items():
        kubernetes.add_node_selector(task, name, value)
    for each in cluster.tolerations:
        operator = "Exists" if each.value is None else "Equal"
        kubernetes.add_toleration(task, each.key, operator, each.value, each.effect)


def labels_of(run: RunConfig) -> dict[str, str]:
    """What joins the steps' pods with the jobs of a run; KFP adds its own run's identity."""
    return {f"{LABEL}run": run.name}
