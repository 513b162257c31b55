"""A feature net of our own: the network of an image_classification run, before its last dense layer."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from configs.errors import DataError
from configs.folder import RunFolder
from data.manifest import Manifest
from trainer.distributed import World
from trainer.evaluation.generative.features.net import FeatureNet
from trainer.evaluation.generative.features.resize import Pixels
from trainer.tasks.image_classification import ImageClassification
from trainer.trained import Trained, open_trained


def open_run(folder: RunFolder, manifest: Manifest, world: World) -> FeatureNet:
    """Raises DataError when the run classifies no images, or others than `manifest` has."""
    trained = open_trained(folder.path, world.device)
    require_same_images(trained, manifest, f"task.evaluation.features.run={folder.path}")
    task = trained.task
    assert isinstance(task, ImageClassification)
    network = trained.nets["model"]

    def see(images: Pixels) -> tuple[Tensor, Tensor]:
        samples = [{"image": image, "label": 0, "id": 0, "position": 0} for image in images]
        return last_features(network, task.inputs(task.collate(samples).to(world.device)))

    protocol = {
        "net": f"a run of task.model.kind={trained.run.task.model.kind}",
        "weights": trained.checkpoint,
        "layer": "what the last dense layer sees",
        "resize": "none: images of the size that it was trained on",
        "scale": "mean 0 and variance 1 over its train split",
        "classes": f"{task.classes} logits",
    }
    return FeatureNet(net_name(folder.path.resolve()), False, protocol, see)


def net_name(folder: Path) -> str:
    """What metrics call the network of a run: the run's name, of a fold with the fold's behind it."""
    return f"{folder.parents[1].name}-{folder.name}" if folder.parent.name == "folds" else folder.name


def last_features(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """The inputs [B, D] of the dense layer whose outputs the network returns, and those, logits [B, K].

    Raises DataError for a network that ends otherwise.
    """
    calls: list[tuple[Tensor, Tensor]] = []

    def note(_: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        calls[:] = [(inputs[0], output)]

    hooks = [layer.register_forward_hook(note) for layer in network.modules() if isinstance(layer, nn.Linear)]
    try:
        logits = network(images)
    finally:
        for hook in hooks:
            hook.remove()
    if not calls or calls[0][0].dim() != 2 or not torch.equal(calls[0][1], logits):
        raise DataError(
            f"task.evaluation.features: a {type(network).__name__} does not end in a dense layer, so there are no "
            "features before it; name a run of another task.model.kind, such as resnet"
        )
    return calls[0]


def require_same_images(trained: Trained, manifest: Manifest, where: str) -> None:
    """Raises DataError when a run cannot be asked about the images of `manifest`; `where` begins the message."""
    kind = trained.run.task.kind
    if kind != "image_classification":
        raise DataError(f"{where} is a run of task.kind={kind}; name one of image_classification")
    theirs, ours = trained.manifest.images, manifest.images
    assert theirs
    assert ours
    shapes = [f"{each.height} x {each.width} x {each.channels}" for each in (theirs, ours)]
    if shapes[0] != shapes[1]:
        raise DataError(
            f"{where} sees images of {shapes[0]} (height x width x channels), this run draws {shapes[1]}; "
            "train it with the same data.images"
        )
