"""Rules of the families: what cannot run is refused at load, with the numbers and the nearest way out."""

import pytest

from configs.errors import ConfigError
from configs.load import load
from tests.tiny import CONFIGS

TEXT, IMAGES = (next(str(path) for path in CONFIGS if path.stem == stem) for stem in ("demo-lm", "mnist"))
DIFFUSION = "task={kind: diffusion, model: {kind: unet, preset: laptop}, noise: {kind: cosine}}"
DIT = "task={kind: diffusion, model: {kind: dit, preset: laptop}, noise: {kind: cosine}}"
LABELS = "task={kind: sequence_classification, model: {kind: encoder, preset: laptop}}"


def refusal(*arguments: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(list(arguments))
    message = str(caught.value)
    assert message.startswith("the configuration has 1 problem"), message
    return message


@pytest.mark.parametrize(
    ("task", "override", "says"),
    [
        (DIFFUSION, "task.noise={kind: linear, steps: 0}", "task.noise.steps: input should be greater than"),
        (DIFFUSION, "task.noise={kind: linear, beta_first: 0.03}", "beta_first=0.03 must be below beta_last=0.02"),
        (
            DIFFUSION,
            "task.noise={kind: linear, steps: 100000}",
            "leave exp(-1012) of the signal, which no float holds; try",
        ),
        (DIFFUSION, "task.noise={kind: edm, sigma_min: 90}", "sigma_min=90 must be below sigma_max=80"),
        (DIFFUSION, "data.images.height=27", "data.images.height=27 must be a multiple of task.model's 2 ** (levels"),
        (
            DIFFUSION,
            "task.model.multipliers=[1, 2, 2, 2]",
            "height=28 must be a multiple of task.model's 2 ** (levels - 1)",
        ),
        (DIFFUSION, "task.model.width=48", "levels of 48 maps must be a multiple of head_width=32"),
        (DIT, "data.images.width=30", "data.images.width=30 must be a multiple of task.model's patch 4; try 28 or 32"),
        (DIT, "task.model.width=130", "width=130 must be a multiple of num_heads=4; try 128"),
        (DIT, "task.model={width: 126, num_heads: 2}", "width=126 must be a multiple of 4"),
        (DIFFUSION, "task.drawing.steps=1001", "drawing.steps=1001 must not exceed noise.steps=1000"),
        (DIFFUSION, "task={conditional: false, drawing: {guidance: 2}}", "drawing.guidance=2 needs conditional=true"),
        (
            DIFFUSION,
            "task={label_drop: 0, drawing: {guidance: 2}}",
            "label_drop above 0, got conditional=true and label",
        ),
        (DIFFUSION, "task={noise: {kind: edm}, drawing: {sampler: ddpm}}", "choose heun, ddim or dpm_solver"),
    ],
)
def test_a_diffusion_model_that_cannot_run_is_refused(task: str, override: str, says: str):
    assert says in refusal(IMAGES, task, override)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["task.augment={mixup: 0.2}", "world={micro_batch_samples: 1}"], "micro_batch_samples=1 must be even; try 2"),
        (["task.resolutions=[{side: 14, until_samples: 100}]"], "until_samples=100 must be a multiple of"),
        (
            ["task.resolutions=[{side: 14, until_samples: 128}, {side: 20, until_samples: 64}]"],
            "until_samples must rise, got 128, 64",
        ),
        (
            ["task.side=30"],
            "task.side=30 must not exceed the stored images, data.images.height x width = 28 x 28; try 28",
        ),
        (
            ["task.resolutions=[{side: 26, until_samples: 64}]", "task.side=24"],
            "task.resolutions.0.side=26 must not exceed 24, the side at the end; try 24",
        ),
        (
            ["task.model={kind: convnext, patch: 3}"],
            "data.images.height=28 must be a multiple of task.model's patch 3; try 27 or 30",
        ),
        (["train.optimizer={kind: sgd, learning_rate: 0.1, momentum: 0, nesterov: true}"], "needs a momentum above 0"),
        (["train.fine_tune={frozen: true, unfreeze_every_steps: 10}"], "frozen=true keeps the body as it is"),
        (["train.ema={}"], "ema needs a decay or a power"),
        (["train.fine_tune={frozen: true}"], "keeps the body as it was drawn; set task.model.init_from"),
        (
            ["task.model={kind: resnet}", "world.micro_batch_samples=1", "world.processes=1"],
            "task.model.kind=resnet normalises over the samples of a micro-batch",
        ),
        (["train.ema={decay: 0.9, power: 0.05}"], "ema needs a decay or a power"),
        (["task.model.kind=resnett"], "did you mean 'resnet'?"),
    ],
)
def test_a_recipe_that_cannot_run_is_refused(overrides: list[str], says: str):
    assert says in refusal(IMAGES, *overrides)


@pytest.mark.parametrize(
    ("task", "overrides", "says"),
    [
        ("task.model.attention=bidirectional", [], "would see what it predicts; choose causal"),
        ("task={kind: masked_lm, model: {kind: encoder, attention: causal}}", [], "would not see what follows"),
        (LABELS, [], "reads one document a sample, data.packing is concatenate; choose document"),
        (LABELS, ["data.packing=document", "task.model={kind: decoder}"], "choose last or mean"),
        ("task={kind: image_classification, model: {kind: lenet}}", [], "reads images, data.kind is text"),
    ],
)
def test_a_text_task_that_cannot_run_is_refused(task: str, overrides: list[str], says: str):
    assert says in refusal(TEXT, task, *overrides)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["world.zero.offload_optimizer=cpu"], "offload_optimizer=cpu needs stage=1 or more, got stage=0"),
        (["world.zero={stage: 2, offload_parameters: cpu}"], "offload_parameters=cpu needs stage=3"),
        (["world.zero={stage: 2, offload_optimizer: nvme, offload_path: /x}"], "offload_optimizer=nvme needs stage=3"),
        (["world.zero={stage: 3, offload_optimizer: nvme}"], "offload_optimizer=nvme needs offload_path"),
        (
            ["world.zero={stage: 3, offload_optimizer: nvme, offload_path: /x}", "train.ema={decay: 0.9}"],
            "train.ema reads weights after each update",
        ),
        (["world.compile=true", "world.zero.stage=3"], "compile=true needs weights that stay where they are"),
        (["world.zero={stage: 2, partition_group: 2}"], "partition_group is part of ZeRO++ and needs stage=3"),
        (["world.zero={stage: 3, partition_group: 4}"], "processes=2 must be a multiple of zero.partition_group=4"),
        (["world.zero={stage: 3, quantized_weights: true}", "train.precision=bf16"], "choose fp32 or fp16"),
        (["world.sequence_parallel=4"], "processes=2 must be a multiple of tensor_parallel x sequence_parallel"),
        (
            ["world.zero.stage=1", "train.optimizer={kind: muon, learning_rate: 0.1}"],
            "train.optimizer.kind=muon reads whole matrices, and world.zero.stage=1 cuts them; choose stage=0",
        ),
        (["world.micro_batch_samples=0"], "input should be auto or a whole number of 1 or more, got 0"),
        (["deepspeed.zero_optimization.stage=1"], "deepspeed.zero_optimization.stage is set from world.zero.stage"),
    ],
)
def test_an_engine_that_cannot_run_is_refused(overrides: list[str], says: str):
    assert says in refusal(TEXT, *overrides)


def test_a_batch_that_ranks_cannot_share_is_told_which_ranks_can():
    told = refusal(TEXT, "train.global_batch_samples=12", "world={processes: 5, micro_batch_samples: 2}")
    assert "= 2 x 5 = 10; try 10 or 20, or world.processes 1, 2, 3, 6" in told
