"""Every committed YAML: complete, resolved and read back equal, explained field by field."""

from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from configs.load import dump, explain, load, read
from configs.presets import PRESETS
from configs.schema import RunConfig
from configs.suite_file import is_suite

CONFIGS = Path(__file__).parent.parent.parent / "configs"
PRODUCTION = sorted((CONFIGS / "production").glob("*.yaml"))
SUITES = [path for path in sorted(CONFIGS.glob("*.yaml")) if is_suite(path)]
EXPERIMENTS = [path for path in [*sorted(CONFIGS.glob("*.yaml")), *PRODUCTION] if path not in SUITES]
OVERLAYS = sorted((CONFIGS / "clusters").glob("*.yaml"))

experiments = pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
overlays = pytest.mark.parametrize("path", OVERLAYS, ids=lambda path: path.stem)


def test_there_are_experiments():
    assert {path.stem for path in EXPERIMENTS} >= {"demo-lm", "shakespeare"}


@experiments
def test_an_experiment_is_complete_and_bears_its_files_name(path: Path):
    assert load([str(path)]).name == path.stem.replace(".", "-")


@experiments
def test_an_experiment_says_what_it_is_and_how_to_run_it(path: Path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    assert f"#   trainworks run {path.relative_to(CONFIGS.parent)}" in lines[:5]


@experiments
def test_a_resolved_run_is_read_back_equal(path: Path, tmp_path: Path):
    run = load([str(path)])
    for number, text in enumerate((dump(run), explain(run))):
        copy = tmp_path / f"{number}.yaml"
        copy.write_text(text, encoding="utf-8")
        assert read(copy) == run


def leaves(config: BaseModel) -> list[str]:
    """Names of the fields that hold plain values, in the order of the explanation."""
    found: list[str] = []
    for name in type(config).model_fields:
        value = getattr(config, name)
        found += leaves(value) if isinstance(value, BaseModel) else [name]
    return found


@experiments
def test_the_explanation_has_a_line_with_a_meaning_for_every_field(path: Path):
    run = load([str(path)])
    lines = [line.strip() for line in explain(run).split("# derived")[0].splitlines()]
    plain = [line for line in lines if not line.split("  # ")[0].endswith(":")]
    assert [line.split(":")[0] for line in plain] == leaves(run)
    assert [line for line in lines if "  # " not in line and not line.startswith("kind: ")] == []


def test_every_preset_of_a_published_shape_has_a_production_file():
    models = [load([str(path)]).task.model for path in PRODUCTION]
    used = {(model.kind, preset) for model in models if (preset := getattr(model, "preset", None))}
    assert used == {(kind, name) for kind, names in PRESETS.items() for name in names if name != "laptop"}


def test_the_two_genre_runs_differ_in_nothing_but_the_body():
    pretrained, fresh = (str(CONFIGS / f"{name}.yaml") for name in ("genre", "genre-fresh"))
    body = ["name=genre-fresh", "task.model.init_from=null", "train.fine_tune=null"]
    assert load([pretrained, *body]) == load([fresh])


@experiments
def test_a_run_leaves_no_samples_over(path: Path):
    run = load([str(path)])
    together = run.world.micro_batch_samples * run.world.processes
    assert run.accumulation * together == run.train.global_batch_samples


@overlays
def test_a_cluster_overlay_lies_over_every_experiment(path: Path):
    """In micro-batches that fit: what one process reads at a time need not have a half for each of two."""
    for experiment in EXPERIMENTS:
        run = load([str(experiment), str(path), "world.micro_batch_samples=auto"])
        assert isinstance(run, RunConfig)
        assert run != load([str(experiment)])


@overlays
def test_a_cluster_overlay_does_not_rename_or_reseed_a_run(path: Path):
    assert set(yaml.safe_load(path.read_text(encoding="utf-8"))) <= {
        "world",
        "train",
        "wandb",
        "cluster",
        "data",
        "task",
    }
    assert path.read_text(encoding="utf-8").startswith("# ")
