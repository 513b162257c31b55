"""Convolutional networks and how they learn to classify images."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from configs.dataset import Config, Count, Fraction, Name, Positive, Share
from configs.quantities import of_classifier


class _NetworkConfig(Config):
    batch_statistics: ClassVar = False
    """Whether the network always normalises over the samples of a batch"""

    init_from: Name | None = None
    """A run folder, or a folder in Hugging Face's layout, whose body this run starts from; the head is drawn anew where
    the classes differ. Weights are drawn anew when not given"""


class LeNetConfig(_NetworkConfig):
    """LeNet-5 (LeCun et al., 1998) for images of any size."""

    kind: Literal["lenet"]
    width_factor: Count = 1
    """Multiplies the 6 and 16 maps and the 120 and 84 features of the original"""
    activation: Literal["tanh", "relu"] = "tanh"
    """After each layer but the last; the original's is tanh"""
    pooling: Literal["average", "maximum"] = "average"
    """How maps are subsampled; the original takes averages"""


class AlexNetConfig(_NetworkConfig):
    """AlexNet in one column (Krizhevsky, 2014): five convolutions and three dense layers."""

    kind: Literal["alexnet"]
    width_factor: Positive = 1.0
    """Multiplies the maps and features of the original"""
    dropout: Fraction = 0.5
    """Share of features dropped before the dense layers while training"""
    head: Literal["dense", "pooled"] = "dense"
    """dense: the original's layers over 6 x 6 maps; pooled: a 1 x 1 convolution and the mean over the maps"""
    initialisation: Literal["he", "xavier"] = "he"
    """Of the weights: He et al., 2015, or Glorot and Bengio, 2010"""


class VGGConfig(_NetworkConfig):
    """VGG (Simonyan and Zisserman, 2015): 3 x 3 convolutions in five groups, and three dense layers."""

    kind: Literal["vgg"]
    preset: Literal["vgg-16", "vgg-19"] | None = None
    """A published shape; fields that are given win over it"""
    blocks: tuple[Count, ...] = Field(default=(2, 2, 3, 3, 3), min_length=1, max_length=5)
    """Convolutions of each group"""
    width_factor: Positive = 1.0
    """Multiplies the maps and features of the original"""
    batch_norm: bool = False
    """Whether each convolution is normalised (Ioffe and Szegedy, 2015)"""
    dropout: Fraction = 0.5
    """Share of features dropped after the dense layers while training"""
    head: Literal["dense", "pooled"] = "dense"
    """dense: the original's layers over 7 x 7 maps; pooled: a 1 x 1 convolution and the mean over the maps"""
    initialisation: Literal["he", "xavier"] = "he"
    """Of the weights: He et al., 2015, or Glorot and Bengio, 2010"""


class GoogLeNetConfig(_NetworkConfig):
    """GoogLeNet, Inception v1 (Szegedy et al., 2015), normalised, with auxiliary heads."""

    batch_statistics: ClassVar = True

    kind: Literal["googlenet"]
    width_factor: Positive = 1.0
    """Multiplies the maps of every layer"""
    auxiliary_weight: Annotated[float, Field(ge=0)] = 0.3
    """What the losses of the two auxiliary heads count while training; 0 leaves the heads out"""
    dropout: Fraction = 0.4
    """Share of features dropped before the head while training"""


class InceptionResNetConfig(_NetworkConfig):
    """Inception-ResNet-v2 (Szegedy et al., 2017)."""

    batch_statistics: ClassVar = True

    kind: Literal["inception_resnet"]
    blocks: tuple[Count, Count, Count] = (10, 20, 10)
    """Residual blocks of each of the three grids"""
    width_factor: Positive = 1.0
    """Multiplies the maps of every layer"""
    dropout: Fraction = 0.2
    """Share of features dropped before the head while training"""


class ResNetConfig(_NetworkConfig):
    """A residual network (He et al., 2016), its strides in the 3 x 3 convolutions (v1.5)."""

    batch_statistics: ClassVar = True

    kind: Literal["resnet"]
    preset: Literal["laptop", "resnet-18", "resnet-34", "resnet-50", "resnet-101", "resnet-152"] | None = None
    """A published shape; fields that are given win over it"""
    blocks: tuple[Count, ...] = Field(default=(3, 4, 6, 3), min_length=1)
    """Residual blocks of each stage; each stage but the first halves the side and doubles the maps"""
    bottleneck: bool = True
    """Whether a block is 1 x 1, 3 x 3, 1 x 1 with four times as many maps outside, or two of 3 x 3"""
    width: Count = 64
    """Maps of the stem and inside the first stage"""
    stem: Literal["large", "small"] = "large"
    """large: 7 x 7 of stride 2 and a pool of stride 2, for large images; small: 3 x 3, for 32 x 32 and less"""
    zero_init: bool = True
    """Whether each block begins as the identity: its last norm's weight is 0 (Goyal et al., 2017)"""
    stochastic_depth: Fraction = 0.0
    """Share of samples that skip the last block while training, less for earlier ones (Huang et al., 2016)"""
    dropout: Fraction = 0.0
    """Share of features dropped before the head while training"""


class DenseNetConfig(_NetworkConfig):
    """A densely connected network (Huang et al., 2017), DenseNet-BC."""

    batch_statistics: ClassVar = True

    kind: Literal["densenet"]
    preset: Literal["densenet-121", "densenet-161", "densenet-169", "densenet-201", "densenet-264"] | None = None
    """A published shape; fields that are given win over it"""
    blocks: tuple[Count, ...] = Field(default=(6, 12, 24, 16), min_length=1)
    """Layers of each dense block; a transition halves side and maps between two"""
    growth: Count = 32
    """Maps that each layer adds"""
    width: Count = 64
    """Maps of the stem"""
    stem: Literal["large", "small"] = "large"
    """large: 7 x 7 of stride 2 and a pool of stride 2, for large images; small: 3 x 3, for 32 x 32 and less"""
    dropout: Fraction = 0.0
    """Share of each layer's maps dropped while training"""


class ConvNeXtConfig(_NetworkConfig):
    """ConvNeXt (Liu et al., 2022)."""

    kind: Literal["convnext"]
    preset: Literal["convnext-t", "convnext-s", "convnext-b", "convnext-l", "convnext-xl"] | None = None
    """A published shape; fields that are given win over it"""
    blocks: tuple[Count, ...] = Field(default=(3, 3, 9, 3), min_length=1)
    """Blocks of each stage"""
    width: Count = 96
    """Maps of the first stage; each further one has twice as many at half the side"""
    patch: Count = 4
    """Side of the squares that the stem turns into one place each, in pixels"""
    layer_scale: Annotated[float, Field(ge=0)] = 1e-6
    """What each block's output is multiplied by at the start, learned from there; 0: no such weights"""
    stochastic_depth: Fraction = 0.0
    """Share of samples that skip the last block while training, less for earlier ones (Huang et al., 2016)"""


ImageNetworkConfig = Annotated[
    LeNetConfig
    | AlexNetConfig
    | VGGConfig
    | GoogLeNetConfig
    | InceptionResNetConfig
    | ResNetConfig
    | DenseNetConfig
    | ConvNeXtConfig,
    Field(discriminator="kind"),
]


class AugmentConfig(Config):
    """Random changes to training images, a function of each sample's position alone."""

    crop_area: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Smallest area of a random crop as a share of the image, of aspect 3:4 to 4:3, resized to the side; 1: no crop"""
    shift: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Largest shift in each direction, as a share of the side"""
    rotate_degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Largest turn"""
    flip: bool = False
    """Whether images are mirrored left to right, every other one"""
    policy: Literal["none", "randaugment", "trivialaugment"] = "none"
    """randaugment: `operations` at `magnitude` (Cubuk et al., 2020); trivialaugment: one of any strength (Mueller and
    Hutter, 2021)"""
    operations: Count = 2
    """Of randaugment, one after the other"""
    magnitude: Annotated[int, Field(ge=0, le=10)] = 9
    """Of randaugment's operations"""
    erase: Share = 0.0
    """Share of images of which a random rectangle becomes grey (Zhong et al., 2020)"""
    mixup: Positive | None = None
    """Alpha of mixup (Zhang et al., 2018): pairs of images and labels are blended; none when not given"""
    cutmix: Positive | None = None
    """Alpha of CutMix (Yun et al., 2019): a rectangle of one image is put into another; with mixup each takes half"""


class ResolutionConfig(Config):
    """Smaller images for the first part of training (Howard et al., 2018)."""

    side: Count
    """Pixels to a side"""
    until_samples: Count
    """Samples drawn before the next resolution; a multiple of train.global_batch_samples"""


class ClassificationEvaluation(Config):
    """How a classifier is scored."""

    batch_images: Count = 256
    """Images per forward"""
    top: Annotated[int, Field(ge=2)] = 5
    """Guesses that top-k accuracy allows; it is taken where there are more classes"""
    mistakes: Annotated[int, Field(ge=0)] = 12
    """Wrongly classified test images that the report shows, the worst first"""


class ImageClassificationConfig(Config):
    """Predict the class of each image."""

    reads: ClassVar = "images"
    metrics: ClassVar = of_classifier("image")

    kind: Literal["image_classification"]
    model: ImageNetworkConfig
    augment: AugmentConfig | None = None
    """Random changes to training images; none when not given"""
    side: Count | None = None
    """Pixels to a side that the network sees: of random crops in training, of the centre in evaluation; the stored size
    when not given"""
    resolutions: tuple[ResolutionConfig, ...] = ()
    """Smaller sides to begin with, in order of until_samples"""
    class_weights: Literal["none", "inverse_frequency"] = "none"
    """inverse_frequency: rare classes weigh as much more as they are rarer (King and Zeng, 2001)"""
    label_smoothing: Fraction = 0.0
    """Share of each label that is spread evenly over all classes while training (Szegedy et al., 2016)"""
    evaluation: ClassificationEvaluation = ClassificationEvaluation()
