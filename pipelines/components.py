"""Thin components: each calls one command on the shared run folder. Imports inside, as KFP ships the bodies' source."""

from kfp import dsl

IMAGE = "trainworks-python"  # replaced by each task's own image; kfp's local runner wants "python" in the name
TOLD: list[dsl.TaskConfigPassthrough | dsl.TaskConfigField] = [
    dsl.TaskConfigPassthrough(field=field, apply_to_task=True)
    for field in (dsl.TaskConfigField.KUBERNETES_VOLUMES, dsl.TaskConfigField.RESOURCES, dsl.TaskConfigField.ENV)
]
"""A step is told of its own pod's volumes, for the pods of its job; all that a task sets is to be named here then"""


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def prepare(config: str, folder: str, workspace: str, pipeline_run: str) -> str:
    """Raw data to shards; returns the digest of the data."""
    from pipelines.steps import prepare_step

    return prepare_step(config, folder, workspace, pipeline_run)


@dsl.component(base_image=IMAGE, install_kfp_package=False, task_config_passthroughs=TOLD)
def train(
    config: str,
    folder: str,
    workspace: str,
    launcher: str,
    pipeline_run: str,
    data: str,
    task_config: dsl.TaskConfig,
    fold: str = "",
) -> str:
    """Shards to a checkpoint; returns its digest."""
    from pipelines.steps import train_step

    return train_step(config, folder, workspace, fold, (launcher, pipeline_run, task_config))


@dsl.component(base_image=IMAGE, install_kfp_package=False, task_config_passthroughs=TOLD)
def evaluate(
    config: str,
    folder: str,
    workspace: str,
    launcher: str,
    pipeline_run: str,
    checkpoint: str,
    task_config: dsl.TaskConfig,
    scalars: dsl.Output[dsl.Metrics],
    classification: dsl.Output[dsl.ClassificationMetrics],
    report: dsl.Output[dsl.HTML],
    fold: str = "",
) -> str:
    """A checkpoint to metrics; returns their digest."""
    from pipelines.steps import evaluate_step

    shown = (scalars, classification, report)
    return evaluate_step(config, folder, workspace, fold, (launcher, pipeline_run, task_config), shown)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def nightly(suite: str, workspace: str, scalars: dsl.Output[dsl.Metrics], report: dsl.Output[dsl.HTML]) -> int:
    """Every run of a suite, gated; returns the exit code that this has, as a step that fails shows no artifacts."""
    from pipelines.suites import nightly_step

    return nightly_step(suite, workspace, (scalars, report))


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def verdict(code: int) -> None:
    """Fails where a suite is worse, or a run of it failed."""
    from pipelines.suites import verdict_step

    verdict_step(code)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def collect(
    config: str,
    folder: str,
    workspace: str,
    launcher: str,
    pipeline_run: str,
    metrics: list,
    scalars: dsl.Output[dsl.Metrics],
    classification: dsl.Output[dsl.ClassificationMetrics],
    report: dsl.Output[dsl.HTML],
) -> str:
    """The metrics of all folds, whose digests are given, to those of the cross-validation; returns their digest."""
    from pipelines.steps import collect_step

    return collect_step(config, folder, workspace, (launcher, pipeline_run), (scalars, classification, report))
