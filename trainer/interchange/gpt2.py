"""GPT-2 (Radford et al., 2019): matrices are stored as inputs x outputs."""

from collections.abc import Mapping
from typing import Any

from trainer.interchange.rules import Family, Fields, Rule, choose, require

ACTIVATIONS = {"gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "gelu": "gelu_erf"}


def shape_of(config: Mapping[str, Any]) -> Fields:
    require(config, "scale_attn_weights", True, True)
    require(config, "scale_attn_by_inverse_layer_idx", False, False)
    require(config, "add_cross_attention", False, False)
    width = config["n_embd"]
    return {
        "num_layers": config["n_layer"],
        "width": width,
        "num_heads": config["n_head"],
        "num_kv_heads": config["n_head"],
        "hidden_width": config.get("n_inner") or 4 * width,
        "norm": "layer_norm",
        "norm_place": "before",
        "norm_eps": config.get("layer_norm_epsilon", 1e-5),
        "positions": "learned",
        "activation": choose("activation_function", config.get("activation_function", "gelu_new"), ACTIVATIONS),
        "attention": "causal",
        "bias": True,
        "tied_embeddings": config.get("tie_word_embeddings", True),
        "token_types": 0,
        "embedding_norm": False,
        "vocabulary_size": config["vocab_size"],
        "context_tokens": config.get("n_positions", 1024),
    }


def config_of(shape: Any, known: Mapping[str, Any]) -> Fields:
    return {
        "n_layer": shape.num_layers,
        "n_embd": shape.width,
        "n_head": shape.num_heads,
        "n_inner": shape.hidden_width,
        "n_positions": known["context_tokens"],
        "vocab_size": known["vocabulary_size"],
        "layer_norm_epsilon": shape.norm_eps,
        "activation_function": {"gelu": "gelu_new", "gelu_erf": "gelu"}[shape.activation],
        "attn_pdrop": shape.dropout,
        "embd_pdrop": shape.dropout,
        "resid_pdrop": shape.dropout,
        "tie_word_embeddings": shape.tied_embeddings,
        "bos_token_id": known["end"],
        "eos_token_id": known["end"],
    }


GPT2 = Family(
    model_type="gpt2",
    prefix="transformer.",
    body=(
        Rule("embedding", ("wte",)),
        Rule("positions", ("wpe",)),
        Rule("blocks.{}.attention_norm", ("h.{}.ln_1",)),
        Rule("blocks.{}.attention.query_key_value", ("h.{}.attn.c_attn",), transposed=True),
        Rule("blocks.{}.attention.output", ("h.{}.attn.c_proj",), transposed=True),
        Rule("blocks.{}.feed_forward_norm", ("h.{}.ln_2",)),
        Rule("blocks.{}.feed_forward.up", ("h.{}.mlp.c_fc",), transposed=True),
        Rule("blocks.{}.feed_forward.down", ("h.{}.mlp.c_proj",), transposed=True),
        Rule("norm", ("ln_f",)),
    ),
    heads={"GPT2LMHeadModel": (Rule("head", ("lm_head",)),)},
    ignored=r"h\.\d+\.attn\.(bias|masked_bias)",  # the causal mask
    shape_of=shape_of,
    config_of=config_of,
    needs={
        "norm": ("layer_norm",),
        "norm_place": ("before",),
        "positions": ("learned",),
        "activation": ("gelu", "gelu_erf"),
        "attention": ("causal",),
        "bias": (True,),
        "num_kv_heads": (None,),
        "token_types": (0,),
        "embedding_norm": (False,),
    },
)
