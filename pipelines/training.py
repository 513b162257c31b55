"""The pipeline: prepare, train, evaluate. The same definition runs on this machine and on a cluster."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kfp import compiler, dsl

from configs.folds import cross_validates, fold_names
from configs.schema import RunConfig
from k8s.job import RETRIES
from pipelines.components import collect, evaluate, prepare, train
from pipelines.launching import JOB
from pipelines.on_cluster import describe_task, labels_of, pipeline_config, workspace_of
from pipelines.parameters import encode_config


def build(run: RunConfig, *, retries: int = 0) -> Any:
    """The pipeline for a run: its config is the default of the parameter `config`, its image that of `image`.

    The parameter `launcher` says where the stages that have ranks are carried out. A cross-validation trains and
    evaluates each fold in a branch of its own, `world.parallel_folds` at a time, and collects all of them. A step that
    fails on a cluster is started again up to `retries` times.
    """
    crossed = cross_validates(run)
    says = "train a model for each fold, evaluate it, collect the folds" if crossed else "train a model, evaluate it"

    @dsl.pipeline(
        name=f"trainworks-{run.name}",
        description=f"Prepare data, {says}.",
        pipeline_config=pipeline_config(run),
    )
    def training(
        config: str = encode_config(run), folder: str = run.name, image: str = run.cluster.image, launcher: str = JOB
    ) -> str:
        given = {
            "config": config,
            "folder": folder,
            "workspace": workspace_of(run.cluster),
            "pipeline_run": dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        }
        shards: Any = prepare(**given)
        made = _cross_validate(run, given, launcher, shards) if crossed else _train_one(given, launcher, shards)
        for task in (shards, *made):
            task.set_container_image(image)
            describe_task(task, run.cluster, labels_of(run), retries)
        return made[-1].outputs["Output"]

    return training


def _train_one(given: Mapping[str, Any], launcher: Any, shards: Any) -> list[Any]:
    """Tasks of a run of one model, the one that makes the metrics last."""
    ranked = {**given, "launcher": launcher}
    checkpoint: Any = train(**ranked, data=shards.output)
    return [checkpoint, evaluate(**ranked, checkpoint=checkpoint.output)]


def _cross_validate(run: RunConfig, given: Mapping[str, Any], launcher: Any, shards: Any) -> list[Any]:
    """Tasks of a cross-validation, the one that makes the metrics last; the graph stays flat around its one loop."""
    names: list[Any] = [*fold_names(run)]
    ranked = {**given, "launcher": launcher}
    with dsl.ParallelFor(names, name="fold", parallelism=run.world.parallel_folds) as loop:
        fold: Any = loop
        checkpoint: Any = train(**ranked, data=shards.output, fold=fold)
        metrics: Any = evaluate(**ranked, checkpoint=checkpoint.output, fold=fold)
    gathered: Any = dsl.Collected(metrics.outputs["Output"])
    return [checkpoint, metrics, collect(**given, launcher=launcher, metrics=gathered)]


def compile_pipeline(run: RunConfig, path: Path) -> None:
    """Write the pipeline as KFP's YAML."""
    compiler.Compiler().compile(build(run, retries=RETRIES), str(path))
