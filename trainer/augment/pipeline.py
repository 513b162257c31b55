"""All random changes of a run's configuration, in their order."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from configs.vision import AugmentConfig
from trainer.augment.geometry import Size, draw_flips, draw_maps, flip, warp
from trainer.augment.operations import alter
from trainer.augment.policy import choose
from trainer.augment.rectangles import draw_erased, draw_mixture, inside, mix

Tensors = Mapping[str, Tensor]


class Augmentation:
    """Draws what happens to images of size `image` of which the network sees `seen`, and does it to a batch.

    `draw` is a function of positions alone and runs where batches are collated; `apply` and `combine` run on the
    batch's device and never ask it for a value.
    """

    def __init__(self, config: AugmentConfig, *, image: Size, seen: Size) -> None:
        self.config, self.image, self.seen = config, image, seen
        moves = config.crop_area < 1 or config.shift > 0 or config.rotate_degrees > 0
        self.warps = moves or config.policy != "none" or image != seen
        self.mixes = config.mixup is not None or config.cutmix is not None

    def draw(self, positions: Sequence[int]) -> dict[str, Tensor]:
        """What happens to the sample at each position, as tensors of B rows: only what the configuration asks for."""
        drawn: dict[str, Tensor] = {}
        if self.warps:
            choice = choose(self.config, positions, self.seen)
            maps = draw_maps(self.config, positions, choice.maps, image=self.image, seen=self.seen)
            drawn |= {"maps": _float(maps), "operations": torch.from_numpy(choice.operations)}
            drawn["amounts"] = _float(choice.amounts)
        elif self.config.flip:
            drawn["flips"] = torch.from_numpy(draw_flips(self.config, positions))
        if self.config.erase:
            drawn["erased"] = _float(draw_erased(self.config, positions))
        if self.mixes:
            mixture = draw_mixture(self.config, positions)
            drawn["partners"] = torch.tensor(mixture.partners)
            drawn |= {"shares": _float(mixture.shares), "boxes": _float(mixture.boxes)}
        return drawn

    def apply(self, images: Tensor, drawn: Tensors, size: Size) -> Tensor:
        """images [B, C, H, W] of levels 0..255 in float32, moved and recoloured, as the network sees them at `size`.

        Levels are whole again after a warp, as those of stored images are: a map that moves nothing changes nothing.
        """
        if self.warps:
            images = warp(images, drawn["maps"], size).round()
            for operations, amounts in zip(drawn["operations"].unbind(1), drawn["amounts"].unbind(1), strict=True):
                images = alter(images, operations, amounts)
        elif self.config.flip:
            images = flip(images, drawn["flips"])
        return images

    def combine(self, images: Tensor, drawn: Tensors) -> tuple[Tensor, Tensor | None]:
        """Scaled images [B, C, H, W], where grey is 0, with rectangles erased and partners put in; and the partners'
        shares [B] of the labels, None without mixup and CutMix."""
        if self.config.erase:
            images = images.masked_fill(inside(drawn["erased"], (images.shape[2], images.shape[3])), 0.0)
        if not self.mixes:
            return images, None
        return mix(images, drawn["partners"], drawn["shares"], drawn["boxes"])


def _float(numbers: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(numbers, dtype=np.float32))
