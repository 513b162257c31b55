"""Scores a diffusion model: its error on the test split, and whether a judge recognises what it draws."""

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from configs.diffusion import DiffusionConfig
from configs.errors import DataError
from configs.folder import RunFolder
from configs.metrics import Metric, protocol_id
from configs.schema import RunConfig
from configs.stages import judge_folder
from data.card.pictures import png
from data.manifest import Manifest, split_digest
from data.progress import Progress, say
from data.shards import ShardReader
from trainer.diffusion.drawing import Wish, calls_for, draw
from trainer.diffusion.pictures import Pixels, grid
from trainer.distributed import World
from trainer.evaluation.classes import share_variance
from trainer.evaluation.contract import Result
from trainer.evaluation.generative.drawn import open_net, score_drawn
from trainer.evaluation.generative.features.trained import require_same_images
from trainer.evaluation.score import score, score_split
from trainer.task import Batch, Task
from trainer.tasks.diffusion import BINS, Diffusion
from trainer.trained import Trained, open_trained

BETWEEN = 8
"""Images of the strip from one noise to another"""
NOISE_NAMES = ("least", "less", "more", "most")
assert len(NOISE_NAMES) == BINS


def evaluate(
    run: RunConfig,
    folder: RunFolder,
    manifest: Manifest,
    readers: Mapping[str, ShardReader],
    task: Task,
    nets: Mapping[str, nn.Module],
    world: World,
) -> Result:
    """The test split's loss; of drawn images, beside real ones, the share that the judge recognises and the distances
    from the reference."""
    assert isinstance(run.task, DiffusionConfig)
    assert isinstance(task, Diffusion)
    config = run.task.evaluation
    judge = find_judge(run, folder, manifest, world)
    net = open_net(run, folder, manifest, world) if config.images else None
    sums = score_split(task, nets, readers["test"], world, batch=config.batch_images, limit=None)
    wishes = wishes_in_turn(config.images, len(manifest.classes) if run.task.conditional else 0)
    images = draw_share(run, task, nets["model"], wishes, world)
    protocols: dict[str, Mapping[str, Any]] = {}
    metrics: list[Metric] = []
    recognised: Mapping[str, float] = {}
    if judge is not None and wishes:
        protocol = describe_drawing(run, judge)
        protocols[protocol_id(protocol)] = protocol
        recognised = judge_images(judge, images, wishes, world, config.batch_images)
        real = score_split(judge.task, judge.nets, readers["test"], world, batch=config.batch_images, limit=None)
        metrics += [
            recognition("samples", judge, recognised, len(wishes), protocol_id(protocol)),
            recognition("baseline/real", judge, real, len(readers["test"]), protocol_id(protocol)),
        ]
    compared = score_drawn(run, folder, manifest, readers, images, net, world)
    metrics += compared.metrics
    protocols |= compared.protocols
    protocol = describe_loss(run.task, manifest)
    protocols[protocol_id(protocol)] = protocol
    metrics += loss_metrics(sums, protocol_id(protocol))
    shown = gather_first(images, wishes, config.shown, task.shape, world)
    samples = show(run, manifest, task, nets["model"], shown, recognised, world) if world.rank == 0 else ()
    return Result(tuple(metrics), protocols, tuple(samples), units=compared.units)


# --- the error ---


def describe_loss(config: DiffusionConfig, manifest: Manifest) -> dict[str, Any]:
    """Everything that changes the test loss, apart from the weights."""
    return {
        "metric": "mean squared error of what the network predicts, unweighted, over pixels of [-1, 1] and channels",
        "predicted": getattr(config.noise, "target", "the image, preconditioned (Karras et al., 2022)"),
        "noise": config.noise.model_dump(mode="json"),
        "split": "test",
        "data": split_digest(manifest, "test"),
        "scored": "every image once, unaltered and with its class, at one level with one noise, drawn from its place",
        "parts": f"levels of the {BINS} quarters of their distribution in training, from the least noise",
        "stderr": "images are drawn independently",
        "precision": "fp32 errors, fp64 sums",
    }


def loss_metrics(sums: Mapping[str, float], protocol: str) -> list[Metric]:
    """The loss over all levels, and over each quarter of them that has an image."""
    names = {"loss": "", **{f"loss_at_{name}_noise": f"/{place}" for place, name in enumerate(NOISE_NAMES)}}
    metrics = []
    for name, part in names.items():
        size = round(sums[f"images{part}"])
        if not size:
            continue
        mean = sums[f"error{part}"] / size
        variance = max(0.0, sums[f"error_error{part}"] / size - mean**2) / (size - 1) if size > 1 else None
        stderr = None if variance is None else math.sqrt(variance)
        metrics.append(Metric(f"test/{name}", mean, stderr, size, "squared error", "lower", protocol))
    return metrics


# --- drawn images ---


def wishes_in_turn(images: int, classes: int) -> list[Wish]:
    """One image of each class, then the next ones; each from a noise of its own."""
    return [Wish(number, number % classes if classes else 0) for number in range(images)]


def draw_share(run: RunConfig, task: Diffusion, network: nn.Module, wishes: Sequence[Wish], world: World) -> Pixels:
    """This rank's share of the wishes, every world.size-th of them, as [n, H, W, C] uint8."""
    mine, batch = wishes[world.rank :: world.size], task.config.evaluation.batch_images
    drawing, done = task.config.drawing, 0
    progress = Progress("evaluate", calls_for(drawing, len(mine), batch), "calls", visible=world.rank == 0)

    def called() -> None:
        nonlocal done
        done += 1
        if progress.due():
            progress.show(done)

    height, width, channels = task.shape[1], task.shape[2], task.shape[0]
    drawn = [np.empty((0, height, width, channels), np.uint8)]
    for start in range(0, len(mine), batch):
        part = mine[start : start + batch]
        images = draw(
            network,
            task.noise,
            drawing,
            part,
            shape=task.shape,
            classes=task.classes,
            seed=run.seed,
            device=world.device,
            called=called,
        )
        drawn.append(images.numpy())
    return np.concatenate(drawn)


def gather_first(
    images: Pixels, wishes: Sequence[Wish], most: int, shape: tuple[int, int, int], world: World
) -> Pixels:
    """The images of the first wishes on every rank, in order [n, H, W, C]."""
    channels, height, width = shape
    count = min(most, len(wishes))
    places = range(world.rank, count, world.size)
    whole = torch.zeros(count, height, width, channels)
    whole[list(places)] = torch.from_numpy(images[: len(places)]).float()
    return world.sum(whole).to(torch.uint8).numpy()


# --- the judge ---


def find_judge(run: RunConfig, folder: RunFolder, manifest: Manifest, world: World) -> Trained | None:
    """The run that recognises images; None, and said aloud, when there is none where the configuration says.

    Raises DataError when it sees images of another size or channels, or knows other classes.
    """
    config = run.task
    assert isinstance(config, DiffusionConfig)
    name = config.evaluation.judge
    if name is None or not config.evaluation.images:
        return None
    if not config.conditional:
        raise DataError(
            "task.evaluation.judge compares drawn images with the class that was asked for, and task.conditional=false "
            "asks for none; leave the judge out"
        )
    found = judge_folder(run, folder)
    if found is None:
        if world.rank == 0:
            say(
                "evaluate",
                f"task.evaluation.judge={name}: there is no such run, so samples/class_accuracy is left out; train an "
                "image_classification run of that name beside this one, then evaluate again",
            )
        return None
    judge = open_trained(found.path, world.device)
    require_fit(judge, manifest)
    return judge


def require_fit(judge: Trained, manifest: Manifest) -> None:
    """Raises DataError when the judge cannot be asked about this run's images."""
    where = f"task.evaluation.judge={judge.folder.path}"
    require_same_images(judge, manifest, where)
    if judge.manifest.classes != manifest.classes:
        known, asked = (", ".join(each.classes) for each in (judge.manifest, manifest))
        raise DataError(f"{where} knows the classes {known}; this run draws {asked}; train a judge on the same classes")


def judge_images(judge: Trained, images: Pixels, wishes: Sequence[Wish], world: World, batch: int) -> dict[str, float]:
    """What the judge's own task sums over drawn images of all ranks, the class asked for being the label."""
    mine = wishes[world.rank :: world.size]

    def collated(start: int) -> Batch:
        samples = [
            {"image": image, "label": wish.label, "id": wish.number, "position": wish.number}
            for image, wish in zip(images[start : start + batch], mine[start : start + batch], strict=True)
        ]
        return judge.task.collate(samples)

    return score(judge.task, judge.nets, map(collated, range(0, len(mine), batch)), world)


def describe_drawing(run: RunConfig, judge: Trained) -> dict[str, Any]:
    """Everything that changes the share of recognised images, apart from the drawing model's weights."""
    assert isinstance(run.task, DiffusionConfig)
    return {
        "metric": "share of images that the judge finds to be of the class asked for, or labelled with",
        "judge": judge.checkpoint,
        "judge_data": judge.manifest.digest,
        "drawing": run.task.drawing.model_dump(mode="json"),
        "seed": run.seed,
        "images": f"{run.task.evaluation.images} drawn, classes in turn, as 8-bit pixels",
        "baseline": "every image of this run's test split, with its label",
        "stderr": "images are drawn independently",
    }


def recognition(subject: str, judge: Trained, sums: Mapping[str, float], size: int, protocol: str) -> Metric:
    share = judge.task.metrics(sums)["accuracy"]
    variance = share_variance(share * size, size)
    stderr = None if variance is None else math.sqrt(variance)
    return Metric(f"{subject}/class_accuracy", share, stderr, size, "share", "higher", protocol)


# --- what the report shows ---


def show(
    run: RunConfig,
    manifest: Manifest,
    task: Diffusion,
    network: nn.Module,
    shown: Pixels,
    recognised: Mapping[str, float],
    world: World,
) -> list[dict[str, Any]]:
    """A picture of the images drawn of each class, and one of the way from one noise to another."""
    if not len(shown):
        return []
    classes = max(1, task.classes)
    samples = []
    for label in range(min(classes, len(shown))):
        images = shown[label::classes]
        caption = {"class": manifest.classes[label]} if task.classes else {}
        if recognised:
            counts = round(recognised[f"correct/{label}"]), round(recognised[f"samples/{label}"])
            caption["recognised"] = "{} of {}".format(*counts)
        samples.append({"picture": picture(images, math.ceil(math.sqrt(len(images))))} | caption)
    strip = interpolation(run, task, network, world.device)
    what = "each row one class, from one noise to another" if task.classes else "from one noise to another"
    return [*samples, {"picture": picture(strip, BETWEEN), "between": what}]


def interpolation(run: RunConfig, task: Diffusion, network: nn.Module, device: torch.device) -> Pixels:
    """Images [rows x BETWEEN, H, W, C] whose first noise moves from one to another, a row for each of the classes."""
    shares = [place / (BETWEEN - 1) for place in range(BETWEEN)]
    rows = range(min(max(1, task.classes), BETWEEN))
    wishes = [Wish(0, label, toward=1, share=share) for label in rows for share in shares]
    batch = task.config.evaluation.batch_images
    parts: list[Tensor] = [
        draw(
            network,
            task.noise,
            task.config.drawing,
            wishes[start : start + batch],
            shape=task.shape,
            classes=task.classes,
            seed=run.seed,
            device=device,
        )
        for start in range(0, len(wishes), batch)
    ]
    return torch.cat(parts).numpy()


def picture(images: Pixels, columns: int) -> str:
    return f"data:image/png;base64,{base64.b64encode(png(grid(images, columns))).decode()}"
