"""A decoder-only transformer: GPT-2's and Llama's shapes and the combinations between them."""

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DecoderShape(Protocol):
    """What the network needs to know, read-only; `configs.schema.DecoderConfig` is one."""

    @property
    def num_layers(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def hidden_width(self) -> int: ...
    @property
    def num_heads(self) -> int: ...
    @property
    def num_kv_heads(self) -> int | None: ...
    @property
    def norm(self) -> str: ...
    @property
    def norm_eps(self) -> float: ...
    @property
    def positions(self) -> str: ...
    @property
    def rotary_base(self) -> float: ...
    @property
    def activation(self) -> str: ...
    @property
    def bias(self) -> bool: ...
    @property
    def tied_embeddings(self) -> bool: ...
    @property
    def dropout(self) -> float: ...


class Decoder(nn.Module):
    """Token ids to next-token logits, each position seeing itself and what came before (Vaswani et al., 2017).

    tokens [B, T] int64 with T <= context_tokens; returns logits [B, T, V]. Pre-norm blocks with a final norm (GPT-2);
    RMSNorm, rotary positions, SwiGLU and grouped-query attention are Llama's choices (Touvron et al., 2023).
    """

    def __init__(self, shape: DecoderShape, *, vocabulary_size: int, context_tokens: int) -> None:
        super().__init__()
        self.context_tokens = context_tokens
        self.embedding = nn.Embedding(vocabulary_size, shape.width)
        learned = shape.positions == "learned"
        self.positions = nn.Embedding(context_tokens, shape.width) if learned else None
        self.rotary = None if learned else Rotary(shape.width // shape.num_heads, context_tokens, shape.rotary_base)
        self.dropout = nn.Dropout(shape.dropout)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.num_layers))
        self.norm = build_norm(shape)
        self.head = nn.Linear(shape.width, vocabulary_size, bias=False)
        self.initialise(shape.num_layers)
        if shape.tied_embeddings:
            self.head.weight = self.embedding.weight

    def initialise(self, num_layers: int) -> None:
        """Biases 0, the rest normal(0, 0.02), last layers narrower by sqrt(2 x layers) (Radford et al., 2019, 2.3)."""
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                if name.endswith("bias"):
                    nn.init.zeros_(parameter)
                continue
            last = name.endswith(("attention.output.weight", "feed_forward.down.weight"))
            nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * num_layers) if last else 0.02)

    def features(self, tokens: Tensor) -> Tensor:
        """What the head reads: tokens [B, T] to normalised states [B, T, D]."""
        length = tokens.shape[1]
        if length > self.context_tokens:
            raise ValueError(f"{length} tokens do not fit the context of {self.context_tokens}")
        x = self.embedding(tokens)  # [B, T, D]
        if self.positions is not None:
            x = x + self.positions.weight[:length]
        rotation = self.rotary(length) if self.rotary is not None else None
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x, rotation)
        return self.norm(x)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.features(tokens))  # [B, T, V]


class Block(nn.Module):
    """Attention, then feed-forward, each on normalised input and added to the stream."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.attention_norm = build_norm(shape)
        self.attention = Attention(shape)
        self.feed_forward_norm = build_norm(shape)
        self.feed_forward = GatedFeedForward(shape) if shape.activation == "swiglu" else FeedForward(shape)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), rotation))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class Attention(nn.Module):
    """Causal scaled-dot-product attention; groups of heads may share keys and values (Ainslie et al., 2023)."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = shape.num_heads, shape.num_kv_heads or shape.num_heads
        self.head_width = shape.width // shape.num_heads
        self.sizes = [shape.width, self.num_kv_heads * self.head_width, self.num_kv_heads * self.head_width]
        self.query_key_value = nn.Linear(shape.width, sum(self.sizes), bias=shape.bias)
        self.output = nn.Linear(shape.width, shape.width, bias=shape.bias)
        self.dropout = shape.dropout

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        batch, length, width = x.shape
        query, key, value = self.query_key_value(x).split(self.sizes, dim=-1)
        query = query.view(batch, length, self.num_heads, self.head_width).transpose(1, 2)  # [B, H, T, D/H]
        key = key.view(batch, length, self.num_kv_heads, self.head_width).transpose(1, 2)
        value = value.view(batch, length, self.num_kv_heads, self.head_width).transpose(1, 2)
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        if self.num_kv_heads != self.num_heads:
            repeats = self.num_heads // self.num_kv_heads
            key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True, dropout_p=dropout)
        return self.output(mixed.transpose(1, 2).reshape(batch, length, width))


class FeedForward(nn.Module):
    """Two layers with GELU in its tanh form, as GPT-2 has it (Hendrycks and Gimpel, 2016)."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.up = nn.Linear(shape.width, shape.hidden_width, bias=shape.bias)
        self.down = nn.Linear(shape.hidden_width, shape.width, bias=shape.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class GatedFeedForward(nn.Module):
    """SwiGLU: down(silu(gate x) * up x) (Shazeer, 2020); gate and up are one matrix product."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.gate_up = nn.Linear(shape.width, 2 * shape.hidden_width, bias=shape.bias)
        self.down = nn.Linear(shape.hidden_width, shape.width, bias=shape.bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Rotary(nn.Module):
    """Cosines and sines that turn queries and keys by their position (Su et al., 2021, 3.4.2)."""

    cosine: Tensor
    sine: Tensor

    def __init__(self, head_width: int, context_tokens: int, base: float) -> None:
        super().__init__()
        frequency = base ** (-torch.arange(0, head_width, 2, dtype=torch.float32) / head_width)
        angle = torch.outer(torch.arange(context_tokens, dtype=torch.float32), frequency).repeat(1, 2)  # [T, D/H]
        self.register_buffer("cosine", angle.cos(), persistent=False)
        self.register_buffer("sine", angle.sin(), persistent=False)

    def forward(self, length: int) -> tuple[Tensor, Tensor]:
        return self.cosine[:length], self.sine[:length]


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """x [B, H, T, D/H] turned pairwise, feature i with feature i + D/2H."""
    cosine, sine = rotation
    first, second = x.chunk(2, dim=-1)
    return (x * cosine + torch.cat((-second, first), dim=-1) * sine).to(x.dtype)


def build_norm(shape: DecoderShape) -> nn.Module:
    if shape.norm == "rms_norm":
        return nn.RMSNorm(shape.width, eps=shape.norm_eps)
    return nn.LayerNorm(shape.width, eps=shape.norm_eps, bias=shape.bias)
