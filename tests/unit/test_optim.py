"""Schedules against their closed forms, optimizers against theirs, and which parameters decay."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from configs.optimisation import (
    AdamWConfig,
    FineTuneConfig,
    LambConfig,
    LionConfig,
    MuonConfig,
    OptimizerConfig,
    SGDConfig,
)
from configs.schema import TrainConfig
from tests.tiny import tiny_run
from trainer.muon import orthogonal
from trainer.optim import build_optimizer, learning_rate

PEAK, STEPS, WARMUP = 0.02, 40, 5


def train_config(schedule: str, *, warmup: int = WARMUP, steps: int = STEPS, **fields: Any) -> TrainConfig:
    inner = ", ".join(f"{key}: {value}" for key, value in {"warmup_steps": warmup, **fields}.items())
    run = tiny_run(
        train__schedule=f"{{kind: {schedule}, {inner}}}", train__steps=steps, train__optimizer__learning_rate=PEAK
    )
    return run.train


def cosine(t: int) -> float:
    return PEAK * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * t / (STEPS - 1 - WARMUP))))


CLOSED_FORMS: dict[str, tuple[dict[str, Any], Any]] = {
    "constant": ({}, lambda t: PEAK),
    "cosine": ({"final": 0.1}, cosine),
    "linear": ({"final": 0.1}, lambda t: PEAK * (1 - 0.9 * t / (STEPS - 1 - WARMUP))),
    "step": ({"every_steps": 10, "factor": 0.5}, lambda t: PEAK * 0.5 ** (t // 10)),
    "exponential": ({"decay": 0.03}, lambda t: PEAK * math.exp(-0.03 * t)),
    "inverse": ({"decay": 0.2}, lambda t: PEAK / (1 + 0.2 * t)),
}


@pytest.mark.parametrize("schedule", CLOSED_FORMS)
def test_a_schedule_equals_its_closed_form_after_warmup(schedule: str) -> None:
    fields, closed_form = CLOSED_FORMS[schedule]
    config = train_config(schedule, **fields)
    for step in range(WARMUP, STEPS):
        assert learning_rate(step, config) == pytest.approx(closed_form(step - WARMUP), rel=1e-12)


@pytest.mark.parametrize("schedule", CLOSED_FORMS)
def test_warmup_rises_in_equal_steps_from_above_zero_to_the_peak(schedule: str) -> None:
    config = train_config(schedule, **CLOSED_FORMS[schedule][0])
    rates = [learning_rate(step, config) for step in range(WARMUP + 1)]
    assert rates == pytest.approx([PEAK * (n + 1) / (WARMUP + 1) for n in range(WARMUP + 1)])


def test_cosine_ends_at_its_final_share_at_the_last_step() -> None:
    assert learning_rate(STEPS - 1, train_config("cosine", final=0.25)) == pytest.approx(0.25 * PEAK)
    assert learning_rate(STEPS - 1, train_config("cosine", final=0.0)) == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (2, 1), (6, 5)])
def test_cosine_with_no_room_after_warmup_is_finite_and_at_most_the_peak(steps: int, warmup: int) -> None:
    config = train_config("cosine", warmup=warmup, steps=steps, final=0.1)
    rates = [learning_rate(step, config) for step in range(steps)]
    assert all(0 < each <= PEAK for each in rates)


class Mixed(nn.Module):
    """A weight of every kind: embedding, matrix, convolution, vectors, a shared one, one that its task froze."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.dense = nn.Linear(4, 6)
        self.convolution = nn.Conv2d(2, 5, 3)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 5)
        self.shared = self.dense
        self.frozen = nn.Linear(4, 4).requires_grad_(False)

    def parts(self) -> list[tuple[str, ...]]:
        return [("embedding",), ("dense", "convolution", "frozen"), ("norm",), ("head",)]


ADAMW = AdamWConfig(kind="adamw", learning_rate=0.1, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.3)
SGD = SGDConfig(kind="sgd", learning_rate=0.1, momentum=0.8, nesterov=True, weight_decay=0.3)
LAMB = LambConfig(kind="lamb", learning_rate=0.1, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.3)
LION = LionConfig(kind="lion", learning_rate=0.1, betas=(0.8, 0.9), weight_decay=0.3)
MUON = MuonConfig(kind="muon", learning_rate=0.1, momentum=0.8, aside_rate=0.5, weight_decay=0.3)
EVERY = {config.kind: config for config in (ADAMW, SGD, LAMB, LION, MUON)}


def names_of(network: nn.Module, group: dict[str, Any]) -> set[str]:
    names = {id(p): name for name, p in network.named_parameters()}
    return {names[id(p)] for p in group["params"]}


def test_matrices_decay_once_norms_and_biases_do_not_and_frozen_ones_are_left_out() -> None:
    network = Mixed()
    decayed, plain = build_optimizer(network, ADAMW).param_groups
    assert names_of(network, decayed) == {"embedding.weight", "dense.weight", "convolution.weight", "head.weight"}
    assert names_of(network, plain) == {"dense.bias", "convolution.bias", "norm.weight", "norm.bias", "head.bias"}
    assert decayed["weight_decay"] == 0.3
    assert plain["weight_decay"] == 0.0
    for group in (decayed, plain):
        assert (group["lr"], group["betas"], group["eps"], group["scale"]) == (0.1, (0.8, 0.9), 1e-6, 1.0)


@pytest.mark.parametrize("config", EVERY.values(), ids=EVERY)
def test_every_parameter_that_learns_is_in_one_group_and_decays_or_not_with_any_optimizer(
    config: OptimizerConfig,
) -> None:
    network = Mixed()
    groups = build_optimizer(network, config).param_groups
    held = [p for group in groups for p in group["params"]]
    assert len(held) == len({id(p) for p in held}) == sum(p.requires_grad for p in network.parameters())
    assert all(group["weight_decay"] == (0.3 if p.dim() >= 2 else 0.0) for group in groups for p in group["params"])


def test_a_network_without_vectors_has_one_group() -> None:
    assert len(build_optimizer(nn.Linear(3, 3, bias=False), ADAMW).param_groups) == 1


def test_each_part_has_its_share_of_the_rate() -> None:
    network = Mixed()
    fine_tune = FineTuneConfig(body_rate=0.5, layer_decay=0.8)
    for config, aside in ((SGD, 1.0), (MUON, 0.5)):
        scales = {
            name: group["scale"]
            for group in build_optimizer(network, config, fine_tune).param_groups
            for name in names_of(network, group)
        }
        assert scales["head.weight"] == scales["head.bias"] == aside
        assert scales["norm.weight"] == pytest.approx(0.5 * 0.8 * aside)
        assert scales["dense.weight"] == pytest.approx(0.5 * 0.8**2)
        assert scales["dense.bias"] == pytest.approx(0.5 * 0.8**2 * aside)
        assert scales["embedding.weight"] == pytest.approx(0.5 * 0.8**3 * aside)


def gradients(weight: Tensor, number: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(weight.shape, generator=generator) for _ in range(number)]


def after(network: nn.Module, weight: Tensor, config: OptimizerConfig, updates: Sequence[Tensor]) -> Tensor:
    """The weight after an update for each gradient."""
    optimizer = build_optimizer(network, config)
    for gradient in updates:
        weight.grad = gradient.clone()
        optimizer.step()
    return weight.detach()


def test_an_update_is_that_of_adamw_by_hand_and_its_state_has_the_names_that_checkpoints_keep() -> None:
    parameter = nn.Linear(1, 1, bias=False)
    weight, gradient = 2.0, 0.5
    parameter.weight.data.fill_(weight)
    optimizer = build_optimizer(parameter, ADAMW)
    parameter.weight.grad = torch.full((1, 1), gradient)
    optimizer.step()
    # with bias correction the first update is lr x g / (|g| + eps), after decay
    expected = weight * (1 - 0.1 * 0.3) - 0.1 * gradient / (gradient + 1e-6)
    assert parameter.weight.item() == pytest.approx(expected, rel=1e-6)
    assert set(optimizer.state[parameter.weight]) == {"step", "exp_avg", "exp_avg_sq"}


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_by_hand_its_decay_is_part_of_the_gradient(nesterov: bool) -> None:
    network = nn.Linear(3, 4, bias=False)
    config = SGD.model_copy(update={"nesterov": nesterov})
    weight, velocity, updates = network.weight.detach().clone(), torch.zeros(4, 3), gradients(network.weight, 3)
    for gradient in updates:
        gradient = gradient + 0.3 * weight
        velocity = 0.8 * velocity + gradient
        weight = weight - 0.1 * (gradient + 0.8 * velocity if nesterov else velocity)
    torch.testing.assert_close(after(network, network.weight, config, updates), weight)


@pytest.mark.parametrize("size", [1.0, 500.0])
def test_lamb_by_hand_whatever_the_norm_of_the_weights(size: float) -> None:
    """You et al., 2020, Algorithm 2, without bias correction."""
    network = nn.Linear(3, 4, bias=False)
    network.weight.data.mul_(size)
    weight, updates = network.weight.detach().clone(), gradients(network.weight, 3)
    mean, square = torch.zeros(4, 3), torch.zeros(4, 3)
    for gradient in updates:
        mean, square = 0.8 * mean + 0.2 * gradient, 0.9 * square + 0.1 * gradient**2
        update = mean / (square.sqrt() + 1e-6) + 0.3 * weight
        weight = weight - 0.1 * weight.norm() / update.norm() * update
    torch.testing.assert_close(after(network, network.weight, LAMB, updates), weight, rtol=1e-5, atol=1e-5)


def test_lamb_does_not_rescale_what_does_not_decay() -> None:
    network = nn.LayerNorm(4)
    weight, updates = network.weight.detach().clone(), gradients(network.weight, 3)
    mean, square = torch.zeros(4), torch.zeros(4)
    for gradient in updates:
        mean, square = 0.8 * mean + 0.2 * gradient, 0.9 * square + 0.1 * gradient**2
        weight = weight - 0.1 * mean / (square.sqrt() + 1e-6)
    torch.testing.assert_close(after(network, network.weight, LAMB, updates), weight)


def test_lion_by_hand() -> None:
    """Chen et al., 2023, Algorithm 2."""
    network = nn.Linear(3, 4, bias=False)
    weight, momentum, updates = network.weight.detach().clone(), torch.zeros(4, 3), gradients(network.weight, 4)
    for gradient in updates:
        step = (0.8 * momentum + 0.2 * gradient).sign()
        weight = weight - 0.1 * (step + 0.3 * weight)
        momentum = 0.9 * momentum + 0.1 * gradient
    torch.testing.assert_close(after(network, network.weight, LION, updates), weight)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("name", ["dense", "convolution"])
def test_muon_is_torchs_own_and_a_convolution_is_a_matrix_of_its_outputs(name: str, nesterov: bool) -> None:
    network = Mixed()
    weight = network.get_parameter(f"{name}.weight")
    theirs = nn.Parameter(weight.detach().clone().flatten(1))
    reference = torch.optim.Muon([theirs], lr=0.1, momentum=0.8, nesterov=nesterov, weight_decay=0.3)
    updates = gradients(weight, 3)
    for gradient in updates:
        theirs.grad = gradient.flatten(1)
        reference.step()
    ours = after(network, weight, MUON.model_copy(update={"nesterov": nesterov}), updates)
    torch.testing.assert_close(ours.flatten(1), theirs.detach())


def test_muon_moves_matrices_inside_the_network_and_adamw_the_rest_at_its_own_rate() -> None:
    network = Mixed()
    optimizer = build_optimizer(network, MUON)
    by_muon = {name for group in optimizer.param_groups if "nesterov" in group for name in names_of(network, group)}
    assert by_muon == {"dense.weight", "convolution.weight"}
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    bias = network.head.bias.detach().clone()
    for group in optimizer.param_groups:
        group["lr"] = 0.2 * group["scale"]
    optimizer.step()
    torch.testing.assert_close(network.head.bias.detach(), bias - 0.2 * 0.5)
    assert set(optimizer.state[network.dense.weight]) == {"momentum_buffer"}
    assert set(optimizer.state[network.head.bias]) == {"step", "exp_avg", "exp_avg_sq"}


def test_muon_without_a_matrix_inside_is_adamw() -> None:
    class Flat(nn.Linear):
        def parts(self) -> list[tuple[str, ...]]:
            return [("weight",), ("bias",)]

    assert isinstance(build_optimizer(Flat(2, 2), MUON), torch.optim.AdamW)


def test_orthogonal_takes_singular_values_near_one() -> None:
    matrix = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    for each in (matrix, matrix.T):
        values = torch.linalg.svdvals(orthogonal(each).float())
        assert values.min() > 0.6
        assert values.max() < 1.3
