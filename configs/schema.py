"""Every configuration class but those of the data and of the families, and the run that holds them all."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PlainValidator
from pydantic_core import PydanticCustomError

from configs import engine_rules, rules
from configs.cluster import ClusterConfig
from configs.dataset import Config, Count, DataConfig, Positive
from configs.diffusion import DiffusionConfig
from configs.engine import AnomalyConfig, BestConfig, CheckpointConfig, EarlyStoppingConfig, ZeroConfig
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


def _count_or_auto(value: Any) -> Any:
    if value == "auto" or (type(value) is int and value >= 1):
        return value
    raise PydanticCustomError("count_or_auto", "input should be auto or a whole number of 1 or more")


CountOrAuto = Annotated[
    int | Literal["auto"], PlainValidator(_count_or_auto, json_schema_input_type=Count | Literal["auto"])
]


class SamplesConfig(Config):
    """What the model makes at each validation, with the same seeds each time: it changes no weight."""

    number: Annotated[int, Field(ge=1, le=64)] = 4
    """Texts, images, or validation samples with what is predicted of them"""
    max_tokens: Annotated[int, Field(ge=1, le=256)] = 48
    """Longest text in tokens; that of task.evaluation.sampling where that is shorter"""
    drawing_steps: Annotated[int, Field(ge=1, le=100)] = 10
    """Levels of noise visited for an image; those of task.drawing where they are fewer"""


class TrainConfig(Config):
    """Stage 2: shards to checkpoint."""

    rules: ClassVar = (
        rules.warmup_fits,
        engine_rules.validation_is_due,
        engine_rules.result_is_measured,
        engine_rules.result_has_one_measure,
        engine_rules.steps_decide_the_result,
    )

    steps: Count
    """Updates in all; early stopping may end the training before"""
    global_batch_samples: Count
    """Samples per step over all ranks"""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of forward and backward; weights stay fp32, and under fp16 the loss is scaled"""
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    fine_tune: FineTuneConfig | None = None
    """Learning rates by layer, and frozen layers; all learn alike when not given"""
    clip_grad_norm: Positive | None = 1.0
    """Largest gradient norm; longer ones are scaled down to it"""
    ema: EmaConfig | None = None
    """Averaging of the weights; none when not given"""
    validate_every_steps: Count | None = None
    """Steps between two passes over the validation split; the last step always has one"""
    validate_every_s: Positive | None = None
    """Seconds of training after which the validation split is passed over again, by the first rank's clock"""
    validation_samples: Count | None = None
    """Validation samples per pass, evenly spaced; all when not given"""
    samples: SamplesConfig | None = None
    """Samples at each validation; none when not given"""
    log_every_steps: Count = 10
    """Steps between flushes of the event log; every step is logged"""
    checkpoint: CheckpointConfig
    early_stopping: EarlyStoppingConfig | None = None
    """Ending when validation no longer improves; none when not given"""
    result: Literal["last", "best"] | None = None
    """Checkpoint that is evaluated: the last, or the best by the metric of early_stopping or checkpoint.best; when not
    given the best with early_stopping, else the last
    """
    anomalies: AnomalyConfig = AnomalyConfig()

    @property
    def chosen_by(self) -> BestConfig | None:
        """What chooses the checkpoint that is the run's result; None where that is the last one."""
        stopping = self.early_stopping
        if self.result == "last" or (self.result is None and stopping is None):
            return None
        if stopping is None:
            return self.checkpoint.best
        return BestConfig(metric=stopping.metric, better=stopping.better)

    @property
    def retention(self) -> CheckpointConfig:
        """Which checkpoints stay: those that `checkpoint` asks for, and the run's result among them."""
        if self.checkpoint.best is not None:
            return self.checkpoint
        return self.checkpoint.model_copy(update={"best": self.chosen_by})


class WorldConfig(Config):
    """Where a run computes: changes speed and memory, never the order of samples; may change between restarts."""

    rules: ClassVar = (
        engine_rules.degrees_divide_ranks,
        engine_rules.partition_group_divides,
        engine_rules.compiled_weights_stay,
    )

    processes: Count = 2
    """Ranks on this machine"""
    micro_batch_samples: CountOrAuto
    """Samples per rank per forward; auto: the most that fit, found by trying"""
    zero: ZeroConfig = ZeroConfig()
    tensor_parallel: Count = 1
    """Ranks that share each matrix of a transformer"""
    sequence_parallel: Count = 1
    """Ranks that share each sequence of a transformer (Ulysses: Jacobs et al., 2023)"""
    compile: bool = False
    """Whether the network is compiled: a slow start, faster steps"""
    parallel_folds: Count = 1
    """Folds of a cross-validation that train at the same time; on this machine two at most"""
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
    timeout_s: Annotated[int, Field(ge=5)] = 300
    """Seconds without a sign of progress from a rank until the job is ended and that rank is named"""
    grace_s: Annotated[int, Field(ge=1)] = 60
    """Seconds that a job asked to stop has to save"""
    restarts: Annotated[int, Field(ge=0)] = 3
    """Starts after a lost or silent rank, until one brings no new checkpoint this many times in a row"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda where there is one"""


class WandbConfig(Config):
    """Weights & Biases, a view of the event log."""

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """auto: sent while it goes on where there is a key; online: the same, and said where there is none; offline: by
    `trainworks sync` alone; disabled: never"""
    project: str = "trainworks"
    """Where W&B files the run"""
    entity: str | None = None
    """Team or user it belongs to; the account's own when not given"""


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
        engine_rules.result_has_a_split,
        engine_rules.optimizer_fits_stage,
        engine_rules.averages_are_in_memory,
        engine_rules.quantized_weights_fit_precision,
        engine_rules.parallel_fits_task,
        engine_rules.tensors_can_be_cut,
        engine_rules.deepspeed_keys_are_free,
        rules.nodes_share_processes,
        rules.stall_outlasts_silence,
    )

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")]
    """Names the run and its folder: lower-case letters, digits and hyphens, 40 at most"""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Initial weights, order of samples, dropout"""
    data: DataConfig
    task: TaskConfig
    train: TrainConfig
    world: WorldConfig
    deepspeed: dict[str, Any] = Field(default_factory=dict)
    """Any other key of DeepSpeed's own configuration; those that trainworks sets are refused"""
    wandb: WandbConfig = WandbConfig()
    cluster: ClusterConfig = ClusterConfig()

    @property
    def replicas(self) -> int:
        """Ranks, or groups of ranks that share tensors or sequences, that read samples of their own."""
        return self.world.processes // (self.world.tensor_parallel * self.world.sequence_parallel)

    @property
    def micro_batch(self) -> int:
        """Samples per replica per forward; an `auto` one must have been chosen before."""
        assert self.world.micro_batch_samples != "auto", "nobody has chosen the micro-batch yet"
        return self.world.micro_batch_samples

    @property
    def accumulation(self) -> int:
        """Micro-batches per replica per step."""
        return self.train.global_batch_samples // (self.micro_batch * self.replicas)


def identity(run: RunConfig) -> dict[str, Any]:
    """What decides the weights: all but where a run computes, who watches, and how often it is looked at or saved."""
    watching = {"validate_every_steps", "validate_every_s", "validation_samples", "log_every_steps", "checkpoint"}
    watching |= {"samples", "early_stopping", "result"}  # they choose among weights that are the same without them
    outside: Any = {"data": {"store"}, "task": {"evaluation", "drawing"}, "train": watching}
    outside |= dict.fromkeys(("world", "deepspeed", "wandb", "cluster"), True)
    return run.model_dump(mode="json", exclude=outside)
