"""What the convolutional networks share: a normalised convolution, room for small images, first weights."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvNorm(nn.Module):
    """A convolution without bias and the norm of each of its maps over the batch (Ioffe and Szegedy, 2015).

    x [B, C, H, W] to [B, outputs, H', W']; padding keeps the side at stride 1 unless it is given.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: int | None = None,
    ) -> None:
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        around = (sides[0] // 2, sides[1] // 2) if padding is None else (padding, padding)
        self.convolution = nn.Conv2d(inputs, outputs, sides, stride, around, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.convolution(x))


class ConvNormReLU(ConvNorm):
    """A normalised convolution, rectified."""

    def forward(self, x: Tensor) -> Tensor:
        # in place: the norm's gradient needs its input alone
        return F.relu(super().forward(x), inplace=True)


class Branches(nn.ModuleList):
    """Networks side by side on the same maps, their outputs one after the other: an Inception module's inside."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self], dim=1)


def scaled(width: int, factor: float) -> int:
    """A number of maps times a factor, one at least."""
    return max(1, round(width * factor))


def frame(images: Tensor, side: int) -> Tensor:
    """images [B, C, H, W] with zeros around them where a side is below `side` pixels."""
    height, width = (max(0, side - given) for given in images.shape[-2:])
    if not height and not width:
        return images
    return F.pad(images, (width // 2, width - width // 2, height // 2, height - height // 2))


def initialise(network: nn.Module, scheme: str, fan: Literal["fan_in", "fan_out"] = "fan_in") -> None:
    """Draw the weights of every convolution and dense layer anew; biases become 0.

    scheme he: normal, of variance 2 / fan (He et al., 2015, 2.2); xavier: normal, of variance 2 / (fan in + fan out)
    (Glorot and Bengio, 2010).
    """
    for module in network.modules():
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        if scheme == "he":
            nn.init.kaiming_normal_(module.weight, mode=fan, nonlinearity="relu")
        else:
            nn.init.xavier_normal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
