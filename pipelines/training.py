"""The pipeline: prepare, train, evaluate. The same definition runs on this machine and on a cluster."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kfp import compiler, dsl

from configs.folds import cross_validates, fold_names
from configs.schema import RunConfig
from pipelines.components import collect, evaluate, prepare, train
from pipelines.parameters import encode_config

FOLD_RETRIES = 2
"""Times that a cluster starts the step of one fold again, which goes on where it was, beside the other folds"""
LONGEST_RETRYING = "604800s"
"""Counted from the first start: KFP's hour would be over before a training fails"""


def build(run: RunConfig, *, retries: int = 0) -> Any:
    """The pipeline for a run: its config is the default of the parameter `config`, its image that of `image`.

    A cross-validation trains and evaluates each fold in a branch of its own, `world.parallel_folds` at a time, and
    collects all of them; a branch whose step fails starts it again up to `retries` times.
    """
    crossed = cross_validates(run)
    says = "train a model for each fold, evaluate it, collect the folds" if crossed else "train a model, evaluate it"

    @dsl.pipeline(
        name=f"trainworks-{run.name}",
        description=f"Prepare data, {says}.",
        pipeline_config=dsl.PipelineConfig(workspace=dsl.WorkspaceConfig(size=run.cluster.workspace.size)),
    )
    def training(config: str = encode_config(run), folder: str = run.name, image: str = run.cluster.image) -> str:
        given = {"config": config, "folder": folder, "workspace": dsl.WORKSPACE_PATH_PLACEHOLDER}
        shards: Any = prepare(**given)
        made = _cross_validate(run, given, shards, retries) if crossed else _train_one(given, shards)
        for task in (shards, *made):
            task.set_container_image(image)
            task.set_caching_options(False)  # the stages know by digest what is complete; KFP cannot
        return made[-1].output

    return training


def _train_one(given: Mapping[str, Any], shards: Any) -> list[Any]:
    """Tasks of a run of one model, the one that makes the metrics last."""
    checkpoint: Any = train(**given, data=shards.output)
    return [checkpoint, evaluate(**given, checkpoint=checkpoint.output)]


def _cross_validate(run: RunConfig, given: Mapping[str, Any], shards: Any, retries: int) -> list[Any]:
    """Tasks of a cross-validation, the one that makes the metrics last; the graph stays flat around its one loop."""
    names: list[Any] = [*fold_names(run)]
    with dsl.ParallelFor(names, name="fold", parallelism=run.world.parallel_folds) as loop:
        fold: Any = loop
        checkpoint: Any = train(**given, data=shards.output, fold=fold)
        metrics: Any = evaluate(**given, checkpoint=checkpoint.output, fold=fold)
    gathered: Any = dsl.Collected(metrics.output)
    if retries:
        for task in (checkpoint, metrics):
            task.set_retry(retries, backoff_max_duration=LONGEST_RETRYING)
    return [checkpoint, metrics, collect(**given, metrics=gathered)]


def compile_pipeline(run: RunConfig, path: Path) -> None:
    """Write the pipeline as KFP's YAML."""
    compiler.Compiler().compile(build(run, retries=FOLD_RETRIES), str(path))
