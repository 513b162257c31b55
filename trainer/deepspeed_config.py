"""The run as DeepSpeed's own configuration."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from configs.engine import ZeroConfig
from configs.errors import ConfigError
from configs.schema import RunConfig

BUCKET_NUMBERS = {"cuda": 50_000_000, "cpu": 5_000_000}
"""Gradients that travel together. DeepSpeed allocates the whole bucket however small the network is: of its default of
5e8 numbers, 2 GB in fp32, and twice that with overlap
"""

Dictionary = dict[str, Any]


def deepspeed_config(run: RunConfig, *, device: Literal["cpu", "cuda"]) -> Dictionary:
    """The dictionary for `deepspeed.initialize` with an optimizer of ours; `run.deepspeed` is laid over it.

    Raises ConfigError for what DeepSpeed has on GPUs alone.
    """
    require_device(run.world.zero, device)
    stage, precision = run.world.zero.stage, run.train.precision
    ours: Dictionary = {
        "train_micro_batch_size_per_gpu": run.micro_batch,
        "gradient_accumulation_steps": run.accumulation,
        # stage 0 reports no gradient norm, so the engine clips there; DeepSpeed's default would clip again, at 1.0
        "gradient_clipping": (run.train.clip_grad_norm or 0.0) if stage else 0.0,
        "zero_optimization": zero_section(run.world.zero, device=device),
        # fp16 is not autocast by DeepSpeed: the engine does it, because it owns and saves the loss scale
        "torch_autocast": {"enabled": precision == "bf16", "dtype": "bfloat16"},
        "steps_per_print": None,
        "wall_clock_breakdown": False,
        "timers": {"throughput": {"enabled": False}},  # it would wait for the device every step
    }
    if run.world.tensor_parallel == 1:  # else DeepSpeed checks it twice, over different numbers of ranks
        ours["train_batch_size"] = run.micro_batch * run.accumulation * run.world.processes
    if stage:
        ours["zero_allow_untested_optimizer"] = True
    if run.world.zero.offload_optimizer != "none":
        ours["zero_force_ds_cpu_optimizer"] = False  # its own is compiled at the first start, and knows AdamW alone
    return laid_over(ours, run.deepspeed)


def dictionary_of(run: RunConfig, *, device: Literal["cpu", "cuda"]) -> Dictionary:
    """`deepspeed_config`, with what the run says of its own looked at by DeepSpeed before anything is built."""
    dictionary = deepspeed_config(run, device=device)
    return checked(dictionary) if run.deepspeed else dictionary


def checked(dictionary: Dictionary) -> Dictionary:
    """The same, looked at by DeepSpeed, whose words become a ConfigError; the ranks must have met."""
    from deepspeed.runtime.config import DeepSpeedConfig, DeepSpeedConfigError

    try:
        DeepSpeedConfig(dictionary)
    except ValidationError as error:
        wrong = error.errors()[0]
        where = f"deepspeed: {error.title}.{'.'.join(map(str, wrong['loc']))}"
        raise ConfigError(f"{where}: {wrong['msg'][0].lower()}{wrong['msg'][1:]}, got {wrong['input']!r}") from None
    except (DeepSpeedConfigError, ValueError, TypeError, AssertionError) as error:
        raise ConfigError(f"deepspeed: {' '.join(str(error).split())}") from None
    return dictionary


def zero_section(zero: ZeroConfig, *, device: Literal["cpu", "cuda"]) -> Dictionary:
    """The section `zero_optimization`."""
    if zero.stage == 0:
        return {"stage": 0}
    bucket = BUCKET_NUMBERS[device]
    section: Dictionary = {
        "stage": zero.stage,
        "contiguous_gradients": True,  # gradients are copied together and reduced at once, not one by one
        "overlap_comm": zero.overlap,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
    }
    if zero.stage == 3:
        section["stage3_gather_16bit_weights_on_model_save"] = False  # a checkpoint holds pieces
        section |= zero_plus_plus(zero)
    for key, place in (("offload_optimizer", zero.offload_optimizer), ("offload_param", zero.offload_parameters)):
        if place != "none":
            section[key] = {"device": place, "pin_memory": device == "cuda"}
        if place == "nvme":
            section[key]["nvme_path"] = zero.offload_path
    return section


def zero_plus_plus(zero: ZeroConfig) -> Dictionary:
    """Its three parts (Wang et al., 2023), each where it is asked for."""
    wanted = {
        "zero_hpz_partition_size": zero.partition_group,
        "zero_quantized_weights": zero.quantized_weights,
        "zero_quantized_gradients": zero.quantized_gradients,
    }
    return {key: value for key, value in wanted.items() if value}


def require_device(zero: ZeroConfig, device: str) -> None:
    wanted = [name for name in ("quantized_weights", "quantized_gradients") if getattr(zero, name)]
    if device == "cpu" and wanted:
        raise ConfigError(f"world.zero.{wanted[0]}=true needs GPUs, and these ranks are on CPUs; leave it out")


def laid_over(ours: Mapping[str, Any], overrides: Mapping[str, Any]) -> Dictionary:
    """Sections of both together; of a key in both, the override."""
    merged = dict(ours)
    for key, value in overrides.items():
        old = merged.get(key)
        merged[key] = laid_over(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def open_offload_folder(zero: ZeroConfig) -> None:
    """Make the folder of nvme offload on this node, if its parent is there.

    Raises ConfigError where it cannot be made or written.
    """
    if zero.offload_path is None or "nvme" not in (zero.offload_optimizer, zero.offload_parameters):
        return
    folder = Path(zero.offload_path)
    where = f"world.zero.offload_path={folder}"
    if not folder.parent.is_dir():
        raise ConfigError(f"{where}: {folder.parent} is not there; name a folder on a disk of this machine")
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{where}: cannot be made: {error.strerror}; name a folder that can") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{where}: cannot be written by this user; change its owner or name another")
