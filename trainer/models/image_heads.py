"""From maps of any size to class logits."""

import torch.nn.functional as F
from torch import Tensor, nn


def average_to(x: Tensor, side: int) -> Tensor:
    """Maps [B, C, H, W] of any size to [B, C, side, side]: averages, of repeated values where a side is smaller.

    The windows are equal, unlike those of adaptive pooling, whose gradient is summed in no fixed order on a GPU; where
    H and W are multiples of `side` both are the same.
    """
    repeats = [-(-side // given) for given in x.shape[-2:]]
    if max(repeats) > 1:
        x = F.interpolate(x, scale_factor=[float(repeat) for repeat in repeats], mode="nearest")
    strides = [given // side for given in x.shape[-2:]]
    windows = [given - stride * (side - 1) for given, stride in zip(x.shape[-2:], strides, strict=True)]
    return x if windows == [1, 1] else F.avg_pool2d(x, windows, strides)


class DenseHead(nn.Module):
    """Maps [B, C, H, W], averaged to a grid of fixed side, to logits [B, classes] by three dense layers."""

    def __init__(
        self, maps: int, grid: int, features: int, classes: int, *, dropout: tuple[float, float, float]
    ) -> None:
        """`dropout`: the share of values dropped before each of the layers while training."""
        super().__init__()
        self.grid, self.dropout = grid, dropout
        self.first = nn.Linear(maps * grid * grid, features)
        self.second = nn.Linear(features, features)
        self.last = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        before_first, before_second, before_last = self.dropout
        x = average_to(x, self.grid).flatten(1)  # [B, C * grid * grid]
        x = F.relu(self.first(F.dropout(x, before_first, self.training)), inplace=True)
        x = F.relu(self.second(F.dropout(x, before_second, self.training)), inplace=True)
        return self.last(F.dropout(x, before_last, self.training))


class PooledHead(nn.Module):
    """Maps [B, C, H, W] to logits [B, classes]: a map per class, and each one's mean (Lin et al., 2014, 3.2)."""

    def __init__(self, maps: int, classes: int, *, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.last = nn.Conv2d(maps, classes, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.dropout(x, self.dropout, self.training)).mean((2, 3))


def initialise_head(head: nn.Linear) -> None:
    """Small weights, so that training starts from nearly equal odds (Goyal et al., 2017, 5.1)."""
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
