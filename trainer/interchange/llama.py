"""Llama (Touvron et al., 2023), and StableLM, which is Llama with LayerNorm: what ours stacks is apart there."""

from collections.abc import Mapping
from typing import Any

from trainer.interchange.rules import Family, Fields, Rule, UnsupportedError, require


def shape_of(config: Mapping[str, Any]) -> Fields:
    require(config, "hidden_act", "silu", "silu")
    bias = config.get("attention_bias", False)
    require(config, "mlp_bias", False, bias)
    width, heads = config["hidden_size"], config["num_attention_heads"]
    if config.get("head_dim") not in (None, width // heads):
        raise UnsupportedError(
            f"head_dim={config['head_dim']} is not supported, only hidden_size / heads = {width // heads}"
        )
    return {
        "num_layers": config["num_hidden_layers"],
        "width": width,
        "num_heads": heads,
        "num_kv_heads": config.get("num_key_value_heads") or heads,
        "hidden_width": config["intermediate_size"],
        "norm": "rms_norm",
        "norm_place": "before",
        "norm_eps": config.get("rms_norm_eps", 1e-6),
        "positions": "rotary",
        "rotary_base": rotary_base(config),
        "activation": "swiglu",
        "attention": "causal",
        "bias": bias,
        "tied_embeddings": config.get("tie_word_embeddings", False),
        "token_types": 0,
        "embedding_norm": False,
        "vocabulary_size": config["vocab_size"],
        "context_tokens": config.get("max_position_embeddings", 2048),
    }


def rotary_base(config: Mapping[str, Any]) -> float:
    """From rope_parameters, or from rope_theta and rope_scaling, as older files have them."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise UnsupportedError(
            f"rope_type={kind} is not supported, only default: rotary frequencies that are not rescaled"
        )
    return float(rope.get("rope_theta", config.get("rope_theta", 10000.0)))


def config_of(shape: Any, known: Mapping[str, Any]) -> Fields:
    return {
        "hidden_size": shape.width,
        "intermediate_size": shape.hidden_width,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads or shape.num_heads,
        "max_position_embeddings": known["context_tokens"],
        "vocab_size": known["vocabulary_size"],
        "rms_norm_eps": shape.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rotary_base},
        "hidden_act": "silu",
        "attention_bias": shape.bias,
        "mlp_bias": shape.bias,
        "attention_dropout": shape.dropout,
        "tie_word_embeddings": shape.tied_embeddings,
        "bos_token_id": known["end"],
        "eos_token_id": known["end"],
    }


def stablelm_shape_of(config: Mapping[str, Any]) -> Fields:
    raise UnsupportedError(
        "its norms have biases, ours have none without those of the linear layers; choose Llama or GPT-2"
    )


def stablelm_config_of(shape: Any, known: Mapping[str, Any]) -> Fields:
    config = config_of(shape, known)
    own = {name: config.pop(name) for name in ("rms_norm_eps", "attention_bias", "mlp_bias")}
    rope = config["rope_parameters"] | {"partial_rotary_factor": 1.0}
    return config | {"layer_norm_eps": own["rms_norm_eps"], "use_qkv_bias": False, "rope_parameters": rope}


BODY = (
    Rule("embedding", ("embed_tokens",)),
    Rule("blocks.{}.attention_norm", ("layers.{}.input_layernorm",)),
    Rule(
        "blocks.{}.attention.query_key_value",
        ("layers.{}.self_attn.q_proj", "layers.{}.self_attn.k_proj", "layers.{}.self_attn.v_proj"),
    ),
    Rule("blocks.{}.attention.output", ("layers.{}.self_attn.o_proj",)),
    Rule("blocks.{}.feed_forward_norm", ("layers.{}.post_attention_layernorm",)),
    Rule("blocks.{}.feed_forward.gate_up", ("layers.{}.mlp.gate_proj", "layers.{}.mlp.up_proj")),
    Rule("blocks.{}.feed_forward.down", ("layers.{}.mlp.down_proj",)),
    Rule("norm", ("norm",)),
)
NEEDS = {
    "norm_place": ("before",),
    "positions": ("rotary",),
    "activation": ("swiglu",),
    "attention": ("causal",),
    "token_types": (0,),
    "embedding_norm": (False,),
}
LLAMA = Family(
    model_type="llama",
    prefix="model.",
    body=BODY,
    heads={"LlamaForCausalLM": (Rule("head", ("lm_head",)),)},
    ignored=r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq",
    shape_of=shape_of,
    config_of=config_of,
    needs={"norm": ("rms_norm",)} | NEEDS,
)
STABLELM = Family(
    model_type="stablelm",
    prefix="model.",
    body=BODY,
    heads={"StableLmForCausalLM": (Rule("head", ("lm_head",)),)},
    ignored=LLAMA.ignored,
    shape_of=stablelm_shape_of,
    config_of=stablelm_config_of,
    needs={"norm": ("layer_norm",), "bias": (False,)} | NEEDS,
    zero_biases=("input_layernorm", "post_attention_layernorm", "norm"),
)
