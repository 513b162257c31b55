"""Checks between fields: each gets a config, or a loose copy of one with mistakes, and says what is wrong."""

import math
from typing import Any


def room_for_training(splits: Any) -> str | None:
    if splits.validation + splits.test < 1:
        return None
    got = f"validation + test = {splits.validation:g} + {splits.test:g}"
    return f"{got} leaves nothing to train on; their sum must be below 1"


def mixed_one_way(mixture: Any) -> str | None:
    given = {(part.weight is not None, part.repeat is not None) for part in mixture.parts}
    if given in ({(True, False)}, {(False, True)}):
        return None
    return "each part needs a weight, or each a repeat count; not both, and not one here and the other there"


def weights_fit_window(data: Any) -> str | None:
    weights = [part.weight for part in getattr(data.source, "parts", ()) if part.weight]
    least = 2 * sum(weights) / min(weights) if weights else 1
    if data.shuffle_window_samples >= least:
        return None
    return (
        f"the smallest weight, {min(weights):g} of {sum(weights):g}, is due less than twice in "
        f"shuffle_window_samples={data.shuffle_window_samples}; a window of {math.ceil(least)} or more is needed"
    )


def balanced_one_way(data: Any) -> str | None:
    if data.balance == "none" or data.source.kind != "mixture":
        return None
    return "balance=classes and a mixture both decide how often a sample is drawn; choose one"


def parts_have_names(mixture: Any) -> str | None:
    names = [part.name for part in mixture.parts]
    twice = sorted({name for name in names if names.count(name) > 1})
    return f"two parts are named {', '.join(twice)}; names must differ" if twice else None


def bytes_have_tokens(tokenizer: Any) -> str | None:
    special = 1 if tokenizer.special == "causal" else 5
    least = special + len(tokenizer.extra_tokens) + (256 if tokenizer.kind == "bpe" else 1)
    if tokenizer.vocabulary_size >= least:
        return None
    holds = f"{special + len(tokenizer.extra_tokens)} special tokens" + (" and 256 bytes" * (tokenizer.kind == "bpe"))
    return f"vocabulary_size={tokenizer.vocabulary_size} must be at least {least}, for {holds}"


def storage_keeps_channels(images: Any) -> str | None:
    if (images.storage, images.colour) != ("webp", "grey"):
        return None
    return "storage=webp knows no grey images; choose png, jpeg or raw"


def copies_stay_out_of_folds(data: Any) -> str | None:
    if data.images.rare_classes is None or data.splits.folds is None:
        return None
    return "images.rare_classes copies training samples, and with splits.folds each fold validates too; choose one"


def fold_exists(folds: Any) -> str | None:
    if folds.held_out < folds.count:
        return None
    return f"held_out={folds.held_out} must be below count={folds.count}: folds are numbered from 0"


def classes_are_labelled(data: Any) -> str | None:
    source = data.source
    sources = [part.source for part in source.parts] if source.kind == "mixture" else [source]
    if all(each.kind == "packaged" or each.label_field for each in sources):
        return None
    wish = next((name for name, wanted in _wishes(data) if wanted), None)
    return f"{wish} needs labels; set label_field in every source" if wish else None


def _wishes(data: Any) -> list[tuple[str, bool]]:
    rare = getattr(getattr(data, "images", None), "rare_classes", None)
    return [
        ("splits.stratify", data.splits.stratify),
        ("balance=classes", data.balance == "classes"),
        ("images.rare_classes", rare is not None),
    ]


def task_reads_data(run: Any) -> str | None:
    reads = getattr(run.task, "reads", run.data.kind)  # a loose copy has none
    if reads == run.data.kind:
        return None
    return f"task.kind={run.task.kind} reads {reads}, data.kind is {run.data.kind}; choose another task or other data"


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
    stride = getattr(run.task.evaluation, "stride_tokens", 0)  # families without: 0
    block = getattr(run.data, "block_tokens", stride)
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
