"""GoogLeNet: Inception modules and auxiliary heads."""

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.convolution import Branches, ConvNormReLU, frame, initialise, scaled
from trainer.models.image_heads import average_to, initialise_head
from trainer.models.residual import through

# maps of each module: 1 x 1; 1 x 1 before 3 x 3; 3 x 3; 1 x 1 before 5 x 5; 5 x 5; 1 x 1 after the pool (table 1)
INCEPTIONS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
LEAST_SIDE = 32  # pixels that leave one place after the last pool
HALVED_AFTER = ("3b", "4e")
HEADS_AFTER = ("4a", "4d")
GRID, HEAD_MAPS, HEAD_FEATURES, HEAD_DROPOUT = 4, 128, 1024, 0.7


class GoogLeNetShape(Protocol):
    """What the network needs to know, read-only; `configs.vision.GoogLeNetConfig` is one."""

    @property
    def width_factor(self) -> float: ...
    @property
    def auxiliary_weight(self) -> float: ...
    @property
    def dropout(self) -> float: ...


class GoogLeNet(nn.Module):
    """Images to class logits by nine Inception modules (Szegedy et al., 2015, table 1).

    images [B, C, H, W] of any size, smaller ones are framed with zeros to 32 x 32; returns logits [B, classes]; while
    training, if the auxiliary losses count, the logits and those of the heads after modules 4a and 4d. What differs
    from the paper: each convolution is normalised (Ioffe and Szegedy, 2015) in place of the response normalisation.
    """

    def __init__(self, shape: GoogLeNetShape, *, channels: int, classes: int) -> None:
        super().__init__()
        self.recompute = False
        factor = shape.width_factor
        maps, inputs = scaled(64, factor), scaled(192, factor)
        self.stem = nn.ModuleList(
            [ConvNormReLU(channels, maps, 7, stride=2), ConvNormReLU(maps, maps, 1), ConvNormReLU(maps, inputs, 3)]
        )
        self.inceptions = nn.ModuleDict()
        self.auxiliary = nn.ModuleDict()
        for name, widths in INCEPTIONS.items():
            one, three_before, three, five_before, five, pooled = (scaled(width, factor) for width in widths)
            self.inceptions[name] = Branches(
                [
                    ConvNormReLU(inputs, one, 1),
                    nn.Sequential(ConvNormReLU(inputs, three_before, 1), ConvNormReLU(three_before, three, 3)),
                    nn.Sequential(ConvNormReLU(inputs, five_before, 1), ConvNormReLU(five_before, five, 5)),
                    nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), ConvNormReLU(inputs, pooled, 1)),
                ]
            )
            inputs = one + three + five + pooled
            if shape.auxiliary_weight and name in HEADS_AFTER:
                self.auxiliary[name] = AuxiliaryHead(inputs, classes, factor)
        self.dropout = nn.Dropout(shape.dropout)
        self.head = nn.Linear(inputs, classes)
        initialise(self, "he")
        initialise_head(self.head)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        first, second, third = self.stem
        x = halve(first(frame(images, LEAST_SIDE)))  # [B, 64, H/4, W/4]
        x = halve(third(second(x)))  # [B, 192, H/8, W/8]
        others = []
        for name, inception in self.inceptions.items():
            x = through(inception, x, recompute=self.recompute)
            if self.training and name in self.auxiliary:
                others.append(self.auxiliary[name](x))
            if name in HALVED_AFTER:
                x = halve(x)  # [B, 480, H/16, W/16], [B, 832, H/32, W/32]
        logits = self.head(self.dropout(x.mean((2, 3))))  # of [B, 1024, H/32, W/32]
        return (logits, *others) if others else logits

    def parts(self) -> list[tuple[str, ...]]:
        """Prefixes of parameter names from the input to the heads, an Inception module each."""
        heads = ("head", "auxiliary") if len(self.auxiliary) else ("head",)
        return [("stem",), *((f"inceptions.{name}",) for name in self.inceptions), heads]


class AuxiliaryHead(nn.Module):
    """Maps [B, C, H, W] in the middle of the network to logits [B, classes] (Szegedy et al., 2015, 5)."""

    def __init__(self, maps: int, classes: int, factor: float) -> None:
        super().__init__()
        inside, features = scaled(HEAD_MAPS, factor), scaled(HEAD_FEATURES, factor)
        self.convolution = ConvNormReLU(maps, inside, 1)
        self.dense = nn.Linear(inside * GRID * GRID, features)
        self.dropout = nn.Dropout(HEAD_DROPOUT)
        self.head = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.convolution(average_to(x, GRID))  # [B, 128, 4, 4]; of 14 x 14 by the paper's 5 x 5 windows
        x = F.relu(self.dense(x.flatten(1)), inplace=True)
        return self.head(self.dropout(x))


def halve(x: Tensor) -> Tensor:
    """The largest of each 3 x 3 places, [B, C, H, W] to [B, C, H/2, W/2]."""
    return F.max_pool2d(x, 3, stride=2, ceil_mode=True)  # windows begin at the edge, the last may reach beyond
