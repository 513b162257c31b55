"""A run as Kubeflow Pipelines takes it: the compiled pipeline, and the bodies of calls that start or schedule it."""

import tempfile
from pathlib import Path
from typing import Any

import yaml

from configs.folder import digest
from configs.schema import RunConfig
from k8s.api import Object
from pipelines.training import compile_pipeline


def pipeline_of(run: RunConfig) -> Object:
    """The compiled pipeline with its settings for the cluster. Raises ConfigError when KFP would not carry it."""
    with tempfile.TemporaryDirectory(prefix="trainworks-") as scratch:
        path = Path(scratch) / "pipeline.yaml"
        compile_pipeline(run, path)
        return joined(path)


def joined(path: Path) -> Object:
    """Both documents of a compiled pipeline in one object."""
    spec, *platform = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    return {"pipeline_spec": spec, "platform_spec": platform[0]} if platform else {"pipeline_spec": spec}


def run_body(run: RunConfig, name: str, pipeline: Object) -> dict[str, Any]:
    """What starts the run. Its configuration stands in the pipeline itself: a run's parameters are held short."""
    told = f"{run.name}, configuration {digest(run.model_dump(mode='json'))[:12]}"
    parameters = {"folder": name}
    return {
        "display_name": name,
        "description": told,
        "pipeline_spec": pipeline,
        "runtime_config": {"parameters": parameters},
    }
