"""Presets: names for published shapes, filled in before a configuration is checked."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from configs.diffusion import DiTConfig, UNetConfig
from configs.errors import ConfigError
from configs.language import DecoderConfig, EncoderConfig
from configs.load import dump, load, read
from configs.presets import PRESETS, expand
from configs.vision import ConvNeXtConfig, DenseNetConfig, ResNetConfig, VGGConfig
from tests.tiny import CONFIGS

DEMO = next(str(path) for path in CONFIGS if path.stem == "demo-lm")
CLASSES: dict[str, Any] = {
    "decoder": DecoderConfig,
    "encoder": EncoderConfig,
    "vgg": VGGConfig,
    "resnet": ResNetConfig,
    "densenet": DenseNetConfig,
    "convnext": ConvNeXtConfig,
    "unet": UNetConfig,
    "dit": DiTConfig,
}
EVERY = [(kind, name) for kind, presets in PRESETS.items() for name in presets]


def model(kind: str, **fields: Any) -> Any:
    return CLASSES[kind].model_validate_json(json.dumps(expand({"kind": kind, **fields})), strict=True)


def test_every_kind_with_presets_has_a_class_that_names_them_all():
    assert set(CLASSES) == set(PRESETS)
    for kind, owner in CLASSES.items():
        literal = next(each for each in get_args(owner.model_fields["preset"].annotation) if each is not type(None))
        assert set(get_args(literal)) == set(PRESETS[kind])


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_a_preset_fills_in_its_fields(kind: str, name: str):
    dumped = model(kind, preset=name).model_dump(mode="json")
    assert {key: dumped[key] for key in PRESETS[kind][name]} == PRESETS[kind][name]


def test_a_field_that_is_given_wins_over_the_preset():
    assert model("resnet", preset="resnet-50", width=32).width == 32
    assert model("resnet", preset="resnet-50", width=32).blocks == (3, 4, 6, 3)


def test_an_override_of_the_preset_on_the_command_line_takes_its_shape():
    run = load([DEMO, "task.model={kind: encoder}", "task.model={kind: decoder, preset: gpt2-350m}"])
    assert (run.task.model.num_layers, run.task.model.width) == (24, 1024)  # type: ignore[union-attr]


def test_a_resolved_run_with_a_preset_is_read_back_equal(tmp_path: Path):
    run = load([DEMO, "task.model={kind: encoder}", "task.model={kind: decoder, preset: llama-1b}"])
    (tmp_path / "run.yaml").write_text(dump(run), encoding="utf-8")
    assert read(tmp_path / "run.yaml") == run


def test_an_unknown_preset_is_refused_with_the_nearest_one():
    with pytest.raises(
        ConfigError, match=r"task\.model\.preset: 'gpt2-125m' is not one of .*did you mean 'gpt2-124m'\?"
    ):
        load([DEMO, "task.model.preset=gpt2-125m"])


def test_a_preset_that_is_no_name_is_an_error_of_type():
    with pytest.raises(ConfigError, match=r"task\.model\.preset: .*got 3|3 is not one of"):
        load([DEMO, "task.model.preset=3"])
