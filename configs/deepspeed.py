"""Keys of DeepSpeed's own configuration: which there are, and which trainworks sets from the run."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

KEYS: dict[str, tuple[str, ...]] = {
    "": (
        *("activation_checkpointing", "aio", "autotuning", "bf16", "bfloat16", "checkpoint", "comet", "comms_logger"),
        *("communication_data_type", "compile", "csv_monitor", "data_efficiency", "data_types", "dataloader_drop_last"),
        *("datastates_ckpt", "disable_allgather", "disable_python_gc", "dump_state", "expert_parallel"),
        *("flops_profiler", "fp16", "gradient_accumulation_steps", "gradient_allreduce_op", "gradient_clipping"),
        *("gradient_predivide_factor", "hybrid_engine", "log_level", "managed_gradient_accumulation"),
        *("memory_breakdown", "optimizer", "pipeline", "prescale_gradients", "scheduler"),
        *("seq_parallel_communication_data_type", "steps_per_print", "tensor_parallel", "tensorboard", "timers"),
        *("torch_autocast", "train_batch_size", "train_micro_batch_size_per_gpu", "use_data_before_expert_parallelism"),
        *("vocabulary_size", "wall_clock_breakdown", "wandb", "weight_quantization", "zero_allow_untested_optimizer"),
        *("zero_force_ds_cpu_optimizer", "zero_optimization"),
    ),
    "zero_optimization": (
        *("allgather_bucket_size", "allgather_partitions", "compute_grad_norm", "contiguous_gradients", "cpu_offload"),
        *("cpu_offload_param", "cpu_offload_use_pin_memory", "elastic_checkpoint", "enable_sanity_checks"),
        *("ignore_unused_parameters", "leaf_module", "legacy_stage1", "load_from_fp32_weights"),
        *("log_trace_cache_warnings", "memory_efficient_linear", "offload_optimizer", "offload_param", "overlap_comm"),
        *("override_module_apply", "parameter_alignment", "pipeline_loading_checkpoint", "reduce_bucket_size"),
        *("reduce_scatter", "round_robin_gradients", "save_muon_momentum_buffer_in_memory", "stage"),
        *("stage3_allgather_sequential", "stage3_gather_16bit_weights_on_model_save"),
        *("stage3_gather_fp16_weights_on_model_save", "stage3_max_live_parameters", "stage3_max_reuse_distance"),
        *("stage3_model_persistence_threshold", "stage3_module_granularity_threshold"),
        *("stage3_param_persistence_threshold", "stage3_prefetch_bucket_size"),
        *("stage3_use_all_reduce_for_fetch_params", "sub_group_size", "use_multi_rank_bucket_allreduce", "zenflow"),
        *("zero_hpz_partition_size", "zero_quantized_gradients", "zero_quantized_nontrainable_weights"),
        *("zero_quantized_weights",),
    ),
    "zero_optimization.offload_optimizer": (
        *("buffer_count", "cpuadam_cores_perc", "device", "fast_init", "nvme_path", "pin_memory", "pipeline_read"),
        *("pipeline_write", "ratio", "super_offload"),
    ),
    "zero_optimization.offload_param": (
        *("buffer_count", "buffer_size", "device", "max_in_cpu", "nvme_path", "pin_memory"),
    ),
    "zero_optimization.leaf_module": ("classes", "name_suffixes", "names"),
    "torch_autocast": ("dtype", "enabled", "lower_precision_safe_modules"),
    "data_types": ("buffer_dtype", "grad_accum_dtype", "keep_in_fp32_modules", "param_dtype"),
    "aio": ("block_size", "intra_op_parallelism", "overlap_events", "queue_depth", "single_submit", "use_gds"),
    "comms_logger": ("debug", "enabled", "prof_all", "prof_ops", "verbose"),
    "flops_profiler": (
        *("detailed", "enabled", "module_depth", "output_file", "profile_step", "recompute_fwd_factor", "top_modules"),
    ),
    "timers": ("throughput",),
    "timers.throughput": ("enabled", "synchronized"),
    "tensorboard": ("enabled", "job_name", "output_path"),
    "csv_monitor": ("enabled", "job_name", "output_path"),
    "comet": (
        *("api_key", "enabled", "experiment_key", "experiment_name", "mode", "online", "project"),
        *("samples_log_interval", "workspace"),
    ),
}
"""Every key of DeepSpeed 0.19 by section; sections that are refused as a whole are not spelled out"""

REMOVED = (
    *("amp", "compression_training", "curriculum_learning", "eigenvalue", "elasticity", "graph_harvesting", "nebula"),
    *("progressive_layer_drop", "quantize_training", "sparse_attention", "sparse_gradients"),
)
"""Keys that DeepSpeed had once, and now refuses"""

SET = {
    "train_batch_size": "train.global_batch_samples",
    "train_micro_batch_size_per_gpu": "world.micro_batch_samples",
    "gradient_accumulation_steps": "world.micro_batch_samples",
    "gradient_clipping": "train.clip_grad_norm",
    "optimizer": "train.optimizer",
    "scheduler": "train.schedule",
    "bf16": "train.precision",
    "bfloat16": "train.precision",
    "fp16": "train.precision",
    "torch_autocast.enabled": "train.precision",
    "torch_autocast.dtype": "train.precision",
    "activation_checkpointing": "world.recompute",
    "compile": "world.compile",
    "checkpoint": "train.checkpoint",
    "datastates_ckpt": "train.checkpoint",
    "autotuning": "world.micro_batch_samples",
    "tensor_parallel": "world.tensor_parallel",
    "wandb": "wandb",
    "zero_optimization.stage": "world.zero.stage",
    "zero_optimization.offload_optimizer.device": "world.zero.offload_optimizer",
    "zero_optimization.offload_optimizer.nvme_path": "world.zero.offload_path",
    "zero_optimization.offload_param.device": "world.zero.offload_parameters",
    "zero_optimization.offload_param.nvme_path": "world.zero.offload_path",
    "zero_optimization.cpu_offload": "world.zero.offload_optimizer",
    "zero_optimization.cpu_offload_param": "world.zero.offload_parameters",
    "zero_optimization.overlap_comm": "world.zero.overlap",
    "zero_optimization.zero_hpz_partition_size": "world.zero.partition_group",
    "zero_optimization.zero_quantized_weights": "world.zero.quantized_weights",
    "zero_optimization.zero_quantized_gradients": "world.zero.quantized_gradients",
}
"""Keys, and sections, that have a field of the run"""

_LAYOUT = "lays partitions out otherwise than checkpoints of trainworks read them"
_EXPERTS = "no family here has experts"
REFUSED = {
    "data_efficiency": "changes which samples are read, and their order is a function of the seed and the position",
    "data_types.buffer_dtype": "weights and buffers stay fp32",
    "data_types.keep_in_fp32_modules": "weights and buffers stay fp32",
    "data_types.param_dtype": "weights and buffers stay fp32",
    "dataloader_drop_last": "trainworks reads the data itself",
    "disable_python_gc": "the loop looks after Python's garbage collector itself",
    "expert_parallel": _EXPERTS,
    "use_data_before_expert_parallelism": _EXPERTS,
    "gradient_allreduce_op": "the loss is scaled for a mean over ranks",
    "hybrid_engine": "training here has no turn of generation",
    "managed_gradient_accumulation": "the loop relies on DeepSpeed's count of micro-batches",
    "pipeline": "no network here is cut into pipeline stages",
    "weight_quantization": "weights and buffers stay fp32",
    "zero_allow_untested_optimizer": "optimizers are those of trainworks at every stage",
    "zero_force_ds_cpu_optimizer": "optimizers are those of trainworks at every stage",
    "zero_optimization.compute_grad_norm": "the gradient norm is logged and watched",
    "zero_optimization.cpu_offload_use_pin_memory": "DeepSpeed no longer reads it; use offload_optimizer.pin_memory",
    "zero_optimization.elastic_checkpoint": "checkpoints are those of trainworks, which load on any world",
    "zero_optimization.legacy_stage1": "DeepSpeed no longer has it",
    "zero_optimization.load_from_fp32_weights": "checkpoints are those of trainworks",
    "zero_optimization.offload_optimizer.super_offload": "it brings an optimizer of its own",
    "zero_optimization.parameter_alignment": _LAYOUT,
    "zero_optimization.pipeline_loading_checkpoint": "checkpoints are those of trainworks",
    "zero_optimization.round_robin_gradients": _LAYOUT,
    "zero_optimization.save_muon_momentum_buffer_in_memory": "optimizers are those of trainworks at every stage",
    "zero_optimization.stage3_gather_16bit_weights_on_model_save": "a checkpoint holds each rank's own pieces",
    "zero_optimization.stage3_gather_fp16_weights_on_model_save": "a checkpoint holds each rank's own pieces",
    "zero_optimization.zenflow": "it updates weights late, by state that a checkpoint would not hold",
}
"""Keys, and sections, that would break what trainworks promises, and why"""


def deepspeed_problem(overrides: Mapping[str, Any]) -> str | None:
    """What is wrong with the section `deepspeed`, in words, one line per key."""
    return "\n".join(_problems(overrides, "")) or None


def _problems(section: Mapping[str, Any], path: str) -> Iterator[str]:
    for key, value in section.items():
        here = f"{path}.{key}" if path else str(key)
        if field := SET.get(here):
            yield f"deepspeed.{here} is set from {field}; set that instead"
        elif reason := REFUSED.get(here):
            yield f"deepspeed.{here} is refused: {reason}; leave it out"
        elif not path and key in REMOVED:
            yield f"deepspeed.{here} is gone from DeepSpeed; leave it out"
        elif key not in KEYS[path]:
            yield f"deepspeed.{here}: unknown key" + _did_you_mean(str(key), path)
        elif here in KEYS and isinstance(value, Mapping):
            yield from _problems(value, here)
        elif here in KEYS:
            yield f"deepspeed.{here}: expected keys and values, got {value!r}; allowed there: {', '.join(KEYS[here])}"


def _did_you_mean(key: str, path: str) -> str:
    """A key spelled like it in the same section, or else anywhere."""
    if near := difflib.get_close_matches(key, KEYS[path], n=1):
        return f"; did you mean deepspeed.{path}{'.' if path else ''}{near[0]}?"
    elsewhere = {name: f"{section}.{name}".strip(".") for section, names in KEYS.items() for name in names}
    if near := difflib.get_close_matches(key, list(elsewhere), n=1):
        return f"; did you mean deepspeed.{elsewhere[near[0]]}?"
    return "; DeepSpeed's documentation lists them by section"
