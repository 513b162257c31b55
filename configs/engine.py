"""How a run is carried out: split over ranks, saved, and mended when it runs away."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from configs import engine_rules
from configs.dataset import Config, Count, Name, Positive

Offload = Literal["none", "cpu", "nvme"]


class ZeroConfig(Config):
    """How DeepSpeed splits a network's state over ranks (Rajbhandari et al., 2020); any stage reads any checkpoint."""

    rules: ClassVar = (
        engine_rules.offload_has_state,
        engine_rules.offload_has_folder,
        engine_rules.zero_plus_plus_fits,
    )

    stage: Literal[0, 1, 2, 3] = 0
    """0: nothing is split; 1: optimizer state; 2: gradients too; 3: weights too"""
    offload_optimizer: Offload = "none"
    """Where optimizer state lies instead of the device; nvme: stage 3 alone"""
    offload_parameters: Offload = "none"
    """Where weights lie between their uses instead of the device; stage 3 alone"""
    offload_path: Name | None = None
    """Folder on a fast local disk, for nvme"""
    partition_group: Count | None = None
    """ZeRO++: ranks, such as those of one machine, over which the backward pass's weights are split again; stage 3"""
    quantized_weights: bool = False
    """ZeRO++: whether weights travel as int8; stage 3 on GPUs"""
    quantized_gradients: bool = False
    """ZeRO++: whether gradients travel as int4; stage 3 on GPUs"""
    overlap: bool = False
    """Whether gradients are reduced while the backward pass goes on; takes memory for a second bucket"""


class BestConfig(Config):
    """Checkpoints that stay for what they score."""

    metric: Annotated[str, Field(pattern=r"^(validation/\S+|train/(\S+/)?loss)$")]
    """Name of a validation metric, such as validation/loss, or of a loss of the training"""
    count: Count = 1
    """How many stay"""
    better: Literal["lower", "higher"] = "lower"
    """Which values win"""


class EarlyStoppingConfig(Config):
    """Training ends before its last step when validation no longer improves."""

    metric: Annotated[str, Field(pattern=r"^validation/\S+$")] = "validation/loss"
    """Name of the validation metric that is watched"""
    better: Literal["lower", "higher"] = "lower"
    """Which values are improvements"""
    patience: Count
    """Validations in a row without an improvement that end the training"""
    least: Annotated[float, Field(ge=0)] = 0.0
    """Improvements of no more than this do not count; in the metric's unit"""


class CheckpointConfig(Config):
    """When the state is saved, and what stays."""

    every_steps: Count
    """Steps between two checkpoints; the last step is always saved"""
    keep: Count = 2
    """Newest checkpoints that stay"""
    permanent_every_steps: Count | None = None
    """Checkpoints of multiples of this stay for ever"""
    best: BestConfig | None = None
    """Checkpoints that stay for their validation metric"""
    asynchronous: bool = True
    """Whether training goes on while a copy of the state is written"""


class AnomalyConfig(Config):
    """What happens when training runs away."""

    not_finite: Literal["stop", "skip", "rollback"] = "stop"
    """A loss or gradient that is no number: end the run, leave that update out, or go back to the last checkpoint and
    past the samples since
    """
    spike: Literal["ignore", "stop", "skip", "rollback"] = "ignore"
    """The same for a gradient norm or loss far above those before"""
    spike_deviations: Positive = 12.0
    """Robust standard deviations above the median of the last 64 steps that make a spike"""
    budget: Annotated[int, Field(ge=0)] = 5
    """Updates left out and ways back in all; the next one ends the run"""
