"""A cross-validation through `trainworks run`: killed, stopped, failed in one fold, gone on with, collected."""

import json
import math
import shutil
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import yaml
from safetensors.numpy import load_file

from configs.folder import file_digest
from tests.runs import interrupt, kill_group, kill_rank, processes_of, run, steps_of, terminate, trainworks, wait_until
from tests.tiny import write_images

pytestmark = pytest.mark.slow

FOLDS = ("0-0", "0-1", "0-2")
STEPS = 600
"""Some seconds: enough to be interrupted in, on a fast machine too"""


@dataclass(frozen=True)
class Story:
    """What each start of the same command left; the files of a fold by name as time of change and digest."""

    folder: Path
    killed: int
    """Exit codes"""
    stopped: int
    failed: int
    failure: str
    """What was printed when a fold had failed"""
    collected_early: bool
    before: dict[str, tuple[int, str]]
    """Files of the sound folds when the other one had failed"""
    after: dict[str, tuple[int, str]]
    """The same at the end"""
    retold: str
    """What the last start printed"""


@pytest.fixture(scope="module")
def crossed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network on generated pictures of three classes, in three folds."""
    home = tmp_path_factory.mktemp("crossed")
    config = {
        "name": "crossed",
        "data": {
            "kind": "images",
            "source": {
                "kind": "files",
                "paths": [str(write_images(home / "images", classes=3, images=20, side=16))],
                "label_field": "folder",
            },
            "images": {"height": 16, "width": 16, "storage": "raw"},
            "splits": {"validation": 0, "test": 0, "stratify": True, "folds": {"count": 3}},
        },
        "task": {
            "kind": "image_classification",
            "model": {"kind": "resnet", "stem": "small", "blocks": [1, 1], "width": 8},
            "evaluation": {"mistakes": 2},
        },
        "train": {
            "steps": STEPS,
            "global_batch_samples": 8,
            "precision": "fp32",
            "optimizer": {"kind": "adamw", "learning_rate": 4e-3},
            "schedule": {"kind": "cosine", "warmup_steps": 4},
            "validate_every_steps": STEPS,
            "log_every_steps": 1,
            "checkpoint": {"every_steps": 10, "keep": 2},
        },
        "world": {"processes": 1, "micro_batch_samples": 8, "device": "cpu", "threads": 1, "restarts": 0},
        "wandb": {"mode": "disabled"},
    }
    path = home / "crossed.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def story(crossed: Path, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Killed in the first fold, stopped in the second, which then fails, and at last undisturbed."""
    runs = tmp_path_factory.mktemp("runs")
    folder, command = runs / "crossed", trainworks("run", crossed, "--runs", runs)
    killed = interrupt(command, trains(folder, "0-0"), kill_group, timeout_s=300)
    assert wait_until(lambda: not processes_of(folder)), processes_of(folder)
    stopped = interrupt(command, trains(folder, "0-1"), terminate, timeout_s=300)
    assert wait_until(lambda: not processes_of(folder)), processes_of(folder)
    begun = steps_of(folder / "folds/0-1")
    assert begun, "the second fold had begun"
    assert not (folder / "folds/0-2").exists(), "one that is to stop begins no other fold"
    failed = interrupt(
        command,
        lambda: max(steps_of(folder / "folds/0-1")) > max(begun),
        lambda _: kill_rank(folder / "folds/0-1", 0),
        timeout_s=300,
    )
    collected_early = (folder / "evaluation/metrics.json").exists()
    before = files_of(folder, "0-0") | files_of(folder, "0-2")
    done = run("run", crossed, "--runs", runs, timeout_s=300)
    assert done.returncode == 0, done.stderr
    after = files_of(folder, "0-0") | files_of(folder, "0-2")
    codes = (killed.returncode, stopped.returncode, failed.returncode)
    return Story(folder, *codes, failed.stderr + failed.stdout, collected_early, before, after, done.stdout)


def trains(folder: Path, fold: str) -> Callable[[], bool]:
    """Whether a fold has a checkpoint to go on from, and steps to lose."""
    return lambda: any(step > 12 for step in steps_of(folder / "folds" / fold))


def files_of(folder: Path, fold: str) -> dict[str, tuple[int, str]]:
    """Everything that is of a fold alone."""
    paths = [path for path in (folder / "folds" / fold).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, file_digest(path)) for path in paths}


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def values_of(folder: Path, name: str) -> list[float]:
    """A metric of each fold."""
    records = [read(folder / "folds" / fold / "evaluation/metrics.json") for fold in FOLDS]
    return [next(each["value"] for each in record["metrics"] if each["name"] == name) for record in records]


def test_killed_or_stopped_in_a_fold_the_same_command_goes_on_in_it(story: Story):
    assert (story.killed, story.stopped) == (-9, 143)
    for fold in ("0-0", "0-1"):
        events = (story.folder / "folds" / fold / "train/events.jsonl").read_text().splitlines()
        starts = [json.loads(line) for line in events if json.loads(line)["event"] == "start"]
        assert len(starts) == (2 if fold == "0-0" else 3)
        assert all(start["step"] >= 10 for start in starts[1:]), "a resumed fold does not begin again"


def test_a_fold_that_fails_is_named_stops_no_other_and_is_never_averaged_away(story: Story):
    assert story.failed == 137, story.failure
    assert "fold 0-1: " in story.failure
    assert "rank 0 was killed by SIGKILL" in story.failure
    assert "folds/0-2/evaluation/metrics.json" in story.before, "the fold after it was trained and evaluated"
    assert not story.collected_early


def test_a_failed_fold_is_done_again_alone(story: Story):
    assert {name: story.after[name] for name in story.before} == story.before
    assert {Path(name).name for name in story.after.keys() - story.before.keys()} <= {"report.html"}, (
        "written at the end"
    )
    assert "fold 0-0: complete: " in story.retold
    assert "fold 0-2: complete: " in story.retold


def test_what_was_collected_is_what_the_folds_say(story: Story):
    record = read(story.folder / "evaluation/metrics.json")
    metrics = {each["name"]: each for each in record["metrics"]}
    values = values_of(story.folder, "test/accuracy")
    metric = metrics["cv/accuracy"]
    reach = scipy.stats.t.ppf(0.975, 2) * math.sqrt(1 / 3 + 1 / 2) * statistics.stdev(values)
    mean = statistics.fmean(values)
    assert metric["value"] == pytest.approx(mean)
    assert metric["interval"] == pytest.approx([mean - reach, mean + reach])
    assert metric["n"] == 3
    units = [load_file(story.folder / "folds" / fold / "evaluation/units.safetensors") for fold in FOLDS]
    right = sum(float(each["test/accuracy/sums"].sum()) for each in units)
    assert metrics["pooled/accuracy"]["value"] == pytest.approx(right / 60)
    assert metrics["pooled/accuracy"]["n"] == 60
    pooled = load_file(story.folder / "evaluation/units.safetensors")
    assert np.array_equal(
        pooled["pooled/accuracy/sums"], np.concatenate([each["test/accuracy/sums"] for each in units])
    )
    protocol = record["protocols"][metric["protocol"]]
    assert (protocol["folds"], protocol["stratified"], protocol["split"]) == (3, True, "held-out folds")
    for name, told in record["files"].items():
        assert file_digest(story.folder / "evaluation" / name) == told
    assert read(story.folder / "evaluation/cost.json") == read(story.folder / "folds/0-0/evaluation/cost.json")


def test_the_same_command_again_does_nothing(crossed: Path, story: Story):
    before = file_digest(story.folder / "evaluation/metrics.json"), files_of(story.folder, "0-1")
    again = run("run", crossed, "--runs", story.folder.parent)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("complete: ") == 3
    assert (file_digest(story.folder / "evaluation/metrics.json"), files_of(story.folder, "0-1")) == before


def test_a_fold_alone_has_the_weights_that_it_has_after_others_bit_by_bit(crossed: Path, story: Story, tmp_path: Path):
    shutil.copytree(story.folder / "data", tmp_path / "alone/data")
    shutil.copy(story.folder / "folds/0-1/run.yaml", tmp_path / "alone")
    done = run("train", crossed, "data.splits.folds.held_out=1", "--runs", tmp_path, "--name", "alone")
    assert done.returncode == 0, done.stderr
    assert "prepare" not in done.stdout
    step = f"train/step-{STEPS:08d}"
    ours, others = (read(home / step / "complete.json") for home in (tmp_path / "alone", story.folder / "folds/0-1"))
    assert ours["files"] == others["files"]
    assert any("weights" in name for name in ours["files"])
    for fold in ("0-0", "0-2"):
        assert read(story.folder / "folds" / fold / step / "complete.json")["files"] != ours["files"]
