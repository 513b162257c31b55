"""A stage as a job of a cluster: created once whoever asks, followed to its end, and gone when it is no longer wanted."""

from collections.abc import Callable, Mapping
from typing import Any

from configs.folder import RunFolder
from configs.lines import Line
from configs.schema import RunConfig
from k8s.launch import Outcome


def launch_job(
    run: RunConfig,
    stage: str,
    folder: RunFolder,
    show: Callable[[Line], None],
    *,
    pipeline_run: str = "",
    fold: str = "",
    volume: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Outcome:
    """Carry out a stage with ranks as a job of the kind that `run.cluster.job` names."""
    raise NotImplementedError
