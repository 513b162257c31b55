"""Where and how a run goes on a Kubernetes cluster: laid over any experiment, as configs/clusters/*.yaml are."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from configs.dataset import Config, Count

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
"""A DNS-1123 label, as most objects of Kubernetes are named"""
DottedName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
Size = Annotated[str, Field(pattern=r"^[1-9]\d*(Mi|Gi|Ti)$")]
Cores = Annotated[str, Field(pattern=r"^([1-9]\d*m?|\d*\.\d+)$")]
Seconds = Annotated[int, Field(ge=1)]
Tries = Annotated[int, Field(ge=0)]
ResourceName = Annotated[str, Field(pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$")]
LabelName = Annotated[str, Field(pattern=r"^([a-z0-9.-]+/)?[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]

IN_MEMORY = "Memory"
SUFFIXES = {"Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
KFP_VOLUME = "kfp-workspace"
"""Where KFP mounts the volume that it makes for one pipeline run"""


def bytes_of(size: str) -> int:
    """`16Gi` as a number of bytes."""
    return int(size[:-2]) * SUFFIXES[size[-2:]]


def _image_is_fixed(cluster: Any) -> str | None:
    if not cluster.image.endswith(":latest"):
        return None
    return f"image={cluster.image} moves under a run; name a version or a digest"


def _claim_is_as_it_is(workspace: Any) -> str | None:
    if workspace.claim is None or workspace.storage_class is None:
        return None
    return "workspace.claim names a volume that exists, so workspace.storage_class has no effect; give one of them"


def _memory_holds_the_shared(node: Any) -> str | None:
    if bytes_of(node.shared_memory) < bytes_of(node.memory):
        return None
    return f"shared_memory={node.shared_memory} counts against memory={node.memory}, and must be less"


class RdmaConfig(Config):
    """Network cards for direct memory access between nodes."""

    resource: ResourceName
    """As the cluster's device plugin names it, such as rdma/hca_shared_devices_a"""
    count: Count = 1
    """Of them for each node"""


class NodeConfig(Config):
    """What one node of a job is given: requested and limited alike, so that it is evicted last."""

    rules: ClassVar = (_memory_holds_the_shared,)

    gpus: Annotated[int, Field(ge=0)] = 0
    """One for each rank of the node; 0 trains on CPU"""
    gpu_resource: ResourceName = "nvidia.com/gpu"
    """As the cluster's device plugin names it"""
    cpu: Cores = "2"
    """Cores, such as 8 or 500m"""
    memory: Size = "8Gi"
    """Of the machine, not of its GPUs"""
    shared_memory: Size = "2Gi"
    """What /dev/shm holds, counted against memory; a container's usual 64 MB end in bus errors"""
    scratch: Size = "10Gi"
    """What /tmp holds, on the node's disk: the only place outside of the volume that can be written"""
    rdma: RdmaConfig | None = None
    """Network cards, where the nodes have them"""


class WorkspaceConfig(Config):
    """The volume that all steps and nodes share."""

    rules: ClassVar = (_claim_is_as_it_is,)

    claim: DottedName | None = None
    """A claim that exists, and outlives the pipeline run; without one KFP makes a volume for each pipeline run"""
    path: Annotated[str, Field(pattern=r"^/[^\s:]+$")] = "/workspace"
    """Where a claim is mounted in each pod"""
    size: Size = "10Gi"
    """Of the volume that KFP makes"""
    storage_class: DottedName | None = None
    """Of the volume that KFP makes; the cluster's own when not given. Several nodes need one with ReadWriteMany"""


class StepConfig(Config):
    """What the pod of a step is given: it prepares data, or waits for the job, which has pods of its own."""

    cpu: Cores = "1"
    """Cores"""
    memory: Size = "4Gi"
    """Of the machine"""


class SecretConfig(Config):
    """A value that lies in a secret of the cluster, and never in a configuration."""

    name: DottedName
    """The secret's name"""
    key: Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9]+$")]
    """Which of its values"""


class TolerationConfig(Config):
    """A taint of nodes that the job's pods may be put on."""

    key: LabelName
    """The taint's key"""
    value: str | None = None
    """The taint's value; any when not given"""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """The taint's effect; all when not given"""


class PatienceConfig(Config):
    """How long a launcher waits, and how often it starts again."""

    pending_s: Seconds | None = None
    """Seconds that pods may wait for a node to run on, beside those in a queue, which are never counted; no limit when
    not given
    """
    stall_s: Seconds = 900
    """Seconds that a started job may be without a sign: a pod that cannot start, ranks that print nothing"""
    deadline_s: Seconds | None = None
    """Seconds that the job may run, those in the queue aside; no limit when not given"""
    outage_s: Seconds = 1800
    """Seconds that the cluster's API may stay away"""
    evictions: Tries = 50
    """Starts after pods that the cluster took away, until one brings no new checkpoint this many times in a row; starts
    after a crash are counted by world.restarts
    """
    keep_failed_s: Seconds = 86400
    """Seconds that the object of a failed job stays, to be looked at"""


class PipelinesConfig(Config):
    """Where Kubeflow Pipelines answers."""

    namespace: Name = "kubeflow"
    """Where it is installed; it is reached through the cluster's API"""
    url: Annotated[str, Field(pattern=r"^https?://\S+$")] | None = None
    """Its own address, when it is not reached through the cluster's API"""
    experiment: str = "trainworks"
    """What its pages file the runs under"""


class ClusterConfig(Config):
    """Where and how a run goes on a cluster."""

    rules: ClassVar = (_image_is_fixed,)

    image: Annotated[str, Field(pattern=r"^[^\s:@]+(:\d+)?(/[^\s:@]+)*(:[^\s:@]+|@sha256:[0-9a-f]{64})$")] = (
        "trainworks:0.1.0"
    )
    """Container image with a fixed tag or a digest, which `submit` asks for; tag `latest` is refused"""
    context: str | None = None
    """Which context of the kubeconfig; its current one when not given"""
    namespace: Name = "trainworks"
    """Where the pipeline runs and its jobs live"""
    pipelines: PipelinesConfig = PipelinesConfig()
    """Kubeflow Pipelines"""
    job: Literal["pytorchjob", "trainjob"] = "pytorchjob"
    """Kind of the job's object: PyTorchJob (training-operator 1.x), or TrainJob (Kubeflow Trainer 2.2 or newer)"""
    runtime: Name = "torch-distributed"
    """Training runtime that a TrainJob refers to"""
    nodes: Count = 1
    """Pods of a job, which share world.processes evenly"""
    node: NodeConfig = NodeConfig()
    """What each of them is given"""
    step: StepConfig = StepConfig()
    """What the pods of the pipeline's steps are given"""
    workspace: WorkspaceConfig = WorkspaceConfig()
    """The volume with the run folder"""
    queue: Name | None = None
    """Kueue's LocalQueue that admits the job; without one it starts at once"""
    priority: DottedName | None = None
    """PriorityClass of a PyTorchJob's pods; WorkloadPriorityClass of a TrainJob"""
    node_selector: dict[LabelName, str] = Field(default_factory=dict)
    """Labels that a node must have"""
    tolerations: tuple[TolerationConfig, ...] = ()
    """Taints that a node may have"""
    spread: LabelName | None = None
    """Label of nodes over whose values the pods are spread, such as kubernetes.io/hostname"""
    service_account: Name = "trainworks-job"
    """Of the job's pods, which need no rights"""
    secrets: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], SecretConfig] = Field(
        default_factory=dict
    )
    """Environment variables of the pods whose values lie in secrets, such as WANDB_API_KEY"""
    pull_secrets: tuple[DottedName, ...] = ()
    """Secrets for the registry of the image"""
    patience: PatienceConfig = PatienceConfig()
    """How long is waited, and how often started again"""

    @property
    def image_digest(self) -> str | None:
        """The image's digest, when it is named by one."""
        return self.image.partition("@")[2] or None

    @property
    def mount(self) -> str:
        """Where the shared volume is mounted."""
        return f"/{KFP_VOLUME}" if self.workspace.claim is None else self.workspace.path
