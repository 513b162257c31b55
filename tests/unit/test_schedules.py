"""Noise levels, targets, weights and the learned variance, against closed forms and diffusers' schedulers."""

import math
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

from configs.diffusion import CosineNoise, EdmNoise, LinearNoise
from trainer.diffusion.schedules import (
    LogNormalNoise,
    StepNoise,
    build_noise,
    cosine_betas,
    linear_betas,
    sigmas_of,
)
from trainer.diffusion.targets import (
    edm_scales,
    grey_nats,
    min_snr_weight,
    squared_error,
    step_scales,
    step_variances,
    variational_bits,
    wanted,
)

THEIRS: Any = import_module("diffusers")  # whose types say less than what it takes
LINEAR, COSINE, EDM = LinearNoise(kind="linear"), CosineNoise(kind="cosine"), EdmNoise(kind="edm")
IMAGES = torch.rand(3, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
NOISE = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
SIGMA = torch.tensor([0.01, 1.3, 150.0], dtype=torch.float64)


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(ours.double(), theirs.double(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("betas", "schedule"), [(linear_betas(LINEAR), "linear"), (cosine_betas(COSINE), "squaredcos_cap_v2")]
)
def test_variances_are_those_of_diffusers(betas: Tensor, schedule: str) -> None:
    theirs = THEIRS.DDPMScheduler(num_train_timesteps=1000, beta_schedule=schedule)
    close(betas, theirs.betas)
    close(torch.cumprod(1 - betas, 0), theirs.alphas_cumprod)


def test_the_last_cosine_variance_is_cut_off_where_the_paper_cuts_it() -> None:
    assert cosine_betas(COSINE).max() == 0.999


def test_sigma_is_noise_over_signal_and_rises() -> None:
    betas = cosine_betas(CosineNoise(kind="cosine", steps=10))
    sigmas, signal = sigmas_of(betas), torch.cumprod(1 - betas, 0)
    close(sigmas, ((1 - signal) / signal).sqrt())
    assert (sigmas[1:] > sigmas[:-1]).all()


def test_training_draws_each_level_equally_often_and_names_it() -> None:
    noise = build_noise(LinearNoise(kind="linear", steps=4))
    assert isinstance(noise, StepNoise)
    sigma, level = noise.draw(torch.tensor([0.01, 0.26, 0.51, 0.99]))
    assert level.tolist() == [0, 1, 2, 3]
    assert torch.equal(sigma, noise.sigmas)
    assert [noise.level(each) for each in sigma.tolist()] == [0, 1, 2, 3]


def test_visited_levels_hold_the_highest_and_the_lowest_and_end_in_zero() -> None:
    noise = build_noise(LINEAR)
    assert isinstance(noise, StepNoise)
    every = noise.visited(1000)
    assert every == [*noise.sigmas.flip(0).tolist(), 0.0]
    few = noise.visited(7)
    assert [noise.level(sigma) for sigma in few[:-1]] == [999, 832, 666, 500, 333, 166, 0]
    assert few[-1] == 0
    assert noise.visited(1) == [float(noise.sigmas[-1]), 0.0]


def test_edm_visits_and_scales_as_diffusers() -> None:
    noise, theirs = LogNormalNoise(EDM), THEIRS.EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5)
    theirs.set_timesteps(18)
    visited = noise.visited(18)
    close(torch.tensor(visited), theirs.sigmas)
    close(torch.tensor([noise.level(sigma) for sigma in visited[:-1]]), theirs.timesteps)
    for sigma in visited[:-1]:
        scales = noise.scales(torch.tensor(sigma, dtype=torch.float64))
        close(NOISE * scales.inside, theirs.precondition_inputs(NOISE, sigma))
        for each in (theirs, THEIRS.EDMDPMSolverMultistepScheduler(sigma_data=0.5)):
            close(scales.skip * NOISE + scales.out * IMAGES, each.precondition_outputs(NOISE, IMAGES, sigma))


def test_edm_levels_are_log_normal() -> None:
    share = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    sigma, level = LogNormalNoise(EDM).draw(share)
    assert sigma.log().mean() == pytest.approx(-1.2, abs=1e-3)
    assert sigma.log().std() == pytest.approx(1.2, abs=5e-3)
    assert torch.equal(level, sigma.log() / 4)


@pytest.mark.parametrize("target", ["epsilon", "x0", "v", "edm"])
def test_the_wanted_output_gives_back_the_image(target: Any) -> None:
    scales = edm_scales(SIGMA, 0.5) if target == "edm" else step_scales(SIGMA, target)
    output = wanted(scales, SIGMA, IMAGES, NOISE)
    wide = [each.view(-1, 1, 1, 1) for each in (scales.skip, scales.out, SIGMA)]
    close(wide[0] * (IMAGES + wide[2] * NOISE) + wide[1] * output, IMAGES, 1e-9)


@pytest.mark.parametrize(("target", "theirs"), [("epsilon", "epsilon"), ("x0", "sample"), ("v", "v_prediction")])
def test_the_image_in_an_output_is_what_diffusers_finds(target: Any, theirs: str) -> None:
    scheduler = THEIRS.DDPMScheduler(prediction_type=theirs, clip_sample=False)
    sigmas = sigmas_of(linear_betas(LINEAR))
    for step in (0, 400, 999):
        scales = step_scales(sigmas[step], target)
        noisy = NOISE * 0.7
        found = scales.skip * noisy / scales.inside + scales.out * IMAGES
        close(found, scheduler.step(IMAGES, step, noisy).pred_original_sample)


def test_noise_and_velocity_are_wanted_as_the_papers_define_them() -> None:
    close(wanted(step_scales(SIGMA, "epsilon"), SIGMA, IMAGES, NOISE), NOISE, 1e-12)
    signal = (1 / (1 + SIGMA**2)).view(-1, 1, 1, 1)
    close(wanted(step_scales(SIGMA, "v"), SIGMA, IMAGES, NOISE), signal.sqrt() * NOISE - (1 - signal).sqrt() * IMAGES)


@pytest.mark.parametrize("target", ["epsilon", "x0", "v"])
def test_min_snr_weights_are_those_of_the_paper(target: Any) -> None:
    snr = SIGMA**-2
    least = snr.clamp(max=5)
    expected = {"epsilon": least / snr, "x0": least, "v": least / (snr + 1)}[target]
    close(min_snr_weight(SIGMA, step_scales(SIGMA, target), 5.0), expected, 1e-9)
    weighted = build_noise(LINEAR.model_copy(update={"target": target, "min_snr": 5.0}))
    close(weighted.weight(SIGMA), expected, 1e-9)
    assert torch.equal(build_noise(LINEAR).weight(SIGMA), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["fixed_small", "fixed_large"])
def test_the_two_variances_of_a_step_are_those_of_diffusers(kind: str) -> None:
    scheduler = THEIRS.DDPMScheduler(variance_type=kind)
    sigmas, signal = sigmas_of(linear_betas(LINEAR)), torch.cumprod(1 - linear_betas(LINEAR), 0)
    for step in (1, 20, 999):
        ours = step_variances(sigmas[step], sigmas[step - 1])[kind == "fixed_large"]
        close(ours * signal[step - 1], scheduler._get_variance(step))


def test_the_bound_is_zero_for_the_true_step_and_counts_errors_in_bits() -> None:
    sigmas = sigmas_of(linear_betas(LinearNoise(kind="linear", steps=100)))
    steps = torch.tensor([1, 50, 99])
    close(variational_bits(sigmas, steps, IMAGES, IMAGES, torch.zeros_like(IMAGES)), torch.zeros(3), 1e-9)
    wrong = variational_bits(sigmas, steps, IMAGES, IMAGES + 0.1, torch.zeros_like(IMAGES))
    below, sigma = sigmas[steps - 1], sigmas[steps]
    apart = (0.1 * (1 - (below / sigma) ** 2)) ** 2
    close(wrong, 0.5 * apart / step_variances(sigma, below)[0] / math.log(2), 1e-6)
    assert (variational_bits(sigmas, steps, IMAGES, IMAGES, torch.ones_like(IMAGES)) > 0).all()


def test_the_lowest_level_counts_grey_values_whose_probabilities_add_up_to_one() -> None:
    greys = (torch.arange(256, dtype=torch.float64) / 127.5 - 1).view(256, 1, 1, 1)
    for mean, spread in ((0.2, 0.3), (-1.0, 0.01)):
        nats = grey_nats(greys, torch.full_like(greys, mean), torch.full_like(greys, math.log(spread)))
        assert torch.exp(-nats).sum() == pytest.approx(1.0, abs=1e-6)
    sigmas = sigmas_of(linear_betas(LinearNoise(kind="linear", steps=100)))
    bits = variational_bits(sigmas, torch.zeros(3, dtype=torch.int64), IMAGES, IMAGES, torch.zeros_like(IMAGES))
    assert torch.isfinite(bits).all()
    assert (bits > 0).all()


def test_squared_error_is_a_mean_over_each_image() -> None:
    close(squared_error(IMAGES.float(), IMAGES.float() + 0.5), torch.full((3,), 0.25))
