"""What stands on a transformer's features: a vocabulary, a class per text, or a class per token."""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.cross_entropy import IGNORE, linear_cross_entropy, linear_scores


class LanguageShape(Protocol):
    """What a language model's head needs to know, read-only."""

    @property
    def width(self) -> int: ...
    @property
    def norm(self) -> str: ...
    @property
    def norm_eps(self) -> float: ...
    @property
    def bias(self) -> bool: ...
    @property
    def head_transform(self) -> bool: ...


class LanguageHead(nn.Module):
    """Features [B, T, D] to logits [B, T, V], or with targets [B, T] to each token's negative log-likelihood [B, T].

    The likelihood is float32 and 0 where the target is IGNORE; all logits are never held at once. With head_transform
    the output, which has a bias then, reads a dense layer, GELU and a norm (Devlin et al., 2019). A transformer with
    tied embeddings puts its own in the place of `weight`.

    With scores, what `linear_scores` says of each token instead, [B, T, 3], 0 where the target is IGNORE; nothing is
    computed of those. There is no gradient then.
    """

    def __init__(self, shape: LanguageShape, *, vocabulary_size: int) -> None:
        super().__init__()
        self.transform = Transform(shape) if shape.head_transform else None
        self.weight = nn.Parameter(torch.empty(vocabulary_size, shape.width))
        self.bias = nn.Parameter(torch.zeros(vocabulary_size)) if shape.head_transform else None

    def forward(
        self,
        features: Tensor,
        targets: Tensor | None = None,
        documents: Tensor | None = None,
        *,
        scores: bool = False,
    ) -> Tensor:
        if targets is None:
            return F.linear(self.read(features), self.weight, self.bias)
        flat, wanted = features.flatten(0, 1), targets.flatten()  # [N, D], [N]
        if scores:
            known = torch.nonzero(wanted != IGNORE)[:, 0]
            found = linear_scores(self.read(flat[known]), self.weight, self.bias, wanted[known])  # [known, 3]
            return found.new_zeros(len(wanted), 3).index_copy(0, known, found).view(*targets.shape, 3)
        rows = torch.nonzero(wanted != IGNORE)[:, 0] if flat.is_cpu else None  # else the host would wait for a count
        if rows is None or len(rows) == len(wanted):
            return linear_cross_entropy(self.read(flat), self.weight, self.bias, wanted).view(targets.shape)
        nll = linear_cross_entropy(self.read(flat[rows]), self.weight, self.bias, wanted[rows])
        return nll.new_zeros(len(wanted)).index_copy(0, rows, nll).view(targets.shape)

    def read(self, features: Tensor) -> Tensor:
        """What the output layer reads, of the same shape as features."""
        return features if self.transform is None else self.transform(features)


class Transform(nn.Module):
    """Dense layer, GELU, norm: what BERT's output reads."""

    def __init__(self, shape: LanguageShape) -> None:
        super().__init__()
        self.dense = nn.Linear(shape.width, shape.width, bias=shape.bias)
        self.norm = build_norm(shape)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(F.gelu(self.dense(x)))


class ClassHead(nn.Module):
    """Features [B, T, D] to class logits [B, classes].

    pooling: the first token's features, the last one's, or the mean over all; documents [B, T] says with -1 which
    tokens are padding, at the end of a row, and do not count. pooler: a dense layer and tanh before the output, as BERT
    has them.
    """

    def __init__(self, width: int, *, classes: int, pooling: str, dropout: float, pooler: bool) -> None:
        super().__init__()
        self.pooling = pooling
        self.pooler = nn.Linear(width, width) if pooler else None
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(width, classes)

    def forward(self, features: Tensor, targets: Tensor | None = None, documents: Tensor | None = None) -> Tensor:
        x = pool(features, self.pooling, documents)
        if self.pooler is not None:
            x = self.pooler(x).tanh()
        return self.output(self.dropout(x))


def pool(features: Tensor, pooling: str, documents: Tensor | None) -> Tensor:
    """Features [B, T, D] of a text to one vector [B, D]."""
    if pooling == "first":
        return features[:, 0]
    if documents is None:
        return features[:, -1] if pooling == "last" else features.mean(1)
    real = documents >= 0  # [B, T]
    if pooling == "last":
        places = torch.arange(real.shape[1], device=real.device)
        last = torch.where(real, places, 0).amax(1)  # [B]
        return features.gather(1, last[:, None, None].expand(-1, 1, features.shape[-1])).squeeze(1)
    share = real / real.sum(1, keepdim=True).clamp(min=1)  # [B, T]
    return torch.einsum("btd,bt->bd", features, share.to(features.dtype))


class TokenHead(nn.Module):
    """Features [B, T, D] to class logits of each token [B, T, classes]."""

    def __init__(self, width: int, *, classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(width, classes)

    def forward(self, features: Tensor, targets: Tensor | None = None, documents: Tensor | None = None) -> Tensor:
        return self.output(self.dropout(features))


def build_norm(shape: LanguageShape) -> nn.Module:
    """RMSNorm, or LayerNorm whose bias goes with those of the linear layers."""
    if shape.norm == "rms_norm":
        return nn.RMSNorm(shape.width, eps=shape.norm_eps)
    return nn.LayerNorm(shape.width, eps=shape.norm_eps, bias=shape.bias)
