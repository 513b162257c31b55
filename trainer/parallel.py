"""Transformers that several ranks compute together: each takes a run of the tokens (Ulysses: Jacobs et al., 2023)."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import _functional_collectives as collectives

from trainer.distributed import World


class Ulysses:
    """This rank's tokens of every sequence, and for attention all tokens of its heads: one exchange in, one out.

    DeepSpeed's DistributedAttention exchanges query, key and value one after the other, and needs DeepSpeed's own
    communication started; here they go together, by PyTorch's exchange, whose gradient its compiler knows too.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group, self.part, self.parts = group, dist.get_rank(group), dist.get_world_size(group)

    def to_heads(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, T/parts, H, D/H] each to [B, T, H/parts, D/H]."""
        runs = [x.unflatten(2, (self.parts, -1)) for x in (query, key, value)]  # [B, T/parts, parts, H/parts, D/H]
        sent = torch.cat(runs, dim=3).movedim(2, 0)
        received = self._exchange(sent)  # [parts of the tokens, B, T/parts, heads of all three, D/H]
        whole = received.transpose(0, 1).flatten(1, 2)
        query, key, value = whole.split([x.shape[3] for x in runs], dim=2)
        return query, key, value

    def to_tokens(self, mixed: Tensor) -> Tensor:
        """[B, T, H/parts, D/H] to [B, T/parts, H, D/H]."""
        received = self._exchange(mixed.unflatten(1, (self.parts, -1)).transpose(0, 1))
        return received.movedim(0, 2).flatten(2, 3)  # from [parts of the heads, B, T/parts, H/parts, D/H]

    def _exchange(self, sent: Tensor) -> Tensor:
        """sent[n] goes to part n, and received[n] comes from it."""
        received = collectives.all_to_all_single(sent.contiguous(), None, None, self.group)
        return collectives.wait_tensor(received)


def share_sequences(network: nn.Module, world: World) -> None:
    """Let a network's transformers train on this rank's part of the tokens; every rank is given whole sequences.

    Each rank's loss is the sum over its own tokens, so the gradients of a replica add up to those of whole sequences.
    """
    if world.peers is None:
        return
    share = Ulysses(world.peers)
    for module in network.modules():
        if hasattr(module, "share"):
            module.share = share  # type: ignore[assignment]  # torch says Tensor or Module
