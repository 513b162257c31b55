"""The decoder against the networks of `transformers` that it claims to be."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from configs.schema import DecoderConfig
from tests.peers import gpt2_weights, llama_weights
from trainer.checkpoint import load_weights, weights
from trainer.models.decoder import Decoder, Rotary, rotate

torch.set_num_threads(1)
VOCABULARY, CONTEXT = 97, 24


def small(**fields: Any) -> DecoderConfig:
    return DecoderConfig.model_validate({"kind": "decoder", "num_layers": 2, "width": 32, "num_heads": 4} | fields)


def build(shape: DecoderConfig) -> Decoder:
    torch.manual_seed(0)
    return Decoder(shape, vocabulary_size=VOCABULARY, context_tokens=CONTEXT).eval()


def random_weights(model: nn.Module) -> None:
    """Weights far from their initial values, so that biases and norms are seen too."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.fixture(scope="module")
def gpt2() -> tuple[Decoder, nn.Module]:
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=CONTEXT,
        n_embd=32,
        n_layer=2,
        n_head=4,
        activation_function="gelu_new",
        bos_token_id=0,
        eos_token_id=0,
    )
    config._attn_implementation = "eager"
    theirs = GPT2LMHeadModel(config).eval()
    random_weights(theirs)
    ours = build(small(norm="layer_norm", positions="learned", activation="gelu", bias=True, tied_embeddings=True))
    load_weights(ours, gpt2_weights(theirs))
    return ours, theirs


@pytest.fixture(scope="module")
def llama() -> tuple[Decoder, nn.Module]:
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=CONTEXT,
        hidden_size=32,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
    )
    config._attn_implementation = "sdpa"
    theirs = LlamaForCausalLM(config).eval()
    random_weights(theirs)
    ours = build(
        small(
            norm="rms_norm",
            positions="rotary",
            activation="swiglu",
            num_kv_heads=2,
            feed_forward_width=80,
            tied_embeddings=False,
        )
    )
    load_weights(ours, llama_weights(theirs, num_layers=2))
    return ours, theirs


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("length", [1, 2, 13, CONTEXT])
def test_logits_equal_those_of_transformers_with_the_same_weights(
    family: str, length: int, request: pytest.FixtureRequest
) -> None:
    ours, theirs = request.getfixturevalue(family)
    tokens = torch.randint(VOCABULARY, (3, length), generator=torch.Generator().manual_seed(length))
    with torch.inference_mode():
        expected = theirs(tokens).logits
        assert expected.std() > 0.1  # not a comparison of zeros
        torch.testing.assert_close(ours(tokens), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("positions", ["rotary", "learned"])
@pytest.mark.parametrize("num_kv_heads", [None, 2, 1])
@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
def test_no_position_sees_what_comes_after_it(
    positions: str, num_kv_heads: int | None, norm: str, activation: str
) -> None:
    model = build(small(positions=positions, num_kv_heads=num_kv_heads, norm=norm, activation=activation))
    random_weights(model)
    tokens = torch.randint(VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[:, 7:] = (changed[:, 7:] + 1) % VOCABULARY
    with torch.inference_mode():
        before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :7], after[:, :7], atol=1e-6, rtol=1e-6)
    assert not torch.allclose(before[:, 7:], after[:, 7:], atol=1e-3)


def test_tied_embeddings_are_one_parameter_and_untied_ones_two() -> None:
    tied, untied = build(small(tied_embeddings=True)), build(small(tied_embeddings=False))
    assert tied.head.weight is tied.embedding.weight
    assert "head.weight" not in weights(tied)
    assert "head.weight" in weights(untied)
    difference = sum(p.numel() for p in untied.parameters()) - sum(p.numel() for p in tied.parameters())
    assert difference == VOCABULARY * 32


def test_initial_weights_have_the_published_spread_and_a_loss_near_the_uniform_one() -> None:
    torch.manual_seed(0)
    model = Decoder(small(num_layers=8, width=128), vocabulary_size=512, context_tokens=CONTEXT)
    assert model.embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)
    spread = {"attention.query_key_value": 0.02} | dict.fromkeys(
        ("attention.output", "feed_forward.down"), 0.02 / math.sqrt(16)
    )
    for name, expected in spread.items():
        weight = model.get_parameter(f"blocks.0.{name}.weight")
        assert weight.std().item() == pytest.approx(expected, rel=0.05)
    tokens = torch.randint(512, (4, CONTEXT))
    loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), torch.randint(512, (4 * CONTEXT,)))
    assert loss.item() == pytest.approx(math.log(512), abs=0.2)


def test_rotation_keeps_lengths_and_makes_products_depend_on_distance_alone() -> None:
    rotary = Rotary(8, 32, 10000.0)
    query, key = torch.randn(2, 8, generator=torch.Generator().manual_seed(0)).double()
    turned_query = rotate(query.expand(1, 1, 32, 8), rotary(32)).double()[0, 0]
    turned_key = rotate(key.expand(1, 1, 32, 8), rotary(32)).double()[0, 0]
    torch.testing.assert_close(turned_query.norm(dim=-1), query.norm().expand(32), atol=1e-5, rtol=0)
    products = turned_query @ turned_key.T  # [T, T]
    for distance in (0, 3, 17):
        along = torch.diagonal(products, distance)
        torch.testing.assert_close(along, along[0].expand_as(along), atol=1e-5, rtol=0)


def test_more_tokens_than_the_context_are_refused() -> None:
    with pytest.raises(ValueError, match="25 tokens do not fit the context of 24"):
        build(small())(torch.zeros(1, 25, dtype=torch.int64))


def test_dropout_acts_in_training_alone() -> None:
    model = build(small(dropout=0.5))
    tokens = torch.arange(10)[None]
    assert torch.equal(model(tokens), model(tokens))
    model.train()
    assert not torch.equal(model(tokens), model(tokens))
