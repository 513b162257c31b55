"""Cases of the transformers: GPT-2's and BERT's shapes in a CPU's size, against `transformers` with its SDPA."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.families import Work, forward_backward_case
from configs.language import DecoderConfig, EncoderConfig
from configs.presets import expand
from trainer.checkpoint import load_weights
from trainer.interchange import read_tensors_for
from trainer.models.cross_entropy import IGNORE
from trainer.models.heads import LanguageHead
from trainer.models.transformer import Transformer

LAYERS, WIDTH, HEADS, VOCABULARY, TOKENS, SAMPLES = 6, 384, 6, 8192, 256, 4
MASKED = 0.15
SIZE = {"num_layers": LAYERS, "width": WIDTH, "num_heads": HEADS, "feed_forward_width": None, "dropout": 0.0}


def blocks(*, masked: bool) -> tuple[Tensor, Tensor]:
    """Tokens and targets [B, T], the same for both sides; of masked blocks 15 % are to be predicted."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, VOCABULARY, (SAMPLES, TOKENS + 1), generator=generator)  # 0 is BERT's padding
    if not masked:
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    tokens = ids[:, :-1].contiguous()
    return tokens, torch.where(torch.rand(tokens.shape, generator=generator) < MASKED, tokens, IGNORE)


def ours(shape: DecoderConfig | EncoderConfig, shared: Path) -> Work:
    """Our network with the peer's weights, and the mean over targets."""
    head = LanguageHead(shape, vocabulary_size=VOCABULARY)
    network = Transformer(shape, vocabulary_size=VOCABULARY, context_tokens=TOKENS, head=head)
    load_weights(network, read_tensors_for(shared / "weights", network))
    tokens, targets = blocks(masked=isinstance(shape, EncoderConfig))
    count = int((targets != IGNORE).sum())
    wanted = ("embedding", "blocks.0.attention.query_key_value")
    return Work(
        network=network.train(),
        loss=lambda: network(tokens, targets).sum() / count,
        amount=tokens.numel(),
        gradients=lambda: {name: gradient(network, f"{name}.weight") for name in wanted},
    )


def gradient(network: nn.Module, name: str) -> Tensor:
    found = network.get_parameter(name).grad
    assert found is not None
    return found


def open_our_gpt2(shared: Path) -> Work:
    return ours(DecoderConfig.model_validate(expand({"kind": "decoder", "preset": "gpt2-124m", **SIZE})), shared)


def open_our_bert(shared: Path) -> Work:
    return ours(EncoderConfig.model_validate(expand({"kind": "encoder", "preset": "bert-base", **SIZE})), shared)


def open_their_gpt2(shared: Path) -> Work:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=TOKENS,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    network = saved(GPT2LMHeadModel, config, shared)
    tokens, targets = blocks(masked=False)
    return Work(
        network=network,
        loss=lambda: network(tokens, labels=targets, shift_labels=targets).loss,
        amount=tokens.numel(),
        gradients=lambda: {
            "embedding": gradient(network, "transformer.wte.weight"),
            "blocks.0.attention.query_key_value": gradient(network, "transformer.h.0.attn.c_attn.weight").T,
        },
    )


def open_their_bert(shared: Path) -> Work:
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=TOKENS,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    network = saved(BertForMaskedLM, config, shared)
    tokens, targets = blocks(masked=True)
    attention = "bert.encoder.layer.0.attention.self.{}.weight"
    return Work(
        network=network,
        loss=lambda: network(tokens, labels=targets).loss,
        amount=tokens.numel(),
        gradients=lambda: {
            "embedding": gradient(network, "bert.embeddings.word_embeddings.weight"),
            "blocks.0.attention.query_key_value": torch.cat(
                [gradient(network, attention.format(name)) for name in ("query", "key", "value")]
            ),
        },
    )


def saved(kind: Any, config: Any, shared: Path) -> Any:
    """A model of theirs with seeded weights, written for ours to read."""
    torch.manual_seed(0)
    network = kind._from_config(config, attn_implementation="sdpa").train()
    network.save_pretrained(shared / "weights")
    return network


_SIDES: Mapping[str, tuple[str, str, str]] = {
    "gpt2": ("open_our_gpt2", "open_their_gpt2", "our decoder of GPT-2's shape against GPT2LMHeadModel"),
    "bert": ("open_our_bert", "open_their_bert", "our encoder of BERT's shape against BertForMaskedLM"),
}
CASES = tuple(
    forward_backward_case(
        f"families/{name}-{precision}",
        measures=measures,
        unit="tokens/s",
        ours=f"{__name__}:{our_side}",
        peer=f"{__name__}:{their_side}",
        precision=precision,
        libraries=("transformers",),
        loss=1e-5 if precision == "fp32" else 1e-3,
        gradient=1e-4 if precision == "fp32" else 5e-2,
    )
    for name, (our_side, their_side, measures) in _SIDES.items()
    for precision in ("fp32", "bf16")
)
