"""The weights of other libraries' networks under the names of ours."""

import torch
from torch import Tensor, nn


def gpt2_weights(theirs: nn.Module) -> dict[str, Tensor]:
    """GPT-2's names to ours; its Conv1D holds matrices transposed, its attention is fused in our order."""
    state = theirs.state_dict()
    ours = {
        "embedding.weight": state["transformer.wte.weight"],
        "positions.weight": state["transformer.wpe.weight"],
        "norm.weight": state["transformer.ln_f.weight"],
        "norm.bias": state["transformer.ln_f.bias"],
    }
    names = {
        "ln_1": "attention_norm",
        "attn.c_attn": "attention.query_key_value",
        "attn.c_proj": "attention.output",
        "ln_2": "feed_forward_norm",
        "mlp.c_fc": "feed_forward.up",
        "mlp.c_proj": "feed_forward.down",
    }
    for name, tensor in state.items():
        if name.startswith("transformer.h."):
            layer, rest = name.removeprefix("transformer.h.").split(".", 1)
            their_part, kind = rest.rsplit(".", 1)
            if their_part in names:  # what is left is the mask
                ours[f"blocks.{layer}.{names[their_part]}.{kind}"] = tensor.T if tensor.dim() == 2 else tensor
    return ours


def llama_weights(theirs: nn.Module, num_layers: int) -> dict[str, Tensor]:
    """Llama's names to ours: query, key and value stacked, gate over up."""
    state = theirs.state_dict()
    ours = {
        "embedding.weight": state["model.embed_tokens.weight"],
        "norm.weight": state["model.norm.weight"],
        "head.weight": state["lm_head.weight"],
    }
    for layer in range(num_layers):
        part = {
            name.removeprefix(f"model.layers.{layer}."): tensor
            for name, tensor in state.items()
            if name.startswith(f"model.layers.{layer}.")
        }
        query_key_value = [part[f"self_attn.{letter}_proj.weight"] for letter in "qkv"]
        gate_up = [part[f"mlp.{name}_proj.weight"] for name in ("gate", "up")]
        ours |= {
            f"blocks.{layer}.attention_norm.weight": part["input_layernorm.weight"],
            f"blocks.{layer}.attention.query_key_value.weight": torch.cat(query_key_value),
            f"blocks.{layer}.attention.output.weight": part["self_attn.o_proj.weight"],
            f"blocks.{layer}.feed_forward_norm.weight": part["post_attention_layernorm.weight"],
            f"blocks.{layer}.feed_forward.gate_up.weight": torch.cat(gate_up),
            f"blocks.{layer}.feed_forward.down.weight": part["mlp.down_proj.weight"],
        }
    return ours
