"""Transformers: GPT-2's, Llama's and BERT's shapes and the combinations between them, under a head of any kind."""

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainer.models.attention import PADDING, Attention, Rotary, Rotation, mask_between, places_in
from trainer.models.cross_entropy import IGNORE
from trainer.models.heads import LanguageHead, build_norm
from trainer.models.sequences import WHOLE, Share, filled, own_places


class TransformerShape(Protocol):
    """What the network needs to know, read-only; the configurations of decoders and encoders are two."""

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
    def norm_place(self) -> str: ...
    @property
    def norm_eps(self) -> float: ...
    @property
    def positions(self) -> str: ...
    @property
    def rotary_base(self) -> float: ...
    @property
    def activation(self) -> str: ...
    @property
    def attention(self) -> str: ...
    @property
    def bias(self) -> bool: ...
    @property
    def tied_embeddings(self) -> bool: ...
    @property
    def token_types(self) -> int: ...
    @property
    def embedding_norm(self) -> bool: ...
    @property
    def head_transform(self) -> bool: ...
    @property
    def dropout(self) -> float: ...


class Transformer(nn.Module):
    """Token ids to what the head makes of their features (Vaswani et al., 2017).

    tokens [B, T] int64 with T <= context_tokens. documents [B, T] int64, when given, keeps attention inside documents:
    tokens see those of their own number alone and count places from its first, -1 is padding. targets are the head's.

    Blocks normalise their input, with one more norm at the end (GPT-2), or their output (BERT). RMSNorm, rotary
    positions, SwiGLU and grouped-query attention are Llama's choices (Touvron et al., 2023).

    Where ranks share sequences, each is given whole ones, and in training returns what the head makes of its own
    tokens; evaluation reads whole sequences, so each rank may score others.
    """

    recompute = False
    """Whether training keeps each block's input alone and computes the rest again in the backward pass"""
    share: Share = WHOLE
    """The tokens of every sequence that this rank trains on"""

    def __init__(self, shape: TransformerShape, *, vocabulary_size: int, context_tokens: int, head: nn.Module) -> None:
        super().__init__()
        self.shape, self.context_tokens = shape, context_tokens
        self.causal = shape.attention == "causal"
        self.embedding = nn.Embedding(vocabulary_size, shape.width)
        self.positions = nn.Embedding(context_tokens, shape.width) if shape.positions == "learned" else None
        self.sines = Sines(shape.width, context_tokens) if shape.positions == "sinusoidal" else None
        rotary = shape.positions == "rotary"
        self.rotary = Rotary(shape.width // shape.num_heads, context_tokens, shape.rotary_base) if rotary else None
        self.token_types = nn.Embedding(shape.token_types, shape.width) if shape.token_types else None
        self.embedding_norm = build_norm(shape) if shape.embedding_norm else None
        self.dropout = nn.Dropout(shape.dropout)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.num_layers))
        self.norm = build_norm(shape) if shape.norm_place == "before" else None
        self.head = head
        if shape.tied_embeddings and isinstance(head, LanguageHead):
            head.weight = self.embedding.weight  # type: ignore[assignment]  # torch says Tensor
        self.initialise(shape)

    def initialise(self, shape: TransformerShape) -> None:
        """Biases 0, the rest normal(0, 0.02); what a pre-norm block adds, narrower by sqrt(2 x layers).

        Radford et al., 2019, 2.3. Behind a norm the scale of what is added does not matter (Devlin et al., 2019).
        """
        narrow = 0.02 / math.sqrt(2 * shape.num_layers) if shape.norm_place == "before" else 0.02
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                if name.endswith("bias"):
                    nn.init.zeros_(parameter)
                continue
            last = name.endswith(("attention.output.weight", "feed_forward.down.weight"))
            nn.init.normal_(parameter, std=narrow if last else 0.02)

    def parts(self) -> list[tuple[str, ...]]:
        """Prefixes of parameter names from the input to the head, which is last."""
        inputs = ("embedding", "positions", "token_types", "embedding_norm")
        parts = [tuple(name for name in inputs if getattr(self, name) is not None)]
        parts += [(f"blocks.{number}",) for number in range(len(self.blocks))]
        return [*parts, *([("norm",)] if self.norm is not None else []), ("head",)]

    def features(self, tokens: Tensor, documents: Tensor | None = None, *, begin: int = 0) -> Tensor:
        """What the head reads: tokens [B, T] to states [B, T, D], or those of this part's tokens [B, T/parts, D].

        Of whole sequences those from the token `begin` on may be asked for alone, [B, T - begin, D].
        """
        length = tokens.shape[1]
        if length > self.context_tokens:
            raise ValueError(f"{length} tokens do not fit the context of {self.context_tokens}")
        share = self._share()
        own = own_places(length, share)
        if documents is None and length % share.parts and not self.causal:
            documents = torch.zeros_like(tokens)  # or tokens would see what fills the last part
        if documents is not None:
            documents = filled(documents, share.parts, PADDING)
        x = self.dropout(self.embed(filled(tokens, share.parts, 0)[:, own], documents, own))
        rotation = self.rotary(own) if self.rotary is not None else None
        mask = mask_between(documents, causal=self.causal) if documents is not None else None
        last = len(self.blocks) - 1
        for number, block in enumerate(self.blocks):
            first = begin if number == last else 0  # the others are context for those that are asked for
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, x, rotation, mask, share, first, use_reentrant=False)
            else:
                x = block(x, rotation, mask, share, first)
        return self.norm(x) if self.norm is not None else x

    def embed(self, tokens: Tensor, documents: Tensor | None, own: slice) -> Tensor:
        """The first block's input [B, T, D]: tokens stand at the places `own`; all are of type 0."""
        x = self.embedding(tokens)
        places = own if documents is None else places_in(documents)[:, own]
        if self.positions is not None:
            x = x + self.positions.weight[places]
        if self.sines is not None:
            x = self.sines(x, places)
        if self.token_types is not None:
            x = x + self.token_types.weight[0]
        return self.embedding_norm(x) if self.embedding_norm is not None else x

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor | None = None,
        documents: Tensor | None = None,
        *,
        scores: bool = False,
    ) -> Tensor:
        """What the head makes of the features; `scores` is a language head's own, and asks for no gradient."""
        if scores and targets is not None:
            return self._scores(tokens, targets, documents)
        share = self._share()
        if targets is not None and share.parts > 1:
            targets = filled(targets, share.parts, IGNORE)[:, own_places(tokens.shape[1], share)]
        return self.head(self.features(tokens, documents), targets, documents)

    def _scores(self, tokens: Tensor, targets: Tensor, documents: Tensor | None) -> Tensor:
        """The head's scores [B, T, 3]; the last block computes nothing of what stands before the first target."""
        begin = int((targets != IGNORE).any(0).int().argmax())
        features = self.features(tokens, documents, begin=begin)
        found: Tensor = self.head(features, targets[:, begin:], documents, scores=True)
        return F.pad(found, (0, 0, begin, 0))

    def _share(self) -> Share:
        return self.share if self.training else WHOLE


class Block(nn.Module):
    """Attention, then feed-forward, each added to the stream and normalised before or after."""

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.before = shape.norm_place == "before"
        self.attention_norm = build_norm(shape)
        self.attention = Attention(shape)
        self.feed_forward_norm = build_norm(shape)
        gated = shape.activation in GATES
        self.feed_forward = GatedFeedForward(shape) if gated else FeedForward(shape)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(
        self, x: Tensor, rotation: Rotation | None, mask: Tensor | None, share: Share, begin: int = 0
    ) -> Tensor:
        """x [B, T, D] to [B, T - begin, D]: of the tokens before `begin`, attention alone reads."""
        own = x[:, begin:]
        if self.before:
            x = own + self.dropout(self.attention(self.attention_norm(x), rotation, mask, share, begin))
            return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        x = self.attention_norm(own + self.dropout(self.attention(x, rotation, mask, share, begin)))
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))


class FeedForward(nn.Module):
    """Two layers with GELU between them, in its tanh form as in GPT-2 or exact as in BERT (Hendrycks et al., 2016)."""

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.up = nn.Linear(shape.width, shape.hidden_width, bias=shape.bias)
        self.down = nn.Linear(shape.hidden_width, shape.width, bias=shape.bias)
        self.approximate = "tanh" if shape.activation == "gelu" else "none"

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x), approximate=self.approximate))


GATES = {"swiglu": F.silu, "geglu": F.gelu}


class GatedFeedForward(nn.Module):
    """SwiGLU or GeGLU: down(f(gate x) * up x) (Shazeer, 2020); gate and up are one matrix product."""

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.gate_up = nn.Linear(shape.width, 2 * shape.hidden_width, bias=shape.bias)
        self.down = nn.Linear(shape.hidden_width, shape.width, bias=shape.bias)
        self.gate = GATES[shape.activation]

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(self.gate(gate) * up)


class Sines(nn.Module):
    """Adds sines and cosines of each place to embeddings scaled by sqrt(D) (Vaswani et al., 2017, 3.4 and 3.5)."""

    table: Tensor

    def __init__(self, width: int, context_tokens: int) -> None:
        super().__init__()
        frequency = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)
        angle = torch.outer(torch.arange(context_tokens, dtype=torch.float32), frequency)  # [T, D/2]
        table = torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)[:, :width]
        self.register_buffer("table", table, persistent=False)
        self.scale = math.sqrt(width)

    def forward(self, x: Tensor, places: Tensor | slice) -> Tensor:
        return torch.add(self.table[places], x, alpha=self.scale)
