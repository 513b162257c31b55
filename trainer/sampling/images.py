"""Images from a diffusion model, as one picture."""

import difflib
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from configs.diffusion import DiffusionConfig, DrawingConfig
from configs.errors import UserError
from configs.folder import write_atomic
from data.card.pictures import png
from data.progress import clock
from trainer.diffusion.drawing import Wish, calls_for, draw, to_pixels
from trainer.diffusion.pictures import Pixels, grid
from trainer.sampling.options import overridden
from trainer.tasks.diffusion import Diffusion
from trainer.trained import Trained

EVERY_CLASS = "all"
NUMBER = 8  # images of each class


def sample(
    trained: Trained,
    *,
    classes: Sequence[str] | None = None,
    guidance: float | None = None,
    sampler: str | None = None,
    steps: int | None = None,
    interpolate: int | None = None,
    number: int | None = None,
    columns: int | None = None,
    seed: int | None = None,
    output: Path | None = None,
) -> None:
    """Write a picture of `number` images of each class, all when none is named; settings not given are the run's.

    Images in one column begin from the same noise. With `interpolate` a row is a strip of so many images from one noise
    to another. Raises UserError for an unknown class or a file that is no .png, ConfigError for settings that cannot
    be.
    """
    run, task = trained.run, trained.task
    assert isinstance(run.task, DiffusionConfig)
    assert isinstance(task, Diffusion)
    given = {"guidance": guidance, "sampler": sampler, "steps": steps}
    changed = overridden(run, ("drawing",), {name: value for name, value in given.items() if value is not None})
    assert isinstance(changed.task, DiffusionConfig)
    if interpolate is not None and interpolate < 2:
        raise UserError(f"--interpolate {interpolate}: a strip has at least 2 images")
    path = output or trained.folder.path / "samples.png"
    if path.suffix.lower() != ".png":
        raise UserError(f"--output {path}: a picture's name ends in .png")
    labels = chosen_classes(classes, trained.manifest.classes if task.classes else ())
    wishes = strips(labels, number or 1, interpolate) if interpolate else rows(labels, number or NUMBER)
    images = draw_all(trained, task, changed.task.drawing, wishes, run.seed if seed is None else seed)
    width = interpolate or number or NUMBER
    if columns is None and len(labels) == 1 and not interpolate:
        columns = math.ceil(math.sqrt(width))
    write_atomic(path, png(grid(images, columns or width)))
    print(path)


def chosen_classes(wanted: Sequence[str] | None, known: Sequence[str]) -> list[int]:
    """Labels of the classes asked for, in that order; of all when none is named. Raises UserError."""
    if wanted and not known:
        raise UserError(f"--class {wanted[0]}: this run was trained without classes (task.conditional=false)")
    if not wanted or EVERY_CLASS in wanted:
        return list(range(max(1, len(known))))
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UserError(f"--class {name}: unknown; {hint}The classes are {', '.join(known)}")
    return [known.index(name) for name in wanted]


def rows(labels: Sequence[int], number: int) -> list[Wish]:
    """The same noises for each class."""
    return [Wish(place, label) for label in labels for place in range(number)]


def strips(labels: Sequence[int], number: int, images: int) -> list[Wish]:
    """For each class `number` strips, each between two noises of its own."""
    shares = [place / (images - 1) for place in range(images)]
    return [
        Wish(2 * strip, label, toward=2 * strip + 1, share=share)
        for label in labels
        for strip in range(number)
        for share in shares
    ]


def draw_all(trained: Trained, task: Diffusion, drawing: DrawingConfig, wishes: Sequence[Wish], seed: int) -> Pixels:
    """Images of the wishes [N, H, W, C], with a line on standard error that says how far it is."""
    batch = task.config.evaluation.batch_images
    progress = _Progress(calls_for(drawing, len(wishes), batch))
    parts = [
        draw(
            trained.nets["model"],
            task.noise,
            drawing,
            wishes[start : start + batch],
            shape=task.shape,
            classes=task.classes,
            seed=seed,
            device=trained.device,
            called=progress.step,
        )
        for start in range(0, len(wishes), batch)
    ]
    progress.close()
    return to_pixels(torch.cat(parts)).numpy()


class _Progress:
    """Share done and time left on standard error: drawn in place on a terminal, a line now and then elsewhere."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.terminal = total, 0, sys.stderr.isatty()
        self.interval_s = 0.5 if self.terminal else 10.0
        self.begun = self.shown = time.monotonic()

    def step(self) -> None:
        """One call of the network begins."""
        now = time.monotonic()
        if self.done and now - self.shown >= self.interval_s:
            left = clock((self.total - self.done) * (now - self.begun) / self.done)
            start, end = ("\r\x1b[K", "") if self.terminal else ("", "\n")
            print(f"{start}{100 * self.done // self.total}%  {left} left", end=end, file=sys.stderr, flush=True)
            self.shown = now
        self.done += 1

    def close(self) -> None:
        if self.terminal and self.shown != self.begun:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
