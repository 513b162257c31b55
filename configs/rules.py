"""Checks between fields: each gets a config, or a loose copy of one with mistakes, and says what is wrong."""

from typing import Any


def room_for_training(splits: Any) -> str | None:
    if splits.validation + splits.test < 1:
        return None
    got = f"validation + test = {splits.validation:g} + {splits.test:g}"
    return f"{got} leaves nothing to train on; their sum must be below 1"


def heads_divide_width(model: Any) -> str | None:
    if model.width % model.num_heads:
        below = model.width // model.num_heads * model.num_heads
        return f"width={model.width} must be a multiple of num_heads={model.num_heads}; try {below or model.num_heads}"
    if model.positions == "rotary" and model.width // model.num_heads % 2:
        return f"rotary positions need an even width / num_heads, got {model.width} / {model.num_heads}"
    return None


def kv_heads_divide_heads(model: Any) -> str | None:
    if not model.num_kv_heads or model.num_heads % model.num_kv_heads == 0:
        return None
    return f"num_heads={model.num_heads} must be a multiple of num_kv_heads={model.num_kv_heads}"


def warmup_fits(train: Any) -> str | None:
    if train.schedule.warmup_steps < train.steps:
        return None
    return f"schedule.warmup_steps={train.schedule.warmup_steps} must be below steps={train.steps}"


def batch_divides(run: Any) -> str | None:
    whole, micro, processes = run.train.global_batch_samples, run.world.micro_batch_samples, run.world.processes
    together = micro * processes
    if whole % together == 0:
        return None
    below, above = whole // together * together, (whole // together + 1) * together
    return (
        f"train.global_batch_samples={whole} must be a multiple of world.micro_batch_samples x world.processes"
        f" = {micro} x {processes} = {together}; try {f'{below} or {above}' if below else above}"
    )


def stride_fits(run: Any) -> str | None:
    stride, block = getattr(run.task.evaluation, "stride_tokens", 0), run.data.block_tokens  # families without: 0
    if stride <= block:
        return None
    return (
        f"task.evaluation.stride_tokens={stride} must not exceed data.block_tokens={block}, "
        f"or tokens would go unscored; try {max(1, block // 2)}"
    )


def image_is_fixed(cluster: Any) -> str | None:
    if not cluster.image.endswith(":latest"):
        return None
    return f"image={cluster.image} moves under a run; name a version or a digest"
