"""What steers a diffusion network: the level of noise and the class of the image, as one vector."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOWEST = 10_000.0  # the last frequency is about 1 / SLOWEST, the first is 1 (Vaswani et al., 2017, 3.5)


class Conditioning(nn.Module):
    """Level and class to one vector: a sinusoid through two layers, plus the class's row (Nichol and Dhariwal, 2021).

    level [B] float on any scale; labels [B] int64, of which `classes` means "no class", as None does for all. Returns
    [B, width]. With classes = 0 there is no row to add and labels are not read.
    """

    def __init__(self, *, frequencies: int, width: int, classes: int) -> None:
        super().__init__()
        self.frequencies, self.no_class = frequencies, classes
        self.first = nn.Linear(frequencies, width)
        self.second = nn.Linear(width, width)
        self.classes = nn.Embedding(classes + 1, width) if classes else None

    def forward(self, level: Tensor, labels: Tensor | None) -> Tensor:
        waves = sinusoid(level, self.frequencies).to(self.first.weight.dtype)
        vector = self.second(F.silu(self.first(waves)))
        if self.classes is None:
            return vector
        if labels is None:
            labels = torch.full(level.shape, self.no_class, device=level.device)
        return vector + self.classes(labels)


def sinusoid(positions: Tensor, width: int) -> Tensor:
    """positions [...] to [..., width] float32: cosines, then sines, of frequencies falling from 1 (Ho et al., 2020).

    An odd width ends in a zero.
    """
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=positions.device)
    angles = positions.float().unsqueeze(-1) * torch.exp(steps * (-math.log(SLOWEST) / half))
    return F.pad(torch.cat((angles.cos(), angles.sin()), dim=-1), (0, width - 2 * half))
