"""A new family is a config class in the union, a task, a network, a line in the registry and a YAML."""

import json
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

import configs.load
from configs.events import read_events
from configs.folder import RunFolder
from configs.quantities import matching, metrics_of, of_training
from configs.schema import RunConfig, TaskConfig
from data.manifest import read_manifest
from data.prepare import prepare
from tests.contract import toy_family
from tests.tiny import ALONE, BEGINNING, make_trainer, open_readers, steps_of, without_deepspeed, write_images
from trainer.checkpoint import Checkpointer
from trainer.evaluation.__main__ import load_networks
from trainer.loop import fit
from trainer.requests import StopRequest
from trainer.tasks import FAMILIES, Family, evaluation_of

YAML = """
name: toy
data:
  kind: images
  source: {{kind: files, paths: ['{images}'], label_field: folder}}
  images: {{height: 8, width: 8}}
  splits: {{validation: 0.2, test: 0.2}}
task:
  kind: brightness
  model: {{kind: sum}}
train:
  steps: 30
  global_batch_samples: 8
  optimizer: {{kind: adamw, learning_rate: 0.01}}
  schedule: {{kind: constant}}
  fine_tune: {{body_rate: 0.5}}
  ema: {{decay: 0.5}}
  validate_every_steps: 15
  samples: {{number: 1}}
  checkpoint: {{every_steps: 15}}
world: {{processes: 1, micro_batch_samples: 4, device: cpu}}
wandb: {{mode: disabled}}
"""


class WithToy(RunConfig):
    """The run's config with one more family in the union."""

    task: Annotated[TaskConfig | toy_family.BrightnessConfig, Field(discriminator="kind")]  # type: ignore[assignment]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The union and the registry with the toy in them."""
    module = toy_family.__name__
    monkeypatch.setattr(configs.load, "RunConfig", WithToy)
    monkeypatch.setitem(FAMILIES, "brightness", Family(f"{module}:Brightness", f"{module}:evaluate", f"{module}:show"))


@pytest.mark.usefixtures("toy")
def test_a_toy_family_is_prepared_trained_and_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_deepspeed(monkeypatch)
    config = tmp_path / "toy.yaml"
    config.write_text(YAML.format(images=write_images(tmp_path / "images", images=12, side=8)), encoding="utf-8")
    run, folder = configs.load.load([str(config)]), RunFolder(tmp_path / "run")
    assert "brightness" in configs.load.dump(run)
    folder.open(run)
    prepare(run, folder)
    trainer = make_trainer(run, folder)
    fit(trainer, BEGINNING, StopRequest())
    trainer.tracker.finish("completed")
    assert isinstance(trainer.checkpointer, Checkpointer)
    of_step = {name for event in read_events(folder.events) for name in event if name.startswith("train/")}
    declared = of_training(metrics_of(type(run.task)))
    assert [name for name in of_step if matching(declared, name) is None] == []
    assert {each.name for each in declared if not each.asked} <= of_step
    losses = [event["train/loss"] for event in steps_of(folder).values()]
    assert losses[-1] < 0.5 * losses[0]
    shown = [json.loads(folder.training_samples(step).read_text()) for step in (15, 30)]
    assert [sorted(record) for (record,) in shown] == [["grey", "taken for"]] * 2

    nets = load_networks(trainer.task.networks(), folder, run, ALONE)
    manifest = read_manifest(folder.manifest)
    readers = open_readers(folder, manifest)
    result = evaluation_of(run)(run, folder, manifest, readers, trainer.task, nets, ALONE)
    (metric,) = result.metrics
    assert metric.name == "test/error"
    assert metric.n == manifest.splits["test"].samples
    assert metric.value < losses[0]


def test_without_the_toy_its_name_is_unknown(tmp_path: Path) -> None:
    config = tmp_path / "toy.yaml"
    config.write_text(YAML.format(images="images"), encoding="utf-8")
    with pytest.raises(configs.load.ConfigError, match="'brightness' is not one of"):
        configs.load.load([str(config)])
