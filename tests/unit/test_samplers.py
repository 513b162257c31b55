"""One step of each sampler against diffusers' schedulers, whole trajectories against closed forms, seeds."""

import math
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from configs.diffusion import CosineNoise, DrawingConfig, EdmNoise, LinearNoise
from trainer.diffusion.drawing import (
    Wish,
    calls_for,
    denoiser,
    draw,
    from_pixels,
    normals,
    slerp,
    to_pixels,
)
from trainer.diffusion.pictures import grid
from trainer.diffusion.samplers import DETERMINISTIC, Found, ddim, ddpm, dpm_solver, heun
from trainer.diffusion.schedules import Noise, StepNoise, build_noise

THEIRS: Any = import_module("diffusers")  # whose types say less than what it takes
SHAPE = (1, 4, 4)
ALONE = torch.device("cpu")


def steps_of(target: str = "epsilon", **more: Any) -> StepNoise:
    noise = build_noise(LinearNoise.model_validate({"kind": "linear", "target": target, **more}))
    assert isinstance(noise, StepNoise)
    return noise


def random(seed: int) -> Tensor:
    return torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(seed))


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(ours.double(), theirs.double(), rtol=tolerance, atol=tolerance)


class Outputs:
    """A network whose outputs are given, as samplers see it: our form of what diffusers is handed."""

    def __init__(self, noise: Noise, outputs: Sequence[Tensor]) -> None:
        self.noise, self.outputs, self.calls = noise, outputs, 0

    def __call__(self, x: Tensor, sigma: float) -> Found:
        output = self.outputs[self.calls]
        self.calls += 1
        scales = self.noise.scales(torch.tensor(sigma, dtype=torch.float64))
        share = None
        if self.noise.learned_variance:
            output, share = output.chunk(2, dim=1)
            share = (share + 1) / 2
        return Found(float(scales.skip) * x + float(scales.out) * output, share)


def signal(noise: StepNoise, step: int) -> float:
    """sqrt(a), what turns image + sigma x noise into the variance-preserving form."""
    return 1 / math.sqrt(1 + float(noise.sigmas[step]) ** 2)


NUMPY_2 = pytest.mark.filterwarnings("ignore:__array__ implementation")  # inside diffusers


def exact(scheduler: Any) -> Any:
    """A scheduler with its tables in float64: in float32 its lowest levels are off by 1e-4."""
    scheduler.betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = torch.cumprod(scheduler.alphas, 0)
    return scheduler


TARGETS = [("epsilon", "epsilon"), ("x0", "sample"), ("v", "v_prediction")]


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize(("target", "theirs"), TARGETS)
@pytest.mark.parametrize(("step", "below"), [(999, 998), (500, 450), (1, 0)])
def test_a_step_of_ddpm_is_that_of_diffusers(target: str, theirs: str, learned: bool, step: int, below: int) -> None:
    noise = steps_of(target, learned_variance=learned)
    kind = "learned_range" if learned else "fixed_small"
    scheduler = exact(THEIRS.DDPMScheduler(prediction_type=theirs, clip_sample=False, variance_type=kind))
    scheduler.set_timesteps(timesteps=[step, below])
    x, output = random(1), random(2)
    if learned:
        output = torch.cat([output, random(3).clamp(-1, 1)], dim=1)
    expected = scheduler.step(output, step, x, generator=torch.Generator().manual_seed(9)).prev_sample
    fresh = torch.randn(x.shape, generator=torch.Generator().manual_seed(9))
    sigmas = noise.sigmas[[step, below]].tolist()
    ours = ddpm(Outputs(noise, [output]), x / signal(noise, step), sigmas, lambda _: fresh)
    close(ours * signal(noise, below), expected)


@pytest.mark.parametrize(("target", "theirs"), TARGETS)
def test_steps_of_ddim_are_those_of_diffusers(target: str, theirs: str) -> None:
    noise = steps_of(target)
    scheduler = exact(THEIRS.DDIMScheduler(prediction_type=theirs, clip_sample=False))
    scheduler.set_timesteps(50)
    x, output = random(1), random(2)
    for step, below in ((980, 960), (20, 0)):
        expected = scheduler.step(output, step, x).prev_sample
        ours = ddim(Outputs(noise, [output]), x / signal(noise, step), noise.sigmas[[step, below]].tolist())
        close(ours * signal(noise, below), expected)
    last = ddim(Outputs(noise, [output]), x / signal(noise, 0), [float(noise.sigmas[0]), 0.0])
    close(last, scheduler.step(output, 0, x).prev_sample)


@NUMPY_2
@pytest.mark.parametrize(("target", "theirs"), TARGETS)
def test_three_steps_of_dpm_solver_are_those_of_diffusers(target: str, theirs: str) -> None:
    noise = steps_of(target)
    scheduler = THEIRS.DPMSolverMultistepScheduler(prediction_type=theirs, final_sigmas_type="zero")
    steps = [900, 500, 100]
    scheduler.set_timesteps(timesteps=steps)
    outputs, x = [random(seed) for seed in (2, 3, 4)], random(1)
    ours = dpm_solver(Outputs(noise, outputs), x / signal(noise, 900), [*noise.sigmas[steps].tolist(), 0.0])
    for step, output in zip(scheduler.timesteps, outputs, strict=True):
        x = scheduler.step(output, step, x).prev_sample
    close(ours, x)


@NUMPY_2
@pytest.mark.parametrize(("target", "theirs"), TARGETS[:1] + TARGETS[2:])
def test_steps_of_heun_are_those_of_diffusers(target: str, theirs: str) -> None:
    noise = steps_of(target)
    scheduler = THEIRS.HeunDiscreteScheduler(beta_start=1e-4, beta_end=0.02, prediction_type=theirs)
    scheduler.set_timesteps(3)
    scheduler.sigmas = scheduler.sigmas.double()  # so that their differences are exact
    sigmas = [*scheduler.sigmas[[0, 2, 4]].tolist(), 0.0]
    outputs, x = [random(seed).double() for seed in (2, 3, 4, 5, 6)], random(1).double() * scheduler.init_noise_sigma
    ours = heun(Outputs(noise, outputs), x, sigmas)
    for step, output in zip(scheduler.timesteps, outputs, strict=True):
        x = scheduler.step(output, step, x).prev_sample
    close(ours, x)


@pytest.mark.parametrize(
    ("sampler", "scheduler"), [(ddim, THEIRS.EDMEulerScheduler), (dpm_solver, THEIRS.EDMDPMSolverMultistepScheduler)]
)
def test_edm_steps_are_those_of_diffusers(sampler: Any, scheduler: Any) -> None:
    noise = build_noise(EdmNoise(kind="edm"))
    theirs = scheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5)
    theirs.set_timesteps(5)
    outputs, x = [random(seed) for seed in range(2, 7)], random(1) * 80
    ours = sampler(Outputs(noise, outputs), x, noise.visited(5))
    for step, output in zip(theirs.timesteps, outputs, strict=True):
        theirs.scale_model_input(x, step)
        x = theirs.step(output, step, x).prev_sample
    close(ours, x)


def gaussian(x: Tensor, sigma: float) -> Found:
    """The image expected in x when images are normal with mean 0.3 and deviation 0.5."""
    return Found(0.3 + 0.25 / (0.25 + sigma**2) * (x - 0.3))


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("dpm_solver", 2), ("heun", 2)])
def test_twice_the_steps_leave_the_share_of_the_error_that_a_samplers_order_says(name: str, order: int) -> None:
    noise, x = build_noise(EdmNoise(kind="edm")), random(1).double() * 80
    exact = 0.3 + 0.5 * (x - 0.3) / math.sqrt(0.25 + 80**2)
    errors = [(DETERMINISTIC[name](gaussian, x, noise.visited(steps)) - exact).abs().max() for steps in (60, 120)]
    assert errors[0] < 0.06
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.15)


def test_ancestral_sampling_draws_from_the_distribution_of_images() -> None:
    rng = torch.Generator().manual_seed(3)
    noise = steps_of()
    x = torch.randn(20000, generator=rng) / signal(noise, 999)
    drawn = ddpm(gaussian, x, noise.visited(200), lambda _: torch.randn(x.shape, generator=rng))
    assert drawn.mean() == pytest.approx(0.3, abs=0.02)
    assert drawn.std() == pytest.approx(0.5, abs=0.02)


class Tiny(nn.Module):
    """Sees its neighbours, the level and the class, and counts its calls."""

    def __init__(self, classes: int = 3, channels: int = 1) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.convolution = nn.Conv2d(1, channels, 3, padding=1)
        self.table = nn.Embedding(classes + 1, 1)
        self.sizes: list[int] = []

    def forward(self, x: Tensor, level: Tensor, labels: Tensor | None) -> Tensor:
        self.sizes.append(len(x))
        shift = self.table(labels)[:, :, None, None] if labels is not None else 0
        return torch.tanh(self.convolution(x) + shift + level.view(-1, 1, 1, 1) / 1000)


def drawn(drawing: DrawingConfig, wishes: Sequence[Wish], noise: Noise | None = None, seed: int = 0) -> Tensor:
    return draw(Tiny(), noise or steps_of("v"), drawing, wishes, shape=SHAPE, classes=3, seed=seed, device=ALONE)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm_solver", "heun"])
def test_images_are_the_same_for_any_batch_size_and_interleaved_ranks(sampler: Any) -> None:
    drawing = DrawingConfig(sampler=sampler, steps=8, guidance=2.0)
    wishes = [Wish(number, number % 3) for number in range(7)]
    whole = drawn(drawing, wishes)
    for size in (1, 3):
        parts = [drawn(drawing, wishes[start : start + size]) for start in range(0, 7, size)]
        close(torch.cat(parts), whole)
    ranks = [drawn(drawing, wishes[rank::2]) for rank in range(2)]
    close(torch.stack([ranks[number % 2][number // 2] for number in range(7)]), whole)


def test_noise_is_bit_equal_whatever_it_is_drawn_with() -> None:
    together = normals(3, [0, 5, 9], 4, SHAPE)
    assert torch.equal(together[1:2], normals(3, [5], 4, SHAPE))
    others = [normals(4, [5], 4, SHAPE), normals(3, [6], 4, SHAPE), normals(3, [5], 5, SHAPE)]
    assert not any(torch.equal(together[1:2], other) for other in others)


def test_pixels_repeat_for_the_same_seed_and_change_with_it() -> None:
    drawing, wishes = DrawingConfig(steps=4), [Wish(0, 0), Wish(1, 1)]
    first = drawn(drawing, wishes)
    assert first.shape == (2, 1, 4, 4)
    assert first.abs().max() <= 1
    assert torch.equal(first, drawn(drawing, wishes))
    assert not torch.equal(to_pixels(first), to_pixels(drawn(drawing, wishes, seed=1)))


def test_guidance_of_one_and_zero_asks_the_network_once_and_others_one_batch_of_both() -> None:
    noise, labels, x = steps_of("v"), torch.tensor([0, 2]), random(1) / 5
    sigma = float(noise.sigmas[100])
    found: dict[float, Tensor] = {}
    for guidance, size in ((1.0, 2), (0.0, 2), (3.0, 4)):
        network = Tiny()
        found[guidance] = denoiser(network, noise, labels, none=3, guidance=guidance)(x, sigma).image
        assert network.sizes == [size]
    without = denoiser(Tiny(), noise, torch.tensor([3, 3]), none=3, guidance=1.0)(x, sigma).image
    assert torch.equal(found[0.0], without)
    inside = (found[3.0].abs() < 1) & (found[1.0].abs() < 1) & (without.abs() < 1)
    assert inside.any()
    close(found[3.0][inside], (without + 3 * (found[1.0] - without))[inside])


def test_found_images_stay_within_the_range_of_images() -> None:
    noise = build_noise(CosineNoise(kind="cosine"))
    sigma = noise.visited(1)[0]
    image = denoiser(Tiny(), noise, None, none=0, guidance=1.0)(random(1) * sigma, sigma).image
    assert image.abs().max() <= 1


def test_a_network_with_a_learned_variance_draws_finite_images() -> None:
    noise = steps_of("epsilon", learned_variance=True)
    images = draw(
        Tiny(channels=2),
        noise,
        DrawingConfig(sampler="ddpm", steps=5, guidance=2.0),
        [Wish(0, 1)],
        shape=SHAPE,
        classes=3,
        seed=0,
        device=ALONE,
    )
    assert to_pixels(images).shape == (1, 4, 4, 1)


def test_a_network_without_classes_is_told_none() -> None:
    images = draw(
        Tiny(), steps_of("v"), DrawingConfig(steps=2), [Wish(0, 0)], shape=SHAPE, classes=0, seed=0, device=ALONE
    )
    assert to_pixels(images).shape == (1, 4, 4, 1)


@pytest.mark.parametrize(("sampler", "calls"), [("ddim", 6), ("heun", 10)])
def test_the_number_of_calls_is_known_before(sampler: Any, calls: int) -> None:
    heard: list[int] = []
    drawing = DrawingConfig(sampler=sampler, steps=3)
    for _ in range(2):
        draw(
            Tiny(),
            steps_of("v"),
            drawing,
            [Wish(0, 0)],
            shape=SHAPE,
            classes=3,
            seed=0,
            device=ALONE,
            called=lambda: heard.append(1),
        )
    assert len(heard) == calls == calls_for(drawing, images=2, batch=1)


def test_an_image_between_two_noises_begins_and_ends_at_them() -> None:
    drawing = DrawingConfig(steps=4)
    ends = drawn(drawing, [Wish(0, 1), Wish(1, 1)])
    strip = drawn(drawing, [Wish(0, 1, toward=1, share=share) for share in (0.0, 0.5, 1.0)])
    assert torch.equal(strip[[0, 2]], ends)
    assert not torch.equal(strip[1], ends[0])


def test_slerp_keeps_the_length_of_noise_and_falls_back_on_a_line() -> None:
    start, end = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(2)).unbind()
    middle = slerp(start, end, 0.5)
    assert middle.norm() == pytest.approx(float(start.norm()), rel=0.02)
    close(middle @ torch.zeros(64, 1), torch.zeros(1, 64, 1))
    close(slerp(start, start, 0.3), start)


def test_pixels_survive_the_way_to_images_and_back() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1)
    assert torch.equal(to_pixels(from_pixels(pixels)), pixels)
    assert from_pixels(pixels).aminmax() == (-1, 1)


def test_a_grid_lays_images_out_row_by_row_with_grey_between() -> None:
    images = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    picture = grid(images, 2)
    assert picture.shape == (5, 5, 1)
    assert picture[:, :, 0].tolist() == [
        [0, 0, 128, 1, 1],
        [0, 0, 128, 1, 1],
        [128] * 5,
        [2, 2, 128, 128, 128],
        [2, 2, 128, 128, 128],
    ]
    assert grid(images[:1], 8).shape == (2, 2, 1)
