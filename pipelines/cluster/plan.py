"""What submitting a run would create: the pipeline in a few lines, and each of its jobs as a manifest."""

from collections.abc import Iterator

import yaml

from configs.folder import RunFolder
from configs.folds import cross_validates, fold_names, fold_run
from configs.schema import RunConfig
from k8s.api import Object
from k8s.job import MODULES, Job
from k8s.joblauncher import KINDS
from pipelines.parameters import decode_folder

PIPELINE_RUN = "pipeline-run"
"""Stands for the identity that the pipeline run is given"""


def plan(run: RunConfig, name: str) -> Iterator[str]:
    """Documents of YAML, the pipeline's as a comment before them."""
    yield "\n".join(f"# {line}" for line in summary(run, name)) + "\n"
    for job in jobs(run, name):
        yield "---\n" + yaml.safe_dump(manifest(job), sort_keys=False, width=120)


def summary(run: RunConfig, name: str) -> list[str]:
    """The pipeline run in a few lines."""
    cluster = run.cluster
    steps = ["prepare", "train", "evaluate"]
    if cross_validates(run):
        folds, parallel = fold_names(run), run.world.parallel_folds
        steps = ["prepare", f"train and evaluate {len(folds)} folds, {parallel} at a time", "collect"]
    place = cluster.workspace
    volume = (
        f"{place.size} of {place.storage_class or 'the default storage class'}, made for this pipeline run"
        if place.claim is None
        else f"claim {place.claim} at {place.path}"
    )
    return [
        f"pipeline run {name} in experiment {cluster.pipelines.experiment}, namespace {cluster.namespace}",
        f"steps: {', '.join(steps)}; a pod each, with {cluster.step.cpu} cores and {cluster.step.memory}",
        f"volume: {volume}",
        f"image: {cluster.image}",
        f"jobs, whose names end otherwise as {PIPELINE_RUN} is not known yet:",
    ]


def jobs(run: RunConfig, name: str) -> Iterator[Job]:
    """The first attempt at each stage with ranks, of each fold where there are folds."""
    place = RunFolder(decode_folder(name, run.cluster.mount))
    claim = {"persistentVolumeClaim": {"claimName": f"{PIPELINE_RUN}-workspace"}}
    volume = claim if run.cluster.workspace.claim is None else None
    for fold in fold_names(run) if cross_validates(run) else [""]:
        own, folder = (fold_run(run, fold), place.fold(fold)) if fold else (run, place)
        for stage in MODULES:
            yield Job(own, stage, str(folder.path), PIPELINE_RUN, fold, volume=volume)


def manifest(job: Job) -> Object:
    return KINDS[job.run.cluster.job].build(job)
