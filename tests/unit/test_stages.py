"""Which stages of a run are done, after somebody changed its files."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from configs.folder import RunFolder, digest, file_digest, write_json
from configs.load import load
from configs.schema import RunConfig
from configs.stages import complete, data_key, evaluation_key, step_folder, steps_in, train_key
from tests.tiny import CONFIGS, tiny_run


def finished(folder: RunFolder, run: RunConfig) -> None:
    """The last files of all stages, as they write them."""
    for each in (folder.data, folder.evaluation, step_folder(folder.train, run.train.steps)):
        each.mkdir(parents=True)
    manifest = {
        "digest": "d",
        "config": data_key(run),
        "splits": {},
        "sources": [{"documents": 1}],
        "classes": [],
        "tokenizer": {"vocabulary_size": 300},
    }
    write_json(folder.manifest, manifest)
    last = step_folder(folder.train, run.train.steps)
    (last / "model.weights.rank-00000.safetensors").write_bytes(b"weights")
    files = {"model.weights.rank-00000.safetensors": file_digest(last / "model.weights.rank-00000.safetensors")}
    record = {"step": run.train.steps, "files": files, "metrics": {}, "data": "d", "config": train_key(run)}
    write_json(last / "complete.json", record | {"digest": digest(record)})
    write_json(folder.samples, [])
    write_json(folder.cost, {"parameters": 1})
    metrics: dict[str, Any] = {"checkpoint": digest(record), "config": evaluation_key(run, folder), "metrics": []}
    metrics |= {"protocols": {}, "files": {path.name: file_digest(path) for path in (folder.samples, folder.cost)}}
    write_json(folder.metrics, metrics | {"digest": digest(metrics)})


@pytest.fixture
def run() -> RunConfig:
    return tiny_run()


@pytest.fixture
def folder(tmp_path: Path, run: RunConfig) -> RunFolder:
    made = RunFolder(tmp_path / "run")
    finished(made, run)
    return made


def test_a_finished_run_is_complete(folder: RunFolder, run: RunConfig):
    assert all(complete(stage, run, folder) for stage in ("prepare", "train", "evaluate"))


def test_without_its_manifest_a_run_has_everything_to_do(folder: RunFolder, run: RunConfig):
    folder.manifest.unlink()
    assert complete("prepare", run, folder) is None
    assert complete("train", run, folder) is None


@pytest.mark.parametrize("name", ["complete.json", "model.weights.rank-00000.safetensors"])
def test_a_torn_last_checkpoint_leaves_training_and_evaluation_to_do(folder: RunFolder, run: RunConfig, name: str):
    (step_folder(folder.train, run.train.steps) / name).unlink()
    assert complete("train", run, folder) is None
    assert complete("evaluate", run, folder) is None


@pytest.mark.parametrize("content", ["{", "{}", "[]", ""])
def test_metrics_that_cannot_be_read_are_taken_again(folder: RunFolder, run: RunConfig, content: str):
    folder.metrics.write_text(content)
    assert complete("evaluate", run, folder) is None


def test_metrics_that_somebody_changed_are_taken_again(folder: RunFolder, run: RunConfig):
    record = json.loads(folder.metrics.read_text())
    record["metrics"] = [{"name": "test/perplexity", "value": 0.001}]
    folder.metrics.write_text(json.dumps(record))
    assert complete("evaluate", run, folder) is None


def test_lost_samples_are_written_again(folder: RunFolder, run: RunConfig):
    folder.samples.unlink()
    assert complete("evaluate", run, folder) is None


@pytest.mark.parametrize("content", ["", "{}", None])
def test_metrics_whose_other_files_are_torn_altered_or_gone_are_taken_again(
    folder: RunFolder, run: RunConfig, content: str | None
):
    if content is None:
        folder.cost.unlink()
    else:
        folder.cost.write_text(content)
    assert complete("evaluate", run, folder) is None


def test_strangers_in_the_train_folder_are_not_steps(folder: RunFolder, run: RunConfig):
    (folder.train / "step-00000099").write_text("a file")
    (folder.train / "step-7").mkdir()
    shutil.copytree(step_folder(folder.train, run.train.steps), folder.train / "step-00000098.part")
    assert steps_in(folder.train) == [run.train.steps]


def test_how_often_a_run_is_looked_at_does_not_decide_its_weights():
    assert train_key(tiny_run(train__log_every_steps=7)) == train_key(tiny_run(train__log_every_steps=1))
    assert train_key(tiny_run(train__steps=70)) != train_key(tiny_run(train__steps=80))


def test_a_judge_that_is_trained_or_trained_again_has_the_images_judged_again(tmp_path: Path):
    path = next(str(path) for path in CONFIGS if path.stem == "demo-diffusion")
    run, folder, judge = load([path]), RunFolder(tmp_path / "drawing"), RunFolder(tmp_path / "demo-cnn")
    keys = [evaluation_key(run, folder)]
    for number in range(2):
        step_folder(judge.train, 100 + number).mkdir(parents=True)
        write_json(step_folder(judge.train, 100 + number) / "complete.json", {"digest": str(number)})
        judge.config.write_text("")
        keys.append(evaluation_key(run, folder))
    assert len(set(keys)) == 3
    guided = load([path, "task.drawing.guidance=3"])
    assert evaluation_key(guided, folder) not in keys
    assert train_key(guided) == train_key(run)
