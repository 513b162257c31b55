"""VGG: depth from 3 x 3 convolutions alone."""

from collections.abc import Sequence
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.convolution import ConvNormReLU, frame, initialise, scaled
from trainer.models.image_heads import DenseHead, PooledHead
from trainer.models.residual import named_blocks, through

GRID = 7
MAPS = (64, 128, 256, 512, 512)
FEATURES = 4096


class VGGShape(Protocol):
    """What the network needs to know, read-only; `configs.vision.VGGConfig` is one."""

    @property
    def blocks(self) -> Sequence[int]: ...
    @property
    def width_factor(self) -> float: ...
    @property
    def batch_norm(self) -> bool: ...
    @property
    def dropout(self) -> float: ...
    @property
    def head(self) -> str: ...
    @property
    def initialisation(self) -> str: ...


class VGG(nn.Module):
    """Images to class logits by groups of 3 x 3 convolutions (Simonyan and Zisserman, 2015, table 1).

    images [B, C, H, W] of any size, smaller ones are framed with zeros to what leaves one place after the last group,
    32 x 32 of five; returns logits [B, classes]. 224 x 224 gives the 7 x 7 maps of the dense layers, other sizes are
    averaged to them.
    """

    def __init__(self, shape: VGGShape, *, channels: int, classes: int) -> None:
        super().__init__()
        self.recompute = False
        layer = ConvNormReLU if shape.batch_norm else ConvReLU
        stages, maps = [], channels
        for num_layers, width in zip(shape.blocks, MAPS, strict=False):  # the shape may have fewer groups
            outputs = scaled(width, shape.width_factor)
            stages.append(nn.Sequential(*(layer(outputs if i else maps, outputs, 3) for i in range(num_layers))))
            maps = outputs
        self.stages = nn.ModuleList(stages)
        features = scaled(FEATURES, shape.width_factor)
        self.head = (
            PooledHead(maps, classes, dropout=shape.dropout)
            if shape.head == "pooled"
            else DenseHead(maps, GRID, features, classes, dropout=(0.0, shape.dropout, shape.dropout))
        )
        initialise(self, shape.initialisation)

    def forward(self, images: Tensor) -> Tensor:
        x = frame(images, 2 ** len(self.stages))
        for stage in self.stages:
            x = through(stage, x, recompute=self.recompute)
            x = F.max_pool2d(x, 2)  # [B, 64, H/2, W/2], [B, 128, H/4, W/4], ...
        return self.head(x)

    def parts(self) -> list[tuple[str, ...]]:
        """Prefixes of parameter names from the input to the head, a layer each."""
        layers = [name for name, _ in named_blocks(self.stages)]
        return [(name,) for name in (*layers, *(f"head.{name}" for name, _ in self.head.named_children()))]


class ConvReLU(nn.Module):
    """A convolution that keeps the side, rectified: x [B, inputs, H, W] to [B, outputs, H, W]."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.convolution(x), inplace=True)
