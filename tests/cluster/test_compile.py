"""The compiled pipeline: what a cluster would be given."""

import json
from pathlib import Path

import pytest
from kfp import components

from configs.errors import ConfigError
from configs.load import load, validate
from configs.schema import RunConfig
from pipelines.parameters import decode_config, decode_folder, encode_config, encode_folder
from pipelines.training import compile_pipeline
from tests.golden.__main__ import CONFIGS, PIPELINES, golden_file, golden_run, schema

pytestmark = pytest.mark.cluster


@pytest.fixture
def demo() -> RunConfig:
    return load([str(CONFIGS / "demo-lm.yaml")])


@pytest.mark.parametrize("name", PIPELINES)
def test_a_compiled_pipeline_equals_its_golden_file(name: str, tmp_path: Path) -> None:
    compile_pipeline(golden_run(name), tmp_path / "pipeline.yaml")
    written = (tmp_path / "pipeline.yaml").read_text()
    assert written == golden_file(name).read_text(), "changed on purpose? make golden, and look"


def test_the_compiled_demo_loads_in_kfp_with_three_steps(demo: RunConfig, tmp_path: Path) -> None:
    compile_pipeline(demo, tmp_path / "pipeline.yaml")
    loaded = components.load_component_from_file(str(tmp_path / "pipeline.yaml"))
    tasks = loaded.pipeline_spec.root.dag.tasks
    assert set(tasks) == {"prepare", "train", "evaluate"}
    assert tasks["train"].dependent_tasks == ["prepare"]
    assert tasks["evaluate"].dependent_tasks == ["train"]
    assert not any(task.caching_options.enable_cache for task in tasks.values())


def test_a_cross_validation_loops_over_its_folds_and_collects_them_in_a_flat_graph(
    demo: RunConfig, tmp_path: Path
) -> None:
    tree = demo.model_dump(mode="json")
    tree["data"]["splits"]["folds"] = {"count": 3, "repeats": 2}
    tree["world"]["parallel_folds"] = 2
    compile_pipeline(validate(tree), tmp_path / "pipeline.yaml")
    spec = components.load_component_from_file(str(tmp_path / "pipeline.yaml")).pipeline_spec
    (loop,) = [task for name, task in spec.root.dag.tasks.items() if name.startswith("for-loop")]
    assert len(spec.root.dag.tasks) == 3
    assert {"prepare", "collect"} < set(spec.root.dag.tasks)
    assert loop.iterator_policy.parallelism_limit == 2
    assert json.loads(loop.parameter_iterator.items.raw) == ["0-0", "0-1", "0-2", "1-0", "1-1", "1-2"]
    inside = spec.components[loop.component_ref.name].dag.tasks
    assert {name: task.retry_policy.max_retry_count for name, task in inside.items()} == {"train": 2, "evaluate": 2}


def test_the_parameters_carry_the_config_whole_and_within_kfp_s_limit(demo: RunConfig) -> None:
    text = encode_config(demo)
    assert decode_config(text) == demo
    assert len(text) < 9000, "KFP allows 10,000 bytes of parameters"


def test_a_path_with_the_word_that_kfp_rewrites_comes_through(demo: RunConfig, tmp_path: Path) -> None:
    folder = tmp_path / "python3 runs" / "ü%"
    assert "python3" not in encode_folder(folder)
    assert decode_folder(encode_folder(folder), "/unused") == folder
    assert decode_folder("demo", "/workspace") == Path("/workspace/demo")
    assert decode_folder("demo-PIPELINE-RUN", "/workspace", "1234") == Path("/workspace/demo-1234")
    renamed = demo.model_copy(update={"wandb": demo.wandb.model_copy(update={"project": "python3-x"})})
    assert "python3" not in encode_config(renamed)
    assert decode_config(encode_config(renamed)) == renamed


def test_the_editor_schema_is_up_to_date() -> None:
    written = (CONFIGS / "schema.json").read_text(encoding="utf-8")
    assert json.loads(written) == json.loads(schema()), "make golden"


def test_what_kfp_would_fill_in_is_carried_as_text(demo: RunConfig) -> None:
    odd = demo.model_copy(update={"wandb": demo.wandb.model_copy(update={"project": "{{$.inputs}} {{$}}"})})
    assert "{{$" not in encode_config(odd)
    assert decode_config(encode_config(odd)) == odd


def test_a_config_that_kfp_would_not_carry_is_refused(demo: RunConfig) -> None:
    long = demo.model_copy(update={"wandb": demo.wandb.model_copy(update={"project": "x" * 9000})})
    with pytest.raises(ConfigError, match=r"the resolved configuration has .* bytes; .* hold 9,000"):
        encode_config(long)
