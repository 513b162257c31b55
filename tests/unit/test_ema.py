"""The averaged weights: closed forms, loading, and giving the own weights back."""

import contextlib
import math

import pytest
import torch
from torch import nn

from configs.optimisation import EmaConfig
from trainer.ema import Ema, averaged, power_exponent

HALF = EmaConfig(decay=0.5)


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 4), nn.Linear(4, 6, bias=False)).to(dtype)
    model[2].weight = model[0].weight
    return model


def averaged_over_random_steps(config: EmaConfig, updates: int) -> tuple[Ema, dict[str, list[torch.Tensor]]]:
    """An average, and the weights at the start and after each update."""
    model = network()
    ema = Ema(averaged(model), config)
    history = {name: [p.detach().double().clone()] for name, p in model.named_parameters()}
    for step in range(updates):
        generator = torch.Generator().manual_seed(step)
        for name, p in model.named_parameters():
            p.data.add_(torch.randn(p.shape, generator=generator))
            history[name].append(p.detach().double().clone())
        ema.update(step)
    return ema, history


def test_after_n_updates_the_average_is_the_closed_form() -> None:
    decay, updates = 0.9, 25
    ema, history = averaged_over_random_steps(EmaConfig(decay=decay), updates)
    for name, weights in history.items():
        expected = decay**updates * weights[0]
        for k, each in enumerate(weights[1:], start=1):
            expected = expected + (1 - decay) * decay ** (updates - k) * each
        torch.testing.assert_close(ema.average[name].double(), expected, atol=1e-5, rtol=1e-5)


def test_a_power_average_weighs_updates_as_a_power_of_their_number_and_forgets_the_start() -> None:
    updates, width = 60, 0.1
    ema, history = averaged_over_random_steps(EmaConfig(power=width), updates)
    exponent = power_exponent(width)
    times = torch.arange(1, updates + 1, dtype=torch.float64)
    exact = times ** (exponent + 1) - (times - 1) ** (exponent + 1)  # what the recursion's products come to
    for name, weights in history.items():
        expected = sum(share * each for share, each in zip(exact / exact.sum(), weights[1:], strict=True))
        torch.testing.assert_close(ema.average[name].double(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("width", "exponent"), [(0.05, 16.97), (0.10, 6.94)])
def test_the_exponent_of_a_width_is_the_papers_and_gives_that_width_back(width: float, exponent: float) -> None:
    """6.94 and 16.97 are those that Karras et al., 2024, name."""
    found = power_exponent(width)
    assert found == pytest.approx(exponent, abs=0.01)
    assert math.sqrt((found + 1) / ((found + 2) ** 2 * (found + 3))) == pytest.approx(width, rel=1e-9)


def test_a_power_average_is_a_function_of_the_update_alone() -> None:
    model = network()
    ema, resumed = Ema(averaged(model), EmaConfig(power=0.1)), Ema(averaged(model), EmaConfig(power=0.1))
    for update in range(6):
        if update == 3:
            for name, tensor in resumed.average.items():
                tensor.copy_(ema.average[name])
        for p in model.parameters():
            p.data.add_(0.1 * update)
        ema.update(update)
        if update >= 3:
            resumed.update(update)
    for name, tensor in ema.average.items():
        assert torch.equal(tensor, resumed.average[name])


def test_a_shared_weight_is_averaged_once_and_so_are_saved_buffers_of_real_numbers() -> None:
    model = nn.Sequential(network(), nn.BatchNorm1d(6))
    model.register_buffer("scratch", torch.zeros(2), persistent=False)
    weights = {"0.0.weight", "0.1.weight", "0.1.bias", "1.weight", "1.bias"}
    assert set(Ema(averaged(model), HALF).average) == weights | {"1.running_mean", "1.running_var"}


def test_running_statistics_are_as_old_as_the_averaged_weights() -> None:
    model = nn.BatchNorm1d(3)
    ema = Ema(averaged(model), EmaConfig(decay=0.9))
    model(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)) + 2)
    assert model.running_mean is not None
    own = model.running_mean.clone()
    ema.update(0)
    with ema.applied():
        torch.testing.assert_close(model.running_mean, 0.1 * own)
    assert torch.equal(model.running_mean, own)


def test_the_average_is_kept_in_fp32_whatever_the_weights_are() -> None:
    model = network(torch.bfloat16)
    ema = Ema(averaged(model), EmaConfig(decay=0.999))
    before = {name: tensor.clone() for name, tensor in ema.average.items()}
    for p in model.parameters():
        p.data.add_(0.01)
    ema.update(0)
    for name, tensor in ema.average.items():
        assert tensor.dtype == torch.float32
        assert not torch.equal(tensor, before[name])  # a change that bf16 would lose


def test_applied_shows_the_average_and_restores_every_bit_even_after_an_exception() -> None:
    model = network()
    ema = Ema(averaged(model), HALF)
    for p in model.parameters():
        p.data.mul_(3.0)
    ema.update(0)
    own = {name: p.detach().clone() for name, p in model.named_parameters()}
    average = {name: tensor.clone() for name, tensor in ema.average.items()}
    storage = [p.data_ptr() for p in model.parameters()]
    with contextlib.suppress(RuntimeError), ema.applied():
        for name, p in model.named_parameters():
            assert torch.equal(p, average[name])
        assert model[2].weight is model[0].weight
        raise RuntimeError("in between")
    for name, p in model.named_parameters():
        assert torch.equal(p, own[name])
        assert torch.equal(ema.average[name], average[name])
    assert [p.data_ptr() for p in model.parameters()] == storage  # optimizers hold on to the same memory


def test_applied_lets_the_network_take_over_what_was_exchanged_each_time() -> None:
    model = network()
    ema, seen = Ema(averaged(model), HALF), list[float]()
    bias = model.get_parameter("1.bias")
    bias.data.add_(1.0)
    with ema.applied(lambda: seen.append(bias[0].item())):
        pass
    assert seen[1] == pytest.approx(seen[0] + 1.0)
