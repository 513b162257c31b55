"""Every configuration class but those of the data and of the families, and the run that holds them all."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from configs import rules
from configs.dataset import Config, Count, DataConfig, Positive
from configs.diffusion import DiffusionConfig
from configs.language import (
    CausalLMConfig,
    MaskedLMConfig,
    SequenceClassificationConfig,
    TokenClassificationConfig,
)
from configs.optimisation import EmaConfig, FineTuneConfig, OptimizerConfig, ScheduleConfig
from configs.vision import ImageClassificationConfig

TaskConfig = Annotated[
    CausalLMConfig
    | MaskedLMConfig
    | SequenceClassificationConfig
    | TokenClassificationConfig
    | ImageClassificationConfig
    | DiffusionConfig,
    Field(discriminator="kind"),
]


class CheckpointConfig(Config):
    """When the state is saved."""

    every_steps: Count
    """Steps between two checkpoints; the last step is always saved"""
    keep: Count = 2
    """Newest checkpoints that stay"""


class TrainConfig(Config):
    """Stage 2: shards to checkpoint."""

    rules: ClassVar = (rules.warmup_fits,)

    steps: Count
    """Updates in all"""
    global_batch_samples: Count
    """Samples per step over all ranks"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of forward and backward; weights stay fp32"""
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    fine_tune: FineTuneConfig | None = None
    """Learning rates by layer, and frozen layers; all learn alike when not given"""
    clip_grad_norm: Positive | None = 1.0
    """Largest gradient norm; longer ones are scaled down to it"""
    ema: EmaConfig | None = None
    """Averaging of the weights; none when not given"""
    validate_every_steps: Count
    """Steps between two passes over the validation split; the last step always has one"""
    validation_samples: Count | None = None
    """Validation samples per pass, evenly spaced; all when not given"""
    log_every_steps: Count = 10
    """Steps between flushes of the event log; every step is logged"""
    checkpoint: CheckpointConfig


class WorldConfig(Config):
    """Where a run computes: changes speed and memory, never the order of samples; may change between restarts."""

    processes: Count = 2
    """Ranks on this machine"""
    micro_batch_samples: Count
    """Samples per rank per forward"""
    prepare_workers: Count = 2
    """Processes that prepare data; the bytes they make are the same for any number"""
    loader_workers: Annotated[int, Field(ge=0)] = 0
    """Processes per rank that read ahead; 0 reads in the rank itself"""
    threads: Count = 1
    """CPU threads per rank"""
    recompute: bool = False
    """Whether activations inside blocks are computed again in the backward pass instead of kept: slower, smaller"""
    channels_last: bool = False
    """Whether images are laid out pixel by pixel, which convolutions are often faster with"""
    timeout_s: Annotated[int, Field(ge=10)] = 300
    """Seconds a rank waits for its peers before the job fails"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda where there is one"""


class WandbConfig(Config):
    """Weights & Biases, a view of the event log."""

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """auto: online with a WANDB_API_KEY and a server that answers, else offline"""
    project: str = "trainworks"
    """Where W&B files the run"""
    entity: str | None = None
    """Team or user it belongs to; the account's own when not given"""


class ClusterConfig(Config):
    """What the compiled pipeline needs to know of the cluster."""

    rules: ClassVar = (rules.image_is_fixed,)

    image: Annotated[str, Field(pattern=r"^[^\s:@]+(:\d+)?(/[^\s:@]+)*(:[^\s:@]+|@sha256:[0-9a-f]{64})$")] = (
        "trainworks:0.1.0"
    )
    """Container image with a fixed tag or digest; tag `latest` is refused"""
    workspace_size: Annotated[str, Field(pattern=r"^\d+(Mi|Gi|Ti)$")] = "10Gi"
    """Volume shared by the steps"""


class RunConfig(Config):
    """One training run, from raw data to metrics."""

    rules: ClassVar = (
        rules.batch_divides,
        rules.task_reads_data,
        rules.stride_fits,
        rules.documents_are_samples,
        rules.sides_divide,
        rules.image_sides_fit,
        rules.pairs_stay_together,
        rules.resolutions_change_between_steps,
        rules.batches_have_statistics,
        rules.frozen_body_is_learned,
    )

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")]
    """Names the run and its folder: lower-case letters, digits and hyphens, 40 at most"""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Initial weights, order of samples, dropout"""
    data: DataConfig
    task: TaskConfig
    train: TrainConfig
    world: WorldConfig
    wandb: WandbConfig = WandbConfig()
    cluster: ClusterConfig = ClusterConfig()

    @property
    def accumulation(self) -> int:
        """Micro-batches per rank per step."""
        return self.train.global_batch_samples // (self.world.micro_batch_samples * self.world.processes)


def identity(run: RunConfig) -> dict[str, Any]:
    """What decides the weights: all but where a run computes, who watches, and how often it is looked at or saved."""
    watching = {"validate_every_steps", "validation_samples", "log_every_steps", "checkpoint"}
    outside: Any = {"data": {"store"}, "task": {"evaluation", "drawing"}, "train": watching}
    outside |= dict.fromkeys(("world", "wandb", "cluster"), True)
    return run.model_dump(mode="json", exclude=outside)
