"""Which launcher a step of the pipeline gives its stage to."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from configs.errors import UserError
from configs.folder import RunFolder
from configs.lines import Line
from configs.schema import RunConfig
from k8s.job import MODULES
from k8s.joblauncher import launch_job
from k8s.launch import LocalLauncher, Outcome

LOCAL, JOB = "local", "job"
"""Values of the pipeline's parameter `launcher`"""
Show = Callable[[Line], None]
Launch = Callable[[str, RunConfig, RunFolder, Show], Outcome]


class TaskConfig(Protocol):
    """What KFP tells a step of its own pod, as dsl.TaskConfig has it."""

    volumes: list[dict[str, Any]] | None
    volume_mounts: list[dict[str, Any]] | None


Asked = tuple[str, str, TaskConfig]
"""As a component is given them: launcher, the pipeline run's identity, what KFP tells of the step's pod"""


def launch_here(stage: str, run: RunConfig, folder: RunFolder, show: Show) -> Outcome:
    """Carry out a stage on the machine, or in the pod, that this runs on."""
    launcher = LocalLauncher(folder, stage, show)
    return launcher.wait(launcher.submit(run))


def launch_asked(asked: Asked, fold: str) -> Launch:
    """The launcher that a pipeline's parameter names."""
    name, pipeline_run, task_config = asked
    if name == LOCAL:
        return launch_here
    if name != JOB:
        raise UserError(f"the pipeline's parameter launcher={name} must be {LOCAL} or {JOB}")
    return partial(_launch_there, pipeline_run, task_config, fold)


def _launch_there(
    pipeline_run: str, task_config: TaskConfig, fold: str, stage: str, run: RunConfig, folder: RunFolder, show: Show
) -> Outcome:
    """Carry out a stage with ranks as a job of the cluster, any other in the step's own pod."""
    if stage not in MODULES:
        return launch_here(stage, run, folder, show)
    volume = volume_of(task_config, run) if run.cluster.workspace.claim is None else None
    return launch_job(run, stage, folder, show, pipeline_run=pipeline_run, fold=fold, volume=volume)


def volume_of(task_config: TaskConfig, run: RunConfig) -> Mapping[str, Any]:
    """The source of the volume that KFP has mounted for the pipeline run. Raises UserError where it has not."""
    mounts, path = task_config.volume_mounts or [], run.cluster.mount
    name = next((each["name"] for each in mounts if each["mountPath"].rstrip("/") == path), None)
    volume = next((each for each in task_config.volumes or [] if each["name"] == name), None)
    if name is None or volume is None:
        told = ", ".join(each["mountPath"] for each in mounts) or "no volume"
        raise UserError(
            f"Kubeflow Pipelines told this step of {told}, and not of the one at {path} that the job's pods share: it "
            "must be 2.15 or newer; or give a claim of your own, cluster.workspace.claim"
        )
    return {key: value for key, value in volume.items() if key != "name"}
