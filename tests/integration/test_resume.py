"""A run that is killed, stopped or moved ends as if nothing had happened."""

import hashlib
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from configs.load import load
from data.manifest import read_manifest
from data.order import order
from tests.runs import (
    interrupt,
    kill_group,
    losses_of,
    processes_of,
    run,
    steps_of,
    terminate,
    trainworks,
    wait_until,
)

pytestmark = pytest.mark.slow


def train(config: Path, folder: Path, *overrides: str) -> list[str]:
    return trainworks("train", config, "--runs", folder.parent, "--name", folder.name, *overrides)


def reached(folder: Path, step: int):
    return lambda: any(seen >= step for seen in steps_of(folder))


def test_a_run_killed_in_mid_training_repeats_the_uninterrupted_losses_bit_for_bit(
    config: Path, uninterrupted: Path, fresh: Path
) -> None:
    killed = interrupt(train(config, fresh), reached(fresh, 11), kill_group)
    assert killed.returncode == -9
    assert wait_until(lambda: not processes_of(fresh)), processes_of(fresh)
    assert max(losses_of(fresh)) < 40

    done = run("train", config, "--runs", fresh.parent, "--name", fresh.name)
    assert done.returncode == 0, done.stderr
    assert "continuing after step 8" in done.stdout or "continuing after step 16" in done.stdout
    assert losses_of(fresh) == losses_of(uninterrupted)
    assert weights_digest(fresh) == weights_digest(uninterrupted)


def test_a_run_stopped_on_two_ranks_and_continued_on_four_and_one_reads_the_same_samples(
    config: Path, uninterrupted: Path, fresh: Path
) -> None:
    stopped = interrupt(train(config, fresh), reached(fresh, 4), terminate)
    assert stopped.returncode == 143, stopped.stderr
    assert "saved" in stopped.stderr
    first = max(steps_of(fresh))
    on_four = interrupt(train(config, fresh, "world.processes=4"), reached(fresh, first + 4), terminate)
    assert on_four.returncode == 143, on_four.stderr
    assert f"continuing after step {first}" in on_four.stdout
    done = run("train", config, "--runs", fresh.parent, "--name", fresh.name, "world.processes=1")
    assert done.returncode == 0, done.stderr

    ours, theirs = steps_of(fresh), steps_of(uninterrupted)
    assert {s: e["samples_digest"] for s, e in ours.items()} == {s: e["samples_digest"] for s, e in theirs.items()}
    assert {s: e["train/learning_rate"] for s, e in ours.items()} == {
        s: e["train/learning_rate"] for s, e in theirs.items()
    }


def test_the_sample_ids_of_a_run_are_the_order_of_each_epoch_and_each_sample_comes_once(
    config: Path, uninterrupted: Path
) -> None:
    settings = load([str(config)])
    split = read_manifest(uninterrupted / "data" / "manifest.json").splits["train"]
    sizes = [shard.samples for shard in split.shards]
    batch, steps = settings.train.global_batch_samples, settings.train.steps
    epochs = -(-batch * steps // split.samples)
    assert epochs > 1, "the run is to cross the end of an epoch"
    orders = [order(sizes, settings.seed, epoch, settings.data.shuffle_window_samples) for epoch in range(epochs)]
    assert all(sorted(each) == list(range(split.samples)) for each in orders)

    sequence = np.concatenate(orders)[: batch * steps].reshape(steps, batch)
    rolled = "00" * 32
    for step, ids in enumerate(sequence, start=1):
        rolled = hashlib.sha256(bytes.fromhex(rolled) + ids.astype("<i8").tobytes()).hexdigest()
        assert steps_of(uninterrupted)[step]["samples_digest"] == rolled


def prepare(config: Path, folder: Path, *overrides: str) -> None:
    done = run("prepare", config, "--runs", folder.parent, "--name", folder.name, *overrides)
    assert done.returncode == 0, done.stderr


def test_two_ranks_learn_what_one_rank_learns_with_twice_the_accumulation(config: Path, tmp_path: Path) -> None:
    overrides = ("train.steps=8", "task.model.dropout=0.0")
    prepare(config, tmp_path / "2", *overrides)
    shutil.copytree(tmp_path / "2", tmp_path / "1")
    losses = []
    for processes in ("2", "1"):
        place = ("--runs", tmp_path, "--name", processes, f"world.processes={processes}")
        done = run("train", config, *place, *overrides)
        assert done.returncode == 0, done.stderr
        losses.append(list(losses_of(tmp_path / processes).values()))
    assert len(losses[0]) == 8
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert all(a != b for a, b in pairwise(losses[0]))


def test_bf16_with_reading_processes_trains_and_resumes(config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    overrides = ("train.precision=bf16", "world.loader_workers=2", "train.steps=60")
    prepare(config, folder, *overrides)
    stopped = interrupt(train(config, folder, *overrides), reached(folder, 4), terminate)
    assert stopped.returncode == 143, stopped.stderr
    done = run("train", config, "--runs", folder.parent, "--name", folder.name, *overrides)
    assert done.returncode == 0, done.stderr
    assert wait_until(lambda: not processes_of(folder)), processes_of(folder)
    losses = losses_of(folder)
    assert sorted(losses) == list(range(1, 61))
    assert losses[60] < losses[1]


def test_a_damaged_newest_checkpoint_is_skipped_aloud_and_the_run_ends_the_same(
    config: Path, uninterrupted: Path, fresh: Path
) -> None:
    interrupt(train(config, fresh), reached(fresh, 20), kill_group)
    assert wait_until(lambda: not processes_of(fresh))
    newest = max((fresh / "train").glob("step-*[0-9]"))
    weights = newest / "model.weights.rank-00000.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    done = run("train", config, "--runs", fresh.parent, "--name", fresh.name)
    assert done.returncode == 0, done.stderr
    assert "skipping a damaged checkpoint" in done.stdout
    assert str(weights) in done.stdout
    assert losses_of(fresh) == losses_of(uninterrupted)


def weights_digest(folder: Path) -> str:
    last = max((folder / "train").glob("step-*[0-9]"))
    files = sorted(last.glob("model.weights.rank-*.safetensors"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
