"""Sequences shared by ranks, which are threads here, and matrices cut into slices: together they are the whole."""

import math
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
from tests.tiny import tiny_run
from trainer.distributed import World
from trainer.models.cross_entropy import IGNORE
from trainer.models.heads import LanguageHead
from trainer.models.sequences import Share, filled, own_places
from trainer.models.transformer import Transformer
from trainer.parallel import Ulysses, share_sequences
from trainer.pieces import Piece
from trainer.slices import slices_of

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


def test_slices_lie_side_by_side_in_the_order_of_their_parts_and_of_their_ranks() -> None:
    ranks = [World(rank=n, local_rank=n, size=8, device=torch.device("cpu"), parts=2, slices=2) for n in range(8)]
    assert [(each.replica, each.part, each.slice) for each in ranks[:5]] == [
        (0, 0, 0),
        (0, 0, 1),
        (0, 1, 0),
        (0, 1, 1),
        (1, 0, 0),
    ]


class Whole:
    """A checkpoint of whole tensors in memory."""

    def __init__(self, state: dict[str, dict[str, Tensor]]) -> None:
        self.state = state

    def kinds(self) -> list[str]:
        return list(self.state)

    def names(self, kind: str) -> list[str]:
        return list(self.state[kind])

    def shape(self, kind: str, name: str) -> tuple[int, ...]:
        return tuple(self.state[kind][name].shape)

    def read(self, kind: str, name: str, start: int = 0, count: int | None = None) -> Tensor:
        flat = self.state[kind][name].flatten()
        return flat[start:] if count is None else flat[start : start + count]


def network_and_state() -> tuple[Transformer, dict[str, dict[str, Tensor]]]:
    model = network(decoder(**LLAMA, bias=True))
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    moments = {f"{name}/exp_avg": p.square() for name, p in weights.items()}
    return model, {"weights": weights, "optimizer": moments | {f"{n}/step": torch.tensor(3.0) for n in weights}}


@pytest.mark.parametrize("degree", [1, 2, 4])
def test_pieces_of_all_slices_cover_each_whole_tensor_once_and_read_back(degree: int) -> None:
    model, state = network_and_state()
    covered = {kind: {n: torch.full_like(t, torch.nan) for n, t in each.items()} for kind, each in state.items()}
    for index in range(degree):
        slices, _ = slices_of(model, index, degree)
        stored = slices.of(Whole(state))
        for kind in stored.kinds():
            for name in stored.names(kind):
                own = stored.read(kind, name)
                shape, third = stored.shape(kind, name), len(own) // 3
                assert len(own) == math.prod(shape)
                assert torch.equal(stored.read(kind, name, third, third), own[third : 2 * third])
                runs = [Piece(name, shape, 0, own[:third]), Piece(name, shape, third, own[third:])]
                for piece in slices.spread({kind: runs})[kind]:
                    place = covered[kind][name].view(-1)[piece.start : piece.start + piece.values.numel()]
                    assert piece.shape == tuple(state[kind][name].shape)
                    assert place.isnan().all()
                    place.copy_(piece.values)
    for kind, tensors in state.items():
        for name, tensor in tensors.items():
            assert torch.equal(covered[kind][name], tensor), (kind, name)


def test_a_slice_has_the_same_heads_of_queries_keys_and_values_and_a_run_of_every_row() -> None:
    model, state = network_and_state()
    slices, section = slices_of(model, 1, 2)
    stored, weights = slices.of(Whole(state)), state["weights"]
    fused = weights["blocks.0.attention.query_key_value.weight"]  # 32 rows of queries, 16 of keys, 16 of values
    own = stored.read("weights", "blocks.0.attention.query_key_value.weight").view(32, 32)
    assert torch.equal(own, torch.cat((fused[16:32], fused[40:48], fused[56:64])))
    output = weights["blocks.0.attention.output.weight"]
    assert torch.equal(stored.read("weights", "blocks.0.attention.output.weight").view(32, 16), output[:, 16:])
    assert torch.equal(
        stored.read("weights", "blocks.0.attention.output.bias"), weights["blocks.0.attention.output.bias"]
    )
    assert section["tensor_parallel"]["autotp_size"] == 2
    assert len(section["tensor_parallel"]["partition_config"]["layer_specs"]) == 8  # four layers of each block


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"world__tensor_parallel": 2}, "world.tensor_parallel=2 needs world.zero.stage=1 or more"),
        (
            {"world__tensor_parallel": 2, "world__zero": "{stage: 1}", "world__compile": "true"},
            "world.tensor_parallel=2 exchanges inside layers",
        ),
        ({"world__sequence_parallel": 2, "task__model__num_heads": 3}, "world.sequence_parallel=2 must divide"),
    ],
)
def test_what_cannot_be_shared_is_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_run(world__processes=2, **overrides)
