"""Attention of transformers: grouped heads, rotated positions, and which token sees which."""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.sequences import Share

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines [T, 1, D/H]"""
PADDING = -1
"""The document of what is no token"""


class AttentionShape(Protocol):
    """What an attention layer needs to know, read-only."""

    @property
    def width(self) -> int: ...
    @property
    def num_heads(self) -> int: ...
    @property
    def num_kv_heads(self) -> int | None: ...
    @property
    def attention(self) -> str: ...
    @property
    def bias(self) -> bool: ...
    @property
    def dropout(self) -> float: ...


class Attention(nn.Module):
    """Scaled dot-product attention; groups of heads may share keys and values (Ainslie et al., 2023).

    x [B, T, D]; mask [B, 1, T, T] bool says who sees whom, and is all there is to say; without one a token sees itself
    and those before it, or all, as the shape has it. Where sequences are shared, x and rotation are of this part's
    tokens, the mask is of all. Of whole ones the output may be asked for from the token `begin` on alone,
    [B, T - begin, D].
    """

    def __init__(self, shape: AttentionShape) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = shape.num_heads, shape.num_kv_heads or shape.num_heads
        self.head_width = shape.width // shape.num_heads
        self.causal = shape.attention == "causal"
        rows = (self.num_heads + 2 * self.num_kv_heads) * self.head_width
        self.query_key_value = nn.Linear(shape.width, rows, bias=shape.bias)
        self.output = nn.Linear(shape.width, shape.width, bias=shape.bias)
        self.dropout = shape.dropout

    def forward(
        self, x: Tensor, rotation: Rotation | None, mask: Tensor | None, share: Share, begin: int = 0
    ) -> Tensor:
        batch, length, _ = x.shape
        heads, kv_heads = self.num_heads, self.num_kv_heads
        stacked = self.query_key_value(x).view(batch, length, heads + 2 * kv_heads, self.head_width)
        if rotation is None:
            query, key, value = stacked.split((heads, kv_heads, kv_heads), dim=2)
        else:
            turned, value = stacked.split((heads + kv_heads, kv_heads), dim=2)
            query, key = rotate(turned, rotation).split((heads, kv_heads), dim=2)
        query, key, value = share.to_heads(query[:, begin:], key, value)
        if mask is not None:
            mask = mask[:, :, begin:]
        elif begin and self.causal:
            mask = torch.ones(length - begin, length, dtype=torch.bool, device=x.device).tril(begin)
        mixed = F.scaled_dot_product_attention(
            query.transpose(1, 2),  # [B, H, T, D/H]
            key.transpose(1, 2),
            value.transpose(1, 2),
            attn_mask=mask,
            is_causal=self.causal and mask is None,
            dropout_p=self.dropout if self.training else 0.0,
            enable_gqa=kv_heads != heads,
        )
        mixed = share.to_tokens(mixed.transpose(1, 2))  # [B, T, H, D/H]
        return self.output(mixed.flatten(2))


class Rotary(nn.Module):
    """Cosines and sines that turn queries and keys by their position (Su et al., 2021, 3.4.2)."""

    cosine: Tensor
    sine: Tensor

    def __init__(self, head_width: int, context_tokens: int, base: float) -> None:
        super().__init__()
        frequency = base ** (-torch.arange(0, head_width, 2, dtype=torch.float32) / head_width)
        angle = torch.outer(torch.arange(context_tokens, dtype=torch.float32), frequency).repeat(1, 2)  # [T, D/H]
        self.register_buffer("cosine", angle.cos()[:, None], persistent=False)
        self.register_buffer("sine", angle.sin()[:, None], persistent=False)

    def forward(self, places: slice) -> Rotation:
        return self.cosine[places], self.sine[places]


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """x [B, T, H, D/H] turned pairwise, feature i with feature i + D/2H."""
    cosine, sine = rotation
    first, second = x.chunk(2, dim=-1)
    return (x * cosine + torch.cat((-second, first), dim=-1) * sine).to(x.dtype)


def mask_between(documents: Tensor, *, causal: bool) -> Tensor:
    """Which token sees which, [B, 1, T, T] bool: those of its own document, and no later one if causal.

    documents [B, T] int64; -1 is padding, which nobody sees and which sees itself alone, so that its softmax is over
    something.
    """
    same = documents[:, :, None] == documents[:, None, :]  # [B, T, T]
    itself = torch.eye(documents.shape[1], dtype=torch.bool, device=documents.device)
    visible = (same & (documents >= 0)[:, None, :]) | itself
    return (visible.tril() if causal else visible)[:, None]


def places_in(documents: Tensor) -> Tensor:
    """Each token's place in its document, [B, T] int64 from 0: the tokens of a document lie side by side."""
    index = torch.arange(documents.shape[1], device=documents.device)
    first = F.pad(documents[:, 1:] != documents[:, :-1], (1, 0), value=True)
    return index - torch.where(first, index, 0).cummax(dim=1).values
