"""Diffusion models: networks that remove noise, the noise they learn from, and how images are drawn from them."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from configs import rules
from configs.dataset import Config, Count, Fraction, Name, Positive
from configs.quantities import FOLDS, FamilyMetrics, Quantity

QUARTERS = ("least", "less", "more", "most")
"""Parts of equal probability in training into which the levels of noise are divided"""
_ERROR = "squared error"
_DRAWN: tuple[tuple[str, str, Literal["lower", "higher"]], ...] = (
    ("class_accuracy", "share", "higher"),
    *((name, "squared distance", "lower") for name in ("fid", "frechet_*", "kid", "kid_*")),
    *((name, "classes", "higher") for name in ("inception_score", "inception_score_*")),
    *((name, "share", "higher") for name in ("precision_*", "recall_*")),
)


class UNetConfig(Config):
    """A U-shaped network of residual blocks with attention where maps are small (Dhariwal and Nichol, 2021)."""

    rules: ClassVar = (rules.levels_have_heads,)

    kind: Literal["unet"]
    preset: Literal["laptop", "adm-64"] | None = None
    """A published shape; fields that are given win over it"""
    width: Count = 128
    """Maps of the first level"""
    multipliers: tuple[Count, ...] = Field(default=(1, 2, 2, 2), min_length=1)
    """Each level's maps over those of the first; each level but the first halves the side"""
    num_blocks: Count = 2
    """Residual blocks of each level on the way down; one more on the way up"""
    attention_sides: tuple[Count, ...] = (16, 8)
    """Sides of the maps with attention, in pixels; unless there are none, the middle of the network has it too"""
    head_width: Count = 64
    """Features of each attention head"""
    resampling: Literal["convolution", "residual"] = "convolution"
    """How the side is halved and doubled: by a convolution, or inside a residual block (BigGAN, as ADM has it)"""
    dropout: Fraction = 0.0
    """Share of features dropped in residual blocks while training"""
    init_from: Name | None = None
    """A run folder whose body this run starts from; its head too where the target is the same"""


class DiTConfig(Config):
    """A transformer over patches, steered by normalisation (adaLN-Zero; Peebles and Xie, 2023)."""

    rules: ClassVar = (rules.heads_divide_width, rules.width_holds_two_axes)

    kind: Literal["dit"]
    preset: Literal["laptop", "dit-s", "dit-b", "dit-l", "dit-xl"] | None = None
    """A published shape; fields that are given win over it"""
    patch: Count = 2
    """Side of a patch, in pixels"""
    num_layers: Count = 12
    """Blocks of attention and feed-forward"""
    width: Count = 768
    """Features per patch"""
    num_heads: Count = 12
    """Attention heads"""
    feed_forward_factor: Positive = 4.0
    """Features inside the feed-forward, over width"""
    init_from: Name | None = None
    """A run folder whose body this run starts from; its head too where the target is the same"""


class _Steps(Config):
    steps: Annotated[int, Field(ge=2)] = 1000
    """Levels of noise, T"""
    target: Literal["epsilon", "x0", "v"] = "epsilon"
    """What the network predicts: the noise (Ho et al., 2020), the image, or the velocity (Salimans and Ho, 2022)"""
    learned_variance: bool = False
    """Whether the network predicts the variance of a step too, with the hybrid loss (Nichol and Dhariwal, 2021)"""
    min_snr: Positive | None = None
    """Largest signal-to-noise ratio that a level is weighted by (Hang et al., 2023), 5 there; none when not given"""


class LinearNoise(_Steps):
    """Variances in equal steps (Ho et al., 2020)."""

    rules: ClassVar = (rules.variances_rise, rules.signal_is_left)

    kind: Literal["linear"]
    beta_first: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    """Variance of the first level"""
    beta_last: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """Variance of the last level"""


class CosineNoise(_Steps):
    """The signal falls like a squared cosine (Nichol and Dhariwal, 2021)."""

    kind: Literal["cosine"]
    offset: Annotated[float, Field(gt=0, lt=1)] = 0.008
    """Keeps the first levels from being too small"""


class EdmNoise(Config):
    """Continuous noise levels and a preconditioned network (Karras et al., 2022)."""

    rules: ClassVar = (rules.sigmas_rise,)

    kind: Literal["edm"]
    log_mean: float = -1.2
    """Mean of the noise level's logarithm in training"""
    log_std: Positive = 1.2
    """Standard deviation of the noise level's logarithm in training"""
    sigma_data: Positive = 0.5
    """Standard deviation of the images, scaled to [-1, 1]"""
    sigma_min: Positive = 0.002
    """Lowest noise level when drawing images"""
    sigma_max: Positive = 80.0
    """Highest noise level when drawing images"""
    rho: Positive = 7.0
    """How densely low noise levels are visited when drawing images"""


NoiseConfig = Annotated[LinearNoise | CosineNoise | EdmNoise, Field(discriminator="kind")]


class DrawingConfig(Config):
    """How images are drawn from noise."""

    sampler: Literal["ddpm", "ddim", "dpm_solver", "heun"] = "ddim"
    """ddpm: ancestral (Ho et al., 2020); ddim (Song et al., 2021); dpm_solver: DPM-Solver++ 2M (Lu et al., 2022); heun:
    second order (Karras et al., 2022)"""
    steps: Count = 50
    """Levels visited; heun asks the network twice at each but the last"""
    guidance: Annotated[float, Field(ge=0)] = 1.0
    """Classifier-free guidance (Ho and Salimans, 2022): 1 follows the class as learned, more exaggerates it, 0 ignores
    it"""


class InceptionFeatures(Config):
    """Inception v3 of 2015, which FID is defined by, with weights that are not shipped."""

    kind: Literal["inception"]
    weights: Name
    """File of weights (.pth or .safetensors), or its http(s) address: the public pt_inception-2015-12-05-6726825d.pth;
    with others the metrics have other names"""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """Digest of that file; one with another is refused"""
    resize: Literal["clean", "legacy"] = "clean"
    """clean: bicubic with antialiasing, not rounded (Parmar et al., 2022); legacy: bilinear as TensorFlow 1 has it"""


class Lite0Features(Config):
    """EfficientNet-Lite0, whose weights come in a package (trainworks[features])."""

    kind: Literal["lite0"]
    resize: Literal["clean", "legacy"] = "clean"
    """clean: bicubic with antialiasing, not rounded (Parmar et al., 2022); legacy: bilinear as TensorFlow 1 has it"""


class RunFeatures(Config):
    """The network of an image_classification run, before its last dense layer."""

    kind: Literal["run"]
    run: Name
    """By the name of its folder beside this one, or by path"""


FeaturesConfig = Annotated[InceptionFeatures | Lite0Features | RunFeatures, Field(discriminator="kind")]


class DiffusionEvaluation(Config):
    """How a diffusion model is scored."""

    batch_images: Count = 128
    """Images per forward; of those drawn and compared at most 32, so that any ranks have the same ones together. Below
    32 it changes the last digits, and stands in the protocol"""
    images: Annotated[int, Field(ge=0)] = 200
    """Images drawn, classes in turn"""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Of their noise, and not the run's seed: runs of unlike seeds draw from one noise, and compare"""
    shown: Annotated[int, Field(ge=0)] = 100
    """Drawn images that the report shows"""
    judge: Name | None = None
    """An image_classification run, by the name of its folder beside this one or by path, that says which class drawn
    images are of; none when not given"""
    features: FeaturesConfig | None = None
    """The network by whose features drawn images are compared with real ones; not compared when not given"""
    reference: Literal["train", "test"] = "train"
    """Split that drawn images are compared with; images of the other one, as many as are drawn, give the baseline"""
    reference_images: Annotated[int, Field(ge=2)] = 50000
    """Images of that split, evenly spaced in it; all where it has fewer"""


class DiffusionConfig(Config):
    """Learn to remove noise from images, and so to draw them."""

    reads: ClassVar = "images"
    rules: ClassVar = (rules.sampler_fits_noise, rules.guidance_needs_drop)
    metrics: ClassVar = FamilyMetrics(
        scalars=(Quantity("loss", _ERROR, "lower"), Quantity("squared_error", _ERROR, "lower")),
        validation=(Quantity("loss", _ERROR, "lower"),),
        evaluated=(
            Quantity("test/loss", _ERROR, "lower"),
            *(Quantity(f"test/loss_at_{quarter}_noise", _ERROR, "lower") for quarter in QUARTERS),
            *(Quantity(f"samples/{name}", unit, better, asked=True) for name, unit, better in _DRAWN),
        ),
        tables=("confusion", FOLDS),
    )

    kind: Literal["diffusion"]
    model: Annotated[UNetConfig | DiTConfig, Field(discriminator="kind")]
    noise: NoiseConfig
    conditional: bool = True
    """Whether the network is told each image's class"""
    label_drop: Fraction = 0.1
    """Share of training images whose class is hidden, so that guidance has something to compare with"""
    flip: bool = False
    """Whether training images are mirrored left to right, every other one"""
    drawing: DrawingConfig = DrawingConfig()
    evaluation: DiffusionEvaluation = DiffusionEvaluation()
