"""Write the golden files again: `make golden`. Look at the difference before you commit it."""

import json
from pathlib import Path

import yaml

from configs.load import load
from configs.schema import RunConfig
from k8s.job import Job, Owner
from k8s.joblauncher import KINDS
from pipelines.training import compile_pipeline

HERE = Path(__file__).parent
CONFIGS = HERE.parent.parent / "configs"
OWN_VOLUME = (
    "cluster={workspace: {claim: shared, path: /mnt/runs}, queue: small, nodes: 2, step: {cpu: 500m, memory: 2Gi},"
    " image: 'registry.example/trainworks@sha256:" + "0" * 64 + "', pull_secrets: [registry],"
    " secrets: {WANDB_API_KEY: {name: wandb, key: token}}}"
)
PIPELINES = {
    "demo-lm": ["demo-lm.yaml"],
    "demo-cnn-folds": ["demo-cnn.yaml", "data.splits.folds={count: 5}", "world.parallel_folds=2"],
    "demo-cnn-claim": ["demo-cnn.yaml", "data.splits.folds={count: 5}", "world.parallel_folds=2", OWN_VOLUME],
}
"""What is compiled, by the name of its golden file: one model, a cross-validation, one on a volume of its own"""
IMAGE = f"registry.example.org/trainworks@sha256:{'0123456789abcdef' * 4}"
JOBS = {
    "pytorchjob": [
        "shakespeare.yaml",
        "clusters/gpu.yaml",
        f"cluster.image={IMAGE}",
        "cluster.secrets={WANDB_API_KEY: {name: wandb, key: api-key}}",
        "cluster.node.rdma={resource: rdma/hca_shared_devices_a, count: 1}",
    ],
    "trainjob": ["shakespeare.yaml", "clusters/gpu.yaml", f"cluster.image={IMAGE}", "cluster.job=trainjob"],
}
"""Whose training is rendered as a job of the cluster, by the name of its golden file, which is that of its kind"""


def schema() -> str:
    """The JSON schema that editors use for configs/*.yaml."""
    return json.dumps(RunConfig.model_json_schema(), indent=1, ensure_ascii=False) + "\n"


def golden_run(name: str) -> RunConfig:
    """The configuration whose pipeline is the golden file of that name."""
    path, *overrides = PIPELINES[name]
    return load([str(CONFIGS / path), *overrides])


def golden_file(name: str) -> Path:
    return HERE / f"{name}.pipeline.yaml"


def golden_job(name: str) -> Job:
    """The job whose manifest is the golden file of that name."""
    path, overlay, *overrides = JOBS[name]
    run = load([str(CONFIGS / path), str(CONFIGS / overlay), *overrides])
    owner = Owner("shakespeare-x7k2q-system-container-impl-1", "00000000-0000-4000-8000-000000000001")
    return Job(run, "train", "/workspace/shakespeare", "00000000-0000-4000-8000-000000000002", owner=owner)


def job_text(name: str) -> str:
    """Its manifest as YAML, nothing abbreviated."""
    manifest = json.loads(json.dumps(KINDS[name].build(golden_job(name))))
    return yaml.safe_dump(manifest, sort_keys=False, width=120)


def golden_job_file(name: str) -> Path:
    return HERE / f"{name}.job.yaml"


def golden_dashboard(name: str) -> Path:
    """The workspace of a family, or the overview of the nightly, as Weights & Biases gets it."""
    return HERE / f"dashboard-{name}.json"


def main() -> None:
    from pipelines.dashboards.build import to_json, workspace_of  # here: others want no more than names of files
    from pipelines.dashboards.names import names

    (CONFIGS / "schema.json").write_text(schema(), encoding="utf-8")
    for name in PIPELINES:
        compile_pipeline(golden_run(name), golden_file(name))
    for name in JOBS:
        golden_job_file(name).write_text(job_text(name), encoding="utf-8")
    for name in names():
        golden_dashboard(name).write_text(to_json(workspace_of(name)), encoding="utf-8")


if __name__ == "__main__":
    main()
