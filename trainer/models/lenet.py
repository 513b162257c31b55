"""LeNet-5: the convolutional network that read cheques."""

from collections.abc import Callable
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.convolution import frame

FRAME = 28  # pixels of the smallest side that leaves 5 x 5 maps to the dense layers
GRID = 5


class LeNetShape(Protocol):
    """What the network needs to know, read-only; `configs.vision.LeNetConfig` is one."""

    @property
    def width_factor(self) -> int: ...
    @property
    def activation(self) -> str: ...
    @property
    def pooling(self) -> str: ...


class LeNet(nn.Module):
    """Images to class logits by two convolutions and three dense layers (LeCun et al., 1998, II.B).

    images [B, C, H, W] of any size, smaller ones are framed with zeros to 28 x 28; returns logits [B, classes].
    28 x 28 gives the paper's shapes. What differs from it: every map of C3 sees all of S2's, subsampling has no weights
    of its own, tanh is not scaled, the output is a softmax's logits instead of distances to fixed codes (RBF), and S4
    takes larger steps on larger images, so that the dense layers are as large for all.
    """

    def __init__(self, shape: LeNetShape, *, channels: int, classes: int) -> None:
        super().__init__()
        first, second, third, fourth = (shape.width_factor * width for width in (6, 16, 120, 84))
        self.c1 = nn.Conv2d(channels, first, kernel_size=5, padding=2)  # the paper's 28 x 28 digits lie in 32 x 32
        self.c3 = nn.Conv2d(first, second, kernel_size=5)
        self.c5 = nn.Linear(second * GRID * GRID, third)
        self.f6 = nn.Linear(third, fourth)
        self.head = nn.Linear(fourth, classes)
        self.activation: Callable[[Tensor], Tensor] = F.relu if shape.activation == "relu" else F.tanh
        self.pool: Callable[..., Tensor] = F.max_pool2d if shape.pooling == "maximum" else F.avg_pool2d

    def forward(self, images: Tensor) -> Tensor:
        x = frame(images, FRAME)
        x = self.pool(self.activation(self.c1(x)), 2)  # [B, 6, H/2, W/2]
        x = self.activation(self.c3(x))  # [B, 16, H/2 - 4, W/2 - 4]
        strides = [side // GRID for side in x.shape[-2:]]
        # fixed windows: the gradient of adaptive pooling is summed in no fixed order on a GPU
        windows = [side - stride * (GRID - 1) for side, stride in zip(x.shape[-2:], strides, strict=True)]
        x = self.pool(x, windows, strides)  # [B, 16, 5, 5]
        x = self.activation(self.c5(x.flatten(1)))
        return self.head(self.activation(self.f6(x)))

    def parts(self) -> list[tuple[str, ...]]:
        """Prefixes of parameter names from the input to the head, a layer each."""
        return [(name,) for name in ("c1", "c3", "c5", "f6", "head")]
