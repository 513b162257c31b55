"""ResNet: residual networks from a laptop's size to 152 layers."""

from collections.abc import Sequence
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.convolution import ConvNorm, ConvNormReLU, initialise
from trainer.models.image_heads import initialise_head
from trainer.models.residual import depth_rates, named_blocks, skip, through

EXPANSION = 4  # a bottleneck's maps outside, per map inside


class ResNetShape(Protocol):
    """What the network needs to know, read-only; `configs.vision.ResNetConfig` is one."""

    @property
    def blocks(self) -> Sequence[int]: ...
    @property
    def bottleneck(self) -> bool: ...
    @property
    def width(self) -> int: ...
    @property
    def stem(self) -> str: ...
    @property
    def zero_init(self) -> bool: ...
    @property
    def stochastic_depth(self) -> float: ...
    @property
    def dropout(self) -> float: ...


class ResNet(nn.Module):
    """Images to class logits by residual blocks (He et al., 2016, table 1).

    images [B, C, H, W] of any size; returns logits [B, classes]. A block's stride is in its 3 x 3 convolution, the
    arrangement known as v1.5, where the paper's bottleneck has it in the first 1 x 1 (Goyal et al., 2017, 5.1).
    """

    def __init__(self, shape: ResNetShape, *, channels: int, classes: int) -> None:
        super().__init__()
        self.recompute = False
        self.pooled = shape.stem == "large"
        kernel, stride = (7, 2) if self.pooled else (3, 1)
        self.stem = ConvNorm(channels, shape.width, kernel, stride=stride)
        rates = iter(depth_rates(shape.stochastic_depth, sum(shape.blocks)))
        stages, inputs = [], shape.width
        for stage, num_blocks in enumerate(shape.blocks):
            inside = shape.width * 2**stage
            outputs = inside * EXPANSION if shape.bottleneck else inside
            blocks = []
            for block in range(num_blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                layers = _bottleneck(inputs, inside, stride) if shape.bottleneck else _basic(inputs, inside, stride)
                if shape.zero_init:
                    nn.init.zeros_(layers[-1].norm.weight)
                blocks.append(ResidualBlock(layers, inputs, outputs, stride, next(rates)))
                inputs = outputs
            stages.append(nn.ModuleList(blocks))
        self.stages = nn.ModuleList(stages)
        self.dropout = nn.Dropout(shape.dropout)
        self.head = nn.Linear(inputs, classes)
        initialise(self, "he", "fan_out")
        initialise_head(self.head)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)  # [B, width, H/2, W/2] of the large stem, [B, width, H, W] of the small
        if self.pooled:
            x = F.max_pool2d(x, 3, stride=2, padding=1)  # [B, width, H/4, W/4]
        x = F.relu(x, inplace=True)  # after the pool: the largest are the same, and a quarter as many
        for _, block in named_blocks(self.stages):
            x = through(block, x, recompute=self.recompute)
        return self.head(self.dropout(x.mean((2, 3))))

    def parts(self) -> list[tuple[str, ...]]:
        """Prefixes of parameter names from the input to the head, a residual block each."""
        return [("stem",), *((name,) for name, _ in named_blocks(self.stages)), ("head",)]


class ResidualBlock(nn.Module):
    """x + layers(x), rectified; x is projected where the shape changes. [B, inputs, H, W] -> [B, outputs, H', W']."""

    def __init__(self, layers: Sequence[ConvNorm], inputs: int, outputs: int, stride: int, depth_rate: float) -> None:
        super().__init__()
        self.shortcut = ConvNorm(inputs, outputs, 1, stride=stride) if stride != 1 or inputs != outputs else None
        self.layers = nn.Sequential(*layers)
        self.depth_rate = depth_rate

    def forward(self, x: Tensor) -> Tensor:
        branch = self.layers(x)
        if self.training and self.depth_rate:
            branch = skip(branch, self.depth_rate)
        # in place: no gradient needs the branch's value, that of the sum needs the rectified one alone
        return branch.add_(x if self.shortcut is None else self.shortcut(x)).relu_()


def _basic(inputs: int, inside: int, stride: int) -> list[ConvNorm]:
    return [ConvNormReLU(inputs, inside, 3, stride=stride), ConvNorm(inside, inside, 3)]


def _bottleneck(inputs: int, inside: int, stride: int) -> list[ConvNorm]:
    return [
        ConvNormReLU(inputs, inside, 1),
        ConvNormReLU(inside, inside, 3, stride=stride),
        ConvNorm(inside, inside * EXPANSION, 1),
    ]
