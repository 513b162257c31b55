"""Profiles: parameters, FLOPs and bytes told from shapes alone are those of real networks, passes and optimizers."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from configs.folder import RunFolder
from configs.load import load
from configs.schema import RunConfig
from tests.tiny import shrink
from trainer.optim import build_optimizer
from trainer.profile.__main__ import main
from trainer.profile.counting import activations, enlarge, forward_flops, shapes_only, training_flops
from trainer.profile.memory import optimizer_bytes
from trainer.profile.plan import DRAWN, Plan, make_plan
from trainer.profile.sketch import Outlook, draw_samples, look
from trainer.task import Batch, Networks, Scalars
from trainer.tasks import build_task

CONFIGS = Path(__file__).parents[2] / "configs"
FAMILIES = ["demo-lm", "demo-mlm", "demo-cnn", "demo-diffusion"]


def told(run: RunConfig, scratch: Path, *, classes: int | None = None) -> tuple[Plan, Outlook]:
    outlook = look(run, RunFolder(scratch / "none"), classes=classes)
    return make_plan(run, outlook), outlook


def small(name: str, **overrides: object) -> RunConfig:
    return shrink(CONFIGS / f"{name}.yaml", world__micro_batch_samples=2, train__global_batch_samples=4, **overrides)


@pytest.mark.parametrize("name", FAMILIES)
def test_parameters_flops_and_activations_are_those_of_a_real_pass(name: str, tmp_path: Path):
    run = small(name)
    plan, outlook = told(run, tmp_path, classes=10)
    task = build_task(run, outlook.manifest, outlook.tokenizer)
    end = run.train.steps * run.train.global_batch_samples
    nets = task.networks()
    real = task.collate(draw_samples(run, outlook.manifest, range(end - 2, end)))
    held = activations(task, nets, real, precision="fp32")
    parameters = {name: sum(p.numel() for p in net.parameters()) for name, net in nets.items()}
    assert {name: each.parameters for name, each in plan.networks.items()} == parameters
    if name != "demo-mlm":  # where a tenth of the tokens is scored, a CPU computes a tenth of the logits
        assert plan.kept_bytes == held.kept_bytes
        few = task.collate(draw_samples(run, outlook.manifest, range(end - DRAWN, end)))
        assert plan.training_flops == training_flops(task, nets, few) // DRAWN


def test_bf16_activations_are_those_of_a_real_pass_under_autocast(tmp_path: Path):
    run = small("demo-lm", train__precision="bf16")
    plan, outlook = told(run, tmp_path)
    task = build_task(run, outlook.manifest, outlook.tokenizer)
    real = task.collate(draw_samples(run, outlook.manifest, range(2)))
    held = activations(task, task.networks(), real, precision="bf16")
    assert plan.kept_bytes == held.kept_bytes
    assert plan.kept_bytes < told(small("demo-lm"), tmp_path)[0].kept_bytes


def test_recomputed_blocks_keep_less_for_the_same_flops(tmp_path: Path):
    run = small("demo-lm")
    plain, _ = told(run, tmp_path)
    again, _ = told(small("demo-lm", world__recompute="true"), tmp_path)
    assert again.kept_bytes < plain.kept_bytes / 2
    assert again.memory.activations < plain.memory.activations
    assert again.training_flops == plain.training_flops


def test_flops_of_gpt2_are_six_per_parameter_and_token_and_twelve_per_score(tmp_path: Path):
    """Chowdhery et al., 2023, appendix B; its first term is of parameters in matrix products, not of positions."""
    tokens, width, layers = 256, 768, 2
    few = [f"data.block_tokens={tokens}", f"task.model.num_layers={layers}", "task.evaluation.stride_tokens=128"]
    run = load([str(CONFIGS / "production" / "gpt2-124m.yaml"), *few, "world.micro_batch_samples=4"])
    plan, _ = told(run, tmp_path)
    parameters = plan.networks["model"].parameters - tokens * width
    formula = tokens * (6 * parameters + 12 * layers * width * tokens)
    assert plan.training_flops == pytest.approx(formula, rel=0.01)
    assert plan.forward_flops == pytest.approx(formula / 3, rel=0.01)
    assert plan.tokens_per_step == 512 * tokens
    assert plan.step_flops == plan.training_flops * 512


@pytest.mark.parametrize(("name", "multiply_adds"), [("resnet-18", 1.82e9), ("resnet-50", 4.1e9)])
def test_image_networks_cost_what_was_published(name: str, multiply_adds: float, tmp_path: Path):
    """He et al., 2016, table 1; the strides of v1.5 take 4.1 where the paper has 3.8. Of 224 x 224 pixels."""
    run = load([str(CONFIGS / "production" / f"{name}.yaml")])
    outlook = look(run, RunFolder(tmp_path / "none"), classes=1000)
    task = build_task(run, outlook.manifest)
    batch = task.collate(draw_samples(run, outlook.manifest, range(2)))
    with shapes_only():
        flops = forward_flops(task, task.networks(), enlarge(batch, 1))
    assert flops / 2 == pytest.approx(multiply_adds, rel=0.01)


class Grouped:
    """A task of one convolution in groups, whose backward pass takes twice the products of its forward pass."""

    turns = ("model",)

    def loss(self, turn: str, nets: Networks, batch: Batch) -> tuple[Tensor, Scalars]:
        return nets[turn](batch.tensors["x"]).sum(), {}


def test_convolutions_in_groups_cost_twice_as_much_on_the_way_back():
    nets = {"model": nn.Conv2d(16, 16, 3, padding=1, groups=16)}
    batch = Batch({"x": torch.zeros(2, 16, 8, 8, requires_grad=True)}, 2, (0, 1))
    forward = 2 * 2 * 16 * 8 * 8 * 9
    assert forward_flops(Grouped(), nets, batch) == forward  # type: ignore[arg-type]  # no more of a task is needed
    assert training_flops(Grouped(), nets, batch) == 3 * forward  # type: ignore[arg-type]


def test_attention_is_never_kept_as_a_matrix_even_with_dropout(tmp_path: Path):
    kept = []
    for tokens in (64, 128):
        run = small("demo-lm", data__block_tokens=tokens, task__model__dropout=0.1)
        kept.append(told(run, tmp_path)[0].kept_bytes)
    assert kept[1] / kept[0] == pytest.approx(2, rel=0.02)


OPTIMIZERS = {  # bytes per parameter of a matrix
    "{kind: adamw, learning_rate: 0.1}": 8,
    "{kind: sgd, learning_rate: 0.1}": 4,
    "{kind: sgd, learning_rate: 0.1, momentum: 0}": 0,
    "{kind: lamb, learning_rate: 0.1}": 8,
    "{kind: lion, learning_rate: 0.1}": 4,
    "{kind: muon, learning_rate: 0.1}": 4,
}


class Parts(nn.Module):
    """A matrix between an input and a head of a few weights each."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.head = (
            nn.Linear(2, 64, bias=False),
            nn.Linear(64, 64, bias=False),
            nn.Linear(64, 1),
        )

    def parts(self) -> list[tuple[str, ...]]:
        return [("first",), ("inner",), ("head",)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizer_state_is_that_of_a_real_step(optimizer: str):
    run = small("demo-lm", train__optimizer=optimizer)
    with shapes_only():
        predicted = optimizer_bytes(Parts(), run)
    network = Parts()
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    real = build_optimizer(network, run.train.optimizer)
    real.step()
    tensors = [value for state in real.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    assert predicted == sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    rest = (64 * 2 + 64 + 1) * 8 + 64
    assert abs(predicted - 64 * 64 * OPTIMIZERS[optimizer]) <= rest


def test_frozen_layers_get_no_gradient_and_no_optimizer_state(tmp_path: Path):
    plan, _ = told(
        small(
            "demo-lm",
            task__model__init_from="elsewhere",
            train__fine_tune="{frozen: true}",
            task__model__tied_embeddings="false",
        ),
        tmp_path,
    )
    network = plan.networks["model"]
    assert 0 < network.trained < network.parameters
    assert network.trained + network.frozen == network.parameters
    assert plan.memory.gradients == 4 * network.trained
    assert plan.memory.optimizer == pytest.approx(8 * network.trained, rel=0.01)


def test_averaged_weights_count_once_more(tmp_path: Path):
    plan, _ = told(small("demo-lm", train__ema="{decay: 0.9}"), tmp_path)
    assert plan.memory.average == 4 * plan.networks["model"].parameters
    held = ("weights", "gradients", "optimizer", "average")
    rest = max(plan.memory.activations, plan.memory.update)
    assert plan.memory.total == sum(getattr(plan.memory, name) for name in held) + rest


def test_neither_weights_nor_their_gradients_count_as_activations():
    net = nn.Linear(1000, 1000, bias=False)
    held = activations(Grouped(), {"model": net}, Batch({"x": torch.zeros(1, 1000)}, 1, (0,)), precision="fp32")  # type: ignore[arg-type]
    assert held.peak_bytes < 1.1 * 4 * 1000**2  # the one gradient on its way


def at(zero: str, scratch: Path, **overrides: object) -> Plan:
    return told(small("demo-lm", world__processes=2, world__zero=zero, world__device="cpu", **overrides), scratch)[0]


def test_zero_splits_state_by_stage_over_the_ranks(tmp_path: Path):
    size = 4 * at("{stage: 0}", tmp_path).networks["model"].trained
    first, second, third = (at(f"{{stage: {stage}}}", tmp_path, train__ema="{decay: 0.9}") for stage in (1, 2, 3))
    for plan in (first, second, third):
        assert plan.memory.master == size // 2
        assert plan.memory.average == size // 2
        assert plan.memory.optimizer == pytest.approx(size, rel=0.01)  # AdamW's two numbers a weight, halved
        assert plan.memory.communication >= 4 * 5_000_000
        assert plan.stages == pytest.approx(first.stages)
    assert (first.memory.gradients, second.memory.gradients, third.memory.gradients) == (size, size // 2, size // 2)
    assert (first.memory.weights, third.memory.weights) == (
        pytest.approx(size, rel=0.01),
        pytest.approx(size // 2, rel=0.02),
    )


def test_overrides_of_buckets_are_counted(tmp_path: Path):
    few = at("{stage: 2}", tmp_path, deepspeed__zero_optimization__reduce_bucket_size=1000)
    assert few.memory.communication == 4000
    assert at("{stage: 2, overlap: true}", tmp_path).memory.communication == 2 * 4 * 5_000_000


def test_offload_leaves_the_device(tmp_path: Path):
    here = at("{stage: 3}", tmp_path)
    host = at("{stage: 3, offload_optimizer: cpu, offload_parameters: cpu}", tmp_path)
    disk = at("{stage: 3, offload_optimizer: nvme, offload_path: /fast}", tmp_path)
    assert (host.memory.master, host.memory.optimizer, host.memory.gradients) == (0, 0, 0)
    assert host.memory.weights < here.memory.weights
    assert host.memory.host > here.memory.weights + here.memory.optimizer + here.memory.master
    assert disk.memory.disk == here.memory.optimizer + here.memory.master
    assert host.memory.total < disk.memory.total < here.memory.total


def test_stages_that_the_run_cannot_choose_are_not_told(tmp_path: Path):
    assert set(at("{stage: 0}", tmp_path).stages) == {0, 1, 2, 3}
    assert set(at("{stage: 1, offload_optimizer: cpu}", tmp_path).stages) == {1, 2, 3}
    assert set(at("{stage: 0}", tmp_path, train__optimizer="{kind: muon, learning_rate: 0.1}").stages) == {0}


def test_an_open_micro_batch_is_told_as_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = [str(CONFIGS / "mnist.yaml"), "--runs", str(tmp_path), "task.model={kind: lenet}"]
    words += ["train.global_batch_samples=24", "world={processes: 2, micro_batch_samples: auto}"]
    assert main([*words, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert list(record["candidates"]) == ["12", "6", "4", "3", "2", "1"]
    assert list(record["candidates"].values()) == sorted(record["candidates"].values(), reverse=True)
    assert record["micro_batch_samples"] == 1
    assert main(words) == 0
    assert "in all by micro-batch" in capsys.readouterr().out


def test_a_network_of_eight_billion_parameters_takes_no_memory(tmp_path: Path):
    run = load([str(CONFIGS / "production" / "llama-8b.yaml")])
    outlook = look(run, RunFolder(tmp_path / "none"), classes=None)
    with shapes_only():
        (network,) = build_task(run, outlook.manifest).networks().values()
    assert sum(parameter.numel() for parameter in network.parameters()) == 8_030_261_248


def test_the_command_prints_text_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = [str(CONFIGS / "mnist.yaml"), "--runs", str(tmp_path), "--classes", "7", "task.model={kind: lenet}"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "FLOPs = 2 x multiply-adds" in text
    assert "assumed: the data is not prepared" in text
    assert "1,000 classes" not in text
    assert main([*words, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["networks"]["model"]["parameters"] == 61_706 - 3 * 85  # LeNet-5 of ten classes, less three
    assert record["memory"]["total"] > record["kept_bytes"] > 0
    assert math.isfinite(record["step_flops"])


@pytest.mark.parametrize(
    ("words", "problem"), [(["--classes", "0"], "at least one class"), (["--gpu"], "unrecognized")]
)
def test_mistakes_are_refused(words: list[str], problem: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        main([str(CONFIGS / "mnist.yaml"), *words])
    assert caught.value.code == 2
    assert problem in capsys.readouterr().err
