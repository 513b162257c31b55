"""Every configuration class but those of the data, with units and the rules between fields."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from configs import rules
from configs.dataset import Config, Count, DataConfig, Fraction, Positive


class DecoderConfig(Config):
    """A decoder-only transformer."""

    rules: ClassVar = (
        rules.heads_divide_width,
        rules.kv_heads_divide_heads,
    )

    kind: Literal["decoder"]
    num_layers: Count
    """Blocks of attention and feed-forward"""
    width: Count
    """Features per token"""
    num_heads: Count
    """Attention heads"""
    num_kv_heads: Count | None = None
    """Heads of keys and values, shared by groups of heads; num_heads when not given"""
    feed_forward_width: Count | None = None
    """Features inside the feed-forward; 4 x width, or 8/3 x width in multiples of 32 for swiglu, when not given"""
    norm: Literal["layer_norm", "rms_norm"] = "rms_norm"
    """LayerNorm (Ba et al., 2016) or RMSNorm (Zhang and Sennrich, 2019), before each attention and feed-forward"""
    norm_eps: Positive = 1e-5
    """Added to the variance"""
    positions: Literal["rotary", "learned"] = "rotary"
    """Rotated queries and keys (Su et al., 2021), or a learned vector per place"""
    rotary_base: Positive = 10000.0
    """Longest rotary wavelength over 2 pi, in tokens"""
    activation: Literal["swiglu", "gelu"] = "swiglu"
    """Of the feed-forward: gated (Shazeer, 2020) or plain"""
    bias: bool = False
    """Whether linear layers and LayerNorm have a bias"""
    tied_embeddings: bool = True
    """Whether the head shares the embedding's weights"""
    dropout: Fraction = 0.0
    """Share of features dropped while training"""

    @property
    def hidden_width(self) -> int:
        """Features inside the feed-forward."""
        if self.feed_forward_width is not None:
            return self.feed_forward_width
        return 4 * self.width if self.activation == "gelu" else max(32, round(8 * self.width / 3 / 32) * 32)


class SamplingConfig(Config):
    """Text that the trained model writes for the report."""

    prompts: tuple[str, ...] = Field(min_length=1)
    """Beginnings to continue"""
    max_tokens: Count = 120
    """Longest continuation in tokens"""
    temperature: Annotated[float, Field(ge=0)] = 0.8
    """Divides the logits; 0 takes the likeliest token"""
    top_k: Count | None = None
    """Keep the k likeliest tokens"""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Keep the likeliest tokens whose probabilities reach p"""


class LanguageEvaluation(Config):
    """How a language model is scored."""

    stride_tokens: Count
    """Tokens the rolling window moves by; each token is scored once with block_tokens - stride_tokens or more before
    it, where the document has them"""
    batch_windows: Count = 32
    """Windows per forward"""
    baseline_order: Annotated[int, Field(ge=0, le=4)] = 3
    """Longest n-gram baseline: 0 uniform, 1 unigram, 2 bigram, 3 trigram"""
    sampling: SamplingConfig | None = None
    """Text to write; none when not given"""


class CausalLMConfig(Config):
    """Predict each token from those before it."""

    reads: ClassVar = "text"

    kind: Literal["causal_lm"]
    model: DecoderConfig
    evaluation: LanguageEvaluation


class LeNetConfig(Config):
    """LeNet-5 (LeCun et al., 1998) for images of any size."""

    kind: Literal["lenet"]
    width_factor: Count = 1
    """Multiplies the 6 and 16 maps and the 120 and 84 features of the original"""
    activation: Literal["tanh", "relu"] = "tanh"
    """After each layer but the last; the original's is tanh"""
    pooling: Literal["average", "maximum"] = "average"
    """How maps are subsampled; the original takes averages"""


class ClassificationEvaluation(Config):
    """How a classifier is scored."""

    batch_images: Count = 256
    """Images per forward"""
    mistakes: Annotated[int, Field(ge=0)] = 12
    """Wrongly classified test images that the report shows, the worst first"""


class ImageClassificationConfig(Config):
    """Predict the class of each image."""

    reads: ClassVar = "images"

    kind: Literal["image_classification"]
    model: LeNetConfig
    label_smoothing: Fraction = 0.0
    """Share of each label that is spread evenly over all classes while training (Szegedy et al., 2016)"""
    evaluation: ClassificationEvaluation = ClassificationEvaluation()


TaskConfig = Annotated[CausalLMConfig | ImageClassificationConfig, Field(discriminator="kind")]


class AdamWConfig(Config):
    """AdamW (Loshchilov and Hutter, 2019); norms and biases are not decayed."""

    kind: Literal["adamw"]
    learning_rate: Positive
    """Peak, per step"""
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    """Shares of the old averages of the gradient and of its square kept each step"""
    eps: Positive = 1e-8
    """Added to the root of the averaged square"""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Per step, times the learning rate"""


class _Schedule(Config):
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which the rate rises linearly from 0"""


class ConstantSchedule(_Schedule):
    """The peak rate throughout."""

    kind: Literal["constant"]


class CosineSchedule(_Schedule):
    """Half a cosine from the peak down to `final` of it at the last step (Loshchilov and Hutter, 2017)."""

    kind: Literal["cosine"]
    final: Fraction = 0.1
    """Share of the peak at the last step"""


class StepSchedule(_Schedule):
    """Times `factor` every `every_steps`."""

    kind: Literal["step"]
    every_steps: Count
    """Steps between two drops"""
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """What each drop multiplies the rate by"""


class ExponentialSchedule(_Schedule):
    """exp(-decay x steps since warm-up)."""

    kind: Literal["exponential"]
    decay: Positive
    """Per step"""


class InverseSchedule(_Schedule):
    """1 / (1 + decay x steps since warm-up), the 1/t rule."""

    kind: Literal["inverse"]
    decay: Positive
    """Per step"""


ScheduleConfig = Annotated[
    ConstantSchedule | CosineSchedule | StepSchedule | ExponentialSchedule | InverseSchedule,
    Field(discriminator="kind"),
]


class EmaConfig(Config):
    """Exponential moving average of the weights; validation and evaluation use it."""

    decay: Annotated[float, Field(gt=0, lt=1)]
    """Share of the old average kept each step"""


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
    optimizer: AdamWConfig
    schedule: ScheduleConfig
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
    outside: Any = {"data": {"store"}, "task": {"evaluation"}, "train": watching}
    outside |= dict.fromkeys(("world", "wandb", "cluster"), True)
    return run.model_dump(mode="json", exclude=outside)
