"""Inception-ResNet-v2: Inception modules as residual branches."""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.convolution import Branches, ConvNormReLU, frame, initialise, scaled
from trainer.models.image_heads import initialise_head
from trainer.models.residual import named_blocks, through

LEAST_SIDE = 75  # pixels that leave one place after the last reduction

Layers = tuple[tuple[int, int | tuple[int, int]], ...]
"""Maps and kernel of each convolution of a branch"""
STEM = (32, 32, 64, 80, 192)
MIXED: tuple[Layers, ...] = (((96, 1),), ((48, 1), (64, 5)), ((64, 1), (96, 3), (96, 3)))
MIXED_POOLED = 64
RESIDUALS: tuple[tuple[Layers, ...], ...] = (
    (((32, 1),), ((32, 1), (32, 3)), ((32, 1), (48, 3), (64, 3))),
    (((192, 1),), ((128, 1), (160, (1, 7)), (192, (7, 1)))),
    (((192, 1),), ((192, 1), (224, (1, 3)), (256, (3, 1)))),
)
REDUCTIONS: tuple[tuple[Layers, ...], ...] = (
    (((384, 3),), ((256, 1), (256, 3), (384, 3))),
    (((256, 1), (384, 3)), ((256, 1), (288, 3)), ((256, 1), (288, 3), (320, 3))),
)
LAST_MAPS = 1536
# of each grid's branches before they are added: training diverges without (section 3.3: between 0.1 and 0.3)
SCALES = (0.17, 0.10, 0.20)


class InceptionResNetShape(Protocol):
    """What the network needs to know, read-only; `configs.vision.InceptionResNetConfig` is one."""

    @property
    def blocks(self) -> tuple[int, int, int]: ...
    @property
    def width_factor(self) -> float: ...
    @property
    def dropout(self) -> float: ...


class InceptionResNet(nn.Module):
    """Images to class logits by residual Inception blocks on three grids (Szegedy et al., 2017, figure 15).

    images [B, C, H, W] of any size, smaller ones are framed with zeros to 75 x 75; returns logits [B, classes]. 299 x
    299 gives the paper's grids of 35, 17 and 8. Where the paper's figures and the network whose weights its authors
    published (TF-Slim's inception_resnet_v2) differ, this is the latter: a plain stem and one mixed module, twice as
    many blocks, and neither scale nor rectifier at the last sum.
    """

    def __init__(self, shape: InceptionResNetShape, *, channels: int, classes: int) -> None:
        super().__init__()
        self.recompute = False
        factor = shape.width_factor
        first, second, third, fourth, maps = (scaled(width, factor) for width in STEM)
        self.stem = nn.Sequential(
            ConvNormReLU(channels, first, 3, stride=2, padding=0),
            ConvNormReLU(first, second, 3, padding=0),
            ConvNormReLU(second, third, 3),
            nn.MaxPool2d(3, stride=2),
            ConvNormReLU(third, fourth, 1),
            ConvNormReLU(fourth, maps, 3, padding=0),
            nn.MaxPool2d(3, stride=2),
        )
        self.stages = nn.ModuleList()
        blocks: list[InceptionResidual] = []
        for grid, num_blocks in enumerate(shape.blocks):
            entry, maps = mixed(maps, factor) if grid == 0 else reduction(maps, REDUCTIONS[grid - 1], factor)
            blocks = [InceptionResidual(maps, RESIDUALS[grid], factor, SCALES[grid]) for _ in range(num_blocks)]
            self.stages.append(nn.ModuleList([entry, *blocks]))
        blocks[-1].scale, blocks[-1].rectified = 1.0, False
        features = scaled(LAST_MAPS, factor)
        self.last = ConvNormReLU(maps, features, 1)
        self.dropout = nn.Dropout(shape.dropout)
        self.head = nn.Linear(features, classes)
        initialise(self, "he")
        initialise_head(self.head)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(frame(images, LEAST_SIDE))  # [B, 192, H/8, W/8], [B, 192, 35, 35] of 299 x 299
        for _, block in named_blocks(self.stages):
            x = through(block, x, recompute=self.recompute)  # [B, 320, ...], [B, 1088, ...], [B, 2080, ...]
        x = self.last(x)  # [B, 1536, 8, 8]
        return self.head(self.dropout(x.mean((2, 3))))

    def parts(self) -> list[tuple[str, ...]]:
        """Prefixes of parameter names from the input to the head, a block each."""
        return [("stem",), *((name,) for name, _ in named_blocks(self.stages)), ("last",), ("head",)]


class InceptionResidual(nn.Module):
    """x + scale * branches(x) of x [B, C, H, W], rectified unless it is the last of the network."""

    def __init__(self, maps: int, layers: tuple[Layers, ...], factor: float, scale: float) -> None:
        super().__init__()
        self.branches = Branches([branch(maps, each, factor) for each in layers])
        inside = sum(scaled(each[-1][0], factor) for each in layers)
        self.project = nn.Conv2d(inside, maps, kernel_size=1)
        self.scale, self.rectified = scale, True

    def forward(self, x: Tensor) -> Tensor:
        total = torch.add(x, self.project(self.branches(x)), alpha=self.scale)
        return F.relu(total, inplace=True) if self.rectified else total


def mixed(inputs: int, factor: float) -> tuple[nn.Module, int]:
    """The module before the first grid's blocks, and its maps: [B, inputs, H, W] to [B, 320, H, W]."""
    pooled = scaled(MIXED_POOLED, factor)
    average = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    branches = [branch(inputs, layers, factor) for layers in MIXED]
    branches.append(nn.Sequential(average, ConvNormReLU(inputs, pooled, 1)))
    return Branches(branches), sum(scaled(layers[-1][0], factor) for layers in MIXED) + pooled


def reduction(inputs: int, layers: tuple[Layers, ...], factor: float) -> tuple[nn.Module, int]:
    """The module that halves the side before a grid's blocks, and its maps: x beside what the branches make of it."""
    branches = [branch(inputs, each, factor, halves=True) for each in layers]
    maps = inputs + sum(scaled(each[-1][0], factor) for each in layers)
    return Branches([*branches, nn.MaxPool2d(3, stride=2)]), maps


def branch(inputs: int, layers: Layers, factor: float, *, halves: bool = False) -> nn.Sequential:
    """Convolutions one after the other; the last one may halve the side, without padding."""
    chain = nn.Sequential()
    for number, (width, kernel) in enumerate(layers, 1):
        maps = scaled(width, factor)
        stride, padding = (2, 0) if halves and number == len(layers) else (1, None)
        chain.append(ConvNormReLU(inputs, maps, kernel, stride=stride, padding=padding))
        inputs = maps
    return chain
