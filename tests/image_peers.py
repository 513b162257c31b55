"""The weights of the image networks of `transformers` under the names of ours."""

import re
from collections.abc import Callable, Mapping

from torch import Tensor, nn

Names = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]

RESNET: Names = (
    (r"^resnet\.embedder\.embedder\.", "stem."),
    (r"^resnet\.encoder\.stages\.(\d+)\.layers\.", r"stages.\1."),
    (r"\.layer\.", ".layers."),
    (r"\.normalization\.", ".norm."),
    (r"^classifier\.1\.", "head."),
)
CONVNEXT: Names = (
    (r"^convnext\.embeddings\.patch_embeddings\.", "stem.convolution."),
    (r"^convnext\.embeddings\.layernorm\.", "stem.norm."),
    (r"^convnext\.encoder\.", ""),
    (r"^convnext\.layernorm\.", "norm."),
    (r"^classifier\.", "head."),
    (r"\.downsampling_layer\.0\.", ".0.norm."),
    (r"\.downsampling_layer\.1\.", ".0.convolution."),
    # our stages but the first begin with what halves the side
    (r"^stages\.(\d+)\.layers\.(\d+)\.", lambda found: f"stages.{found[1]}.{int(found[2]) + (found[1] != '0')}."),
    (r"\.dwconv\.", ".convolution."),
    (r"\.layernorm\.", ".norm."),
    (r"\.pwconv1\.", ".up."),
    (r"\.pwconv2\.", ".down."),
    (r"\.layer_scale_parameter$", ".scale"),
)


def renamed(theirs: nn.Module, names: Names) -> dict[str, Tensor]:
    """Every tensor of their state, each pattern replaced in turn."""
    return {_rename(name, names): tensor for name, tensor in theirs.state_dict().items()}


def _rename(name: str, names: Names) -> str:
    for pattern, ours in names:
        name = re.sub(pattern, ours, name)
    return name


def gradients(theirs: nn.Module, names: Names) -> Mapping[str, Tensor]:
    """Each parameter's gradient."""
    return {_rename(name, names): each.grad for name, each in theirs.named_parameters() if each.grad is not None}
