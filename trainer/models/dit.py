"""DiT: a transformer over an image's patches that predicts what noise hides."""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainer.models.conditioning import SLOWEST, Conditioning

FREQUENCIES = 256  # features of the noise level before its two layers, as in the authors' code
NORM_EPS = 1e-6


class DiTShape(Protocol):
    """What the network needs to know, read-only; `configs.diffusion.DiTConfig` is one."""

    @property
    def patch(self) -> int: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def num_heads(self) -> int: ...
    @property
    def feed_forward_factor(self) -> float: ...


class DiT(nn.Module):
    """Noisy images, their level of noise and class to a prediction for each pixel (Peebles and Xie, 2023, 3.2).

    x [B, C, H, W] of the `side` given; level [B] float on any scale; labels [B] int64, `classes` meaning "no class".
    Returns [B, outputs, H, W]. Patches are read row by row; their places are fixed sines and cosines, no parameters.
    """

    places: Tensor

    def __init__(self, shape: DiTShape, *, channels: int, outputs: int, classes: int, side: tuple[int, int]) -> None:
        super().__init__()
        if side[0] % shape.patch or side[1] % shape.patch:
            raise ValueError(f"sides of {side[0]} x {side[1]} pixels must be multiples of the patch's {shape.patch}")
        self.recompute = False
        self.patch, self.outputs = shape.patch, outputs
        rows, columns = side[0] // shape.patch, side[1] // shape.patch
        self.embedding = Conditioning(frequencies=FREQUENCIES, width=shape.width, classes=classes)
        self.patches = nn.Linear(channels * shape.patch**2, shape.width)
        self.register_buffer("places", grid_places(rows, columns, shape.width), persistent=False)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.num_layers))
        self.modulation = nn.Linear(shape.width, 2 * shape.width)
        self.head = nn.Linear(shape.width, shape.patch**2 * outputs)
        self.initialise()

    def initialise(self) -> None:
        """Xavier uniform, biases 0; the vector's layers normal(0, 0.02); modulations and the head 0 (the paper's code).

        Every block starts as the identity, and the network's first prediction is 0.
        """
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2 or "modulation" in name or name.startswith("head"):
                nn.init.zeros_(parameter)
            elif name.startswith("embedding"):
                nn.init.normal_(parameter, std=0.02)
            else:
                nn.init.xavier_uniform_(parameter)

    def parts(self) -> list[tuple[str, ...]]:
        """Prefixes of the parameters' names from the input to the head, which is last."""
        blocks = [(f"blocks.{index}",) for index in range(len(self.blocks))]
        return [("embedding", "patches"), *blocks, ("modulation",), ("head",)]

    def forward(self, x: Tensor, level: Tensor, labels: Tensor | None = None) -> Tensor:
        height, width = x.shape[2:]
        vector = F.silu(self.embedding(level, labels))  # [B, D], read by every block
        x = self.patches(cut(x, self.patch))  # [B, T, D]
        x = x + self.places.to(x.dtype)
        for block in self.blocks:
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, x, vector, use_reentrant=False)
            else:
                x = block(x, vector)
        shift, scale = self.modulation(vector).unsqueeze(1).chunk(2, dim=-1)  # [B, 1, D] each
        return join(self.head(modulate(x, shift, scale)), self.patch, height, width)


class Block(nn.Module):
    """Attention, then feed-forward, each scaled and shifted on its way in and scaled on its way out (adaLN-Zero)."""

    def __init__(self, shape: DiTShape) -> None:
        super().__init__()
        self.num_heads = shape.num_heads
        self.modulation = nn.Linear(shape.width, 6 * shape.width)
        self.query_key_value = nn.Linear(shape.width, 3 * shape.width)
        self.output = nn.Linear(shape.width, shape.width)
        hidden = int(shape.width * shape.feed_forward_factor)
        self.up = nn.Linear(shape.width, hidden)
        self.down = nn.Linear(hidden, shape.width)

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        shift, scale, gate, shift_2, scale_2, gate_2 = self.modulation(vector).unsqueeze(1).chunk(6, dim=-1)
        x = torch.addcmul(x, gate, self.attend(modulate(x, shift, scale)))
        hidden = F.gelu(self.up(modulate(x, shift_2, scale_2)), approximate="tanh")
        return torch.addcmul(x, gate_2, self.down(hidden))

    def attend(self, x: Tensor) -> Tensor:
        heads = self.query_key_value(x).unflatten(2, (3, self.num_heads, -1))  # [B, T, 3, H, D/H]
        mixed = F.scaled_dot_product_attention(*heads.permute(2, 0, 3, 1, 4).unbind())  # [B, H, T, D/H]
        return self.output(mixed.transpose(1, 2).flatten(2))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x [B, T, D] normalised, then scaled by 1 + scale [B, 1, D] and shifted."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=NORM_EPS), 1 + scale)


def cut(x: Tensor, patch: int) -> Tensor:
    """Images [B, C, H, W] to patches [B, T, C x patch x patch], row by row."""
    x = x.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # [B, C, rows, patch, columns, patch]
    return x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def join(x: Tensor, patch: int, height: int, width: int) -> Tensor:
    """Patches [B, T, patch x patch x C], row by row, to images [B, C, H, W]."""
    x = x.view(x.shape[0], height // patch, width // patch, patch, patch, -1)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(x.shape[0], -1, height, width)


def grid_places(rows: int, columns: int, width: int) -> Tensor:
    """Sines, then cosines, of each patch's column in the first half of the features and of its row in the second.

    Returns [rows x columns, width] float32; width must be a multiple of 4.
    """
    quarter = width // 4
    frequencies = SLOWEST ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    column = torch.arange(columns, dtype=torch.float64).repeat(rows)  # [T]
    row = torch.arange(rows, dtype=torch.float64).repeat_interleave(columns)
    angles = torch.stack((column, row), dim=1).unsqueeze(2) * frequencies  # [T, 2, D/4]
    return torch.cat((angles.sin(), angles.cos()), dim=2).flatten(1).float()
