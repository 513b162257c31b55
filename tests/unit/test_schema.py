"""The configuration classes: closed, frozen, and with rules between fields that name the way out."""

import json

import pytest
from pydantic import ValidationError

from configs.dataset import Config, FileSource
from configs.errors import ConfigError
from configs.language import DecoderConfig
from configs.load import dump, validate
from configs.schema import RunConfig, identity
from tests.corpus import configuration


def refusal(**overrides: object) -> str:
    with pytest.raises(ConfigError) as caught:
        configuration(**overrides)
    return str(caught.value)


def test_nothing_writes_to_a_config():
    run = configuration()
    with pytest.raises(ValidationError, match="frozen"):
        run.seed = 1  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        run.train.optimizer.learning_rate = 1.0  # type: ignore[misc]


def test_accumulation_is_what_fills_the_global_batch():
    assert configuration(world__processes=2, world__micro_batch_samples=4).accumulation == 4
    assert configuration(world__processes=1, world__micro_batch_samples=32).accumulation == 1


def test_a_batch_that_does_not_divide_says_which_sizes_do():
    message = refusal(train__global_batch_samples=10, world__micro_batch_samples=4)
    assert "train.global_batch_samples=10 must be a multiple" in message
    assert "4 x 2 = 8; try 8 or 16" in message


def test_a_batch_smaller_than_one_round_offers_only_the_size_above():
    assert refusal(train__global_batch_samples=3, world__micro_batch_samples=4).endswith("try 8")


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"data__splits": {"validation": 0.5, "test": 0.5}}, "leaves nothing to train on"),
        ({"task__model__width": 130}, "width=130 must be a multiple of num_heads=4; try 128"),
        ({"task__model__width": 2}, "width=2 must be a multiple of num_heads=4; try 4"),
        ({"task__model__width": 12}, "rotary positions need an even width / num_heads, got 12 / 4"),
        ({"task__model__num_kv_heads": 3}, "num_heads=4 must be a multiple of num_kv_heads=3"),
        ({"train__schedule__warmup_steps": 1000}, "schedule.warmup_steps=1000 must be below steps=1000"),
        ({"task__evaluation__stride_tokens": 65}, "must not exceed data.block_tokens=64"),
        ({"cluster__image": "trainworks:latest"}, "name a version or a digest"),
        ({"cluster__image": "trainworks"}, "cluster.image"),
        ({"cluster__workspace": {"size": "10GB"}}, "cluster.workspace.size"),
        ({"cluster__nodes": 2, "world__processes": 1}, "cluster.nodes=2 must divide world.processes=1"),
        ({"cluster__node": {"gpus": 4}, "world__processes": 1}, "1 x 4 must be world.processes=1"),
        ({"cluster__node": {"memory": "2Gi", "shared_memory": "2Gi"}}, "counts against memory=2Gi"),
        ({"cluster__workspace": {"claim": "w", "storage_class": "fast"}}, "has no effect"),
        ({"cluster__patience": {"stall_s": 60}}, "must be more than world.timeout_s=300"),
        ({"cluster__secrets": {"WANDB_API_KEY": "abc"}}, "cluster.secrets.WANDB_API_KEY"),
        ({"name": "Not A Name"}, "name"),
        ({"name": "a" * 41}, "name"),
        ({"seed": 2**32}, "seed"),
        ({"train__steps": 1000.0}, "integer"),
        ({"train__steps": True}, "integer"),
        ({"train__steps": "1000"}, "integer"),
        ({"task__model__bias": 1}, "boolean"),
        ({"train__optimizer__learning_rate": 0}, "greater than 0"),
        ({"train__optimizer__betas": [0.9]}, "betas.1: required"),
        ({"data__source": {"kind": "files", "paths": []}}, "at least 1"),
        ({"data__tokenizer__vocabulary_size": 256}, "must be at least 257, for 1 special tokens and 256 bytes"),
    ],
)
def test_what_cannot_run_is_refused(overrides: dict[str, object], says: str):
    message = refusal(**overrides)
    assert says in message
    assert len(message.splitlines()) == 2


def test_an_empty_path_is_not_the_working_directory():
    assert "at least 1 character" in refusal(data__source={"kind": "files", "paths": [""]})


def test_the_feed_forward_width_follows_the_activation():
    shape = {"kind": "decoder", "num_layers": 1, "width": 128, "num_heads": 4}
    assert DecoderConfig(**shape, activation="gelu").hidden_width == 512  # type: ignore[arg-type]
    assert DecoderConfig(**shape, activation="swiglu").hidden_width == 352  # type: ignore[arg-type]  8/3 x 128 = 341.3
    assert DecoderConfig(**shape, feed_forward_width=100).hidden_width == 100  # type: ignore[arg-type]
    assert DecoderConfig(**shape | {"width": 8}).hidden_width == 32  # type: ignore[arg-type]


def test_identity_leaves_out_where_a_run_computes_and_how_it_is_judged():
    run = configuration()
    for same in (
        configuration(world__processes=1),
        configuration(wandb__mode="disabled"),
        configuration(cluster__image="other:1"),
        configuration(task__evaluation__stride_tokens=8),
    ):
        assert identity(same) == identity(run)
        assert same != run
    for other in (configuration(seed=1), configuration(train__steps=999), configuration(task__model__width=64)):
        assert identity(other) != identity(run)


def test_the_dump_of_a_run_is_that_run():
    run = configuration(data__source={"kind": "files", "paths": ["a b/*.txt", "1e3", "yes", "2024-01-01", "é\n"]})
    assert validate(run.model_dump(mode="json")) == run
    assert "1e3" in dump(run)


def test_paths_keep_their_order():
    assert FileSource(kind="files", paths=("b", "a")).paths == ("b", "a")


def test_every_class_says_what_it_is():
    def classes(owner: type[Config]) -> list[type[Config]]:
        return [owner, *(each for child in owner.__subclasses__() for each in classes(child))]

    silent = [each.__name__ for each in classes(Config) if not each.__doc__ and not each.__name__.startswith("_")]
    assert silent == []


def test_the_json_schema_is_closed_and_describes_fields():
    schema = RunConfig.model_json_schema()
    open_ones = [name for name, each in schema["$defs"].items() if each.get("additionalProperties") is not False]
    assert open_ones == []
    assert schema["$defs"]["WorldConfig"]["properties"]["threads"]["description"] == "CPU threads per rank"
    json.dumps(schema, allow_nan=False)
