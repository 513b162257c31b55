"""Checks between fields of how a run is carried out: ZeRO, offload, parallel degrees, DeepSpeed's own keys."""

from typing import Any

from configs.deepspeed import deepspeed_problem


def offload_has_state(zero: Any) -> str | None:
    if zero.offload_parameters != "none" and zero.stage != 3:
        return (
            f"offload_parameters={zero.offload_parameters} needs stage=3, which splits weights; got stage={zero.stage}"
        )
    least = {"none": 0, "cpu": 1, "nvme": 3}[zero.offload_optimizer]
    if zero.stage >= least:
        return None
    return f"offload_optimizer={zero.offload_optimizer} needs stage={least} or more, got stage={zero.stage}"


def offload_has_folder(zero: Any) -> str | None:
    wanted = [name for name in ("offload_optimizer", "offload_parameters") if getattr(zero, name) == "nvme"]
    if not wanted or zero.offload_path:
        return None
    return f"{wanted[0]}=nvme needs offload_path, a folder on a fast local disk"


def zero_plus_plus_fits(zero: Any) -> str | None:
    wanted = [name for name in ("partition_group", "quantized_weights", "quantized_gradients") if getattr(zero, name)]
    if not wanted or zero.stage == 3:
        return None
    return f"{wanted[0]} is part of ZeRO++ and needs stage=3, got stage={zero.stage}"


def degrees_divide_ranks(world: Any) -> str | None:
    shared = world.tensor_parallel * world.sequence_parallel
    if world.processes % shared == 0:
        return None
    return (
        f"processes={world.processes} must be a multiple of tensor_parallel x sequence_parallel"
        f" = {world.tensor_parallel} x {world.sequence_parallel} = {shared}; try {shared}"
    )


def partition_group_divides(world: Any) -> str | None:
    group = world.zero.partition_group
    if not group or world.processes % group == 0:
        return None
    return f"processes={world.processes} must be a multiple of zero.partition_group={group}"


def averages_are_in_memory(run: Any) -> str | None:
    if run.world.zero.offload_optimizer != "nvme" or run.train.ema is None:
        return None
    return "train.ema reads weights after each update, and world.zero.offload_optimizer=nvme has them on disk; try cpu"


def optimizer_fits_stage(run: Any) -> str | None:
    stage, kind, fine_tune = run.world.zero.stage, run.train.optimizer.kind, run.train.fine_tune
    if stage == 0:
        return None
    if kind in ("lamb", "muon"):
        return (
            f"train.optimizer.kind={kind} reads whole matrices, and world.zero.stage={stage} cuts them; "
            "choose stage=0, or adamw, sgd or lion"
        )
    if fine_tune is not None and fine_tune.unfreeze_every_steps is not None:
        return (
            f"train.fine_tune.unfreeze_every_steps changes what learns, and world.zero.stage={stage} fixes it at the "
            "start; choose stage=0"
        )
    return None


def quantized_weights_fit_precision(run: Any) -> str | None:
    if not run.world.zero.quantized_weights or run.train.precision != "bf16":
        return None
    return (
        "world.zero.quantized_weights=true sends int8, and under train.precision=bf16 weights travel as bf16; "
        "leave it out, or choose fp32 or fp16"
    )


def compiled_weights_stay(world: Any) -> str | None:
    if not world.compile or world.zero.stage < 3:
        return None
    return "compile=true needs weights that stay where they are, and zero.stage=3 gathers them; choose stage 2 or less"


def parallel_fits_task(run: Any) -> str | None:
    model, shared = run.task.model, run.world.tensor_parallel * run.world.sequence_parallel
    for name in ("tensor_parallel", "sequence_parallel"):
        degree = getattr(run.world, name)
        if degree == 1:
            continue
        if not hasattr(model, "num_heads") or run.data.kind != "text":
            return f"world.{name}={degree} shares transformers of text, and task.model.kind={model.kind} is none; try 1"
        for field, heads in (("num_heads", model.num_heads), ("num_kv_heads", model.num_kv_heads or shared)):
            if heads % shared:
                asked = "tensor_parallel x world.sequence_parallel" if shared > degree else name
                return f"world.{asked}={shared} must divide task.model.{field}={heads}"
    if run.world.sequence_parallel > 1 and run.task.kind not in ("causal_lm", "masked_lm"):
        return (
            f"world.sequence_parallel={run.world.sequence_parallel} shares the tokens of language models, and "
            f"task.kind={run.task.kind} reads a whole text at once; try 1"
        )
    block = getattr(run.data, "block_tokens", 0)
    if block % run.world.sequence_parallel:
        return f"world.sequence_parallel={run.world.sequence_parallel} must divide data.block_tokens={block}"
    return None


def tensors_can_be_cut(run: Any) -> str | None:
    world, hidden = run.world, getattr(run.task.model, "hidden_width", 0)
    if world.tensor_parallel == 1:
        return None
    asked = f"world.tensor_parallel={world.tensor_parallel}"
    if world.zero.stage == 0:
        return f"{asked} needs world.zero.stage=1 or more, whose gradient norm spans cut matrices; got stage=0"
    if world.compile:
        return f"{asked} exchanges inside layers, where the compiler does not follow; set world.compile=false"
    if hidden % world.tensor_parallel:
        return f"{asked} must divide the width of task.model's feed-forward layers, {hidden}"
    return None


def deepspeed_keys_are_free(run: Any) -> str | None:
    return deepspeed_problem(run.deepspeed)


def validation_is_due(train: Any) -> str | None:
    if train.validate_every_steps or train.validate_every_s:
        return None
    return "one of validate_every_steps and validate_every_s is needed; try validate_every_steps=100"


def result_is_measured(train: Any) -> str | None:
    best = train.checkpoint.best
    if train.result != "best" or train.early_stopping:
        return None
    if best is None:
        return "result=best needs a metric; give checkpoint.best or early_stopping"
    if best.metric.startswith("validation/"):
        return None
    return f"result=best needs a validation metric, got checkpoint.best.metric={best.metric}; try validation/loss"


def result_has_one_measure(train: Any) -> str | None:
    best, stopping = train.checkpoint.best, train.early_stopping
    if not best or not stopping or train.result == "last":
        return None
    if (best.metric, best.better) == (stopping.metric, stopping.better):
        return None
    return (
        f"early_stopping by {stopping.metric} ({stopping.better}) and checkpoint.best by {best.metric} ({best.better}) "
        "choose two results; make them equal, or set result=last"
    )


def steps_decide_the_result(train: Any) -> str | None:
    asked = "early_stopping" if train.early_stopping else "result=best" if train.result == "best" else None
    if not asked or not train.validate_every_s:
        return None
    return (
        f"{asked} with validate_every_s={train.validate_every_s:g} would let the clock choose the result; "
        "give validate_every_steps alone"
    )


def result_has_a_split(run: Any) -> str | None:
    asked = "early_stopping" if run.train.early_stopping else "result=best" if run.train.result == "best" else None
    if not asked or run.data.splits.validation:
        return None
    return f"train.{asked} needs a validation split; set data.splits.validation above 0"
