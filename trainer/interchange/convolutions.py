"""ResNet and ConvNeXt: their names in ours, for reading."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from trainer.interchange.rules import UnsupportedError, require

Names = tuple[tuple[str, Callable[[re.Match[str]], str] | str], ...]
"""Patterns of whole names and what they are here"""

RESNET: Names = (
    (r"resnet\.embedder\.embedder\.(.+)", r"stem.\1"),
    (r"resnet\.encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.(.+)", r"stages.\1.\2.layers.\3"),
    (r"resnet\.encoder\.stages\.(\d+)\.layers\.(\d+)\.(shortcut\..+)", r"stages.\1.\2.\3"),
    (r"classifier\.1\.(.+)", r"head.\1"),
)
_INSIDE = {
    "dwconv": "convolution",
    "layernorm": "norm",
    "pwconv1": "up",
    "pwconv2": "down",
    "layer_scale_parameter": "scale",
}


def _convnext_block(match: re.Match[str]) -> str:
    """A later stage's halving comes before its blocks, and is its module 0 here."""
    stage, layer, part, kind = match.groups()
    return f"stages.{stage}.{int(layer) + (stage != '0')}.{_INSIDE[part]}{kind}"


CONVNEXT: Names = (
    (r"convnext\.embeddings\.patch_embeddings\.(.+)", r"stem.convolution.\1"),
    (r"convnext\.embeddings\.layernorm\.(.+)", r"stem.norm.\1"),
    (r"convnext\.encoder\.stages\.(\d+)\.downsampling_layer\.0\.(.+)", r"stages.\1.0.norm.\2"),
    (r"convnext\.encoder\.stages\.(\d+)\.downsampling_layer\.1\.(.+)", r"stages.\1.0.convolution.\2"),
    (rf"convnext\.encoder\.stages\.(\d+)\.layers\.(\d+)\.({'|'.join(_INSIDE)})(|\.\w+)", _convnext_block),
    (r"convnext\.layernorm\.(.+)", r"norm.\1"),
    (r"classifier\.(.+)", r"head.\1"),
)


def read_resnet(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Strides in the 3 x 3 convolutions and none in the first stage, as ours are (v1.5)."""
    require(config, "downsample_in_bottleneck", False, False)
    require(config, "downsample_in_first_stage", False, False)
    require(config, "hidden_act", "relu", "relu")
    ours = _renamed(tensors, RESNET)
    return {name.replace(".normalization.", ".norm."): tensor for name, tensor in ours.items()}


def read_convnext(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    require(config, "hidden_act", "gelu", "gelu")
    return _renamed(tensors, CONVNEXT)


def _renamed(tensors: Mapping[str, Tensor], names: Names) -> dict[str, Tensor]:
    ours: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        pattern, here = next(((p, h) for p, h in names if re.fullmatch(p, name)), (None, None))
        if pattern is None or here is None:
            raise UnsupportedError(f"our network has no place for {name}")
        ours[re.sub(pattern, here, name)] = tensor.float() if tensor.is_floating_point() else tensor
    return ours


IMAGE_NETWORKS = {"resnet": read_resnet, "convnext": read_convnext}
