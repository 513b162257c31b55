"""The arithmetic of the engine's benchmarks: shares of ranks, states, recoveries, and samples that must not be lost."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import engine_stall
from benchmarks.__main__ import CASES
from benchmarks.engine_goodput import samples_differ
from benchmarks.engine_peers import share_of
from benchmarks.engine_recovery import Job, goes_on, recoveries_differ, resumption
from benchmarks.engine_stall import AsyncSave, Ours, TorchSave, digest_of, make_state, size_of, states_differ, timed
from benchmarks.harness import BenchmarkError
from benchmarks.loop import HERE
from benchmarks.peers import build_decoder
from benchmarks.plain_ranks import Decoder
from benchmarks.worker import worker
from configs.folder import RunFolder
from configs.load import load
from data.dataset import open_dataset
from data.order import Sampler
from tests.tiny import random_documents, tiny_run, write_dataset
from trainer.loop import rolled


def start(step: int) -> dict[str, Any]:
    return {"event": "start", "step": step}


def steps(*numbers: int) -> list[dict[str, Any]]:
    return [{"event": "step", "step": number} for number in numbers]


def test_every_goal_of_the_engine_has_its_case():
    goals = {case.name: case.goal for case in CASES if case.name.startswith("engine/")}
    assert goals == {
        "engine/raw-deepspeed": 0.97,
        "engine/raw-deepspeed-zero1": 0.97,
        "engine/transformers-trainer-zero1": 1.3,
        "engine/stall-torch-save": 9.0,
        "engine/stall-dcp-async": 2.0,
        "engine/recovery": 1.0,
        "engine/goodput": 1.0,
    }


def test_a_side_on_several_ranks_answers_by_rank_0_with_the_processor_time_of_all(tmp_path: Path):
    with worker("tests.ranked:Ranked", tmp_path, tmp_path / "side.log", threads=1, ranks=2) as ask:
        found = ask()
    assert found.cpu_s == 3.0
    assert found.outputs == {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}


def test_the_rank_that_fails_shows_its_own_last_words(tmp_path: Path):
    (tmp_path / "broken").touch()
    with (
        pytest.raises(BenchmarkError, match="rank 1 has no disk"),
        worker("tests.ranked:Ranked", tmp_path, tmp_path / "side.log", threads=1, ranks=2),
    ):
        pass


def test_ranks_share_the_samples_as_our_sampler_does():
    run = tiny_run(world__processes=2, world__micro_batch_samples=2, train__global_batch_samples=8)
    order = list(range(100, 116))  # two steps of two micro-batches
    assert share_of(order, run, 0) == [100, 101, 104, 105, 108, 109, 112, 113]
    assert share_of(order, run, 1) == [102, 103, 106, 107, 110, 111, 114, 115]


def test_the_saved_state_is_half_a_gigabyte_and_the_same_every_time():
    state = make_state(matrices=2, side=8)
    assert size_of(state) == 2 * 3 * 8 * 8 * 4
    whole = size_of(make_state(matrices=1, side=8)) * engine_stall.MATRICES * (engine_stall.SIDE // 8) ** 2
    assert whole == pytest.approx(500e6, rel=0.01)
    assert digest_of(state) == digest_of(make_state(matrices=2, side=8))
    assert len({digest_of(state), digest_of({"weights": state["weights"]}), digest_of(make_state(1, 8))}) == 3


def test_a_round_times_the_save_and_the_wait_before_the_next_update_and_not_what_comes_after():
    state, order = make_state(matrices=1, side=2), []

    def save() -> Any:
        order.append("save")
        return read_back

    def read_back() -> Mapping[str, Mapping[str, Tensor]]:
        order.append("read")
        return state

    before = {name: each.clone() for name, each in state["weights"].items()}
    found = timed(state, save, lambda: order.append("settle"))
    assert order == ["save", "settle", "read"]
    assert found.amount == size_of(state) / 1e6
    assert all(not torch.equal(before[name], each) for name, each in state["weights"].items())
    assert found.outputs["digest"] == digest_of(state)
    assert found.outputs["saved"] != found.outputs["digest"]  # an update came between the two


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_all_ways_to_save_give_back_the_same_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engine_stall, "make_state", lambda: make_state(matrices=2, side=4))
    monkeypatch.setattr(os, "sync", lambda: None)
    found = []
    for number, side in enumerate((Ours, TorchSave, AsyncSave)):
        folder = tmp_path / str(number)
        folder.mkdir()
        made = side(folder)
        found.append([made.round().outputs for _ in range(2)])
    assert found[0] == found[1] == found[2]
    assert states_differ(found[0][0], found[1][0]) is None
    assert states_differ(found[0][0], found[0][1])


def test_a_recovery_is_the_first_step_of_a_later_start():
    first = [start(0), *steps(*range(1, 32))]
    assert not goes_on(first, starts=1)
    assert not goes_on([*first, start(20)], starts=1)
    events = [*first, start(20), *steps(21)]
    assert goes_on(events, starts=1)
    assert not goes_on(events, starts=2)
    assert resumption(events) == {"reached": 31, "resumed": 20, "first": 21}


def test_a_recovery_counts_only_from_a_checkpoint_and_in_time():
    good = {"reached": 31, "resumed": 20, "first": 21, "seconds": 4.0}
    assert recoveries_differ(good, good) is None
    assert recoveries_differ(good, good | {"seconds": 400.0}) is None  # the peer may take as long as it likes
    for wrong in ({"resumed": 0, "first": 1}, {"first": 22}, {"resumed": 40, "first": 41}, {"seconds": 61.0}):
        assert recoveries_differ(good | wrong, good)
    assert "the peer" in str(recoveries_differ(good, good | {"first": 22}))


def test_a_job_that_ends_by_itself_is_an_error_with_its_words(tmp_path: Path):
    job = Job([sys.executable, "-c", "print('no shards')"], tmp_path / "events.jsonl", tmp_path / "output.log")
    with job.started() as agent:
        agent.wait()
        with pytest.raises(BenchmarkError, match="no shards"):
            job.wait(agent, bool)


def test_a_lost_or_repeated_sample_is_found_in_the_log(tmp_path: Path):
    run = tiny_run(train__global_batch_samples=4, world__micro_batch_samples=4)
    folder = RunFolder(tmp_path / "run")
    folder.open(run)
    write_dataset(run, folder, {"train": random_documents([300], vocabulary_size=270, end=0, seed=1)})
    draws = open_dataset(run, folder).order
    events, digest = [], "00" * 32
    sampler = Sampler(draws, micro=4, rank=0, world=1)
    for step in range(1, 6):
        digest = rolled(digest, np.array([sampler.at(position) for position in range(4 * step - 4, 4 * step)]))
        events.append({"event": "step", "step": step, "samples_digest": digest})
    again = [*events[:4], start(2), *events[2:]]  # steps done again after a restart
    assert samples_differ(again, folder) is None
    assert "step 3" in str(samples_differ([*events[:2], events[2] | {"samples_digest": "00"}, *events[3:]], folder))
    assert "4 steps up to 5" in str(samples_differ([*events[:2], *events[3:]], folder))
    assert samples_differ([start(0)], folder)


def test_plain_script_and_our_network_are_of_one_size():
    run = load([str(HERE / "loop.yaml"), str(HERE / "engine.yaml")])
    manifest: Any = SimpleNamespace(text=SimpleNamespace(vocabulary_size=2048), block_tokens=64)
    ours, theirs = (sum(p.numel() for p in each.parameters()) for each in (build_decoder(run, manifest), Decoder()))
    assert ours == pytest.approx(theirs, rel=0.1)
