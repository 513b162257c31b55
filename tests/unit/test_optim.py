"""Schedules against their closed forms, and which parameters decay."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from configs.schema import AdamWConfig, TrainConfig
from tests.tiny import tiny_run
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
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 5)
        self.head.weight = self.embedding.weight
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


ADAMW = AdamWConfig(kind="adamw", learning_rate=0.1, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.3)


def test_matrices_decay_once_norms_and_biases_do_not_and_frozen_ones_are_left_out() -> None:
    network = Mixed()
    decayed, plain = build_optimizer(network, ADAMW).param_groups
    assert [id(p) for p in decayed["params"]] == [id(network.embedding.weight)]
    assert {id(p) for p in plain["params"]} == {
        id(p) for p in (network.norm.weight, network.norm.bias, network.head.bias)
    }
    assert decayed["weight_decay"] == 0.3
    assert plain["weight_decay"] == 0.0
    for group in (decayed, plain):
        assert (group["lr"], group["betas"], group["eps"]) == (0.1, (0.8, 0.9), 1e-6)


def test_a_network_without_vectors_has_one_group() -> None:
    assert len(build_optimizer(nn.Linear(3, 3, bias=False), ADAMW).param_groups) == 1


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
