"""The pipeline: prepare, train, evaluate. The same definition runs on this machine and on a cluster."""

from pathlib import Path
from typing import Any

from kfp import compiler, dsl

from configs.schema import RunConfig
from pipelines.components import evaluate, prepare, train
from pipelines.parameters import encode_config


def build(run: RunConfig) -> Any:
    """The pipeline for a run: its config is the default of the parameter `config`, its image that of `image`."""

    @dsl.pipeline(
        name=f"trainworks-{run.name}",
        description="Prepare data, train a model, evaluate it.",
        pipeline_config=dsl.PipelineConfig(workspace=dsl.WorkspaceConfig(size=run.cluster.workspace_size)),
    )
    def training(config: str = encode_config(run), folder: str = run.name, image: str = run.cluster.image) -> str:
        workspace = dsl.WORKSPACE_PATH_PLACEHOLDER
        shards: Any = prepare(config=config, folder=folder, workspace=workspace)
        checkpoint: Any = train(config=config, folder=folder, workspace=workspace, data=shards.output)
        metrics: Any = evaluate(config=config, folder=folder, workspace=workspace, checkpoint=checkpoint.output)
        for task in (shards, checkpoint, metrics):
            task.set_container_image(image)
            task.set_caching_options(False)  # the stages know by digest what is complete; KFP cannot
        return metrics.output

    return training


def compile_pipeline(run: RunConfig, path: Path) -> None:
    """Write the pipeline as KFP's YAML."""
    compiler.Compiler().compile(build(run), str(path))
