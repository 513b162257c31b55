"""DenseNet: each layer sees the maps of all before it."""

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.convolution import ConvNormReLU, frame, initialise
from trainer.models.image_heads import initialise_head
from trainer.models.residual import named_blocks, through

BOTTLENECK = 4  # maps inside a layer, per map that it adds (section 3)


class DenseNetShape(Protocol):
    """What the network needs to know, read-only; `configs.vision.DenseNetConfig` is one."""

    @property
    def blocks(self) -> Sequence[int]: ...
    @property
    def growth(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def stem(self) -> str: ...
    @property
    def dropout(self) -> float: ...


class DenseNet(nn.Module):
    """Images to class logits by densely connected layers (Huang et al., 2017, table 1): DenseNet-BC.

    images [B, C, H, W] of any size, smaller ones are framed with zeros to what leaves one place after the last
    transition; returns logits [B, classes]. With `recompute` the maps of each layer's inside, which grow with the
    square of the depth, are not kept (Pleiss et al., 2017).
    """

    def __init__(self, shape: DenseNetShape, *, channels: int, classes: int) -> None:
        super().__init__()
        self.recompute = False
        self.pooled = shape.stem == "large"
        kernel, stride = (7, 2) if self.pooled else (3, 1)
        self.stem = ConvNormReLU(channels, shape.width, kernel, stride=stride)
        self.least_side = 2 ** (len(shape.blocks) - 1) * (4 if self.pooled else 1)
        self.stages = nn.ModuleList()
        maps = shape.width
        for stage, num_layers in enumerate(shape.blocks):
            layers: list[nn.Module] = []
            if stage > 0:
                layers.append(Transition(maps))
                maps //= 2
            for _ in range(num_layers):
                layers.append(DenseLayer(maps, shape.growth, shape.dropout))
                maps += shape.growth
            self.stages.append(nn.ModuleList(layers))
        self.norm = nn.BatchNorm2d(maps)
        self.head = nn.Linear(maps, classes)
        initialise(self, "he", "fan_out")
        initialise_head(self.head)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(frame(images, self.least_side))
        if self.pooled:
            x = F.max_pool2d(x, 3, stride=2, padding=1)  # [B, width, H/4, W/4]
        seen = [x]
        for _, layer in named_blocks(self.stages):
            made = through(layer, *seen, recompute=self.recompute)
            seen = [made] if isinstance(layer, Transition) else [*seen, made]
        x = F.relu(self.norm(torch.cat(seen, dim=1)), inplace=True)
        return self.head(x.mean((2, 3)))

    def parts(self) -> list[tuple[str, ...]]:
        """Prefixes of parameter names from the input to the head, a layer or transition each."""
        return [("stem",), *((name,) for name, _ in named_blocks(self.stages)), ("norm",), ("head",)]


class DenseLayer(nn.Module):
    """All maps so far, `maps` in sum, to `growth` more [B, growth, H, W]: norm, 1 x 1, norm, 3 x 3."""

    def __init__(self, maps: int, growth: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(maps)
        self.inside = ConvNormReLU(maps, BOTTLENECK * growth, 1)
        self.convolution = nn.Conv2d(BOTTLENECK * growth, growth, kernel_size=3, padding=1, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, *seen: Tensor) -> Tensor:
        x = F.relu(self.norm(torch.cat(seen, dim=1)), inplace=True)
        return self.dropout(self.convolution(self.inside(x)))


class Transition(nn.Module):
    """All maps of a dense block, `maps` in sum, to half as many at half the side."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(maps)
        self.convolution = nn.Conv2d(maps, maps // 2, kernel_size=1, bias=False)

    def forward(self, *seen: Tensor) -> Tensor:
        x = F.relu(self.norm(torch.cat(seen, dim=1)), inplace=True)
        return F.avg_pool2d(self.convolution(x), 2)  # [B, maps/2, H/2, W/2]
