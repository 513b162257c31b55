"""The networks of `diffusers` that ours are compared with, and their tensors under the names of ours."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import Tensor, nn

from configs.diffusion import DiTConfig, UNetConfig

UNET_PARTS = {
    "norm1": "norm_in",
    "conv1": "conv_in",
    "time_emb_proj": "modulation",
    "norm2": "norm_out",
    "conv2": "conv_out",
    "conv_shortcut": "shortcut",
    "group_norm": "norm",
    "to_out.0": "output",
    "to_qkv": "query_key_value",
    "conv": "conv",  # of a resampling
}
UNET_ENDS = {
    "time_embedding.linear_1": "embedding.first",
    "time_embedding.linear_2": "embedding.second",
    "class_embedding": "embedding.classes",
    "conv_in": "stem",
    "conv_norm_out": "norm",
    "conv_out": "head",
}
UNET_BLOCK = re.compile(r"(down|mid|up)_blocks?(?:\.(\d+))?\.(resnets|attentions|(?:down|up)samplers)\.(\d+)\.(.+)")
DIT_PARTS = {
    "norm1.linear": "modulation",
    "attn1.to_qkv": "query_key_value",
    "attn1.to_out.0": "output",
    "ff.net.0.proj": "up",
    "ff.net.2": "down",
}
DIT_ENDS = {"pos_embed.proj": "patches", "proj_out_1": "modulation", "proj_out_2": "head"}
DIT_EMBEDDING = {
    "timestep_embedder.linear_1": "embedding.first",
    "timestep_embedder.linear_2": "embedding.second",
    "class_embedder.embedding_table": "embedding.classes",
}


def their_unet(shape: UNetConfig, *, channels: int, outputs: int, classes: int, side: int, groups: int) -> UNet2DModel:
    """UNet2DModel of the same shape; groups are ours' in every norm."""
    attends = [side // 2**depth in shape.attention_sides for depth in range(len(shape.multipliers))]
    residual = shape.resampling == "residual"
    plain_down, plain_up = (
        ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D") if residual else ("DownBlock2D", "UpBlock2D")
    )
    return UNet2DModel(
        sample_size=side,
        in_channels=channels,
        out_channels=outputs,
        block_out_channels=tuple(shape.width * multiplier for multiplier in shape.multipliers),
        layers_per_block=shape.num_blocks,
        down_block_types=tuple("AttnDownBlock2D" if has else plain_down for has in attends),
        up_block_types=tuple("AttnUpBlock2D" if has else plain_up for has in reversed(attends)),
        downsample_type="resnet" if residual else "conv",
        upsample_type="resnet" if residual else "conv",
        add_attention=bool(shape.attention_sides),
        attention_head_dim=shape.head_width,
        resnet_time_scale_shift="scale_shift",
        norm_num_groups=groups,
        attn_norm_num_groups=groups,
        dropout=shape.dropout,
        num_class_embeds=classes + 1 if classes else None,
    )


def their_dit(shape: DiTConfig, *, channels: int, outputs: int, classes: int, side: int) -> DiTTransformer2DModel:
    """DiTTransformer2DModel of the same shape, with one embedding of level and class for all blocks, as the paper has.

    Its blocks have one each. The paper's frequencies fall by 10,000 ** (1 / 128), those of `diffusers` by ** (1 / 127),
    and it drops classes by itself in training.
    """
    theirs = DiTTransformer2DModel(
        num_attention_heads=shape.num_heads,
        attention_head_dim=shape.width // shape.num_heads,
        in_channels=channels,
        out_channels=outputs,
        num_layers=shape.num_layers,
        sample_size=side,
        patch_size=shape.patch,
        num_embeds_ada_norm=classes,
        norm_eps=1e-6,
    )
    blocks: list[Any] = list(theirs.transformer_blocks)
    embedding = blocks[0].norm1.emb
    embedding.time_proj.downscale_freq_shift = 0
    embedding.class_embedder.dropout_prob = 0.0  # its row for "no class" is there already
    for block in blocks:
        block.norm1.emb = embedding
    return theirs


def weights_of(theirs: nn.Module) -> dict[str, Tensor]:
    """Under their names, in our layouts of attention."""
    return fuse({name: parameter.detach() for name, parameter in theirs.named_parameters()})


def gradients_of(theirs: nn.Module) -> dict[str, Tensor]:
    """Of every parameter, as `weights_of`."""
    return fuse({name: parameter.grad for name, parameter in theirs.named_parameters() if parameter.grad is not None})


def fuse(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values stacked in one tensor `to_qkv`."""
    fused: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if ".to_q." in name:
            three = [tensors[name.replace(".to_q.", f".to_{letter}.")] for letter in "qkv"]
            fused[name.replace(".to_q.", ".to_qkv.")] = torch.cat(three)
        elif ".to_k." not in name and ".to_v." not in name:
            fused[name] = tensor
    return fused


def as_unet(tensors: Mapping[str, Tensor], num_blocks: int) -> dict[str, Tensor]:
    """What `weights_of` or `gradients_of` a UNet2DModel gives, under our names."""
    return {unet_name(name, num_blocks): tensor for name, tensor in tensors.items()}


def unet_name(name: str, num_blocks: int) -> str:
    """Our blocks are numbered through: each level has num_blocks and a resampling down, one more block up."""
    path, kind = name.rsplit(".", 1)
    if path in UNET_ENDS:
        return f"{UNET_ENDS[path]}.{kind}"
    found = UNET_BLOCK.fullmatch(path)
    assert found, f"{name} has no place in ours"
    way, depth, group, index, part = found.groups()
    prefix = "middle" if way == "mid" else way
    if group == "attentions":
        part = f"attention.{UNET_PARTS[part]}"
    elif group == "resnets":
        part = f"residual.{UNET_PARTS[part]}"
    else:
        index, part = num_blocks, f"after.{UNET_PARTS[part]}" if way == "up" else UNET_PARTS[part]
    number = int(index) + int(depth or 0) * (num_blocks + 1)
    return f"{prefix}.{number}.{part}.{kind}"


def as_dit(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `weights_of` or `gradients_of` a DiTTransformer2DModel gives, under our names and in our shapes."""
    ours: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        path, kind = name.rsplit(".", 1)
        block, _, part = path.removeprefix("transformer_blocks.").partition(".")
        if path in DIT_ENDS:
            ours[f"{DIT_ENDS[path]}.{kind}"] = tensor.flatten(1) if tensor.dim() == 4 else tensor
        elif part.startswith("norm1.emb."):  # the same module in all blocks
            ours[f"{DIT_EMBEDDING[part.removeprefix('norm1.emb.')]}.{kind}"] = tensor
        else:
            ours[f"blocks.{block}.{DIT_PARTS[part]}.{kind}"] = tensor
    return ours
