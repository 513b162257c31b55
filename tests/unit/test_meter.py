"""The meter in closed form, on a clock that goes as told; and the constants that its utilisation stands on."""

import json
import math
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.folder import RunFolder
from configs.load import load
from configs.schema import RunConfig
from data.manifest import Manifest
from tests.tiny import ALONE, shrink
from trainer import workload
from trainer.distributed import World
from trainer.hardware import (
    SIXTEEN_BITS,
    cpu_model,
    machine,
    peak_flops,
    peak_memory_bytes,
    peak_of,
    version_of,
)
from trainer.meter import Meter, Workload
from trainer.profile.sketch import look
from trainer.task import Task
from trainer.tasks import build_task
from trainer.workload import count_flops, remembered_flops, workload_of

CONFIGS = Path(__file__).parents[2] / "configs"


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def made(clock: Clock, **known: Any) -> Meter:
    return Meter(Workload(**{"samples_per_step": 8} | known), memory=lambda: 77, clock=clock)


def told(name: str, scratch: Path, **settings: object) -> tuple[RunConfig, Task, Manifest]:
    """A small run of a committed configuration, its task, and a manifest without data."""
    run = shrink(CONFIGS / f"{name}.yaml", **settings)
    outlook = look(run, RunFolder(scratch / "none"), classes=10)
    return run, build_task(run, outlook.manifest, outlook.tokenizer), outlook.manifest


def test_rates_are_over_all_the_time_but_that_of_saving_and_validating():
    clock = Clock()
    meter = made(clock, tokens_per_sample=64, flops_per_sample=1000, peak_flops=10_000.0)
    meter.spend("data", 1.0)
    with meter.during("validate"):
        clock.now += 3.0
    with meter.during("save"):
        clock.now += 2.0
    clock.now += 4.0
    assert meter.figures(steps=5) == {
        "train/samples_per_s": 5 * 8 / 4.0,
        "train/tokens_per_s": 5 * 8 * 64 / 4.0,
        "train/mfu": 5 * 8 * 1000 / 4.0 / 10_000,
        "train/data_wait_share": 1.0 / 4.0,
        "train/memory_bytes": 77,
        "train/goodput": 3.0 / 9.0,  # data are not compute
    }


def test_goodput_is_of_all_the_clock_since_the_launch_and_the_phase_of_the_time_since_it_was_asked():
    clock = Clock()
    meter = Meter(Workload(8), memory=lambda: 0, age_s=5.0, clock=clock)
    assert meter.goodput() == 0.0
    clock.now += 2.0
    assert (meter.goodput(), meter.phase()) == (2.0 / 7.0, "compute")
    meter.spans()
    meter.figures(steps=1)
    with meter.during("save"):
        clock.now += 2.0
    clock.now += 1.0
    assert meter.goodput() == 3.0 / 10.0
    assert [meter.phase(), meter.phase()] == ["save", "compute"]


def test_each_window_begins_where_the_last_one_ended():
    clock = Clock()
    meter = made(clock)
    for seconds in (2.0, 5.0):
        clock.now += seconds
        assert meter.figures(steps=3)["train/samples_per_s"] == 3 * 8 / seconds


def test_what_is_not_known_is_not_told():
    clock = Clock()
    for known in ({}, {"flops_per_sample": 5}, {"peak_flops": 5.0}):
        meter = made(clock, **known)
        clock.now += 1.0
        assert meter.figures(steps=1).keys() == {
            "train/samples_per_s", "train/data_wait_share", "train/memory_bytes", "train/goodput"
        }  # fmt: skip


def test_spans_make_up_all_the_time_and_are_counted_apart_from_windows():
    clock = Clock()
    meter = made(clock)
    clock.now += 1.0
    meter.spend("data", 0.25)
    meter.figures(steps=1)
    with meter.during("save"):
        clock.now += 2.0
    assert meter.spans() == {"data": 0.25, "save": 2.0, "validate": 0.0, "compute": 0.75}
    with meter.during("validate"):
        clock.now += 0.5
    assert meter.spans() == {"data": 0.0, "save": 0.0, "validate": 0.5, "compute": 0.0}


def test_time_that_an_error_ends_is_counted():
    clock = Clock()
    meter = made(clock)

    def fail() -> None:
        with meter.during("save"):
            clock.now += 2.0
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert meter.spans()["save"] == 2.0


def test_a_window_without_time_divides_by_nothing():
    assert math.isfinite(made(Clock()).figures(steps=1)["train/samples_per_s"])


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H200", 989.5),
        ("NVIDIA H200 NVL", 835.5),
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A100 80GB PCIe", 312.0),
        ("NVIDIA GH200 480GB", 990.0),
        ("NVIDIA B200", 2250.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA L40", 181.05),
        ("NVIDIA L40S", 362.05),
        ("NVIDIA A10", 125.0),
    ],
)
def test_peaks_are_found_by_the_name_of_the_device(name: str, tera: float):
    assert peak_flops(name, "bf16") == peak_flops(name, "fp16") == tera * 1e12
    assert peak_flops(name, "fp32") is None


def test_cards_without_bf16_have_a_peak_in_fp16_alone():
    for name, tera in (("Tesla V100-SXM2-32GB", 125.0), ("Tesla V100-PCIE-16GB", 112.0), ("Tesla T4", 65.0)):
        assert peak_flops(name, "fp16") == tera * 1e12
        assert peak_flops(name, "bf16") is None


@pytest.mark.parametrize("name", ["NVIDIA A10G", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "AMD EPYC 9654", "NVIDIA H1000"])
def test_an_unknown_device_or_a_part_of_one_has_no_peak(name: str):
    assert peak_flops(name, "bf16") is None
    assert peak_of(torch.device("cpu"), "bf16") is None


def test_no_model_hides_a_later_one():
    """A name is taken for the first model whose words it has, so one with fewer words must not come before."""
    models = [set(model.upper().split()) for model, _ in SIXTEEN_BITS]
    assert not [(a, b) for at, a in enumerate(models) for b in models[at + 1 :] if b > a]


def test_a_machine_is_told_without_the_names_of_its_host_people_and_folders(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_API_KEY", "a-secret-of-forty-letters")
    told = machine(torch.device("cpu"))
    assert told == json.loads(json.dumps(told))
    assert told["torch"] == torch.__version__
    assert told["deepspeed"]
    assert told["cores"] >= told["usable_cores"] >= 1
    assert told["memory_bytes"] > 1 << 28
    assert len(told["code"]) == 64
    text = json.dumps(told)
    private = [socket.gethostname(), str(Path.home()), str(Path.cwd()), "a-secret-of-forty-letters", sys.prefix]
    assert [each for each in private if len(each) > 1 and each in text] == []
    assert cpu_model()
    assert version_of("no-such-package-here") is None


def test_memory_of_a_cpu_rank_is_its_resident_set():
    before = peak_memory_bytes(torch.device("cpu"))
    block = torch.ones(before // 4 + (64 << 20) // 4)
    assert peak_memory_bytes(torch.device("cpu")) >= before
    assert block.numel() * 4 <= peak_memory_bytes(torch.device("cpu")) < 100 * before


def test_a_dense_decoder_costs_six_operations_per_weight_and_token(tmp_path: Path):
    """Kaplan et al., 2020, 2.1: C = 6 N, N without embeddings; the head's product and attention's scores are beside.

    Both are counted here: the rule of thumb is below by their shares, which are known.
    """
    tokens, width, layers, vocabulary = 64, 384, 2, 270
    shape = {"task__model__width": width, "task__model__num_layers": layers, "task__model__num_heads": 6}
    run, task, manifest = told(
        "demo-lm", tmp_path, **shape, task__model__feed_forward_width=4 * width, data__block_tokens=tokens
    )
    matrices = [
        p for name, p in task.networks()["model"].named_parameters() if p.dim() == 2 and name.startswith("blocks")
    ]
    weights = sum(p.numel() for p in matrices)
    found = count_flops(run, task, manifest)
    assert found is not None
    beside = 12 * layers * width * tokens + 6 * vocabulary * width
    assert found == pytest.approx(tokens * (6 * weights + beside), rel=0.01)
    assert 1.0 <= found / (6 * weights * tokens) < 1.1


def test_resnet_50_costs_what_was_published(tmp_path: Path):
    """4.1 G multiply-adds forward (He et al., 2016; strides of v1.5), two operations each; backward twice as many.

    But for the first layer, whose images need no gradient: 0.118 G multiply-adds less.
    """
    run = load([str(CONFIGS / "production" / "resnet-50.yaml")])
    outlook = look(run, RunFolder(tmp_path / "none"), classes=1000)
    found = count_flops(run, build_task(run, outlook.manifest), outlook.manifest)
    assert found == pytest.approx(2 * (3 * 4.1e9 - 0.118e9), rel=0.01)


def test_operations_do_not_depend_on_recomputation_or_micro_batch(tmp_path: Path):
    found = {
        count_flops(*told("demo-lm", tmp_path, world__recompute=again, world__micro_batch_samples=micro))
        for again, micro in ((False, 1), (True, 2))
    }
    assert len(found) == 1


def test_samples_of_different_sizes_have_no_one_number(tmp_path: Path):
    growing = [{"until_samples": 4096, "side": 8}]
    run, task, manifest = told("demo-cnn", tmp_path, task__resolutions=json.dumps(growing))
    assert count_flops(run, task, manifest) is None
    run, task, manifest = told("demo-tags", tmp_path)
    assert count_flops(run, task, manifest) is None
    assert workload_of(run, task, manifest, ALONE, RunFolder(tmp_path / "run")).tokens_per_sample is None


def test_operations_are_counted_once_and_again_for_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run, task, manifest = told("demo-lm", tmp_path)
    counted: list[str] = []
    monkeypatch.setattr(workload, "count_flops", lambda run, task, manifest: counted.append(manifest.digest) or 123)
    folder = RunFolder(tmp_path / "run")
    folder.train.mkdir(parents=True)
    other = manifest.model_copy(update={"digest": "another"})
    for each in (manifest, manifest, other, other):
        assert remembered_flops(run, task, each, folder) == 123
    assert counted == ["", "another"]


def test_only_the_rank_that_logs_counts_and_only_where_a_peak_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run, task, manifest = told("demo-lm", tmp_path)
    monkeypatch.setattr(workload, "remembered_flops", lambda *rest: 123)
    folder = RunFolder(tmp_path / "run")
    assert workload_of(run, task, manifest, ALONE, folder) == Workload(
        run.train.global_batch_samples, manifest.block_tokens
    )
    monkeypatch.setattr(workload, "peak_of", lambda device, precision: 5.0)
    for rank, flops in ((0, 123), (1, None)):
        world = World(rank=rank, local_rank=rank, size=4, device=torch.device("cpu"))
        found = workload_of(run, task, manifest, world, folder)
        assert (found.flops_per_sample, found.peak_flops) == (flops, 20.0)
