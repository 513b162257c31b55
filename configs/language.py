"""Transformers and what they learn: language models, and heads on top of a pretrained body."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from configs import rules
from configs.dataset import Config, Count, Fraction, Name, Positive
from configs.quantities import CALIBRATION, FOLDS, FamilyMetrics, Quantity, of_classifier

_LOSS = Quantity("loss", "nats/token", "lower")
_TEST_LOSS = Quantity("test/loss", "nats/token", "lower")
_ACCURACY = Quantity("accuracy", "share", "higher")


class _TransformerConfig(Config):
    rules: ClassVar = (
        rules.heads_divide_width,
        rules.kv_heads_divide_heads,
    )

    num_layers: Count = 12
    """Blocks of attention and feed-forward"""
    width: Count = 768
    """Features per token"""
    num_heads: Count = 12
    """Attention heads"""
    num_kv_heads: Count | None = None
    """Heads of keys and values, shared by groups of heads; num_heads when not given"""
    feed_forward_width: Count | None = None
    """Features inside the feed-forward; 4 x width, or 8/3 x width in multiples of 32 where it is gated, when not
    given"""
    norm: Literal["layer_norm", "rms_norm"] = "rms_norm"
    """LayerNorm (Ba et al., 2016) or RMSNorm (Zhang and Sennrich, 2019)"""
    norm_place: Literal["before", "after"] = "before"
    """Before each attention and feed-forward with one more at the end, or after each sum (Vaswani et al., 2017)"""
    norm_eps: Positive = 1e-5
    """Added to the variance"""
    positions: Literal["rotary", "learned", "sinusoidal"] = "rotary"
    """Rotated queries and keys (Su et al., 2021), a learned vector per place, or sines (Vaswani et al., 2017)"""
    rotary_base: Positive = 10000.0
    """Longest rotary wavelength over 2 pi, in tokens"""
    activation: Literal["swiglu", "geglu", "gelu", "gelu_erf"] = "swiglu"
    """Of the feed-forward: gated (Shazeer, 2020), or plain GELU in its tanh form (gelu) or exactly (gelu_erf)"""
    bias: bool = False
    """Whether linear layers and LayerNorm have a bias"""
    tied_embeddings: bool = True
    """Whether a language model's head shares the embedding's weights"""
    dropout: Fraction = 0.0
    """Share of features, and of attention weights, dropped while training"""
    init_from: Name | None = None
    """A run folder, or a folder in Hugging Face's layout, whose body this run starts from; its head too where the task
    is the same. Weights are drawn anew when not given"""

    @property
    def hidden_width(self) -> int:
        """Features inside the feed-forward."""
        if self.feed_forward_width is not None:
            return self.feed_forward_width
        gated = self.activation in ("swiglu", "geglu")
        return max(32, round(8 * self.width / 3 / 32) * 32) if gated else 4 * self.width


class DecoderConfig(_TransformerConfig):
    """A transformer that reads from left to right, as GPT-2 and Llama do."""

    kind: Literal["decoder"]
    preset: (
        Literal["laptop", "gpt2-124m", "gpt2-350m", "gpt2-774m", "gpt2-1.5b", "llama-1b", "llama-3b", "llama-8b"] | None
    ) = None
    """A published shape; fields that are given win over it"""
    attention: Literal["causal", "bidirectional"] = "causal"
    """Whether a token sees itself and those before it, or all"""

    @property
    def token_types(self) -> int:
        """An encoder's, as are the next three."""
        return 0

    @property
    def embedding_norm(self) -> bool:
        return False

    @property
    def head_transform(self) -> bool:
        return False

    @property
    def pooler(self) -> bool:
        return False


class EncoderConfig(_TransformerConfig):
    """A transformer that reads in both directions, as BERT does."""

    kind: Literal["encoder"]
    preset: Literal["laptop", "bert-base", "bert-large", "modern-base", "modern-large"] | None = None
    """A published shape; fields that are given win over it"""
    attention: Literal["causal", "bidirectional"] = "bidirectional"
    """Whether a token sees itself and those before it, or all"""
    token_types: Annotated[int, Field(ge=0)] = 0
    """Learned vectors for kinds of tokens, added to the embedding; ours are all of kind 0, BERT has 2"""
    embedding_norm: bool = False
    """Whether embeddings are normalised before the first block"""
    head_transform: bool = False
    """Whether a masked language model's head has a dense layer, GELU and a norm before its output, and a bias on it"""
    pooler: bool = False
    """Whether a classification head has a dense layer and tanh before its output"""


TransformerConfig = Annotated[DecoderConfig | EncoderConfig, Field(discriminator="kind")]


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
    rules: ClassVar = (rules.reads_one_way,)
    metrics: ClassVar = FamilyMetrics(
        scalars=(_LOSS,),
        validation=(_LOSS, Quantity("perplexity", "1/token", "lower")),
        evaluated=(
            _TEST_LOSS,
            Quantity("test/perplexity", "1/token", "lower"),
            Quantity("test/word_perplexity", "1/word", "lower"),
            Quantity("test/bits_per_byte", "bits/byte", "lower"),
            CALIBRATION,
        ),
        tables=("calibration", FOLDS),
    )

    kind: Literal["causal_lm"]
    model: DecoderConfig
    evaluation: LanguageEvaluation


class MaskedEvaluation(Config):
    """How a masked language model is scored: on the same hidden tokens each time."""

    batch_blocks: Count = 64
    """Blocks per forward"""
    pseudo_documents: Annotated[int, Field(ge=0)] = 0
    """Test samples, evenly spaced, whose tokens are hidden one at a time for a pseudo-perplexity (Salazar et al.,
    2020); each costs as many passes over it as it has tokens, and 0 leaves it out"""
    examples: Annotated[int, Field(ge=0)] = 6
    """Passages with hidden tokens and what the model put there, for the report"""


class MaskedLMConfig(Config):
    """Predict hidden tokens from those around them (Devlin et al., 2019)."""

    reads: ClassVar = "text"
    rules: ClassVar = (rules.reads_both_ways,)
    metrics: ClassVar = FamilyMetrics(
        scalars=(_LOSS,),
        validation=(_LOSS, _ACCURACY, Quantity("masked_perplexity", "1/token", "lower")),
        evaluated=(
            Quantity("test/accuracy", "share", "higher"),
            _TEST_LOSS,
            Quantity("test/masked_perplexity", "1/token", "lower"),
            CALIBRATION,
            Quantity("test/pseudo_perplexity", "1/token", "lower", asked=True),
        ),
        tables=("calibration", FOLDS),
    )

    kind: Literal["masked_lm"]
    model: EncoderConfig
    masked: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of tokens to predict: 80 % of them are hidden, 10 % are replaced by random ones, 10 % stay"""
    whole_words: bool = False
    """Whether the tokens of a word are chosen together"""
    evaluation: MaskedEvaluation = MaskedEvaluation()


class TextClassEvaluation(Config):
    """How a classifier of text is scored."""

    batch_samples: Count = 64
    """Samples per forward"""
    top: Annotated[int, Field(ge=2)] = 5
    """Guesses that top-k accuracy allows; it is taken where there are more classes"""
    mistakes: Annotated[int, Field(ge=0)] = 12
    """Wrongly classified test samples that the report shows, the worst first"""


class SequenceClassificationConfig(Config):
    """Predict the class of each text. The data has data.packing=document, and its source a label_field."""

    reads: ClassVar = "text"
    rules: ClassVar = (rules.pooling_sees_text,)
    metrics: ClassVar = of_classifier("text")

    kind: Literal["sequence_classification"]
    model: TransformerConfig
    pooling: Literal["first", "last", "mean"] = "first"
    """What the head reads: the first token's features (the class token's), the last one's, or the mean over tokens"""
    prompt: str = ""
    """Text put before each sample, such as "The genre of this passage:"."""
    dropout: Fraction = 0.1
    """Share of the head's input dropped while training"""
    class_weights: Literal["none", "inverse_frequency"] = "none"
    """inverse_frequency: rare classes weigh as much more as they are rarer (King and Zeng, 2001)"""
    label_smoothing: Fraction = 0.0
    """Share of each label that is spread evenly over all classes while training (Szegedy et al., 2016)"""
    evaluation: TextClassEvaluation = TextClassEvaluation()


class TokenClassEvaluation(Config):
    """How a classifier of tokens is scored."""

    batch_samples: Count = 64
    """Samples per forward"""
    mistakes: Annotated[int, Field(ge=0)] = 12
    """Test samples with wrong tags that the report shows, the worst first"""


class TokenClassificationConfig(Config):
    """Predict the class of each token. The data has data.packing=document, and its source tagged spans of the text."""

    reads: ClassVar = "text"
    metrics: ClassVar = FamilyMetrics(
        scalars=(_LOSS, _ACCURACY),
        validation=(_LOSS, _ACCURACY, Quantity("f1", "share", "higher")),
        evaluated=(
            *(Quantity(f"test/{name}", "share", "higher") for name in ("f1", "accuracy", "precision", "recall")),
            Quantity("test/f1_*", "share", "higher", asked=True),
            CALIBRATION,
            _TEST_LOSS,
        ),
        tables=("calibration", FOLDS),
    )

    kind: Literal["token_classification"]
    model: TransformerConfig
    dropout: Fraction = 0.1
    """Share of the head's input dropped while training"""
    class_weights: Literal["none", "inverse_frequency"] = "none"
    """inverse_frequency: rare classes weigh as much more as they are rarer (King and Zeng, 2001)"""
    evaluation: TokenClassEvaluation = TokenClassEvaluation()
