"""Running statistics on two ranks: part of what a resume gives back, and the same on both."""

import shutil
from pathlib import Path

import pytest
import yaml

from tests.runs import interrupt, run, steps_of, terminate, trainworks
from tests.tiny import write_images
from trainer.checkpoint import read_tensors

pytestmark = pytest.mark.slow


def image_config(home: Path) -> Path:
    """A small normalised network over images laid out by pixels; validation comes between two checkpoints."""
    source = {"kind": "files", "paths": [str(write_images(home / "images", side=16))], "label_field": "folder"}
    config = {
        "name": "norms",
        "data": {
            "kind": "images",
            "source": source,
            "images": {"height": 16, "width": 16},
            "splits": {"validation": 0.2, "test": 0.2},
        },
        "task": {
            "kind": "image_classification",
            "model": {"kind": "resnet", "blocks": [1, 1], "bottleneck": False, "width": 4, "stem": "small"},
        },
        "train": {
            "steps": 24,
            "global_batch_samples": 16,
            "optimizer": {"kind": "sgd", "learning_rate": 0.05},
            "schedule": {"kind": "constant"},
            "ema": {"power": 0.1},
            "validate_every_steps": 5,
            "log_every_steps": 1,
            "checkpoint": {"every_steps": 8, "keep": 9},
        },
        "world": {"processes": 2, "micro_batch_samples": 4, "channels_last": True},
        "wandb": {"mode": "disabled"},
    }
    path = home / "norms.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def test_a_network_with_batch_norm_stopped_on_two_ranks_ends_with_the_bits_of_the_uninterrupted_run(
    tmp_path: Path,
) -> None:
    config = image_config(tmp_path)
    done = run("prepare", config, "--runs", tmp_path, "--name", "whole")
    assert done.returncode == 0, done.stderr
    shutil.copytree(tmp_path / "whole", tmp_path / "halves")
    done = run("train", config, "--runs", tmp_path, "--name", "whole")
    assert done.returncode == 0, done.stderr

    halves = tmp_path / "halves"
    command = trainworks("train", config, "--runs", tmp_path, "--name", "halves")
    stopped = interrupt(command, lambda: any(step >= 10 for step in steps_of(halves)), terminate)
    assert stopped.returncode == 143, stopped.stderr
    saved = max((halves / "train").glob("step-*[0-9]"))
    assert int(saved.name[5:]) % 8, "the stop is to fall between two checkpoints"
    done = run("train", config, "--runs", tmp_path, "--name", "halves")
    assert done.returncode == 0, done.stderr

    for kind in ("weights", "ema"):
        ours, theirs = (
            read_tensors(tmp_path / name / "train" / "step-00000024", "model", kind)[kind]
            for name in ("whole", "halves")
        )
        assert any(name.endswith("running_var") for name in ours)
        assert all(ours[name].equal(theirs[name]) for name in ours), kind
