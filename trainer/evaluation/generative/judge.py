"""Whether a trained classifier recognises drawn images as what was asked for, and real ones as what they are."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from configs.diffusion import DiffusionConfig
from configs.errors import DataError
from configs.folder import RunFolder
from configs.metrics import Metric, protocol_id
from configs.schema import RunConfig
from configs.stages import judge_folder
from data.loader import in_batches
from data.manifest import Manifest, split_digest
from data.progress import say
from data.shards import ShardReader
from trainer.distributed import World
from trainer.evaluation.class_drawings import MATRIX_CLASSES, draw_confusion
from trainer.evaluation.classes import share_variance
from trainer.evaluation.confusion import Counts, Ids, confusion_matrix, counts_of, recall
from trainer.evaluation.contract import Result, Units
from trainer.evaluation.generative.blocks import block_size, blocks_of
from trainer.evaluation.generative.drawing import Drawn
from trainer.evaluation.generative.features.trained import require_same_images
from trainer.evaluation.intervals import exact_interval
from trainer.evaluation.predictions import Predictions, predict
from trainer.task import Batch
from trainer.tasks.image_classification import ImageClassification
from trainer.trained import Trained, open_trained

SUBJECT, BASELINE = "samples", "baseline/real"


@dataclass(frozen=True)
class Judged:
    """What the judge says; on rank 0 alone, elsewhere nothing."""

    result: Result
    recognised: Mapping[int, tuple[int, int]]
    """Of the images drawn of a class how many, and of how many"""


NOTHING = Judged(Result((), {}), {})


def find_judge(run: RunConfig, folder: RunFolder, manifest: Manifest, world: World) -> Trained | None:
    """The run that recognises images; None, and said aloud, when there is none where the configuration says.

    Raises DataError when it sees images of another size or channels, or knows other classes.
    """
    config = _task(run)
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
            say("evaluate", f"task.evaluation.judge={name}: {_absent(name)}")
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


def judge_drawn(
    run: RunConfig, manifest: Manifest, drawn: Drawn, judge: Trained | None, reader: ShardReader, world: World
) -> Judged:
    """The share of drawn images, and of those of the test split, that the judge finds to be of their class."""
    config = _task(run).evaluation
    if config.judge is None or not drawn.wishes:
        return NOTHING
    protocol = describe(run, manifest, judge)
    if judge is None:
        if world.rank:
            return NOTHING
        why, size = _absent(config.judge), len(drawn.wishes)
        metric = recognition(SUBJECT, None, why, size=size, protocol=protocol_id(protocol))
        return Judged(Result((metric,), {metric.protocol: protocol}), {})
    real = in_batches(reader, judge.task.collate, blocks_of(len(reader), world, most=config.batch_images))
    said = _predict(judge, _batches(judge, drawn), world, len(drawn.wishes))
    told = _predict(judge, real, world, len(reader))
    if said is None or told is None:
        return NOTHING
    return _weigh(said, told, drawn.flaw, manifest.classes, protocol)


def _weigh(
    said: Predictions, told: Predictions, flaw: str | None, classes: tuple[str, ...], protocol: Mapping[str, Any]
) -> Judged:
    """Metrics, units and figures of what the judge said of drawn images, and told of real ones."""
    identifier = protocol_id(protocol)
    flaws = {SUBJECT: flaw or _flaw(said), BASELINE: _flaw(told)}
    metrics, units = [], {}
    for subject, each in ((SUBJECT, said), (BASELINE, told)):
        metrics.append(recognition(subject, each, flaws[subject], size=len(each.ids), protocol=identifier))
        if not flaws[subject]:
            correct = each.correct.astype(np.float64)
            units[metrics[-1].name] = Units(each.ids, correct, np.ones(len(correct)))
    if flaws[SUBJECT]:
        return Judged(Result(tuple(metrics), {identifier: protocol}, units=units), {})
    ours, theirs = (confusion_matrix(each.labels, each.predicted, len(classes)) for each in (said, told))
    counts = counts_of(ours)
    bars = draw_recognition(counts, None if flaws[BASELINE] else counts_of(theirs), classes)
    figures = (bars, *_draw_taken(ours, classes))
    pairs = zip(counts.found.tolist(), counts.true.tolist(), strict=True)
    recognised = dict(enumerate(pairs))
    return Judged(Result(tuple(metrics), {identifier: protocol}, figures=figures, units=units), recognised)


def _predict(judge: Trained, batches: Iterator[Batch], world: World, samples: int) -> Predictions | None:
    task, network = judge.task, judge.nets["model"]
    assert isinstance(task, ImageClassification)

    def logits(batch: Batch) -> Tensor:
        return network(task.inputs(batch)).float()

    return predict(logits, batches, world, samples=samples, classes=len(judge.manifest.classes))


def _batches(judge: Trained, drawn: Drawn) -> Iterator[Batch]:
    """This rank's drawn images as the judge's task has them, the class asked for being the label."""
    for places, images in drawn.in_blocks():
        yield judge.task.collate(
            [
                {"image": image, "label": drawn.wishes[place].label, "id": place, "position": place}
                for place, image in zip(places, images, strict=True)
            ]
        )


def describe(run: RunConfig, manifest: Manifest, judge: Trained | None) -> dict[str, Any]:
    """Everything that changes the share of recognised images, apart from the drawing model's weights."""
    config = _task(run)
    return {
        "metric": "share of images that the judge finds to be of the class asked for, or labelled with",
        "judge": judge.checkpoint if judge else f"a run {config.evaluation.judge} that is not there",
        "drawing": config.drawing.model_dump(mode="json"),
        "seed": config.evaluation.seed,
        "images_together": block_size(config.evaluation.batch_images),
        "images": f"{config.evaluation.images} drawn, classes in turn, as 8-bit pixels",
        "baseline": "every image of this run's test split, with its label",
        "baseline_data": split_digest(manifest, "test"),
        "stderr": "images are drawn independently",
        "interval": "exact binomial (Clopper and Pearson, 1934)",
    }


def recognition(subject: str, said: Predictions | None, why: str | None, *, size: int, protocol: str) -> Metric:
    name = f"{subject}/class_accuracy"
    if said is None or why:
        return Metric(name, None, None, size, "share", "higher", protocol, undefined=why)
    found = int(said.correct.sum())
    variance = share_variance(found, size)
    stderr = None if variance is None else math.sqrt(variance)
    return Metric(name, found / size, stderr, size, "share", "higher", protocol, exact_interval(found, size))


def draw_recognition(counts: Counts, real: Counts | None, classes: tuple[str, ...]) -> dict[str, Any]:
    """Bars of the share recognised by class, with that of real images as reference; the lowest of too many classes."""
    shares = np.where(counts.true > 0, recall(counts), np.nan)
    drawn = np.flatnonzero(counts.true)
    shown = np.sort(drawn[np.argsort(shares[drawn], kind="stable")[:MATRIX_CLASSES]])
    some = f" The {len(shown)} lowest of {len(drawn)} classes." if len(shown) < len(drawn) else ""
    bars: dict[str, Any] = {
        "kind": "bars",
        "title": "Recognised by class",
        "x": [classes[label] for label in shown],
        "y": [float(shares[label]) for label in shown],
        "x_title": "class asked for",
        "y_title": "share that the judge recognises",
        "note": f"Reference: the share of the test split's images.{some}",
    }
    if real is not None:
        found = recall(real)
        bars["reference"] = [float(found[label]) if real.true[label] else None for label in shown]
    return bars


def _draw_taken(matrix: Ids, classes: tuple[str, ...]) -> list[Mapping[str, Any]]:
    """What the judge takes drawn images for."""
    figures = draw_confusion(matrix, classes, what="drawn images")
    return [figure | {"title": "What drawn images are taken for"} for figure in figures]


def _flaw(said: Predictions) -> str | None:
    if not len(said.ids):
        return "the split is empty"
    return f"the judge's scores of {said.broken} of {len(said.ids)} images are not numbers" if said.broken else None


def _absent(name: str) -> str:
    return (
        f"there is no run {name} to judge; train an image_classification run of that name beside this one, "
        "then evaluate again"
    )


def _task(run: RunConfig) -> DiffusionConfig:
    assert isinstance(run.task, DiffusionConfig)
    return run.task
