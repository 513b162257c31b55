"""Early stopping on two ranks: where training ends, what it leaves as its result, and a kill just before the end."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from configs.events import read_events
from configs.stages import FINISHED, chosen_step
from tests.runs import (
    interrupt,
    kill_group,
    processes_of,
    run,
    steps_of,
    tiny_config,
    trainworks,
    wait_until,
    write_corpus,
)

pytestmark = pytest.mark.slow

BEST, LAST = 40, 120
"""A falling loss that ought to rise is best at the first pass, and a patience of two ends at the third"""


@pytest.fixture(scope="module")
def stopping(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("stopping")
    return tiny_config(
        home,
        write_corpus(home / "corpus"),
        steps=400,
        schedule={"kind": "constant", "warmup_steps": 4},
        validate_every_steps=BEST,
        early_stopping={"metric": "validation/loss", "better": "higher", "patience": 2},
        checkpoint={"every_steps": 16, "keep": 1},
    )


@pytest.fixture(scope="module")
def whole(stopping: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run through all stages without a disturbance."""
    runs = tmp_path_factory.mktemp("runs")
    done = run("run", stopping, "--runs", runs)
    assert done.returncode == 0, done.stderr
    return runs / "tiny"


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def test_training_ends_when_patience_does_and_the_best_checkpoint_is_evaluated(whole: Path):
    assert max(steps_of(whole)) == LAST
    assert sorted(path.name for path in (whole / "train").glob("step-*")) == [f"step-{BEST:08d}", f"step-{LAST:08d}"]
    finished = read(whole / "train" / FINISHED)
    assert (finished["step"], finished["last_step"]) == (BEST, LAST)
    assert finished["why"] == f"early stop after step {LAST}, best by validation/loss at step {BEST}"
    best = read(whole / f"train/step-{BEST:08d}/complete.json")
    assert finished["checkpoint"] == best["digest"]
    assert read(whole / "evaluation/metrics.json")["checkpoint"] == best["digest"]
    assert chosen_step(whole / "train") == BEST
    events = [event for event in read_events(whole / "train/events.jsonl") if event["event"] == "early_stop"]
    assert [(event["step"], event["best_step"]) for event in events] == [(LAST, BEST)]


def test_killed_between_a_pass_and_the_end_it_leaves_the_same_result_bit_by_bit(
    stopping: Path, whole: Path, tmp_path: Path
):
    folder = tmp_path / "tiny"
    shutil.copytree(whole / "data", folder / "data")
    shutil.copy(whole / "run.yaml", folder / "run.yaml")
    command = trainworks("train", stopping, "--runs", tmp_path)
    interrupt(command, lambda: 2 * BEST in passes_of(folder), kill_group, timeout_s=300)
    assert wait_until(lambda: not processes_of(folder)), processes_of(folder)
    assert 3 * BEST not in passes_of(folder)
    assert not (folder / "train" / FINISHED).exists()
    done = run("train", stopping, "--runs", tmp_path)
    assert done.returncode == 0, done.stderr
    for step in (BEST, LAST):
        name = f"train/step-{step:08d}/complete.json"
        assert told(folder / name) == told(whole / name), "weights, optimizer, scores, and what the watch remembers"
    assert told(folder / "train" / FINISHED) == told(whole / "train" / FINISHED)


def told(path: Path) -> dict[str, Any]:
    """A record but for the code that wrote it, and the digests that cover this too."""
    return {name: value for name, value in read(path).items() if name not in ("code", "checkpoint", "digest")}


def passes_of(folder: Path) -> list[int]:
    """The steps after which the validation split was scored."""
    events = folder / "train/events.jsonl"
    return [e["step"] for e in read_events(events) if e["event"] == "validation"] if events.exists() else []
