"""Sequences shared by several ranks: each has a run of the tokens and, for attention, all tokens of some heads."""

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor


class Share(Protocol):
    """One of `parts` equal runs of every sequence's tokens, and the exchanges around attention (Jacobs et al., 2023).

    All parts call in the same order. H are the heads of one tensor, which may be fewer in keys and values.
    """

    @property
    def part(self) -> int: ...
    @property
    def parts(self) -> int: ...
    def to_heads(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """This part's tokens of all heads [B, T/parts, H, D/H] to all tokens of its heads [B, T, H/parts, D/H]."""
        ...

    def to_tokens(self, mixed: Tensor) -> Tensor:
        """All tokens of this part's heads [B, T, H/parts, D/H] to its tokens of all heads [B, T/parts, H, D/H]."""
        ...


class Whole:
    """The only part."""

    part, parts = 0, 1

    def to_heads(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return query, key, value

    def to_tokens(self, mixed: Tensor) -> Tensor:
        return mixed


WHOLE = Whole()


def own_places(length: int, share: Share) -> slice:
    """Which places of a sequence are this part's; those of the last parts may lie behind its end."""
    each = -(-length // share.parts)
    return slice(share.part * each, (share.part + 1) * each)


def filled(x: Tensor, parts: int, value: int) -> Tensor:
    """x [B, T] with `value` behind its end, so that T is a multiple of `parts`."""
    missing = -x.shape[1] % parts
    return F.pad(x, (0, missing), value=value) if missing else x
