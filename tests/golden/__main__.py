"""Write the golden files again: `make golden`. Look at the difference before you commit it."""

import json
from pathlib import Path

from configs.load import load
from configs.schema import RunConfig
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
"""What is compiled, by the name of its golden file: a run of one model, a cross-validation, and one on a volume of its own"""


def schema() -> str:
    """The JSON schema that editors use for configs/*.yaml."""
    return json.dumps(RunConfig.model_json_schema(), indent=1, ensure_ascii=False) + "\n"


def golden_run(name: str) -> RunConfig:
    """The configuration whose pipeline is the golden file of that name."""
    path, *overrides = PIPELINES[name]
    return load([str(CONFIGS / path), *overrides])


def golden_file(name: str) -> Path:
    return HERE / f"{name}.pipeline.yaml"


def main() -> None:
    (CONFIGS / "schema.json").write_text(schema(), encoding="utf-8")
    for name in PIPELINES:
        compile_pipeline(golden_run(name), golden_file(name))


if __name__ == "__main__":
    main()
