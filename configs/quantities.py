"""Every number that runs tell: name, unit and direction. Those of a family stand with its configuration class."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from configs.errors import ConfigError


@dataclass(frozen=True)
class Quantity:
    """A number, by the name under which it is told."""

    name: str
    """`*` stands for what the data or the configuration put there"""
    unit: str
    better: Literal["lower", "higher"] | None = None
    """None where neither is"""
    asked: bool = False
    """Whether only some runs tell it, by their data, their machine or their configuration"""

    @property
    def is_one(self) -> bool:
        """Whether the name is that of a single number."""
        return "*" not in self.name

    def names(self, told: str) -> bool:
        """Whether a number under this name is one of these."""
        return fnmatchcase(told, self.name)


@dataclass(frozen=True)
class FamilyMetrics:
    """What runs of a family tell beside what every run does."""

    scalars: tuple[Quantity, ...]
    """Of a network's step, under `train/`; the loss, which every family has, and what else its task's loss returns"""
    validation: tuple[Quantity, ...]
    """Of a pass over the validation split, under `validation/`"""
    evaluated: tuple[Quantity, ...]
    """Of the evaluation, with their subject: test/loss. Baselines have the same, and are not listed"""
    turns: tuple[str, ...] = ("model",)
    """Networks that are updated in one step"""
    tables: tuple[str, ...] = ()
    """Tables of the evaluation, by their keys in Weights & Biases"""


STEP = "train/step"
"""Updates done: the axis of everything that training tells"""
TRAIN, VALIDATION = "train", "validation"
OF_NETWORK = (
    Quantity("learning_rate", "1"),
    Quantity("grad_norm", "1"),
    Quantity("loss_scale", "1", asked=True),
)
"""Of each network's update, beside the family's scalars"""
OF_STEP = (
    Quantity("train/samples_per_s", "samples/s", "higher"),
    Quantity("train/tokens_per_s", "tokens/s", "higher", asked=True),
    Quantity("train/mfu", "share", "higher", asked=True),
    Quantity("train/goodput", "share", "higher"),
    Quantity("train/memory_bytes", "bytes", "lower"),
    Quantity("train/data_wait_s", "s", "lower"),
    Quantity("train/data_wait_share", "share", "lower"),
)
"""Of the step of the whole world"""
RESUME = Quantity("train/resume_s", "s", "lower")
"""From the launch of a restart to its restored state; made from the event log"""
SAMPLES = "samples"
"""What a model wrote or drew, as media of Weights & Biases"""
HISTOGRAMS = "histograms/weights"
"""Distribution of a network's weights, below it by the network's name"""
FOLDS = "folds"
"""The table of a cross-validation, by its key in Weights & Biases"""
VERDICT = "gate/verdict"
"""What the nightly gate says of a family"""


def label_of(turn: str, turns: Sequence[str]) -> str:
    """Under which a network's own numbers of a step are told: train, or train/generator where there are several."""
    return f"{TRAIN}/{turn}" if len(turns) > 1 else TRAIN


def of_validation(name: str) -> str:
    """The name under which a metric of the validation split is told."""
    return f"{VALIDATION}/{name}"


def of_gate(metric: str) -> str:
    """The name under which the nightly gate tells the mean of the new runs."""
    return f"gate/{metric}"


def of_baseline(metric: str) -> str:
    """The name under which the nightly gate tells the mean of the baseline."""
    return f"baseline/{metric}"


def metrics_of(family: type) -> FamilyMetrics:
    """What a family's configuration class declares. Raises ConfigError where it declares nothing."""
    found = getattr(family, "metrics", None)
    if not isinstance(found, FamilyMetrics):
        raise ConfigError(
            f"{family.__name__} does not say which metrics its runs tell; give it `metrics: ClassVar = "
            "FamilyMetrics(...)`, as configs/language.py does"
        )
    return found


def matching(quantities: Iterable[Quantity], told: str) -> Quantity | None:
    """What a number is that is told under this name: one of its own before one that it is among; None for none."""
    found = [each for each in quantities if each.names(told)]
    return min(found, key=lambda each: not each.is_one, default=None)


def of_training(family: FamilyMetrics) -> tuple[Quantity, ...]:
    """Every number of a step of a family, by its whole name."""
    own = [
        Quantity(f"{label_of(turn, family.turns)}/{each.name}", each.unit, each.better, each.asked)
        for turn in family.turns
        for each in (*family.scalars, *OF_NETWORK)
    ]
    return (*own, *OF_STEP)


CALIBRATION = Quantity("test/calibration_error", "share", "lower")
CLASS_TABLES = ("confusion", "roc", "calibration", FOLDS)


def of_classifier(each: str) -> FamilyMetrics:
    """What a classifier of whole samples tells; `each` is what a sample is: image, text."""
    loss, shares = Quantity("loss", f"nats/{each}", "lower"), ("accuracy", "balanced_accuracy", "f1_macro")
    more = ("precision_macro", "f1_micro", "f1_weighted", "roc_area", "average_precision")
    return FamilyMetrics(
        scalars=(loss, Quantity("accuracy", "share", "higher")),
        validation=(
            loss,
            *(Quantity(name, "share", "higher") for name in shares),
            Quantity("top5_accuracy", "share", "higher", asked=True),
        ),
        evaluated=(
            *(Quantity(f"test/{name}", "share", "higher") for name in (*shares, *more)),
            Quantity("test/matthews", "correlation", "higher"),
            Quantity("test/top*_accuracy", "share", "higher", asked=True),
            CALIBRATION,
            Quantity("test/loss", loss.unit, "lower"),
        ),
        tables=CLASS_TABLES,
    )
