"""An evaluation's drawn images against real ones: the net opened, real images seen, both compared."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.diffusion import DiffusionConfig, InceptionFeatures, Lite0Features
from configs.folder import RunFolder
from configs.metrics import Metric, protocol_id
from configs.schema import RunConfig
from configs.stages import features_folder
from data.manifest import Manifest, split_digest
from data.progress import Progress, say
from data.shards import ShardReader
from trainer.distributed import World
from trainer.evaluation.contract import Result
from trainer.evaluation.generative.blocks import block_size
from trainer.evaluation.generative.drawing import Drawn
from trainer.evaluation.generative.features.inception import open_inception
from trainer.evaluation.generative.features.lite0 import open_lite0
from trainer.evaluation.generative.features.net import FeatureNet, see_all
from trainer.evaluation.generative.features.resize import Pixels
from trainer.evaluation.generative.features.trained import net_name, open_run
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
    drawn: Drawn,
    net: FeatureNet | None,
    world: World,
) -> Result:
    """Metrics of the drawn images, and of real ones.

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
    seen = see_all(net, _in_blocks(drawn, world), blank_image(manifest), world)
    if world.rank > 0:
        return Result((), {})
    told = f"comparing {len(seen)} drawn images, and {len(real)} of the {other} split"
    say("evaluate", f"{told}, with {len(reference)} of the {config.reference} split")
    protocols, compared = {}, []
    for subject, each, flaw in ((SUBJECT, seen, drawn.flaw), (BASELINE, real, None)):
        protocol = describe(run, manifest, other, net.protocol, images=len(each), reference=len(reference))
        protocols[protocol_id(protocol)] = protocol
        compared.append(compare(subject, net, each, reference, protocol_id(protocol), flaw=flaw))
    figure = draw_distances(*(each.metrics for each in compared), split=config.reference)
    return Result(
        tuple(metric for each in compared for metric in each.metrics),
        protocols,
        figures=(figure,),
        units={name: units for each in compared for name, units in each.units.items()},
    )


def draw_distances(drawn: Sequence[Metric], real: Sequence[Metric], *, split: str) -> dict[str, Any]:
    """The table of drawn images beside real ones, both against the reference split."""
    rows = [
        [ours.name.removeprefix(f"{SUBJECT}/"), ours.value, ours.stderr, theirs.value, theirs.stderr, ours.better]
        for ours, theirs in zip(drawn, real, strict=True)
    ]
    reasons = dict.fromkeys(
        f"{metric.name} is undefined: {metric.undefined}." for metric in (*drawn, *real) if metric.undefined
    )
    size = f"{drawn[0].n} drawn and {real[0].n} real images against the {split} split; ±: one standard error."
    return {
        "kind": "table",
        "title": "Drawn images against real ones",
        "columns": ["metric", "drawn", "±", "real", "±", "better"],
        "rows": rows,
        "note": " ".join([size, *reasons]),
    }


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
        "seed": config.evaluation.seed,
        "images_together": block_size(config.evaluation.batch_images),
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
    metric = undefined(SUBJECT, net_name(Path(name)), _absent(name), n=config.images, protocol=protocol_id(protocol))
    return Result((metric,), {metric.protocol: protocol})


def _in_blocks(drawn: Drawn, world: World) -> Iterator[tuple[range, Pixels]]:
    """This rank's drawn images and their places among all."""
    progress = Progress("evaluate", len(drawn.images), "drawn images seen", visible=world.rank == 0)
    done = 0
    for places, images in drawn.in_blocks():
        yield places, images
        done += len(places)
        if progress.due():
            progress.show(done)


def _absent(name: str) -> str:
    return (
        f"there is no run {name} for its features; train an image_classification run of that name beside this one, "
        "then evaluate again"
    )


def _task(run: RunConfig) -> DiffusionConfig:
    assert isinstance(run.task, DiffusionConfig)
    return run.task
