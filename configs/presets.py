"""Published shapes by name: what `preset` stands for, by the `kind` of the network."""

from collections.abc import Mapping
from typing import Any

_GPT2: Mapping[str, Any] = {
    "norm": "layer_norm",
    "positions": "learned",
    "activation": "gelu",
    "bias": True,
    "tied_embeddings": True,
}
_LLAMA: Mapping[str, Any] = {
    "norm": "rms_norm",
    "positions": "rotary",
    "rotary_base": 500000.0,
    "activation": "swiglu",
    "bias": False,
    "num_kv_heads": 8,
}
_BERT: Mapping[str, Any] = {
    "norm": "layer_norm",
    "norm_place": "after",
    "norm_eps": 1e-12,
    "positions": "learned",
    "activation": "gelu_erf",
    "bias": True,
    "token_types": 2,
    "embedding_norm": True,
    "head_transform": True,
    "pooler": True,
    "dropout": 0.1,
}
_MODERN: Mapping[str, Any] = {
    "norm": "layer_norm",
    "norm_place": "before",
    "positions": "rotary",
    "rotary_base": 160000.0,
    "activation": "geglu",
    "embedding_norm": True,
    "head_transform": True,
}


def _shape(layers: int, width: int, heads: int, hidden: int | None = None) -> dict[str, Any]:
    return {"num_layers": layers, "width": width, "num_heads": heads, "feed_forward_width": hidden}


PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "decoder": {
        "laptop": {**_shape(4, 128, 4), "norm": "layer_norm"},
        "gpt2-124m": {**_GPT2, **_shape(12, 768, 12)},
        "gpt2-350m": {**_GPT2, **_shape(24, 1024, 16)},
        "gpt2-774m": {**_GPT2, **_shape(36, 1280, 20)},
        "gpt2-1.5b": {**_GPT2, **_shape(48, 1600, 25)},
        "llama-1b": {**_LLAMA, **_shape(16, 2048, 32, 8192), "tied_embeddings": True},
        "llama-3b": {**_LLAMA, **_shape(28, 3072, 24, 8192), "tied_embeddings": True},
        "llama-8b": {**_LLAMA, **_shape(32, 4096, 32, 14336), "tied_embeddings": False},
    },
    "encoder": {
        "laptop": {**_MODERN, **_shape(4, 128, 4)},
        "bert-base": {**_BERT, **_shape(12, 768, 12)},
        "bert-large": {**_BERT, **_shape(24, 1024, 16)},
        "modern-base": {**_MODERN, **_shape(22, 768, 12, 1152)},
        "modern-large": {**_MODERN, **_shape(28, 1024, 16, 2624)},
    },
    "vgg": {"vgg-16": {"blocks": [2, 2, 3, 3, 3]}, "vgg-19": {"blocks": [2, 2, 4, 4, 4]}},
    "resnet": {
        "laptop": {"blocks": [1, 1, 1], "bottleneck": False, "width": 16, "stem": "small"},
        "resnet-18": {"blocks": [2, 2, 2, 2], "bottleneck": False},
        "resnet-34": {"blocks": [3, 4, 6, 3], "bottleneck": False},
        "resnet-50": {"blocks": [3, 4, 6, 3], "bottleneck": True},
        "resnet-101": {"blocks": [3, 4, 23, 3], "bottleneck": True},
        "resnet-152": {"blocks": [3, 8, 36, 3], "bottleneck": True},
    },
    "densenet": {
        "densenet-121": {"blocks": [6, 12, 24, 16], "growth": 32, "width": 64},
        "densenet-161": {"blocks": [6, 12, 36, 24], "growth": 48, "width": 96},
        "densenet-169": {"blocks": [6, 12, 32, 32], "growth": 32, "width": 64},
        "densenet-201": {"blocks": [6, 12, 48, 32], "growth": 32, "width": 64},
        "densenet-264": {"blocks": [6, 12, 64, 48], "growth": 32, "width": 64},
    },
    "convnext": {
        "convnext-t": {"blocks": [3, 3, 9, 3], "width": 96},
        "convnext-s": {"blocks": [3, 3, 27, 3], "width": 96},
        "convnext-b": {"blocks": [3, 3, 27, 3], "width": 128},
        "convnext-l": {"blocks": [3, 3, 27, 3], "width": 192},
        "convnext-xl": {"blocks": [3, 3, 27, 3], "width": 256},
    },
    "unet": {
        "laptop": {"width": 32, "multipliers": [1, 2], "num_blocks": 1, "attention_sides": [14], "head_width": 32},
        "adm-64": {
            "width": 192,
            "multipliers": [1, 2, 3, 4],
            "num_blocks": 3,
            "attention_sides": [32, 16, 8],
            "head_width": 64,
            "resampling": "residual",
            "dropout": 0.1,
        },
    },
    "dit": {
        "laptop": {"patch": 4, "num_layers": 4, "width": 128, "num_heads": 4},
        "dit-s": {"num_layers": 12, "width": 384, "num_heads": 6},
        "dit-b": {"num_layers": 12, "width": 768, "num_heads": 12},
        "dit-l": {"num_layers": 24, "width": 1024, "num_heads": 16},
        "dit-xl": {"num_layers": 28, "width": 1152, "num_heads": 16},
    },
}


def expand(tree: Any) -> Any:
    """The same configuration with the fields of each section's preset beside it; those that are given win."""
    if not isinstance(tree, dict):
        return tree
    expanded = {key: expand(value) for key, value in tree.items()}
    kind, preset = tree.get("kind"), tree.get("preset")
    if not isinstance(kind, str) or not isinstance(preset, str):
        return expanded
    return {**PRESETS.get(kind, {}).get(preset, {}), **expanded}
