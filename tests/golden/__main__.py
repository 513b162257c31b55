"""Write the golden files again: `make golden`. Look at the difference before you commit it."""

import json
from pathlib import Path

from configs.load import load
from configs.schema import RunConfig
from pipelines.training import compile_pipeline

HERE = Path(__file__).parent
CONFIGS = HERE.parent.parent / "configs"


def schema() -> str:
    """The JSON schema that editors use for configs/*.yaml."""
    return json.dumps(RunConfig.model_json_schema(), indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    (CONFIGS / "schema.json").write_text(schema(), encoding="utf-8")
    compile_pipeline(load([str(CONFIGS / "demo-lm.yaml")]), HERE / "demo-lm.pipeline.yaml")


if __name__ == "__main__":
    main()
