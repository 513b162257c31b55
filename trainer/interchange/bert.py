"""BERT (Devlin et al., 2019): query, key and value apart; heads for masked tokens, classes of texts and of tokens."""

from collections.abc import Mapping
from typing import Any

from trainer.interchange.rules import Family, Fields, Rule, choose, require

ACTIVATIONS = {"gelu": "gelu_erf", "gelu_new": "gelu", "gelu_pytorch_tanh": "gelu"}


def shape_of(config: Mapping[str, Any]) -> Fields:
    require(config, "is_decoder", False, False)
    require(config, "add_cross_attention", False, False)
    require(config, "position_embedding_type", "absolute", "absolute")
    return {
        "num_layers": config["num_hidden_layers"],
        "width": config["hidden_size"],
        "num_heads": config["num_attention_heads"],
        "num_kv_heads": config["num_attention_heads"],
        "hidden_width": config["intermediate_size"],
        "norm": "layer_norm",
        "norm_place": "after",
        "norm_eps": config.get("layer_norm_eps", 1e-12),
        "positions": "learned",
        "activation": choose("hidden_act", config.get("hidden_act", "gelu"), ACTIVATIONS),
        "attention": "bidirectional",
        "bias": True,
        "tied_embeddings": config.get("tie_word_embeddings", True),
        "token_types": config.get("type_vocab_size", 2),
        "embedding_norm": True,
        "vocabulary_size": config["vocab_size"],
        "context_tokens": config.get("max_position_embeddings", 512),
    }


def config_of(shape: Any, known: Mapping[str, Any]) -> Fields:
    return {
        "hidden_size": shape.width,
        "intermediate_size": shape.hidden_width,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "max_position_embeddings": known["context_tokens"],
        "vocab_size": known["vocabulary_size"],
        "type_vocab_size": shape.token_types,
        "layer_norm_eps": shape.norm_eps,
        "hidden_act": {"gelu_erf": "gelu", "gelu": "gelu_new"}[shape.activation],
        "hidden_dropout_prob": shape.dropout,
        "attention_probs_dropout_prob": shape.dropout,
        "classifier_dropout": known.get("dropout"),
        "tie_word_embeddings": shape.tied_embeddings,
        "pad_token_id": known.get("pad"),
    }


_MASKED = (
    Rule("head.transform.dense", ("cls.predictions.transform.dense",)),
    Rule("head.transform.norm", ("cls.predictions.transform.LayerNorm",)),
    Rule("head", ("cls.predictions.decoder",), kinds=("weight",)),
    Rule("head", ("cls.predictions",), kinds=("bias",)),
)
_CLASSES = (Rule("head.output", ("classifier",)),)
_LAYER = "encoder.layer.{}."
BERT = Family(
    model_type="bert",
    prefix="bert.",
    body=(
        Rule("embedding", ("embeddings.word_embeddings",)),
        Rule("positions", ("embeddings.position_embeddings",)),
        Rule("token_types", ("embeddings.token_type_embeddings",)),
        Rule("embedding_norm", ("embeddings.LayerNorm",)),
        Rule(
            "blocks.{}.attention.query_key_value",
            tuple(f"{_LAYER}attention.self.{name}" for name in ("query", "key", "value")),
        ),
        Rule("blocks.{}.attention.output", (f"{_LAYER}attention.output.dense",)),
        Rule("blocks.{}.attention_norm", (f"{_LAYER}attention.output.LayerNorm",)),
        Rule("blocks.{}.feed_forward.up", (f"{_LAYER}intermediate.dense",)),
        Rule("blocks.{}.feed_forward.down", (f"{_LAYER}output.dense",)),
        Rule("blocks.{}.feed_forward_norm", (f"{_LAYER}output.LayerNorm",)),
    ),
    heads={
        "BertForMaskedLM": _MASKED,
        "BertForPreTraining": _MASKED,
        "BertForSequenceClassification": (Rule("head.pooler", ("bert.pooler.dense",)), *_CLASSES),
        "BertForTokenClassification": _CLASSES,
    },
    ignored=r"embeddings\.position_ids|pooler\.dense\.\w+",
    shape_of=shape_of,
    config_of=config_of,
    needs={
        "norm": ("layer_norm",),
        "norm_place": ("after",),
        "positions": ("learned",),
        "activation": ("gelu_erf", "gelu"),
        "attention": ("bidirectional",),
        "bias": (True,),
        "num_kv_heads": (None,),
        "token_types": (1, 2),
        "embedding_norm": (True,),
    },
)
