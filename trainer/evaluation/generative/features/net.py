"""What a feature net is, and what it sees in images of all ranks."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainer.distributed import World
from trainer.evaluation.generative.features.resize import Pixels


@dataclass(frozen=True)
class FeatureNet:
    """A network that says what is in an image."""

    name: str
    """As the metrics' names have it"""
    standard: bool
    """Whether distances by it are what the literature calls FID and KID"""
    protocol: Mapping[str, Any]
    """Everything about it that changes a metric: weights, layer, resize, scale"""
    see: Callable[[Pixels], tuple[Tensor, Tensor | None]]
    """Images [B, H, W, C] to features [B, D], and to logits [B, K] where it knows classes"""


@dataclass(frozen=True)
class Seen:
    """What a net saw in images, in their order; on rank 0 alone, elsewhere none of them."""

    features: Tensor
    """[N, D] float32, on the CPU"""
    logits: Tensor | None
    """[N, K] float32"""

    def __len__(self) -> int:
        return len(self.features)


@torch.inference_mode()
def see_all(net: FeatureNet, batches: Iterable[tuple[Sequence[int], Pixels]], blank: Pixels, world: World) -> Seen:
    """What the net sees in every rank's batches, each the images' places in the whole and their pixels.

    blank [1, H, W, C] is any image: a rank without one must know how wide features are. In float32 throughout, as
    reduced precision would move distances by more than their error.
    """
    ids: list[int] = []
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        features, logits = ([each] if each is not None else [] for each in _empty(net, blank))
        for places, images in batches:
            seen, answers = net.see(images)
            features.append(seen.float().cpu())
            if answers is not None:
                logits.append(answers.float().cpu())
            ids += places
    order = world.collect(torch.tensor(ids, dtype=torch.int64)).argsort()
    collected = [world.collect(torch.cat(parts))[order] if parts else None for parts in (features, logits)]
    assert collected[0] is not None
    return Seen(collected[0], collected[1])


def _empty(net: FeatureNet, blank: Pixels) -> tuple[Tensor | None, ...]:
    return tuple(None if each is None else each[:0].float().cpu() for each in net.see(blank))
