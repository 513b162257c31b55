"""Checks between fields: each gets a config, or a loose copy of one with mistakes, and says what is wrong."""

import math
from typing import Any

SIDES = ("height", "width")


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
    return "images.rare_classes copies training samples, and with splits.folds each fold is scored too; choose one"


def fold_exists(folds: Any) -> str | None:
    if folds.held_out is None or folds.held_out < folds.count:
        return None
    return f"held_out={folds.held_out} must be below count={folds.count}: folds are numbered from 0"


def repeats_are_whole(folds: Any) -> str | None:
    if folds.held_out is None or folds.repeats == 1:
        return None
    return f"held_out={folds.held_out} is one fold of one repeat, repeats={folds.repeats} are of all folds; choose one"


def test_texts_are_there(data: Any) -> str | None:
    if data.text.decontaminate is None or data.splits.test:
        return None
    return "text.decontaminate compares with the test split, and splits.test=0 makes none; give it a share"


def something_is_tested(splits: Any) -> str | None:
    if splits.test or splits.folds:
        return None
    return "test=0 leaves nothing for the final numbers; give a share, or folds"


def folds_are_drawn_anew(splits: Any) -> str | None:
    folds = splits.folds
    if folds is None or splits.previous is None or folds.repeat + folds.repeats == 1:
        return None
    return "previous keeps every sample in its fold, another repeat draws another fold for it; choose one"


def classes_are_labelled(data: Any) -> str | None:
    source = data.source
    sources = [part.source for part in source.parts] if source.kind == "mixture" else [source]
    if all(each.kind == "packaged" or each.label_field for each in sources):
        return None
    wish = next((name for name, wanted in _wishes(data) if wanted), None)
    return f"{wish} needs labels; set label_field in every source" if wish else None


def tags_find_their_place(data: Any) -> str | None:
    source, text = data.source, data.text
    sources = [part.source for part in source.parts] if source.kind == "mixture" else [source]
    if not any(
        getattr(each, "tags_field", None) or getattr(each, "name", None) == "shakespeare-tags" for each in sources
    ):
        return None
    if data.packing != "document":
        return f"tagged text is one document a sample, packing is {data.packing}; choose document"
    moving = [
        name
        for name, usual in (("denoise", ()), ("stop_words", "keep"), ("words", "keep"))
        if getattr(text, name) != usual
    ]
    return f"text.{moving[0]} changes words, and their tags would be lost; leave it out" if moving else None


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
    if getattr(model, "positions", None) == "rotary" and model.width // model.num_heads % 2:
        return f"rotary positions need an even width / num_heads, got {model.width} / {model.num_heads}"
    return None


def kv_heads_divide_heads(model: Any) -> str | None:
    if not model.num_kv_heads or model.num_heads % model.num_kv_heads == 0:
        return None
    return f"num_heads={model.num_heads} must be a multiple of num_kv_heads={model.num_kv_heads}"


def reads_one_way(task: Any) -> str | None:
    if task.model.attention == "causal":
        return None
    return "task.kind=causal_lm with model.attention=bidirectional would see what it predicts; choose causal"


def reads_both_ways(task: Any) -> str | None:
    if task.model.attention == "bidirectional":
        return None
    return "task.kind=masked_lm with model.attention=causal would not see what follows; choose bidirectional"


def pooling_sees_text(task: Any) -> str | None:
    if task.pooling != "first" or task.model.attention == "bidirectional":
        return None
    return "pooling=first reads the first token, which sees no other in a causal model; choose last or mean"


def levels_have_heads(model: Any) -> str | None:
    widths = [model.width * multiplier for multiplier in model.multipliers]
    wrong = [width for width in widths if width % model.head_width]
    if not wrong or not model.attention_sides:
        return None
    return f"levels of {wrong[0]} maps must be a multiple of head_width={model.head_width}; try {model.width}"


def width_holds_two_axes(model: Any) -> str | None:
    if model.width % 4 == 0:
        return None
    return f"width={model.width} must be a multiple of 4, for sines and cosines of two axes; try {model.width // 4 * 4}"


def variances_rise(noise: Any) -> str | None:
    if noise.beta_first < noise.beta_last:
        return None
    return f"beta_first={noise.beta_first:g} must be below beta_last={noise.beta_last:g}"


def signal_is_left(noise: Any) -> str | None:
    points = [noise.beta_first + (noise.beta_last - noise.beta_first) * place / 100 for place in range(101)]
    signal = noise.steps * sum(math.log1p(-beta) for beta in points) / len(points)
    if signal > -80:  # the usual 1000 steps leave exp(-10)
        return None
    return (
        f"steps={noise.steps} of variances up to beta_last={noise.beta_last:g} leave exp({signal:.0f}) of the signal, "
        f"which no float holds; try beta_last={max(1.01 * noise.beta_first, 20 / noise.steps):.2g}"
    )


def sigmas_rise(noise: Any) -> str | None:
    if noise.sigma_min < noise.sigma_max:
        return None
    return f"sigma_min={noise.sigma_min:g} must be below sigma_max={noise.sigma_max:g}"


def sampler_fits_noise(task: Any) -> str | None:
    noise, drawing = task.noise, task.drawing
    if drawing.sampler == "ddpm" and noise.kind == "edm":
        return (
            "drawing.sampler=ddpm needs levels of noise, and noise.kind=edm has none; choose heun, ddim or dpm_solver"
        )
    if noise.kind != "edm" and drawing.steps > noise.steps:
        return f"drawing.steps={drawing.steps} must not exceed noise.steps={noise.steps}; try {noise.steps}"
    return None


def guidance_needs_drop(task: Any) -> str | None:
    if task.drawing.guidance == 1 or (task.conditional and task.label_drop > 0):
        return None
    got = f"conditional={str(task.conditional).lower()} and label_drop={task.label_drop:g}"
    return f"drawing.guidance={task.drawing.guidance:g} needs conditional=true and label_drop above 0, got {got}"


def nesterov_has_momentum(optimizer: Any) -> str | None:
    if not optimizer.nesterov or optimizer.momentum > 0:
        return None
    return "nesterov=true needs a momentum above 0; try 0.9"


def frozen_or_thawing(fine_tune: Any) -> str | None:
    if not fine_tune.frozen or fine_tune.unfreeze_every_steps is None:
        return None
    return "frozen=true keeps the body as it is, unfreeze_every_steps thaws it; choose one"


def averaged_one_way(ema: Any) -> str | None:
    if (ema.decay is None) != (ema.power is None):
        return None
    return "ema needs a decay or a power, and not both; try decay=0.999"


def warmup_fits(train: Any) -> str | None:
    if train.schedule.warmup_steps < train.steps:
        return None
    return f"schedule.warmup_steps={train.schedule.warmup_steps} must be below steps={train.steps}"


def batch_divides(run: Any) -> str | None:
    whole, micro, processes = run.train.global_batch_samples, run.world.micro_batch_samples, run.world.processes
    shared = run.world.tensor_parallel * run.world.sequence_parallel
    replicas, micro = max(1, processes // shared), 1 if micro == "auto" else micro
    together = micro * replicas
    if whole % together == 0:
        return None
    below, above = whole // together * together, (whole // together + 1) * together
    able = [str(n * shared) for n in range(1, whole // micro + 1) if whole % (micro * n) == 0] if whole >= micro else []
    ranks = f", or world.processes {', '.join(able[:8])}" if able else ""
    smaller = next((n for n in range(micro - 1, 0, -1) if whole % (n * replicas) == 0), None)
    ranks += f", or world.micro_batch_samples {smaller}" if smaller else ""
    readers = "world.processes" + (f" / {shared} that share" if shared > 1 else "")
    return (
        f"train.global_batch_samples={whole} must be a multiple of world.micro_batch_samples x {readers}"
        f" = {micro} x {replicas} = {together}; try {f'{below} or {above}' if below else above}{ranks}"
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


def documents_are_samples(run: Any) -> str | None:
    if run.task.kind not in ("sequence_classification", "token_classification"):
        return None
    if (packing := getattr(run.data, "packing", "document")) == "document":
        return None
    return f"task.kind={run.task.kind} reads one document a sample, data.packing is {packing}; choose document"


def sides_divide(run: Any) -> str | None:
    model, images = run.task.model, getattr(run.data, "images", None)
    if images is None or model.kind not in ("unet", "dit"):
        return None
    by = model.patch if model.kind == "dit" else 2 ** (len(model.multipliers) - 1)
    wrong = [name for name in SIDES if getattr(images, name) % by]
    if not wrong:
        return None
    side, what = getattr(images, wrong[0]), "patch" if model.kind == "dit" else "2 ** (levels - 1) ="
    below, above = side // by * by, (side // by + 1) * by
    return (
        f"data.images.{wrong[0]}={side} must be a multiple of task.model's {what} {by}; "
        f"try {f'{below} or {above}' if below else above}"
    )


def image_sides_fit(run: Any) -> str | None:
    task, images = run.task, getattr(run.data, "images", None)
    if images is None or task.kind != "image_classification":
        return None
    stored = min(images.height, images.width)
    if task.side and task.side > stored:
        got = f"data.images.height x width = {images.height} x {images.width}"
        return f"task.side={task.side} must not exceed the stored images, {got}; try {stored}"
    seen = [("task.side", task.side)] if task.side else [(f"data.images.{n}", getattr(images, n)) for n in SIDES]
    least = min(side for _, side in seen)
    stages = [(f"task.resolutions.{number}.side", stage.side) for number, stage in enumerate(task.resolutions)]
    if larger := [
        f"{name}={side} must not exceed {least}, the side at the end" for name, side in stages if side > least
    ]:
        return f"{larger[0]}; try {least}"
    by = getattr(task.model, "patch", 1)
    if wrong := [(name, side) for name, side in [*seen, *stages] if side % by]:
        name, side = wrong[0]
        below, above = side // by * by, (side // by + 1) * by
        near = f"{below} or {above}" if below else above
        return f"{name}={side} must be a multiple of task.model's patch {by}; try {near}"
    return None


def pairs_stay_together(run: Any) -> str | None:
    augment = getattr(run.task, "augment", None)
    micro = run.world.micro_batch_samples
    if augment is None or not (augment.mixup or augment.cutmix) or micro == "auto" or micro % 2 == 0:
        return None
    return f"mixup and cutmix pair neighbours: world.micro_batch_samples={micro} must be even; try {micro + 1}"


def batches_have_statistics(run: Any) -> str | None:
    if run.world.micro_batch_samples != 1 or not getattr(run.task.model, "batch_statistics", False):
        return None
    return (
        f"task.model.kind={run.task.model.kind} normalises over the samples of a micro-batch, and "
        "world.micro_batch_samples=1 gives it one; try 2"
    )


def frozen_body_is_learned(run: Any) -> str | None:
    fine_tune = run.train.fine_tune
    frozen = fine_tune is not None and fine_tune.frozen and fine_tune.unfreeze_every_steps is None
    if not frozen or run.task.model.init_from is not None:
        return None
    return "train.fine_tune.frozen=true keeps the body as it was drawn; set task.model.init_from, or frozen=false"


def resolutions_change_between_steps(run: Any) -> str | None:
    stages, batch = getattr(run.task, "resolutions", ()), run.train.global_batch_samples
    until = [stage.until_samples for stage in stages]
    if until != sorted(set(until)):
        return f"task.resolutions: until_samples must rise, got {', '.join(map(str, until))}"
    wrong = next((each for each in until if each % batch), None)
    if wrong is None:
        return None
    near = max(1, round(wrong / batch)) * batch
    return (
        f"task.resolutions: until_samples={wrong} must be a multiple of train.global_batch_samples={batch}; try {near}"
    )


def nodes_share_processes(run: Any) -> str | None:
    nodes, gpus, processes = run.cluster.nodes, run.cluster.node.gpus, run.world.processes
    if gpus and nodes * gpus != processes:
        return (
            f"cluster.nodes x cluster.node.gpus = {nodes} x {gpus} must be world.processes={processes}, a GPU for each "
            f"rank; try world.processes={nodes * gpus}"
        )
    if processes % nodes:
        return f"cluster.nodes={nodes} must divide world.processes={processes}: each node has as many ranks"
    return None


def stall_outlasts_silence(run: Any) -> str | None:
    stall, timeout = run.cluster.patience.stall_s, run.world.timeout_s
    if stall > timeout:
        return None
    return (
        f"cluster.patience.stall_s={stall} must be more than world.timeout_s={timeout}, after which the nodes name a "
        f"silent rank themselves; try {2 * timeout}"
    )
