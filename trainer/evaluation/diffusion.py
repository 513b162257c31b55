"""Scores a diffusion model: its error on the test split, whether a judge recognises what it draws, and how far that is
from real images."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from configs.diffusion import DiffusionConfig
from configs.folder import RunFolder
from configs.metrics import protocol_id
from configs.schema import RunConfig
from data.manifest import Manifest
from data.shards import ShardReader
from trainer.distributed import World
from trainer.evaluation.contract import Result
from trainer.evaluation.denoising import describe_loss, draw_errors, find_errors, loss_metrics, loss_units
from trainer.evaluation.generative.drawing import (
    draw_few,
    draw_share,
    gather_first,
    show_between,
    show_classes,
    wishes_in_turn,
)
from trainer.evaluation.generative.drawn import open_net, score_drawn
from trainer.evaluation.generative.judge import find_judge, judge_drawn
from trainer.evaluation.view import Records, View
from trainer.task import Task
from trainer.tasks.diffusion import Diffusion


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
    from the reference. The result is rank 0's; elsewhere it is empty."""
    assert isinstance(run.task, DiffusionConfig)
    assert isinstance(task, Diffusion)
    config, network = run.task.evaluation, nets["model"]
    judge = find_judge(run, folder, manifest, world)
    net = open_net(run, folder, manifest, world) if config.images else None
    lost = score_loss(manifest, readers["test"], task, nets, world)
    wishes = wishes_in_turn(config.images, task.classes)
    drawn = draw_share(task, network, wishes, seed=config.seed, world=world)
    judged = judge_drawn(run, manifest, drawn, judge, readers["test"], world)
    compared = score_drawn(run, folder, manifest, readers, drawn, net, world)
    shown = gather_first(drawn, config.shown, world)
    if world.rank:
        return Result((), {})
    samples: list[dict[str, Any]] = []
    if len(shown):
        samples += show_classes(shown, manifest.classes if task.classes else (), judged.recognised)
        samples.append(show_between(task, network, seed=config.seed, device=world.device))
    return joined(judged.result, compared, lost, samples=tuple(samples))


def show(view: View) -> Records:
    """Images as the evaluation draws its first ones, with fewer steps: from the same noise each time."""
    assert isinstance(view.task, Diffusion)
    task, config = view.task, view.task.config
    steps = min(config.drawing.steps, view.settings.drawing_steps)
    images = draw_few(
        task,
        view.nets["model"],
        wishes_in_turn(view.settings.number, task.classes),
        drawing=config.drawing.model_copy(update={"steps": steps}),
        seed=config.evaluation.seed,
        device=view.world.device,
        called=view.alive,
    )
    return show_classes(images, view.manifest.classes if task.classes else (), {})


def score_loss(
    manifest: Manifest, reader: ShardReader, task: Diffusion, nets: Mapping[str, nn.Module], world: World
) -> Result:
    """The error of what the network predicts of the test split, by image."""
    protocol = describe_loss(task.config, manifest)
    errors = find_errors(task, nets, reader, world, batch=task.config.evaluation.batch_images)
    metrics, figures = loss_metrics(errors, protocol_id(protocol)), draw_errors(errors)
    return Result(tuple(metrics), {protocol_id(protocol): protocol}, figures=tuple(figures), units=loss_units(errors))


def joined(*parts: Result, samples: tuple[Mapping[str, Any], ...]) -> Result:
    """Several results as one, in their order."""
    return Result(
        metrics=tuple(metric for part in parts for metric in part.metrics),
        protocols={name: protocol for part in parts for name, protocol in part.protocols.items()},
        samples=samples,
        figures=tuple(figure for part in parts for figure in part.figures),
        units={name: units for part in parts for name, units in part.units.items()},
    )
