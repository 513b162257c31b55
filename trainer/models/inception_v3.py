"""Inception v3 as it was released in 2015, with which Fréchet Inception distances are taken."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE, FEATURES, CLASSES = 299, 2048, 1008


class Convolution(nn.Module):
    """A convolution without bias, its norm over the batch, rectified."""

    def __init__(self, inputs: int, maps: int, kernel: int | tuple[int, int], *, stride: int = 1, padding=(0, 0)):
        super().__init__()
        self.conv = nn.Conv2d(inputs, maps, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(maps, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


def same(inputs: int, maps: int, height: int, width: int) -> Convolution:
    """A convolution of height x width that keeps the side."""
    return Convolution(inputs, maps, (height, width), padding=(height // 2, width // 2))


def averaged(x: Tensor) -> Tensor:
    """Each place's mean with its neighbours; places outside do not count, unlike in later releases."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class Mixed35(nn.Module):
    """A module of the grid of 35 x 35 (Szegedy et al., 2016, figure 5)."""

    def __init__(self, inputs: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = same(inputs, 64, 1, 1)
        self.branch5x5_1 = same(inputs, 48, 1, 1)
        self.branch5x5_2 = same(48, 64, 5, 5)
        self.branch3x3dbl_1 = same(inputs, 64, 1, 1)
        self.branch3x3dbl_2 = same(64, 96, 3, 3)
        self.branch3x3dbl_3 = same(96, 96, 3, 3)
        self.branch_pool = same(inputs, pooled, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(averaged(x))], 1)


class Reduction35(nn.Module):
    """From 35 x 35 to 17 x 17 (figure 10)."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = Convolution(inputs, 384, 3, stride=2)
        self.branch3x3dbl_1 = same(inputs, 64, 1, 1)
        self.branch3x3dbl_2 = same(64, 96, 3, 3)
        self.branch3x3dbl_3 = Convolution(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        twice = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), twice, F.max_pool2d(x, 3, stride=2)], 1)


class Mixed17(nn.Module):
    """A module of the grid of 17 x 17, whose 7 x 7 are 1 x 7 and 7 x 1 in turn (figure 6)."""

    def __init__(self, inside: int) -> None:
        super().__init__()
        self.branch1x1 = same(768, 192, 1, 1)
        self.branch7x7_1 = same(768, inside, 1, 1)
        self.branch7x7_2 = same(inside, inside, 1, 7)
        self.branch7x7_3 = same(inside, 192, 7, 1)
        self.branch7x7dbl_1 = same(768, inside, 1, 1)
        self.branch7x7dbl_2 = same(inside, inside, 7, 1)
        self.branch7x7dbl_3 = same(inside, inside, 1, 7)
        self.branch7x7dbl_4 = same(inside, inside, 7, 1)
        self.branch7x7dbl_5 = same(inside, 192, 1, 7)
        self.branch_pool = same(768, 192, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat([self.branch1x1(x), once, twice, self.branch_pool(averaged(x))], 1)


class Reduction17(nn.Module):
    """From 17 x 17 to 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1 = same(768, 192, 1, 1)
        self.branch3x3_2 = Convolution(192, 320, 3, stride=2)
        self.branch7x7x3_1 = same(768, 192, 1, 1)
        self.branch7x7x3_2 = same(192, 192, 1, 7)
        self.branch7x7x3_3 = same(192, 192, 7, 1)
        self.branch7x7x3_4 = Convolution(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([three, seven, F.max_pool2d(x, 3, stride=2)], 1)


class Mixed8(nn.Module):
    """A module of the grid of 8 x 8, whose branches part once more (figure 7).

    highest: each place's largest neighbour takes the place of their mean, as the release of 2015 has it in its last
    module alone.
    """

    def __init__(self, inputs: int, *, highest: bool) -> None:
        super().__init__()
        self.highest = highest
        self.branch1x1 = same(inputs, 320, 1, 1)
        self.branch3x3_1 = same(inputs, 384, 1, 1)
        self.branch3x3_2a = same(384, 384, 1, 3)
        self.branch3x3_2b = same(384, 384, 3, 1)
        self.branch3x3dbl_1 = same(inputs, 448, 1, 1)
        self.branch3x3dbl_2 = same(448, 384, 3, 3)
        self.branch3x3dbl_3a = same(384, 384, 1, 3)
        self.branch3x3dbl_3b = same(384, 384, 3, 1)
        self.branch_pool = same(inputs, 192, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        once = self.branch3x3_1(x)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if self.highest else averaged(x)
        parts = [self.branch3x3_2a(once), self.branch3x3_2b(once)]
        parts += [self.branch3x3dbl_3a(twice), self.branch3x3dbl_3b(twice)]
        return torch.cat([self.branch1x1(x), *parts, self.branch_pool(pooled)], 1)


class InceptionV3(nn.Module):
    """Images [B, 3, 299, 299] of [-1, 1] to features [B, 2048], the last maps' means (Szegedy et al., 2016, table 1).

    The tensors' names are those of the public port of the weights of 2015-12-05. Weights are read, never trained.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Convolution(32, 32, 3)
        self.Conv2d_2b_3x3 = same(32, 64, 3, 3)
        self.Conv2d_3b_1x1 = same(64, 80, 1, 1)
        self.Conv2d_4a_3x3 = Convolution(80, 192, 3)
        self.Mixed_5b = Mixed35(192, 32)
        self.Mixed_5c = Mixed35(256, 64)
        self.Mixed_5d = Mixed35(288, 64)
        self.Mixed_6a = Reduction35(288)
        self.Mixed_6b = Mixed17(128)
        self.Mixed_6c = Mixed17(160)
        self.Mixed_6d = Mixed17(160)
        self.Mixed_6e = Mixed17(192)
        self.Mixed_7a = Reduction17()
        self.Mixed_7b = Mixed8(1280, highest=False)
        self.Mixed_7c = Mixed8(2048, highest=True)
        self.fc = nn.Linear(FEATURES, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(images)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, stride=2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, stride=2))))  # [B, 288, 35, 35]
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))  # [B, 768, 17, 17]
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))  # [B, 2048, 8, 8]
        return x.mean((2, 3))

    def logits(self, features: Tensor) -> Tensor:
        """Of features [B, 2048] the logits [B, 1008] without their bias, as the Inception score's authors took them."""
        return F.linear(features, self.fc.weight)
