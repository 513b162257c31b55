"""Sequences shared by ranks, which are threads here: the parts' losses and gradients add up to those of whole ones."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from configs.errors import ConfigError
from configs.language import DecoderConfig, EncoderConfig
from trainer.distributed import World
from trainer.models.cross_entropy import IGNORE
from trainer.models.heads import LanguageHead
from trainer.models.sequences import Share, filled, own_places
from trainer.models.transformer import Transformer
from trainer.parallel import Ulysses, share_sequences

torch.set_num_threads(1)
VOCABULARY, CONTEXT = 53, 24
LLAMA = {"norm": "rms_norm", "positions": "rotary", "activation": "swiglu", "num_kv_heads": 4}
DECODERS = {
    "llama, grouped heads": LLAMA,
    "gpt2": {"norm": "layer_norm", "positions": "learned", "activation": "gelu", "bias": True, "tied_embeddings": True},
    "sinusoidal": {"positions": "sinusoidal"},
}


class Meeting:
    """Where threads exchange what they have; the gradient finds its way through all of them."""

    def __init__(self, parts: int) -> None:
        self.barrier = threading.Barrier(parts, timeout=60)
        self.sent: dict[int, Tensor] = {}


class Thread(Ulysses):
    def __init__(self, meeting: Meeting, part: int, parts: int) -> None:
        self.meeting, self.part, self.parts = meeting, part, parts

    def _exchange(self, sent: Tensor) -> Tensor:
        self.meeting.sent[self.part] = sent
        self.meeting.barrier.wait()
        received = torch.stack([self.meeting.sent[other][self.part] for other in range(self.parts)])
        self.meeting.barrier.wait()
        return received


class Shares:
    """A share without exchanges, for what cuts alone."""

    def __init__(self, part: int, parts: int) -> None:
        self.part, self.parts = part, parts

    to_heads = to_tokens = None  # type: ignore[assignment]


def network(shape: DecoderConfig | EncoderConfig) -> Transformer:
    torch.manual_seed(0)
    head = LanguageHead(shape, vocabulary_size=VOCABULARY)
    model = Transformer(shape, vocabulary_size=VOCABULARY, context_tokens=CONTEXT, head=head)
    with torch.no_grad():
        for parameter in model.parameters():  # far from the initial weights, so that every layer is seen
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model.double()


def decoder(**fields: Any) -> DecoderConfig:
    shape = {"kind": "decoder", "num_layers": 2, "width": 32, "num_heads": 8} | fields
    return DecoderConfig.model_validate(shape)


def encoder() -> EncoderConfig:
    return EncoderConfig.model_validate({"kind": "encoder", "num_layers": 2, "width": 32, "num_heads": 8})


def batch(length: int, documents: str | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Two samples: tokens, targets with gaps, and, where asked for, documents with padding at the end of one."""
    generator = torch.Generator().manual_seed(length)
    tokens, targets = torch.randint(VOCABULARY, (2, 2, length), generator=generator)
    targets[:, 1::3] = IGNORE
    if documents is None:
        return tokens, targets, None
    owners = torch.stack([torch.arange(length) // 5, torch.arange(length) // 7])
    owners[1, -3:] = -1
    targets[1, -3:] = IGNORE
    return tokens, targets, owners


def in_parts(
    shape: DecoderConfig | EncoderConfig, inputs: tuple[Tensor, Tensor, Tensor | None], parts: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """The likelihoods of all parts side by side, and the sum of their gradients."""
    meeting, models = Meeting(parts), [network(shape) for _ in range(parts)]
    for part, model in enumerate(models):
        model.share = Thread(meeting, part, parts)
    with ThreadPoolExecutor(parts) as threads:
        nll = torch.cat(list(threads.map(lambda model: model(*inputs), models)), dim=1)
    nll.sum().backward()
    gradients = [{name: p.grad for name, p in model.named_parameters()} for model in models]
    return nll.detach(), {name: sum(each[name] for each in gradients) for name in gradients[0]}  # type: ignore[misc]


def require_equal(
    shape: DecoderConfig | EncoderConfig, inputs: tuple[Tensor, Tensor, Tensor | None], parts: int
) -> None:
    whole = network(shape)
    expected = whole(*inputs)
    expected.sum().backward()
    nll, gradients = in_parts(shape, inputs, parts)
    length = expected.shape[1]
    torch.testing.assert_close(nll[:, :length], expected.detach(), atol=1e-6, rtol=0)  # a float32 likelihood
    assert not nll[:, length:].any()
    for name, parameter in whole.named_parameters():
        assert parameter.grad is not None, name
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-9, rtol=0)


@pytest.mark.parametrize("documents", [None, "several"])
@pytest.mark.parametrize("fields", DECODERS.values(), ids=DECODERS)
def test_parts_of_a_sequence_have_the_losses_and_the_gradients_of_the_whole(
    fields: dict[str, Any], documents: str | None
) -> None:
    require_equal(decoder(**fields), batch(CONTEXT, documents), 2)


@pytest.mark.parametrize("documents", [None, "several"])
@pytest.mark.parametrize("length", [21, 5, 1])
def test_sequences_that_do_not_divide_are_filled_up_and_nobody_sees_it(length: int, documents: str | None) -> None:
    require_equal(decoder(**LLAMA), batch(length, documents if length > 3 else None), 4)


@pytest.mark.parametrize("documents", [None, "several"])
@pytest.mark.parametrize("length", [24, 21])
def test_a_model_that_reads_both_ways_is_shared_too(length: int, documents: str | None) -> None:
    require_equal(encoder(), batch(length, documents), 2)


def test_evaluation_reads_whole_sequences_without_an_exchange() -> None:
    shape, inputs = decoder(**LLAMA), batch(CONTEXT, None)
    model = network(shape).eval()
    model.share = Thread(Meeting(2), 1, 2)  # would wait for the other part
    with torch.no_grad():
        assert torch.equal(model(*inputs), network(shape).eval()(*inputs))


@given(length=st.integers(1, 40), parts=st.integers(1, 8))
def test_every_token_is_one_parts_own_and_parts_are_equally_long(length: int, parts: int) -> None:
    tokens = torch.arange(length)[None]
    whole = filled(tokens, parts, -1)
    shares: list[Share] = [Shares(part, parts) for part in range(parts)]  # type: ignore[list-item]
    cut = [whole[:, own_places(length, share)] for share in shares]
    assert len({each.shape for each in cut}) == 1
    assert torch.equal(torch.cat(cut, dim=1)[:, :length], tokens)
    assert (torch.cat(cut, dim=1)[:, length:] == -1).all()


def test_the_ranks_of_a_replica_stand_side_by_side() -> None:
    worlds = [World(rank=rank, local_rank=rank, size=6, device=torch.device("cpu"), parts=2) for rank in range(6)]
    assert [(world.replica, world.part) for world in worlds] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    assert {world.replicas for world in worlds} == {3}


def test_a_world_that_makes_no_whole_replicas_is_refused() -> None:
    world = World(rank=0, local_rank=0, size=6, device=torch.device("cpu"), parts=2, slices=2)
    with pytest.raises(ConfigError, match="must divide the number of ranks, 6 were started; start 4"):
        world._meet_peers(None)  # type: ignore[arg-type]


def test_a_replica_of_one_rank_shares_nothing() -> None:
    model = network(decoder())
    share_sequences(model, World(rank=0, local_rank=0, size=2, device=torch.device("cpu")))
    assert model.share.parts == 1
