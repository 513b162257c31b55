"""Thin components: each calls one command on the shared run folder. Imports inside, as KFP ships the bodies' source."""

from kfp import dsl

IMAGE = "trainworks-python"  # replaced by each task's own image; kfp's local runner wants "python" in the name


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def prepare(config: str, folder: str, workspace: str) -> str:
    """Raw data to shards; returns the digest of the data."""
    from pipelines.steps import run_step

    return run_step("prepare", config, folder, workspace)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train(config: str, folder: str, workspace: str, data: str, fold: str = "") -> str:
    """Shards to a checkpoint; returns its digest."""
    from pipelines.steps import run_step

    return run_step("train", config, folder, workspace, fold)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def evaluate(config: str, folder: str, workspace: str, checkpoint: str, fold: str = "") -> str:
    """A checkpoint to metrics; returns their digest."""
    from pipelines.steps import run_step

    return run_step("evaluate", config, folder, workspace, fold)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def collect(config: str, folder: str, workspace: str, metrics: list) -> str:
    """The metrics of all folds, whose digests are given, to those of the cross-validation; returns their digest."""
    from pipelines.steps import collect_step

    return collect_step(config, folder, workspace)
