"""A U-shaped network of residual blocks that predicts what noise hides: ADM's shape."""

from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainer.models.conditioning import Conditioning

NORM_GROUPS = 32
MAPS_PER_GROUP = 4  # fewer would take away how bright a map is, on networks narrower than 128


class UNetShape(Protocol):
    """What the network needs to know, read-only; `configs.diffusion.UNetConfig` is one."""

    @property
    def width(self) -> int: ...
    @property
    def multipliers(self) -> tuple[int, ...]: ...
    @property
    def num_blocks(self) -> int: ...
    @property
    def attention_sides(self) -> tuple[int, ...]: ...
    @property
    def head_width(self) -> int: ...
    @property
    def resampling(self) -> Literal["convolution", "residual"]: ...
    @property
    def dropout(self) -> float: ...


class UNet(nn.Module):
    """Noisy images, their level of noise and class to a prediction for each pixel (Dhariwal and Nichol, 2021, 3).

    x [B, C, H, W] whose sides are multiples of 2 ** (levels - 1); level [B] float on any scale; labels [B] int64, where
    `classes` means "no class". Returns [B, outputs, H, W]. A level has attention when the smaller side of its maps, at
    the image's `side`, is one of attention_sides; the middle always has, unless there are none. What differs from ADM:
    a class row for "no class", and narrow networks have fewer groups in their norms than 32.
    """

    def __init__(self, shape: UNetShape, *, channels: int, outputs: int, classes: int, side: tuple[int, int]) -> None:
        super().__init__()
        check_sides(side, 2 ** (len(shape.multipliers) - 1))
        self.recompute = False
        widths = [shape.width * multiplier for multiplier in shape.multipliers]
        attends = [min(side) // 2**depth in shape.attention_sides for depth in range(len(widths))]
        self.embedding = Conditioning(frequencies=shape.width, width=4 * shape.width, classes=classes)
        self.stem = nn.Conv2d(channels, shape.width, kernel_size=3, padding=1)
        kept = [shape.width]  # maps of each feature that the way down leaves for the way up
        self.down = nn.ModuleList()
        for depth, width in enumerate(widths):
            if depth:
                self.down.append(build_resample(shape, kept[-1], "halve"))
                kept.append(kept[-1])
            for _ in range(shape.num_blocks):
                self.down.append(Stage(shape, kept[-1], width, attends=attends[depth]))
                kept.append(width)
        middle = bool(shape.attention_sides)
        self.middle = nn.ModuleList(Stage(shape, kept[-1], kept[-1], attends=has) for has in (middle, False))
        self.up = nn.ModuleList()
        for depth, width in reversed(list(enumerate(widths))):
            below = widths[min(depth + 1, len(widths) - 1)]
            for index in range(shape.num_blocks + 1):
                after = build_resample(shape, width, "double") if depth and index == shape.num_blocks else None
                inputs = (width if index else below) + kept.pop()
                self.up.append(Stage(shape, inputs, width, attends=attends[depth], after=after))
        self.norm = build_norm(shape, shape.width)
        self.head = nn.Conv2d(shape.width, outputs, kernel_size=3, padding=1)
        zero(self.head)

    def parts(self) -> list[tuple[str, ...]]:
        """Prefixes of the parameters' names from the input to the head, which is last."""
        ways = (("down", self.down), ("middle", self.middle), ("up", self.up))
        body = [(f"{way}.{index}",) for way, blocks in ways for index in range(len(blocks))]
        return [("embedding", "stem"), *body, ("norm",), ("head",)]

    def forward(self, x: Tensor, level: Tensor, labels: Tensor | None = None) -> Tensor:
        vector = F.silu(self.embedding(level, labels))  # [B, 4 D], read by every block
        x = self.stem(x)
        kept = [x]
        for block in self.down:
            x = self.run(block, x, vector)
            kept.append(x)
        for block in self.middle:
            x = self.run(block, x, vector)
        for block in self.up:
            x = self.run(block, x, vector, kept.pop())
        return self.head(F.silu(self.norm(x)))

    def run(self, block: nn.Module, *inputs: Tensor) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)


class Stage(nn.Module):
    """A residual block, then attention where the level has it, then twice the side where `after` is given.

    x [B, inputs, H, W], or less by the maps of `kept`, which the way down left; returns [B, outputs, H, W] or larger.
    """

    def __init__(
        self, shape: UNetShape, inputs: int, outputs: int, *, attends: bool, after: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.residual = ResidualBlock(shape, inputs, outputs)
        self.attention = Attention(shape, outputs) if attends else None
        self.after = after

    def forward(self, x: Tensor, vector: Tensor, kept: Tensor | None = None) -> Tensor:
        if kept is not None:
            x = torch.cat((x, kept), dim=1)
        x = self.residual(x, vector)
        if self.attention is not None:
            x = self.attention(x)
        return x if self.after is None else self.after(x, vector)


class ResidualBlock(nn.Module):
    """Two convolutions beside a short cut, the vector scaling and shifting what is between them (AdaGN, 3).

    x [B, inputs, H, W], vector [B, 4 D]; the side is halved or doubled on both ways, before the first convolution.
    """

    def __init__(
        self, shape: UNetShape, inputs: int, outputs: int, *, resample: Literal["halve", "double"] | None = None
    ) -> None:
        super().__init__()
        self.resample = {"halve": halve, "double": double, None: None}[resample]
        self.norm_in = build_norm(shape, inputs)
        self.conv_in = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)
        self.modulation = nn.Linear(4 * shape.width, 2 * outputs)
        self.norm_out = build_norm(shape, outputs)
        self.dropout = nn.Dropout(shape.dropout)
        self.conv_out = nn.Conv2d(outputs, outputs, kernel_size=3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, kernel_size=1) if inputs != outputs else None
        zero(self.conv_out)  # the block starts as its short cut

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        scale, shift = self.modulation(vector)[:, :, None, None].chunk(2, dim=1)  # [B, outputs, 1, 1] each
        y = F.silu(self.norm_in(x))
        if self.resample is not None:
            x, y = self.resample(x), self.resample(y)
        y = torch.addcmul(shift, self.norm_out(self.conv_in(y)), 1 + scale)
        y = self.conv_out(self.dropout(F.silu(y)))
        return (x if self.shortcut is None else self.shortcut(x)) + y


class Attention(nn.Module):
    """Every pixel sees every other of its image, added to what came in; heads of the same width at all levels."""

    def __init__(self, shape: UNetShape, maps: int) -> None:
        super().__init__()
        self.head_width = shape.head_width
        self.norm = build_norm(shape, maps)
        self.query_key_value = nn.Linear(maps, 3 * maps)
        self.output = nn.Linear(maps, maps)
        zero(self.output)

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.norm(x).flatten(2).transpose(1, 2)  # [B, HW, C], a view where channels are last
        heads = self.query_key_value(pixels).unflatten(2, (3, -1, self.head_width))  # [B, HW, 3, heads, C / heads]
        mixed = F.scaled_dot_product_attention(*heads.permute(2, 0, 3, 1, 4).unbind())  # [B, heads, HW, C / heads]
        y = self.output(mixed.transpose(1, 2).flatten(2))  # [B, HW, C]
        return x + y.transpose(1, 2).unflatten(2, x.shape[2:])


class Resample(nn.Module):
    """Half the side by a convolution in steps of two, or twice the side and a convolution after it."""

    def __init__(self, maps: int, way: Literal["halve", "double"]) -> None:
        super().__init__()
        self.doubles = way == "double"
        self.conv = nn.Conv2d(maps, maps, kernel_size=3, padding=1, stride=1 if self.doubles else 2)

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        return self.conv(double(x) if self.doubles else x)


def build_resample(shape: UNetShape, maps: int, way: Literal["halve", "double"]) -> nn.Module:
    if shape.resampling == "residual":
        return ResidualBlock(shape, maps, maps, resample=way)
    return Resample(maps, way)


def build_norm(shape: UNetShape, maps: int) -> nn.GroupNorm:
    """As many groups as divide the width of the first level, of which every level's maps are a multiple."""
    most = max(1, min(NORM_GROUPS, shape.width // MAPS_PER_GROUP))
    groups = next(count for count in range(most, 0, -1) if shape.width % count == 0)
    return nn.GroupNorm(groups, maps)


def halve(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2)


def double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def zero(layer: nn.Conv2d | nn.Linear) -> None:
    """Zeros, so that what the layer adds is nothing at first."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def check_sides(side: tuple[int, int], by: int) -> None:
    """Raises ValueError unless both sides are multiples of a number."""
    if side[0] % by or side[1] % by:
        raise ValueError(f"sides of {side[0]} x {side[1]} pixels must be multiples of {by}")
