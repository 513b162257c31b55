"""An evaluation's drawn images against real ones: the net opened, real images seen, both compared."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from configs.diffusion import DiffusionConfig, InceptionFeatures, Lite0Features
from configs.folder import RunFolder
from configs.metrics import protocol_id
from configs.schema import RunConfig
from configs.stages import features_folder
from data.manifest import Manifest, split_digest
from data.progress import Progress, say
from data.shards import ShardReader
from trainer.distributed import World
from trainer.evaluation.contract import Result
from trainer.evaluation.generative.features.inception import open_inception
from trainer.evaluation.generative.features.lite0 import open_lite0
from trainer.evaluation.generative.features.net import FeatureNet, see_all
from trainer.evaluation.generative.features.resize import Pixels
from trainer.evaluation.generative.features.trained import open_run
from trainer.evaluation.generative.reference import blank_image, cache_folder, see_split
from trainer.evaluation.generative.scores import METHODS, compare, undefined

SUBJECT, BASELINE = "samples", "baseline/real"


def open_net(run: RunConfig, folder: RunFolder, manifest: Manifest, world: World) -> FeatureNet | None:
    """The feature net that is configured; None, and said aloud, where it is a run that is not there.

    Every rank calls it, before anything is drawn. Raises UserError when weights or packages are not what they must be.
    """
    config = _task(run).evaluation.features
    if config is None:
        return None
    if isinstance(config, InceptionFeatures):
        return open_inception(config, cache_folder(folder), world)
    if isinstance(config, Lite0Features):
        return open_lite0(config, world)
    found = features_folder(run, folder)
    if found is None:
        if world.rank == 0:
            say("evaluate", f"task.evaluation.features.run={config.run}: {_absent(config.run)}")
        return None
    return open_run(found, manifest, world)


def score_drawn(
    run: RunConfig,
    folder: RunFolder,
    manifest: Manifest,
    readers: Mapping[str, ShardReader],
    images: Pixels,
    net: FeatureNet | None,
    world: World,
) -> Result:
    """Metrics of the drawn images, of which `images` are this rank's, every world.size-th, and of real ones.

    Both are compared with the reference split; the real ones are as many of the other split, so that they are what
    perfect drawing would give. The result is rank 0's; elsewhere it is empty.
    """
    config = _task(run).evaluation
    if config.features is None or not config.images:
        return Result((), {})
    other = "test" if config.reference == "train" else "train"
    if net is None:
        return _without_net(run, manifest, other, world)
    cache, batch = cache_folder(folder), config.batch_images
    reference, real = (
        see_split(net, readers[split], manifest, split, world, images=count, batch=batch, cache=cache)
        for split, count in ((config.reference, config.reference_images), (other, config.images))
    )
    drawn = see_all(net, _in_batches(images, batch, config.images, world), blank_image(manifest), world)
    if world.rank > 0:
        return Result((), {})
    say("evaluate", f"comparing {len(drawn)} drawn and {len(real)} real images with {len(reference)} of {other} images")
    protocols, compared = {}, []
    for subject, seen in ((SUBJECT, drawn), (BASELINE, real)):
        protocol = describe(run, manifest, other, net.protocol, images=len(seen), reference=len(reference))
        protocols[protocol_id(protocol)] = protocol
        compared.append(compare(subject, net, seen, reference, protocol_id(protocol)))
    metrics = [metric for each in compared for metric in each.metrics]
    return Result(
        tuple(metrics), protocols, units={name: units for each in compared for name, units in each.units.items()}
    )


def describe(
    run: RunConfig, manifest: Manifest, other: str, features: Mapping[str, Any] | str, *, images: int, reference: int
) -> dict[str, Any]:
    """Everything that changes the metrics, apart from the drawing model's weights."""
    config = _task(run)
    split = config.evaluation.reference
    return {
        "metric": "drawn images against real ones, by features",
        **METHODS,
        "features": features if isinstance(features, str) else dict(features),
        "images": images,
        "drawn": "classes in turn, as 8-bit pixels",
        "drawing": config.drawing.model_dump(mode="json"),
        "seed": run.seed,
        "reference": f"{reference} images of the {split} split, evenly spaced",
        "reference_data": split_digest(manifest, split),
        "baseline": f"images of the {other} split, evenly spaced",
        "baseline_data": split_digest(manifest, other),
    }


def _without_net(run: RunConfig, manifest: Manifest, other: str, world: World) -> Result:
    """A distance that has a reason in place of a value."""
    config = _task(run).evaluation
    name = getattr(config.features, "run", "")
    if world.rank > 0:
        return Result((), {})
    protocol = describe(run, manifest, other, f"a run {name} that is not there", images=config.images, reference=0)
    metric = undefined(SUBJECT, Path(name).name, _absent(name), n=config.images, protocol=protocol_id(protocol))
    return Result((metric,), {metric.protocol: protocol})


def _in_batches(images: Pixels, batch: int, total: int, world: World) -> Iterator[tuple[list[int], Pixels]]:
    """This rank's drawn images and their places among all."""
    places = range(world.rank, total, world.size)
    progress = Progress("evaluate", len(images), "drawn images seen", visible=world.rank == 0)
    for start in range(0, len(images), batch):
        yield list(places[start : start + batch]), np.ascontiguousarray(images[start : start + batch])
        if progress.due():
            progress.show(start)


def _absent(name: str) -> str:
    return (
        f"there is no run {name} for its features; train an image_classification run of that name beside this one, "
        "then evaluate again"
    )


def _task(run: RunConfig) -> DiffusionConfig:
    assert isinstance(run.task, DiffusionConfig)
    return run.task
