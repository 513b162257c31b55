"""Engines: each optimizer saved and restored, layers that thaw, batch norms that rest, memory laid out for images."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from configs.errors import ConfigError, DamageError
from tests.tiny import ALONE, on_ranks, tiny_run, without_deepspeed
from trainer.distributed import World
from trainer.engines import Engine, freeze_all_but
from trainer.models.heads import LanguageHead
from trainer.models.transformer import Transformer
from trainer.statistics import Statistics

OPTIMIZERS = {
    "adamw": "{kind: adamw, learning_rate: 0.01}",
    "sgd": "{kind: sgd, learning_rate: 0.01, nesterov: true}",
    "sgd without momentum": "{kind: sgd, learning_rate: 0.01, momentum: 0.0}",
    "lamb": "{kind: lamb, learning_rate: 0.01}",
    "lion": "{kind: lion, learning_rate: 0.01}",
    "muon": "{kind: muon, learning_rate: 0.01}",
}


class Convolutional(nn.Module):
    """Two normalised convolutions, the second of which can be computed again, under a head."""

    recompute = False

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4))
        self.block = nn.Sequential(nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6))
        self.head = nn.Linear(6, 2)

    def parts(self) -> list[tuple[str, ...]]:
        return [("stem",), ("block",), ("head",)]

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.stem(images))
        x = checkpoint(self.block, x, use_reentrant=False) if self.recompute else self.block(x)
        assert isinstance(x, Tensor)
        return self.head(x.mean((2, 3)))


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    without_deepspeed(monkeypatch)


def engine(seed: int = 0, **overrides: object) -> Engine:
    torch.manual_seed(seed)
    sizes: dict[str, object] = {"world__micro_batch_samples": 16, "train__global_batch_samples": 16}
    run = tiny_run(task__model__init_from="elsewhere", **sizes | overrides)
    return Engine(Convolutional(), run, ALONE)


def update(engine: Engine, number: int) -> Tensor:
    """One update on images that its number decides; returns their logits."""
    freeze_all_but({"model": engine}, "model", number)
    images = torch.randn(16, 3, 7, 7, generator=torch.Generator().manual_seed(number))
    logits = engine(images)
    engine.backward(logits.square().mean())
    engine.step(0.01, number)
    return logits.detach()


def held(engine: Engine) -> dict[str, dict[str, Tensor]]:
    """The state by kind and name; one rank holds all of it whole."""
    return {kind: {piece.name: piece.values for piece in pieces} for kind, pieces in engine.state().items()}


def snapshot(engine: Engine) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in held(engine)["weights"].items()}


def changed(engine: Engine, before: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in held(engine)["weights"].items() if not torch.equal(tensor, before[name])}


class Files:
    """A state as files hold it."""

    def __init__(self, state: dict[str, dict[str, Tensor]]) -> None:
        self.state = {k: {n: t.clone().contiguous() for n, t in each.items()} for k, each in state.items()}

    def kinds(self) -> list[str]:
        return list(self.state)

    def names(self, kind: str) -> list[str]:
        return list(self.state.get(kind, ()))

    def shape(self, kind: str, name: str) -> tuple[int, ...]:
        return tuple(self.state[kind][name].shape)

    def read(self, kind: str, name: str, start: int = 0, count: int | None = None) -> Tensor:
        flat = self.state[kind][name].view(-1)
        return flat[start : None if count is None else start + count]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_training_goes_on_from_a_saved_state_with_every_bit(optimizer: str, channels_last: bool) -> None:
    overrides: dict[str, Any] = {
        "train__optimizer": optimizer,
        "train__ema": "{power: 0.1}",
        "train__fine_tune": "{body_rate: 0.5}",
        "world__channels_last": channels_last,
    }
    whole, resumed = engine(1, **overrides), engine(2, **overrides)
    for number in range(3):
        update(whole, number)
    resumed.load(Files(held(whole)))
    for number in range(3, 6):
        update(whole, number)
        update(resumed, number)
    ours, theirs = held(whole), held(resumed)
    assert {"weights", "ema"} <= set(ours) == set(theirs)
    for kind, tensors in ours.items():
        assert set(tensors) == set(theirs[kind])
        for name, tensor in tensors.items():
            assert torch.equal(tensor, theirs[kind][name]), (kind, name)


def test_a_frozen_body_keeps_its_weights_its_statistics_and_has_no_optimizer_state() -> None:
    frozen = engine(train__fine_tune="{frozen: true}")
    before = snapshot(frozen)
    for number in range(3):
        update(frozen, number)
    assert changed(frozen, before) == {"head.weight", "head.bias"}
    assert {name.split("/")[0] for name in held(frozen)["optimizer"]} == {"head.weight", "head.bias"}


def test_a_frozen_body_stays_at_rest_after_the_network_was_put_into_training_mode() -> None:
    """As validation does when it ends."""
    frozen = engine(train__fine_tune="{frozen: true}")
    before = snapshot(frozen)
    frozen.module.train()
    update(frozen, 0)
    assert changed(frozen, before) == {"head.weight", "head.bias"}


def test_a_frozen_network_without_a_head_of_its_own_is_refused() -> None:
    network = Convolutional()
    network.head.requires_grad_(False)
    with pytest.raises(ConfigError, match="leaves nothing to learn"):
        Engine(network, tiny_run(task__model__init_from="elsewhere", train__fine_tune="{frozen: true}"), ALONE)


def test_gradual_unfreezing_needs_a_head_of_its_own() -> None:
    """A language model's head with tied embeddings is the embedding, which thaws last."""
    run = tiny_run(train__fine_tune="{unfreeze_every_steps: 2}")
    vocabulary = LanguageHead(run.task.model, vocabulary_size=16)  # type: ignore[arg-type]  # a decoder's shape
    network = Transformer(run.task.model, vocabulary_size=16, context_tokens=8, head=vocabulary)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="unfreeze_every_steps leaves nothing to learn at the start"):
        Engine(network, run, ALONE)


def test_layers_thaw_from_the_head_down_as_a_function_of_the_update_alone() -> None:
    def layers_that_learn(thawing: Engine, number: int) -> set[str]:
        before = snapshot(thawing)
        update(thawing, number)
        return {name.split(".")[0] for name in changed(thawing, before)}

    fine_tune = "{body_rate: 1.0, unfreeze_every_steps: 2}"
    thawing = engine(train__fine_tune=fine_tune)
    learning = [layers_that_learn(thawing, number) for number in range(5)]
    assert learning == [{"head"}] * 2 + [{"head", "block"}] * 2 + [{"head", "block", "stem"}]
    resumed = engine(train__fine_tune=fine_tune)
    assert layers_that_learn(resumed, 3) == {"head", "block"}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_any_optimizer_takes_in_layers_that_thaw(optimizer: str) -> None:
    thawing = engine(train__optimizer=optimizer, train__fine_tune="{unfreeze_every_steps: 1}")
    before = snapshot(thawing)
    for number in range(4):
        update(thawing, number)
    assert changed(thawing, before) >= {name for name, _ in thawing.module.named_parameters()}


def test_a_layer_learns_at_its_share_of_the_rate() -> None:
    slow = engine(
        train__optimizer="{kind: sgd, learning_rate: 1.0, momentum: 0.0}", train__fine_tune="{body_rate: 0.5}"
    )
    before = snapshot(slow)
    gradients: dict[str, Tensor] = {}
    for name, parameter in slow.module.named_parameters():
        parameter.register_hook(lambda gradient, name=name: gradients.__setitem__(name, gradient.clone()))
    slow.clip = None
    update(slow, 0)
    for name, share in (("head.bias", 1.0), ("block.1.bias", 0.5)):
        moved = before[name] - held(slow)["weights"][name]
        torch.testing.assert_close(moved, 0.01 * share * gradients[name])


def test_recomputed_blocks_give_the_same_losses_weights_and_statistics() -> None:
    kept, recomputed = engine(), engine(world__recompute=True)
    assert isinstance(recomputed.module, Convolutional)
    assert recomputed.module.recompute
    for number in range(3):
        assert torch.equal(update(kept, number), update(recomputed, number))
    ours, theirs = snapshot(kept), snapshot(recomputed)
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def test_channels_last_lays_out_weights_and_images_and_changes_no_result_but_by_rounding() -> None:
    plain, pixelwise = engine(), engine(world__channels_last=True)
    for number in range(3):
        torch.testing.assert_close(update(plain, number), update(pixelwise, number), rtol=1e-4, atol=1e-5)
    weight = pixelwise.module.get_parameter("block.0.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()


def test_a_state_of_another_network_is_refused_with_the_names_that_differ() -> None:
    state = held(engine())
    state["weights"]["head.weight"] = torch.zeros(3, 6)
    del state["weights"]["stem.0.weight"]
    with pytest.raises(DamageError, match=r"stem\.0\.weight, head\.weight differ \(2 in all\)"):
        engine().load(Files(state))


def test_an_update_that_is_vetoed_changes_nothing() -> None:
    vetoed = engine(train__ema="{decay: 0.5}", world__micro_batch_samples=8)
    for number in (0, 0):
        update(vetoed, number)
    before = {kind: {n: t.clone() for n, t in each.items()} for kind, each in held(vetoed).items()}
    asked: list[float] = []
    vetoed.veto = lambda norm: bool(asked.append(norm)) or True
    for number in (1, 1):  # two micro-batches of one update
        update(vetoed, number)
    assert vetoed.skipped
    assert len(asked) == 1
    for kind, tensors in held(vetoed).items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, before[kind][name]), (kind, name)
    vetoed.veto = lambda norm: False
    for number in (2, 2):
        update(vetoed, number)
    assert not vetoed.skipped
    assert changed(vetoed, before["weights"])


def test_running_statistics_do_not_depend_on_how_micro_batches_are_shared_out() -> None:
    """Four micro-batches in turn on one rank, or two on each of two, give the same running statistics."""

    torch.manual_seed(0)
    untrained = Convolutional()

    def statistics(world: World) -> dict[str, Tensor]:
        network = copy.deepcopy(untrained)
        shared = Statistics(network, world, accumulation=4 // world.size)
        for step in range(2):
            shared.begin()
            for number in range(world.rank, 4, world.size):
                network(torch.randn(8, 3, 7, 7, generator=torch.Generator().manual_seed(10 * step + number)))
                shared.add()
            shared.finish(counts=True)
        return {name: tensor.clone() for name, tensor in network.named_buffers()}

    (alone,) = on_ranks(1, statistics)
    for several in (*on_ranks(2, statistics), *on_ranks(4, statistics)):
        for name, tensor in alone.items():
            torch.testing.assert_close(several[name], tensor, rtol=1e-6, atol=1e-7)
    assert alone["stem.1.num_batches_tracked"] == 2
