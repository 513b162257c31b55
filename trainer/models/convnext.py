"""ConvNeXt: a convolutional network with the habits of a transformer."""

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.convolution import frame
from trainer.models.residual import depth_rates, named_blocks, skip, through

EXPANSION = 4  # features inside a block, per map
NORM_EPS = 1e-6
WEIGHT_STD = 0.02


class ConvNeXtShape(Protocol):
    """What the network needs to know, read-only; `configs.vision.ConvNeXtConfig` is one."""

    @property
    def blocks(self) -> Sequence[int]: ...
    @property
    def width(self) -> int: ...
    @property
    def patch(self) -> int: ...
    @property
    def layer_scale(self) -> float: ...
    @property
    def stochastic_depth(self) -> float: ...


class ConvNeXt(nn.Module):
    """Images to class logits by depthwise convolutions and dense layers over each place (Liu et al., 2022, table 9).

    images [B, C, H, W] of any size, smaller ones are framed with zeros to what leaves one place in the last stage, 32 x
    32 as published; returns logits [B, classes]. Inside, maps lie channels last in memory whatever the images do: norm
    and dense layers read a place's channels together.
    """

    def __init__(self, shape: ConvNeXtShape, *, channels: int, classes: int) -> None:
        super().__init__()
        self.recompute = False
        self.least_side = shape.patch * 2 ** (len(shape.blocks) - 1)
        self.stem = Stem(channels, shape.width, shape.patch)
        rates = iter(depth_rates(shape.stochastic_depth, sum(shape.blocks)))
        self.stages = nn.ModuleList()
        width = shape.width
        for stage, num_blocks in enumerate(shape.blocks):
            halving = [Halving(width)] if stage > 0 else []
            width = shape.width * 2**stage
            blocks = [ConvNeXtBlock(width, shape.layer_scale, next(rates)) for _ in range(num_blocks)]
            self.stages.append(nn.ModuleList([*halving, *blocks]))
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.head = nn.Linear(width, classes)
        self._initialise()

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(frame(images, self.least_side))  # [B, width, H/4, W/4]
        for _, block in named_blocks(self.stages):
            x = through(block, x, recompute=self.recompute)
        return self.head(self.norm(x.mean((2, 3))))

    def parts(self) -> list[tuple[str, ...]]:
        """Prefixes of parameter names from the input to the head, a block or halving each."""
        return [("stem",), *((name,) for name, _ in named_blocks(self.stages)), ("norm",), ("head",)]

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=WEIGHT_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


class Stem(nn.Module):
    """Squares of `patch` pixels to normalised features: [B, channels, H, W] to [B, width, H/patch, W/patch]."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)

    def forward(self, images: Tensor) -> Tensor:
        return normalise(self.norm, self.convolution(images))


class Halving(nn.Module):
    """Between two stages: [B, width, H, W] to [B, 2 * width, H/2, W/2]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.convolution = nn.Conv2d(width, 2 * width, kernel_size=2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(normalise(self.norm, x))


class ConvNeXtBlock(nn.Module):
    """x + scale * branch(x) of x [B, C, H, W]: 7 x 7 of each map by itself, then two dense layers over each place."""

    def __init__(self, width: int, layer_scale: float, depth_rate: float) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(width, width, kernel_size=7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.up = nn.Linear(width, EXPANSION * width)
        self.down = nn.Linear(EXPANSION * width, width)
        self.scale = nn.Parameter(torch.full((width,), layer_scale)) if layer_scale else None
        self.depth_rate = depth_rate

    def forward(self, x: Tensor) -> Tensor:
        branch = self.norm(depthwise(self.convolution, x).permute(0, 2, 3, 1))  # [B, H, W, C]
        branch = self.down(F.gelu(self.up(branch)))
        if self.scale is not None:
            branch = branch * self.scale
        if self.training and self.depth_rate:
            branch = skip(branch, self.depth_rate)
        return x + branch.permute(0, 3, 1, 2)


def depthwise(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """Each map of x [B, C, H, W] by its own square kernel, the side kept.

    On a CPU in fp32 whatever the precision of the rest: the gradient of such kernels in bf16 takes several times as
    long. Rows and columns of the kernel that could only meet the zeros around a small map are left out.
    """
    assert convolution.bias is not None
    reach = convolution.kernel_size[0] // 2
    rows, columns = (min(reach, side - 1) for side in x.shape[-2:])
    weight = convolution.weight[:, :, reach - rows : reach + rows + 1, reach - columns : reach + columns + 1]
    if x.device.type != "cpu":
        return F.conv2d(x, weight, convolution.bias, padding=(rows, columns), groups=len(weight))
    with torch.autocast("cpu", enabled=False):
        y = F.conv2d(x.float(), weight.float(), convolution.bias.float(), padding=(rows, columns), groups=len(weight))
    return y.to(x.dtype)


def normalise(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """Each place of x [B, C, H, W] over its channels; the result lies channels last in memory."""
    return norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
