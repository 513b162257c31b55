"""The images that an evaluation draws, shared out over ranks, and pictures of some of them."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from configs.diffusion import DrawingConfig
from data.card.pictures import png
from data.progress import Progress
from trainer.diffusion.drawing import Wish, draw, finite, to_pixels
from trainer.diffusion.pictures import Pixels, grid
from trainer.diffusion.samplers import network_calls
from trainer.distributed import World
from trainer.evaluation.generative.blocks import blocks_of
from trainer.tasks.diffusion import Diffusion

BETWEEN = 8
"""Images of the strip from one noise to another"""


@dataclass(frozen=True)
class Drawn:
    """Images that were wished for, of which each rank has its own."""

    wishes: Sequence[Wish]
    """All of them, on every rank"""
    blocks: Sequence[range]
    """Places of this rank's images among the wishes"""
    images: Pixels
    """[n, H, W, C], of those places in a row"""
    broken: int
    """Images of all ranks for which the network said no numbers; they are grey here"""

    @property
    def flaw(self) -> str | None:
        """Why nothing can be said of them; None where it can."""
        return f"{self.broken} of {len(self.wishes)} drawn images are not finite" if self.broken else None

    def in_blocks(self) -> list[tuple[range, Pixels]]:
        """This rank's images, each block with its places."""
        ends = np.cumsum([len(block) for block in self.blocks])
        return [(block, self.images[end - len(block) : end]) for block, end in zip(self.blocks, ends, strict=True)]


def wishes_in_turn(images: int, classes: int) -> list[Wish]:
    """One image of each class, then the next ones; each from a noise of its own."""
    return [Wish(number, number % classes if classes else 0) for number in range(images)]


def draw_share(task: Diffusion, network: nn.Module, wishes: Sequence[Wish], *, seed: int, world: World) -> Drawn:
    """Draws this rank's blocks of the wishes."""
    config = task.config
    blocks, done = blocks_of(len(wishes), world, most=config.evaluation.batch_images), 0
    calls = len(blocks) * network_calls(config.drawing.sampler, config.drawing.steps)
    progress = Progress("evaluate", calls, "calls", visible=world.rank == 0)

    def called() -> None:
        nonlocal done
        done += 1
        if progress.due():
            progress.show(done)

    channels, height, width = task.shape
    levels = [torch.empty(0, channels, height, width)]
    for block in blocks:
        part = [wishes[place] for place in block]
        levels.append(_draw(task, network, part, seed=seed, device=world.device, called=called).cpu())
    images, broken = _pixels(torch.cat(levels))
    return Drawn(wishes, blocks, images, round(float(world.sum(torch.tensor(float(broken))))))


def draw_few(
    task: Diffusion, network: nn.Module, wishes: Sequence[Wish], *, drawing: DrawingConfig, **how: Any
) -> Pixels:
    """Images of the wishes [n, H, W, C], drawn at once as told; those without numbers are grey."""
    levels = draw(network, task.noise, drawing, wishes, shape=task.shape, classes=task.classes, **how)
    return _pixels(levels.cpu())[0]


def _draw(task: Diffusion, network: nn.Module, wishes: Sequence[Wish], **how: Any) -> Tensor:
    """[n, C, H, W] as the run's configuration draws."""
    return draw(network, task.noise, task.config.drawing, wishes, shape=task.shape, classes=task.classes, **how)


def _pixels(levels: Tensor) -> tuple[Pixels, int]:
    """Images [n, H, W, C], those without numbers grey, and how many of these there are."""
    whole = finite(levels)
    return to_pixels(levels.where(whole.view(-1, 1, 1, 1), 0)).numpy(), int((~whole).sum())


def gather_first(drawn: Drawn, most: int, world: World) -> Pixels:
    """The images of the first wishes on every rank, in order [n, H, W, C]."""
    count = min(most, len(drawn.wishes))
    places = [place for block in drawn.blocks for place in block if place < count]
    whole = torch.zeros(count, *drawn.images.shape[1:])
    whole[places] = torch.from_numpy(drawn.images[: len(places)]).float()
    return world.sum(whole).to(torch.uint8).numpy()


def show_classes(
    images: Pixels, classes: Sequence[str], recognised: Mapping[int, tuple[int, int]]
) -> list[dict[str, Any]]:
    """A picture for each class of the first drawn images; recognised: of a class's images how many, and of how many."""
    samples = []
    number = max(1, len(classes))
    for label in range(min(number, len(images))):
        own = images[label::number]
        caption = {"class": classes[label]} if classes else {}
        if label in recognised:
            caption["recognised"] = "{} of {}".format(*recognised[label])
        samples.append({"picture": picture(own, math.ceil(math.sqrt(len(own))))} | caption)
    return samples


def show_between(task: Diffusion, network: nn.Module, *, seed: int, device: torch.device) -> dict[str, Any]:
    """A picture of images whose first noise moves from one to another, a row for each of the first classes."""
    shares = [place / (BETWEEN - 1) for place in range(BETWEEN)]
    rows = range(min(max(1, task.classes), BETWEEN))
    strips = [[Wish(0, label, toward=1, share=share) for share in shares] for label in rows]
    images, _ = _pixels(torch.cat([_draw(task, network, strip, seed=seed, device=device).cpu() for strip in strips]))
    what = "each row one class, from one noise to another" if task.classes else "from one noise to another"
    return {"picture": picture(images, BETWEEN), "between": what}


def picture(images: Pixels, columns: int) -> str:
    return f"data:image/png;base64,{base64.b64encode(png(grid(images, columns))).decode()}"
