"""The guard: what it takes for a spike, what it does, what that may cost, and that a resume changes none of it."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from configs.engine import AnomalyConfig
from trainer.guard import LEAST, WINDOW, Guard, Verdict, require_finite, threshold

LOSS, NORM = "train/loss", "train/grad_norm"
NOISE = np.random.default_rng(0).normal(1.0, 0.05, 200).tolist()
"""Ordinary values, 1 on average"""


def configured(**settings: Any) -> AnomalyConfig:
    return AnomalyConfig.model_validate(settings)


def judge(guard: Guard, losses: list[float], *, first: int = 1) -> list[Verdict]:
    return [guard.look(step, {LOSS: loss}) for step, loss in enumerate(losses, first)]


def trained(guard: Guard, steps: int = WINDOW) -> Guard:
    """The guard after ordinary steps, each update of which was asked for where that is the policy."""
    for step, value in enumerate(NOISE[:steps], 1):
        if guard.vetoes:
            assert not guard.skips(value, key=NORM, step=step)
        assert guard.look(step, {LOSS: value, NORM: value}).action == "go on"
    return guard


def test_an_ordinary_curve_goes_on_whatever_the_policy():
    for policy in ("stop", "skip", "rollback"):
        guard = trained(Guard(configured(not_finite=policy, spike=policy)), 200)
        assert guard.spent == 0


@pytest.mark.parametrize("name", [LOSS, NORM, "train/accuracy"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_figure_that_is_no_number_stops_with_its_name_value_step_and_advice(name: str, value: float):
    verdict = Guard(AnomalyConfig()).look(7, {"train/learning_rate": 0.1, name: value, "position": 56})
    assert verdict.action == "stop"
    assert f"{name} is {value} at step 7" in verdict.reason
    assert "train.optimizer.learning_rate" in verdict.reason
    with pytest.raises(FloatingPointError, match=f"{name} is {value} at step 7"):
        require_finite(7, {name: value})


def test_words_and_whole_numbers_among_the_figures_are_not_judged():
    assert (
        Guard(AnomalyConfig()).look(1, {"samples_digest": "nan", "position": 8, "train/data_wait_s": 0.0}).reason == ""
    )


def test_spikes_are_ignored_unless_asked_for_and_then_nothing_is_remembered():
    guard = trained(Guard(AnomalyConfig()))
    assert guard.look(100, {LOSS: 1e9, NORM: 1e9}).action == "go on"
    assert guard.state()["history"] == {}


@given(scale=some.floats(1e-12, 1e12), offset=some.sampled_from([0.0, -3.0]), at=some.integers(LEAST, 150))
def test_one_planted_spike_is_found_at_any_scale_and_nothing_else_is(scale: float, offset: float, at: int):
    losses = [scale * (value + offset) for value in NOISE]
    losses[at] += 5 * scale
    verdicts = judge(Guard(configured(spike="rollback")), losses)
    assert [number for number, each in enumerate(verdicts) if each.action != "go on"] == [at]
    assert f"{LOSS} is {losses[at]:.6g} at step {at + 1}, above " in verdicts[at].reason
    assert f"last {min(at, WINDOW)} steps" in verdicts[at].reason


@given(value=some.floats(-1e30, 1e30, allow_subnormal=False), wobble=some.floats(0, 1e-3))
def test_constant_losses_make_no_spike_nor_do_those_that_hardly_move(value: float, wobble: float):
    losses = [value * (1 + wobble * (step % 3)) for step in range(100)]
    assert {each.action for each in judge(Guard(configured(spike="stop")), losses)} == {"go on"}


def test_losses_of_nothing_but_zero_tell_no_scale():
    assert threshold([0.0] * WINDOW, 12.0) == math.inf
    assert judge(Guard(configured(spike="stop")), [0.0] * 50 + [0.1])[-1].action == "go on"


def test_threshold_is_that_of_a_normal_distribution():
    past = np.random.default_rng(1).normal(10.0, 2.0, 100_001).tolist()
    assert threshold(past, 12.0) == pytest.approx(10 + 12 * 2.0, rel=0.01)


def test_no_spike_is_seen_before_there_is_a_history():
    losses = [*NOISE[: LEAST - 1], 1e6]
    assert {each.action for each in judge(Guard(configured(spike="stop")), losses)} == {"go on"}
    losses = [*NOISE[:LEAST], 1e6]
    assert judge(Guard(configured(spike="stop")), losses)[-1].action == "stop"


def test_a_long_plateau_of_spikes_does_not_become_ordinary():
    guard = trained(Guard(configured(spike="rollback", budget=1000)))
    assert {each.action for each in judge(guard, [9.0] * 100, first=100)} == {"rollback"}


def test_each_curve_has_a_history_of_its_own():
    guard = Guard(configured(spike="stop"))
    for step in range(1, 100):
        figures = {"train/generator/loss": 100.0, "train/discriminator/loss": 1.0, "train/learning_rate": float(step)}
        assert guard.look(step, figures).action == "go on"
    verdict = guard.look(100, {"train/generator/loss": 100.0, "train/discriminator/loss": 50.0})
    assert verdict.reason.startswith("train/discriminator/loss is 50 at step 100")


@pytest.mark.parametrize("norm", [math.nan, math.inf, 50.0])
def test_an_update_to_be_skipped_is_named_when_its_step_is_logged(norm: float):
    guard = trained(Guard(configured(not_finite="skip", spike="skip")))
    assert guard.vetoes
    assert guard.skips(norm, key=NORM, step=70)
    assert not guard.skips(1.0, key=NORM, step=71)
    verdict = guard.look(70, {LOSS: math.nan, NORM: norm})
    assert verdict.action == "skip"
    assert f"{NORM} is {norm:g} at step 70" in verdict.reason
    assert guard.look(71, {LOSS: 1.0, NORM: 1.0}).action == "go on"
    assert guard.spent == 1


def test_only_what_is_to_be_skipped_is_skipped():
    finite_only = trained(Guard(configured(not_finite="skip")))
    assert not finite_only.skips(50.0, key=NORM, step=70)
    assert finite_only.skips(math.nan, key=NORM, step=70)
    spikes_only = trained(Guard(configured(spike="skip")))
    assert not spikes_only.skips(math.nan, key=NORM, step=70)
    assert spikes_only.look(70, {NORM: math.nan}).action == "stop"
    assert spikes_only.skips(50.0, key=NORM, step=71)
    assert not Guard(configured(not_finite="rollback", spike="rollback")).vetoes


def test_an_update_that_the_engine_left_out_by_itself_counts_as_skipped():
    guard = Guard(configured(not_finite="skip"))
    assert guard.look(3, {LOSS: math.nan, NORM: math.nan}).action == "skip"
    assert guard.spent == 1


def test_a_loss_that_is_no_number_without_a_gradient_to_leave_out_stops():
    verdict = Guard(configured(not_finite="skip")).look(3, {LOSS: math.nan, NORM: 1.0})
    assert verdict.action == "stop"
    assert "no update to leave out" in verdict.reason


def test_under_a_loss_scale_an_overflow_of_the_gradient_is_no_anomaly_but_a_broken_loss_is():
    for policy in ("stop", "skip", "rollback"):
        guard = Guard(configured(not_finite=policy, spike=policy), scaled=True)
        trained(guard)
        assert not guard.skips(math.inf, key=NORM, step=65)
        assert guard.look(65, {LOSS: 1.0, NORM: math.inf}).action == "go on"
        assert guard.look(66, {LOSS: math.nan, NORM: math.inf}).action == policy


def test_the_budget_counts_skips_and_ways_back_together_and_the_next_one_stops():
    guard = trained(Guard(configured(not_finite="skip", spike="rollback", budget=3)))
    assert guard.skips(math.nan, key=NORM, step=65)
    actions = [guard.look(65, {NORM: math.nan}).action]
    actions += [guard.look(step, {LOSS: 90.0, NORM: 1.0}).action for step in (66, 67)]
    assert actions == ["skip", "rollback", "rollback"]
    last = guard.look(68, {LOSS: 90.0, NORM: 1.0})
    assert last.action == "stop"
    assert "train/loss is 90 at step 68" in last.reason
    assert "train.anomalies.budget=3 is spent" in last.reason


def test_without_a_budget_the_first_anomaly_stops():
    assert Guard(configured(not_finite="rollback", budget=0)).look(1, {LOSS: math.nan}).action == "stop"


def test_two_networks_left_out_in_one_step_count_twice():
    guard = Guard(configured(not_finite="skip", budget=1))
    for turn in ("generator", "discriminator"):
        assert guard.skips(math.nan, key=f"train/{turn}/grad_norm", step=5)
    verdict = guard.look(5, {})
    assert verdict.action == "stop"
    assert "generator" in verdict.reason
    assert "discriminator" in verdict.reason


def test_a_way_back_takes_the_checkpoints_history_and_keeps_what_was_spent():
    guard = trained(Guard(configured(spike="rollback")), 40)
    saved = guard.state()
    for step, value in enumerate(NOISE[40:60], 41):
        guard.look(step, {LOSS: value, NORM: value})
    assert guard.look(61, {LOSS: 90.0}).action == "rollback"
    guard.go_back(saved, start=320, end=488)
    assert guard.state() == saved | {"spent": 1, "windows": [[320, 488]]}
    assert guard.look(41, {LOSS: 90.0}).action == "rollback"
    guard.go_back(
        saved, start=320, end=496
    )  # of the same checkpoint: the samples since it, the first time's among them
    assert guard.windows == [(320, 496)]
    assert guard.spent == 2


def test_a_second_way_back_from_a_later_checkpoint_remembers_both_windows():
    guard = trained(Guard(configured(spike="rollback")))
    guard.go_back(guard.state(), start=80, end=160)
    guard.go_back(guard.state(), start=240, end=400)
    assert guard.windows == [(80, 160), (240, 400)]


@settings(max_examples=50, deadline=None)
@given(
    values=some.lists(some.sampled_from([*NOISE[:20], 40.0, math.nan]), min_size=1, max_size=120),
    cut=some.integers(0, 120),
    not_finite=some.sampled_from(["stop", "skip", "rollback"]),
    spike=some.sampled_from(["ignore", "stop", "skip", "rollback"]),
)
def test_a_guard_from_a_checkpoint_decides_as_the_one_that_went_on(
    values: list[float], cut: int, not_finite: str, spike: str
):
    config = configured(not_finite=not_finite, spike=spike, budget=10)

    def decide(guard: Guard, steps: list[int]) -> list[Verdict]:
        verdicts = []
        for step in steps:
            if guard.vetoes:
                guard.skips(values[step], key=NORM, step=step)
            verdicts.append(guard.look(step, {LOSS: values[step], NORM: values[step]}))
        return verdicts

    steps = list(range(len(values)))
    whole = Guard(config)
    expected = decide(whole, steps)
    first = Guard(config)
    found = decide(first, steps[:cut])
    stored = json.loads(json.dumps(first.state(), allow_nan=False))
    second = Guard.restore(config, stored)
    assert found + decide(second, steps[cut:]) == expected
    assert second.state() == whole.state()


def test_a_checkpoint_without_a_guards_memory_starts_one_anew():
    assert Guard.restore(AnomalyConfig(), {}).state() == Guard(AnomalyConfig()).state()
