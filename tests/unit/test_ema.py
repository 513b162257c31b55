"""The averaged weights: closed form, loading, and giving the own weights back."""

import contextlib

import torch
from torch import nn

from trainer.ema import Ema


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 4), nn.Linear(4, 6, bias=False)).to(dtype)
    model[2].weight = model[0].weight
    return model


def test_after_n_updates_the_average_is_the_closed_form() -> None:
    model, decay, updates = network(), 0.9, 25
    ema = Ema(model, decay)
    history = {name: [p.detach().double().clone()] for name, p in model.named_parameters()}
    for step in range(updates):
        generator = torch.Generator().manual_seed(step)
        for name, p in model.named_parameters():
            p.data.add_(torch.randn(p.shape, generator=generator))
            history[name].append(p.detach().double().clone())
        ema.update(model)
    for name, weights in history.items():
        expected = decay**updates * weights[0]
        for k, each in enumerate(weights[1:], start=1):
            expected = expected + (1 - decay) * decay ** (updates - k) * each
        torch.testing.assert_close(ema.average[name].double(), expected, atol=1e-5, rtol=1e-5)


def test_a_shared_weight_is_averaged_once_and_buffers_are_not() -> None:
    model = nn.Sequential(network(), nn.BatchNorm1d(6))
    assert set(Ema(model, 0.5).average) == {"0.0.weight", "0.1.weight", "0.1.bias", "1.weight", "1.bias"}


def test_the_average_is_kept_in_fp32_whatever_the_weights_are() -> None:
    ema = Ema(network(torch.bfloat16), 0.999)
    before = {name: tensor.clone() for name, tensor in ema.average.items()}
    other = network(torch.bfloat16)
    for p in other.parameters():
        p.data.add_(0.01)
    ema.update(other)
    for name, tensor in ema.average.items():
        assert tensor.dtype == torch.float32
        assert not torch.equal(tensor, before[name])  # a change that bf16 would lose


def test_applied_shows_the_average_and_restores_every_bit_even_after_an_exception() -> None:
    model = network()
    ema = Ema(model, 0.5)
    for p in model.parameters():
        p.data.mul_(3.0)
    ema.update(model)
    own = {name: p.detach().clone() for name, p in model.named_parameters()}
    average = {name: tensor.clone() for name, tensor in ema.average.items()}
    storage = [p.data_ptr() for p in model.parameters()]
    with contextlib.suppress(RuntimeError), ema.applied(model):
        for name, p in model.named_parameters():
            assert torch.equal(p, average[name])
        assert model[2].weight is model[0].weight
        raise RuntimeError("in between")
    for name, p in model.named_parameters():
        assert torch.equal(p, own[name])
        assert torch.equal(ema.average[name], average[name])
    assert [p.data_ptr() for p in model.parameters()] == storage  # optimizers hold on to the same memory


def test_loading_copies_the_tensors() -> None:
    model = network()
    ema = Ema(model, 0.5)
    given = {name: torch.full_like(tensor, 7.0) for name, tensor in ema.average.items()}
    ema.load(given)
    next(iter(given.values())).zero_()
    assert all((tensor == 7.0).all() for tensor in ema.average.values())
