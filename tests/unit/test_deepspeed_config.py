"""RunConfig as DeepSpeed's dictionary, what may be laid over it, and DeepSpeed's keys as they are."""

import logging
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from configs.deepspeed import KEYS, REFUSED, REMOVED, SET, deepspeed_problem
from configs.engine import ZeroConfig
from configs.errors import ConfigError
from configs.load import load
from configs.schema import RunConfig
from trainer.deepspeed_config import checked, deepspeed_config, open_offload_folder

CONFIG = str(Path(__file__).parents[2] / "configs" / "demo-lm.yaml")
BATCHES = ("train.global_batch_samples=24", "world.micro_batch_samples=4", "world.processes=2")
STAGE_0 = {
    "train_batch_size": 24,
    "train_micro_batch_size_per_gpu": 4,
    "gradient_accumulation_steps": 3,
    "gradient_clipping": 0.0,
    "zero_optimization": {"stage": 0},
    "torch_autocast": {"enabled": False, "dtype": "bfloat16"},
    "steps_per_print": None,
    "wall_clock_breakdown": False,
    "timers": {"throughput": {"enabled": False}},
}
SPLIT = {
    "contiguous_gradients": True,
    "overlap_comm": False,
    "reduce_bucket_size": 5_000_000,
    "allgather_bucket_size": 5_000_000,
}
STAGE_3 = {"stage": 3, **SPLIT, "stage3_gather_16bit_weights_on_model_save": False}
LIKE_0 = {**STAGE_0, "gradient_clipping": 1.0, "zero_allow_untested_optimizer": True}
OFFLOADED = {**LIKE_0, "zero_force_ds_cpu_optimizer": False}
CPU = {"device": "cpu", "pin_memory": False}
NVME = {"device": "nvme", "pin_memory": False, "nvme_path": "/fast"}

GOLDEN: dict[str, tuple[list[str], dict[str, Any]]] = {
    "stage 0": ([], STAGE_0),
    "bf16": (["train.precision=bf16"], {**STAGE_0, "torch_autocast": {"enabled": True, "dtype": "bfloat16"}}),
    "fp16 is not DeepSpeed's": (["train.precision=fp16"], STAGE_0),
    "stage 1": (["world.zero.stage=1"], {**LIKE_0, "zero_optimization": {"stage": 1, **SPLIT}}),
    "no clipping": (
        ["world.zero.stage=1", "train.clip_grad_norm=null"],
        {**LIKE_0, "gradient_clipping": 0.0, "zero_optimization": {"stage": 1, **SPLIT}},
    ),
    "stage 2 with overlap": (
        ["world.zero={stage: 2, overlap: true}"],
        {**LIKE_0, "zero_optimization": {"stage": 2, **SPLIT, "overlap_comm": True}},
    ),
    "stage 3": (["world.zero.stage=3"], {**LIKE_0, "zero_optimization": STAGE_3}),
    "offload to the host": (
        ["world.zero={stage: 3, offload_optimizer: cpu, offload_parameters: cpu}"],
        {**OFFLOADED, "zero_optimization": {**STAGE_3, "offload_optimizer": CPU, "offload_param": CPU}},
    ),
    "offload to a disk": (
        ["world.zero={stage: 3, offload_optimizer: nvme, offload_parameters: nvme, offload_path: /fast}"],
        {**OFFLOADED, "zero_optimization": {**STAGE_3, "offload_optimizer": NVME, "offload_param": NVME}},
    ),
    "ZeRO++ on CPUs": (
        ["world.zero={stage: 3, partition_group: 2}"],
        {**LIKE_0, "zero_optimization": {**STAGE_3, "zero_hpz_partition_size": 2}},
    ),
    "shared sequences are ranks too": (
        ["world.processes=4", "world.sequence_parallel=2"],
        {**STAGE_0, "train_batch_size": 48},
    ),
    "overrides": (
        [
            "world.zero.stage=1",
            "deepspeed={zero_optimization: {reduce_bucket_size: 64}, prescale_gradients: true}",
            "deepspeed.wall_clock_breakdown=true",
        ],
        {
            **LIKE_0,
            "zero_optimization": {"stage": 1, **SPLIT, "reduce_bucket_size": 64},
            "wall_clock_breakdown": True,
            "prescale_gradients": True,
        },
    ),
}


def run_with(*words: str) -> RunConfig:
    return load([CONFIG, "train.clip_grad_norm=1.0", *BATCHES, *words])


@pytest.mark.parametrize("name", GOLDEN)
def test_the_dictionary_is_this_one(name: str):
    words, expected = GOLDEN[name]
    assert deepspeed_config(run_with(*words), device="cpu") == expected


@pytest.mark.parametrize("name", [name for name in GOLDEN if "++" not in name])
def test_deepspeed_takes_the_dictionary(name: str, quiet: None):
    words, _ = GOLDEN[name]
    one = ["world.processes=1", "world.sequence_parallel=1", "world.micro_batch_samples=8"]
    checked(deepspeed_config(run_with(*words, *one), device="cpu"))


def test_on_a_gpu_buckets_are_larger_and_offloaded_memory_is_pinned():
    run = run_with("world.zero={stage: 2, offload_optimizer: cpu}")
    section = deepspeed_config(run, device="cuda")["zero_optimization"]
    assert section["reduce_bucket_size"] == 50_000_000
    assert section["offload_optimizer"] == {"device": "cpu", "pin_memory": True}


def test_what_travels_in_few_bits_needs_gpus():
    run = run_with("world.zero={stage: 3, quantized_weights: true, quantized_gradients: true}")
    section = deepspeed_config(run, device="cuda")["zero_optimization"]
    assert section["zero_quantized_weights"]
    assert section["zero_quantized_gradients"]
    with pytest.raises(ConfigError, match="quantized_weights=true needs GPUs"):
        deepspeed_config(run, device="cpu")


def test_a_value_that_deepspeed_refuses_is_a_mistake_in_the_configuration(quiet: None):
    run = run_with("world.processes=1", "world.zero.stage=1", "deepspeed={zero_optimization: {reduce_bucket_size: -1}}")
    with pytest.raises(ConfigError, match=r"deepspeed: .*reduce_bucket_size.*greater than 0"):
        checked(deepspeed_config(run, device="cpu"))


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (
            {"zero_optimisation": {}},
            "deepspeed.zero_optimisation: unknown key; did you mean deepspeed.zero_optimization?",
        ),
        (
            {"zero_optimization": {"reduce_buckets_size": 1}},
            "deepspeed.zero_optimization.reduce_buckets_size: unknown key; did you mean "
            "deepspeed.zero_optimization.reduce_bucket_size?",
        ),
        (
            {"reduce_bucket_size": 1},
            "deepspeed.reduce_bucket_size: unknown key; did you mean deepspeed.zero_optimization.reduce_bucket_size?",
        ),
        ({"qqq": 1}, "deepspeed.qqq: unknown key; DeepSpeed's documentation lists them by section"),
        (
            {"zero_optimization": {"stage": 1}},
            "deepspeed.zero_optimization.stage is set from world.zero.stage; set that instead",
        ),
        ({"optimizer": {"type": "Adam"}}, "deepspeed.optimizer is set from train.optimizer; set that instead"),
        ({"elasticity": {}}, "deepspeed.elasticity is gone from DeepSpeed; leave it out"),
        (
            {"gradient_allreduce_op": "sum"},
            "deepspeed.gradient_allreduce_op is refused: the loss is scaled for a mean over ranks; leave it out",
        ),
        ({"timers": 3}, "deepspeed.timers: expected keys and values, got 3; allowed there: throughput"),
        ({"prescale_gradients": True, "timers": {"throughput": {"synchronized": False}}}, None),
    ],
)
def test_an_override_that_cannot_be_says_why(overrides: dict[str, Any], says: str | None):
    assert deepspeed_problem(overrides) == says


def test_every_wrong_override_is_named_at_once():
    problem = deepspeed_problem({"fp16": {"enabled": True}, "zero_optimization": {"stage": 2, "stages": 2}})
    assert problem is not None
    assert [line.split(" ")[0] for line in problem.splitlines()] == [
        "deepspeed.fp16",
        "deepspeed.zero_optimization.stage",
        "deepspeed.zero_optimization.stages:",
    ]
    with pytest.raises(ConfigError, match="fp16 is set from train"):
        run_with("deepspeed={fp16: {enabled: true}}")


def test_an_offload_folder_is_made_where_its_parent_is(tmp_path: Path):
    zero = ZeroConfig(stage=3, offload_optimizer="nvme", offload_path=str(tmp_path / "swap"))
    open_offload_folder(zero)
    open_offload_folder(zero)
    assert (tmp_path / "swap").is_dir()


def test_an_offload_folder_that_cannot_be_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=f"offload_path={tmp_path}/no/swap: {tmp_path}/no is not there"):
        open_offload_folder(ZeroConfig(stage=3, offload_optimizer="nvme", offload_path=str(tmp_path / "no" / "swap")))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be made: File exists"):
        open_offload_folder(ZeroConfig(stage=3, offload_optimizer="nvme", offload_path=str(tmp_path / "file")))


def test_without_offload_to_a_disk_no_folder_is_made(tmp_path: Path):
    open_offload_folder(ZeroConfig(stage=3, offload_optimizer="cpu", offload_path=str(tmp_path / "swap")))
    assert not (tmp_path / "swap").exists()


@pytest.fixture
def quiet() -> Iterator[None]:
    """DeepSpeed warns at its import of what this machine has not."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


MODELS = {
    "zero_optimization": "runtime.zero.config.DeepSpeedZeroConfig",
    "zero_optimization.offload_optimizer": "runtime.zero.offload_config.DeepSpeedZeroOffloadOptimizerConfig",
    "zero_optimization.offload_param": "runtime.zero.offload_config.DeepSpeedZeroOffloadParamConfig",
    "zero_optimization.leaf_module": "runtime.zero.leaf_module_config.DeepSpeedZeroLeafModuleConfig",
    "comms_logger": "comm.config.CommsLoggerConfig",
    "timers.throughput": "utils.config.DeepSpeedThroughputTimerConfig",
    "tensorboard": "monitor.config.TensorBoardConfig",
    "csv_monitor": "monitor.config.CSVConfig",
    "comet": "monitor.config.CometConfig",
}


@pytest.mark.parametrize("section", MODELS)
def test_known_keys_of_a_section_are_those_of_its_class(section: str, quiet: None):
    module, _, name = MODELS[section].rpartition(".")
    owner = getattr(import_module(f"deepspeed.{module}"), name)
    assert set(KEYS[section]) == {field.alias or key for key, field in owner.model_fields.items()}


class Asked(dict[str, Any]):
    """A section that notes which keys it was asked for."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.asked: set[str] = set()

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return super().__contains__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def keys(self) -> Any:
        return self

    def __copy__(self) -> "Asked":
        return self


@pytest.mark.parametrize("section", ["", "torch_autocast", "data_types", "aio", "flops_profiler", "timers"])
def test_known_keys_are_those_that_deepspeed_asks_for(section: str, quiet: None):
    from deepspeed.runtime.config import DeepSpeedConfig

    inner = Asked()
    dictionary = Asked({"train_batch_size": 1, section: inner} if section else {"train_batch_size": 1})
    DeepSpeedConfig(dictionary)
    asked = inner.asked if section else dictionary.asked - {"sequence_parallel_size"} - set(REMOVED)
    assert asked == set(KEYS[section])


def test_keys_that_deepspeed_removed_are_known_as_such(quiet: None):
    from deepspeed.runtime import config

    assert set(REMOVED) == set(config._REMOVED_TOP_LEVEL_CONFIG_KEYS)


def test_every_key_that_is_set_or_refused_is_one_of_deepspeeds():
    for path in (*SET, *REFUSED):
        section, _, key = path.rpartition(".")
        assert key in KEYS[section], path
    assert not SET.keys() & REFUSED.keys()


def test_every_key_that_is_set_has_a_field_of_the_run():
    run = run_with()
    for field in SET.values():
        owner: Any = run
        for name in field.split("."):
            owner = getattr(owner, name)
