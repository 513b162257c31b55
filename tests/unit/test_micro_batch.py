"""The micro-batch that fits is found, agreed on and remembered; on other worlds the global batch stays."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import trainer.micro_batch as subject
from configs.errors import ConfigError
from configs.folder import RunFolder
from configs.load import load
from configs.schema import RunConfig
from configs.world import micro_batches, on_world
from tests.tiny import ALONE, tiny_run
from trainer.distributed import World
from trainer.micro_batch import _container, choose_micro_batch, fits, largest_fitting, recall
from trainer.profile.sketch import Outlook, look
from trainer.tasks import build_task

CONFIGS = Path(__file__).parents[2] / "configs"
CPU = torch.device("cpu")


def auto_run(**overrides: object) -> RunConfig:
    return tiny_run(train__global_batch_samples=12, world__processes=1, world__micro_batch_samples="auto", **overrides)


def images(*words: str) -> RunConfig:
    return load([str(CONFIGS / "mnist.yaml"), *words])


def told(run: RunConfig, scratch: Path) -> Outlook:
    return look(run, RunFolder(scratch / "none"), classes=None)


def choose(run: RunConfig, folder: RunFolder, world: World = ALONE) -> RunConfig:
    outlook = told(run, folder.path)
    return choose_micro_batch(run, build_task(run, outlook.manifest), outlook.manifest, folder, world)


def test_where_there_is_room_the_whole_share_is_one_micro_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = choose(auto_run(), RunFolder(tmp_path))
    assert (run.micro_batch, run.accumulation) == (12, 1)
    assert "micro-batches of 12 samples, 1 per step" in capsys.readouterr().out


def test_a_number_in_the_configuration_stays(tmp_path: Path):
    run = tiny_run(train__global_batch_samples=12, world__processes=1, world__micro_batch_samples=3)
    assert choose(run, RunFolder(tmp_path)) is run
    assert not (tmp_path / "train").exists()


def test_less_memory_gives_a_smaller_micro_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = auto_run()
    outlook = told(run, tmp_path)
    task = build_task(run, outlook.manifest)
    chosen = []
    for room in (2e6, 3e6, 1e9):
        monkeypatch.setattr(subject, "free_host_bytes", lambda room=room: int(room))
        sizes = micro_batches(run)
        chosen.append(largest_fitting(sizes, lambda micro: fits(run, task, outlook.manifest, ALONE, micro)))
    assert chosen == sorted(chosen)
    assert chosen[0] < chosen[1] < chosen[2] == 12


def test_where_not_even_one_sample_fits_the_way_out_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(subject, "free_host_bytes", lambda: 1000)
    with pytest.raises(ConfigError, match=r"of 1 samples do not fit, 1 kB are free.*try world.recompute=true"):
        choose(auto_run(), RunFolder(tmp_path))


def test_a_restart_takes_the_same_though_less_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = choose(auto_run(), RunFolder(tmp_path))
    monkeypatch.setattr(subject, "free_host_bytes", lambda: 1000)
    assert choose(auto_run(), RunFolder(tmp_path)) == first
    with pytest.raises(ConfigError, match="do not fit"):  # what changes memory is looked at anew
        choose(auto_run(world__recompute="true"), RunFolder(tmp_path))


def test_choices_of_other_worlds_are_kept(tmp_path: Path):
    folder = RunFolder(tmp_path)
    choose(auto_run(), folder)
    choose(auto_run(world__zero__stage=1), folder)
    assert len(json.loads((folder.train / "micro_batch.json").read_text())["choices"]) == 2
    assert recall(folder.train / "micro_batch.json", {}) == 0


class Crowded(World):
    """A rank whose only peer has room for two samples, and has chosen nothing before."""

    def __init__(self) -> None:
        super().__init__(rank=0, local_rank=0, size=1, device=CPU)
        self.answers = iter((0, 2))

    def gather(self, values: object) -> NDArray[np.int64]:
        assert isinstance(values, list)
        return np.array([values, [next(self.answers)]])


def test_all_ranks_take_what_the_fullest_has_room_for(tmp_path: Path):
    assert choose(auto_run(), RunFolder(tmp_path), Crowded()).micro_batch == 2


@pytest.mark.parametrize("least", range(1, 9))
def test_the_search_ends_at_the_largest_that_fits(least: int):
    assert largest_fitting([8, 6, 4, 3, 2, 1], lambda size: size <= least) == max(
        size for size in (8, 6, 4, 3, 2, 1) if size <= least
    )
    assert largest_fitting([8, 6], lambda size: False) == 0


def test_a_container_with_a_limit_is_believed(tmp_path: Path):
    assert _container(tmp_path) == []
    (tmp_path / "memory.max").write_text("max\n")
    assert _container(tmp_path) == []
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 400\ninactive_file 200\n")
    assert _container(tmp_path) == [(1000, 500)]


def test_candidates_divide_each_replicas_share_and_keep_the_rules_of_the_task():
    words = ["train.global_batch_samples=24", "world={processes: 2, micro_batch_samples: auto}"]
    assert micro_batches(images(*words, "task.model={kind: lenet}")) == [12, 6, 4, 3, 2, 1]
    assert micro_batches(images(*words, "task.model={kind: resnet, preset: resnet-18}")) == [12, 6, 4, 3, 2]
    assert micro_batches(images(*words, "task.model={kind: lenet}", "task.augment={mixup: 0.2}")) == [12, 6, 4, 2]


@pytest.mark.parametrize(
    ("processes", "micro", "accumulation"), [(1, 4, 6), (2, 4, 3), (3, 4, 2), (4, 3, 2), (8, 3, 1), (24, 1, 1)]
)
def test_on_another_world_accumulation_and_then_the_micro_batch_keep_the_global_batch(
    processes: int, micro: int, accumulation: int
):
    run = tiny_run(train__global_batch_samples=24, world__micro_batch_samples=4, world__processes=2)
    there = on_world(run, processes)
    assert (there.world.processes, there.micro_batch, there.accumulation) == (processes, micro, accumulation)
    assert there.micro_batch * there.accumulation * there.replicas == 24
    assert there.train == run.train


def test_a_world_that_cannot_keep_the_global_batch_hears_which_can():
    run = tiny_run(train__global_batch_samples=24, world__micro_batch_samples=4, world__processes=2)
    with pytest.raises(ConfigError, match=r"5 ranks cannot share .*batch_samples=24.* that can: 1, 2, 3, 4, 6, 8, 12"):
        on_world(run, 5)


def test_ranks_that_share_sequences_or_a_partition_stay_together():
    run = tiny_run(
        train__global_batch_samples=24,
        world__micro_batch_samples=4,
        world__processes=4,
        world__zero="{stage: 3, partition_group: 4}",
        world__sequence_parallel=2,
    )
    assert on_world(run, 8).replicas == 4
    with pytest.raises(
        ConfigError, match=r"6 ranks cannot .*sequence_parallel=2.*partition_group=4.* can: 4, 8, 12, 16"
    ):
        on_world(run, 6)


def test_an_open_choice_stays_open_on_another_world():
    there = on_world(auto_run(), 3)
    assert (there.world.processes, there.world.micro_batch_samples) == (3, "auto")
