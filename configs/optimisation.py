"""Optimizers, learning rates, which layers learn, and averages of the weights."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from configs import rules
from configs.dataset import Config, Count, Fraction, Positive


class _OptimizerConfig(Config):
    learning_rate: Positive
    """Peak, per step"""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Per step, times the learning rate; norms and biases are not decayed"""


class AdamWConfig(_OptimizerConfig):
    """AdamW (Loshchilov and Hutter, 2019); norms and biases are not decayed."""

    kind: Literal["adamw"]
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    """Shares of the old averages of the gradient and of its square kept each step"""
    eps: Positive = 1e-8
    """Added to the root of the averaged square"""


class SGDConfig(_OptimizerConfig):
    """Stochastic gradient descent; the decay is part of the gradient."""

    rules: ClassVar = (rules.nesterov_has_momentum,)

    kind: Literal["sgd"]
    momentum: Fraction = 0.9
    """Share of the old velocity kept each step"""
    nesterov: bool = False
    """Whether the gradient is taken ahead of the step (Nesterov, 1983)"""


class LambConfig(_OptimizerConfig):
    """LAMB, Adam with a trust ratio per layer for large batches (You et al., 2020)."""

    kind: Literal["lamb"]
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """Shares of the old averages of the gradient and of its square kept each step"""
    eps: Positive = 1e-6
    """Added to the root of the averaged square"""


class LionConfig(_OptimizerConfig):
    """Lion, the sign of a momentum (Chen et al., 2023); its rate is 3 to 10 times below AdamW's."""

    kind: Literal["lion"]
    betas: tuple[Fraction, Fraction] = (0.9, 0.99)
    """Shares of the old momentum in the step and in what is kept"""


class MuonConfig(_OptimizerConfig):
    """Muon for the matrices inside the network (Jordan et al., 2024); AdamW for embeddings, head, norms and biases."""

    kind: Literal["muon"]
    momentum: Fraction = 0.95
    """Share of the old velocity kept each step"""
    nesterov: bool = True
    """Whether the gradient is taken ahead of the step"""
    aside_rate: Positive = 0.05
    """AdamW's learning rate for the rest, over `learning_rate`"""


OptimizerConfig = Annotated[AdamWConfig | SGDConfig | LambConfig | LionConfig | MuonConfig, Field(discriminator="kind")]


class FineTuneConfig(Config):
    """How fast each layer learns, from the input to the head."""

    rules: ClassVar = (rules.frozen_or_thawing,)

    body_rate: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Learning rate of everything but the head, over the head's"""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Learning rate of each layer over that of the one above it (Howard and Ruder, 2018)"""
    frozen: bool = False
    """Whether everything but the head stays as it was"""
    unfreeze_every_steps: Count | None = None
    """Steps after which one more layer learns, from the head down; all from the start when not given"""


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


class LinearSchedule(_Schedule):
    """A straight line from the peak down to `final` of it at the last step."""

    kind: Literal["linear"]
    final: Fraction = 0.0
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
    ConstantSchedule | CosineSchedule | LinearSchedule | StepSchedule | ExponentialSchedule | InverseSchedule,
    Field(discriminator="kind"),
]


class EmaConfig(Config):
    """Exponential moving average of the weights; validation and evaluation use it."""

    rules: ClassVar = (rules.averaged_one_way,)

    decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the old average kept each step"""
    power: Annotated[float, Field(gt=0, lt=0.28)] | None = None
    """Instead of `decay`: width of the average as a share of the training so far, such as 0.05 (Karras et al., 2024)"""
