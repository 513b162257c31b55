"""AlexNet in one column: the network that began the convolutional decade."""

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.convolution import frame, initialise, scaled
from trainer.models.image_heads import DenseHead, PooledHead

LEAST_SIDE = 63  # pixels that leave one place after the last pool
GRID = 6
MAPS = (64, 192, 384, 256, 256)
FEATURES = 4096


class AlexNetShape(Protocol):
    """What the network needs to know, read-only; `configs.vision.AlexNetConfig` is one."""

    @property
    def width_factor(self) -> float: ...
    @property
    def dropout(self) -> float: ...
    @property
    def head(self) -> str: ...
    @property
    def initialisation(self) -> str: ...


class AlexNet(nn.Module):
    """Images to class logits by five convolutions and three dense layers (Krizhevsky et al., 2012).

    images [B, C, H, W] of any size, smaller ones are framed with zeros to 63 x 63; returns logits [B, classes]. The
    widths are those of the single column (Krizhevsky, 2014, footnote 1), without response normalisation; 224 x 224
    gives the 6 x 6 maps of the dense layers, other sizes are averaged to them.
    """

    def __init__(self, shape: AlexNetShape, *, channels: int, classes: int) -> None:
        super().__init__()
        first, second, third, fourth, fifth = (scaled(maps, shape.width_factor) for maps in MAPS)
        self.c1 = nn.Conv2d(channels, first, kernel_size=11, stride=4, padding=2)
        self.c2 = nn.Conv2d(first, second, kernel_size=5, padding=2)
        self.c3 = nn.Conv2d(second, third, kernel_size=3, padding=1)
        self.c4 = nn.Conv2d(third, fourth, kernel_size=3, padding=1)
        self.c5 = nn.Conv2d(fourth, fifth, kernel_size=3, padding=1)
        features = scaled(FEATURES, shape.width_factor)
        self.head = (
            PooledHead(fifth, classes, dropout=shape.dropout)
            if shape.head == "pooled"
            else DenseHead(fifth, GRID, features, classes, dropout=(shape.dropout, shape.dropout, 0.0))
        )
        initialise(self, shape.initialisation)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.c1(frame(images, LEAST_SIDE)), inplace=True)  # [B, 64, 55, 55] of 224 x 224
        x = F.relu(self.c2(F.max_pool2d(x, 3, stride=2)), inplace=True)  # [B, 192, 27, 27]
        x = F.relu(self.c3(F.max_pool2d(x, 3, stride=2)), inplace=True)  # [B, 384, 13, 13]
        x = F.relu(self.c4(x), inplace=True)
        x = F.relu(self.c5(x), inplace=True)
        x = F.max_pool2d(x, 3, stride=2)  # [B, 256, 6, 6]
        return self.head(x)

    def parts(self) -> list[tuple[str, ...]]:
        """Prefixes of parameter names from the input to the head, a layer each."""
        layers = [f"c{number}" for number in range(1, 6)] + [f"head.{name}" for name, _ in self.head.named_children()]
        return [(layer,) for layer in layers]
