"""The transformer against the networks of `transformers` that it claims to be."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from configs.language import DecoderConfig, EncoderConfig
from configs.presets import expand
from tests.peers import gpt2_weights, llama_weights
from trainer.checkpoint import load_weights, weights
from trainer.models.attention import Rotary, rotate
from trainer.models.cross_entropy import IGNORE
from trainer.models.heads import ClassHead, LanguageHead, TokenHead
from trainer.models.transformer import Sines, Transformer

torch.set_num_threads(1)
VOCABULARY, CONTEXT = 97, 24


def small(**fields: Any) -> DecoderConfig:
    return DecoderConfig.model_validate({"kind": "decoder", "num_layers": 2, "width": 32, "num_heads": 4} | fields)


def build(shape: DecoderConfig) -> Transformer:
    torch.manual_seed(0)
    return causal(shape, VOCABULARY, CONTEXT).eval()


def causal(shape: DecoderConfig, vocabulary: int, context: int) -> Transformer:
    head = LanguageHead(shape, vocabulary_size=vocabulary)
    return Transformer(shape, vocabulary_size=vocabulary, context_tokens=context, head=head)


def random_weights(model: nn.Module) -> None:
    """Weights far from their initial values, so that biases and norms are seen too."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.fixture(scope="module")
def gpt2() -> tuple[Transformer, nn.Module]:
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
def llama() -> tuple[Transformer, nn.Module]:
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
    model = causal(small(num_layers=8, width=128), 512, CONTEXT)
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
    turned_query = rotate(query.expand(1, 32, 1, 8), rotary(slice(32))).double()[0, :, 0]
    turned_key = rotate(key.expand(1, 32, 1, 8), rotary(slice(32))).double()[0, :, 0]
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


def encoder(**fields: Any) -> EncoderConfig:
    size = {"num_layers": 2, "width": 32, "num_heads": 4}
    return EncoderConfig.model_validate(expand({"kind": "encoder", "preset": "bert-base", **size} | fields))


def with_head(shape: DecoderConfig | EncoderConfig, head: nn.Module) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(shape, vocabulary_size=VOCABULARY, context_tokens=CONTEXT, head=head)
    random_weights(model)
    return model.eval()


def classes(pooling: str, *, pooler: bool = False) -> ClassHead:
    return ClassHead(32, classes=3, pooling=pooling, dropout=0.1, pooler=pooler)


PUBLISHED = {
    "gpt2-124m": (50257, 1024, 124_439_808),
    "gpt2-350m": (50257, 1024, 354_823_168),
    "gpt2-774m": (50257, 1024, 774_030_080),
    "gpt2-1.5b": (50257, 1024, 1_557_611_200),
    "llama-1b": (128256, 8192, 1_235_814_400),
    "llama-3b": (128256, 8192, 3_212_749_824),
    "llama-8b": (128256, 8192, 8_030_261_248),
}


@pytest.mark.parametrize("preset", PUBLISHED)
def test_presets_of_decoders_have_the_published_number_of_parameters(preset: str) -> None:
    vocabulary, context, expected = PUBLISHED[preset]
    shape = DecoderConfig.model_validate(expand({"kind": "decoder", "preset": preset}))
    with torch.device("meta"):
        model = causal(shape, vocabulary, context)
    assert sum(p.numel() for p in model.parameters()) == expected


@pytest.mark.parametrize(("preset", "sizes"), [("bert-base", (12, 768, 12)), ("bert-large", (24, 1024, 16))])
def test_presets_of_encoders_have_as_many_parameters_as_those_of_transformers(
    preset: str, sizes: tuple[int, int, int]
) -> None:
    layers, width, heads = sizes
    shape = EncoderConfig.model_validate(expand({"kind": "encoder", "preset": preset}))
    config = BertConfig(
        num_hidden_layers=layers, hidden_size=width, num_attention_heads=heads, intermediate_size=4 * width
    )
    with torch.device("meta"):
        theirs = BertForMaskedLM(config)
        head = LanguageHead(shape, vocabulary_size=config.vocab_size)
        ours = Transformer(shape, vocabulary_size=config.vocab_size, context_tokens=512, head=head)
    counts = (sum(p.numel() for p in model.parameters()) for model in (ours, theirs))
    assert len(set(counts)) == 1


SHAPES = {
    "rotary": small(norm="layer_norm"),
    "learned": small(positions="learned", num_kv_heads=2),
    "sinusoidal": small(positions="sinusoidal", activation="geglu"),
    "BERT": encoder(),
    "modern": encoder(preset="modern-base", feed_forward_width=64),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_document_among_others_and_padding_has_the_features_that_it_has_alone(shape: str) -> None:
    model = with_head(SHAPES[shape], nn.Identity())
    generator = torch.Generator().manual_seed(0)
    first, second, third = (torch.randint(VOCABULARY, (length,), generator=generator) for length in (7, 5, 9))
    tokens = torch.zeros(2, 15, dtype=torch.int64)
    documents = torch.full((2, 15), -1)
    tokens[0, :12], documents[0, :12] = torch.cat((first, second)), torch.tensor([0] * 7 + [1] * 5)
    tokens[1, :9], documents[1, :9] = third, 0
    with torch.inference_mode():
        packed = model.features(tokens, documents)
        assert packed.isfinite().all()
        for row, begin, ids in ((0, 0, first), (0, 7, second), (1, 0, third)):
            alone = model.features(ids[None])[0]
            torch.testing.assert_close(packed[row, begin : begin + len(ids)], alone, atol=1e-5, rtol=1e-5)
        mixed = model.features(tokens[:1, :12])[0]
    assert not torch.allclose(mixed[7:], packed[0, 7:12], atol=1e-2), "without documents they would see each other"


@pytest.mark.parametrize("pooling", ["first", "last", "mean"])
def test_padding_changes_no_class_logits_and_no_gradient(pooling: str) -> None:
    model = with_head(encoder(dropout=0.0), classes(pooling, pooler=True))
    tokens = torch.randint(VOCABULARY, (1, 6), generator=torch.Generator().manual_seed(1))
    padded = torch.nn.functional.pad(tokens, (0, 4))
    documents = torch.tensor([[0] * 6 + [-1] * 4])
    alone, among = model(tokens), model(padded, None, documents)
    assert alone.shape == (1, 3)
    torch.testing.assert_close(alone, among, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model(tokens, None, documents[:, :6]), alone, atol=1e-5, rtol=1e-5)
    one, other = (torch.autograd.grad(logits.square().sum(), list(model.parameters())) for logits in (alone, among))
    for mine, theirs in zip(one, other, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


def test_a_token_head_has_logits_for_each_token() -> None:
    model = with_head(encoder(), TokenHead(32, classes=5, dropout=0.1))
    assert model(torch.zeros(2, 7, dtype=torch.int64)).shape == (2, 7, 5)


@pytest.mark.parametrize("shape", ["rotary", "BERT"])
def test_likelihoods_are_those_of_the_logits_wherever_there_is_a_target(shape: str) -> None:
    model = with_head(SHAPES[shape], LanguageHead(SHAPES[shape], vocabulary_size=VOCABULARY))
    generator = torch.Generator().manual_seed(0)
    tokens, targets = torch.randint(VOCABULARY, (2, 3, 11), generator=generator)
    for hidden in (0.0, 0.4):
        targets = targets.masked_fill(torch.rand(targets.shape, generator=generator) < hidden, IGNORE)
        nll = model(tokens, targets)
        expected = nn.functional.cross_entropy(model(tokens).mT, targets, ignore_index=IGNORE, reduction="none")
        torch.testing.assert_close(nll, expected)
        parameters = list(model.parameters())
        ours, theirs = (torch.autograd.grad(each.sum(), parameters) for each in (nll, expected))
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_parts_name_every_parameter_once_and_the_head_last(shape: str) -> None:
    for head in (LanguageHead(SHAPES[shape], vocabulary_size=VOCABULARY), classes("mean", pooler=True)):
        model = with_head(SHAPES[shape], head)
        parts = model.parts()
        prefixes = [f"{prefix}." for part in parts for prefix in part]
        assert parts[-1] == ("head",)
        assert len(parts) == 2 + len(model.blocks) + (model.norm is not None)
        for name, _ in model.named_parameters():
            assert sum(name.startswith(prefix) for prefix in prefixes) == 1, name


@pytest.mark.parametrize("shape", SHAPES)
def test_recomputed_blocks_have_the_same_gradients_under_dropout(shape: str) -> None:
    model = with_head(SHAPES[shape].model_copy(update={"dropout": 0.2}), classes("mean")).train()
    tokens = torch.randint(VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(0))
    found = []
    for recompute in (False, True):
        model.recompute = recompute
        torch.manual_seed(5)
        found.append(torch.autograd.grad(model(tokens).square().sum(), list(model.parameters())))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_every_parameter_gets_a_gradient() -> None:
    for shape in SHAPES.values():
        model = with_head(shape, LanguageHead(shape, vocabulary_size=VOCABULARY))
        tokens = torch.randint(VOCABULARY, (2, CONTEXT), generator=torch.Generator().manual_seed(0))
        model(tokens, tokens).sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())


def test_sines_are_the_papers() -> None:
    table = Sines(6, 10).table
    for place, feature in ((0, 0), (3, 2), (9, 5)):
        angle = place / 10000 ** (feature // 2 * 2 / 6)
        expected = math.cos(angle) if feature % 2 else math.sin(angle)
        assert table[place, feature].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
@pytest.mark.parametrize("norm_place", ["before", "after"])
@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_features_of_the_last_tokens_alone_are_those_of_all(attention: str, norm_place: str, masked: bool) -> None:
    model = build(small(attention=attention, norm_place=norm_place))
    random_weights(model)
    ids = torch.randint(VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(5))
    documents = torch.tensor([[0] * 7 + [1] * 5, [0] * 10 + [-1] * 2]) if masked else None
    whole = model.features(ids, documents)
    for begin in (0, 1, 8, 11):
        torch.testing.assert_close(model.features(ids, documents, begin=begin), whole[:, begin:], rtol=1e-5, atol=1e-6)
