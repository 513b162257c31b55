"""The whole pipeline through kfp on this machine."""

import json
import shutil
from pathlib import Path

import pytest

from tests.runs import interrupt, kill_group, kill_rank, processes_of, run, steps_of, terminate, trainworks, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run through all stages in a folder whose name kfp would rewrite, and what was printed."""
    runs = tmp_path_factory.mktemp("with python3 and a space")
    done = run("run", config, "--runs", runs)
    assert done.returncode == 0, done.stderr
    return runs / "tiny", done.stdout


def test_the_run_leaves_everything_the_architecture_names(finished: tuple[Path, str]) -> None:
    folder, printed = finished
    for name in ("run.yaml", "data/manifest.json", "train/events.jsonl", "evaluation/metrics.json", "report.html"):
        assert (folder / name).is_file(), name
    record = json.loads((folder / "evaluation/metrics.json").read_text())
    checkpoint = json.loads((folder / "train/step-00000040/complete.json").read_text())
    assert record["checkpoint"] == checkpoint["digest"]
    names = {metric["name"] for metric in record["metrics"]}
    assert {"test/perplexity", "test/bits_per_byte", "baseline/bigram/bits_per_byte"} <= names
    for metric in record["metrics"]:
        assert {"name", "value", "stderr", "n", "unit", "better", "protocol"} <= metric.keys()
        assert metric["protocol"] in record["protocols"]
    assert str(folder / "report.html") in printed
    assert "baseline/trigram" in printed


def test_the_same_command_again_does_nothing_and_says_so(config: Path, finished: tuple[Path, str]) -> None:
    folder, _ = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != "run.yaml"}
    again = run("run", config, "--runs", folder.parent, timeout_s=20)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("complete:") == 3
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_changed_evaluation_settings_redo_that_stage_alone(config: Path, finished: tuple[Path, str]) -> None:
    folder, _ = finished
    trained = (folder / "train/events.jsonl").stat().st_mtime_ns
    done = run("evaluate", config, "--runs", folder.parent, "task.evaluation.stride_tokens=16", "world.processes=1")
    assert done.returncode == 0, done.stderr
    record = json.loads((folder / "evaluation/metrics.json").read_text())
    assert next(iter(record["protocols"].values()))["stride_tokens"] == 16
    assert (folder / "train/events.jsonl").stat().st_mtime_ns == trained


LONGER = ("train.steps=400", "train.schedule.warmup_steps=4")


def test_a_stopped_pipeline_saves_and_leaves_nothing_behind(config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    command = trainworks("run", config, "--runs", tmp_path, *LONGER)
    stopped = interrupt(command, lambda: any(step >= 6 for step in steps_of(folder)), terminate)
    assert stopped.returncode == 143, stopped.stderr
    assert "train: stopped after step" in stopped.stderr
    assert wait_until(lambda: not processes_of(folder)), processes_of(folder)
    last = max((folder / "train").glob("step-*[0-9]"))
    assert last.name == f"step-{max(steps_of(folder)):08d}"
    assert (last / "complete.json").exists()


def test_a_pipeline_killed_outright_leaves_no_process_behind(config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    command = trainworks("run", config, "--runs", tmp_path, *LONGER)
    killed = interrupt(command, lambda: any(step >= 6 for step in steps_of(folder)), kill_group)
    assert killed.returncode == -9
    assert wait_until(lambda: not processes_of(folder)), processes_of(folder)


def test_a_damaged_shard_fails_the_step_by_name_and_keeps_the_rest(
    config: Path, finished: tuple[Path, str], tmp_path: Path
) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(finished[0], folder)
    shutil.rmtree(folder / "train")
    shard = folder / "data" / "train-00000.tar"
    content = bytearray(shard.read_bytes())
    content[600] ^= 1
    shard.write_bytes(content)
    failed = run("run", config, "--runs", tmp_path)
    assert failed.returncode == 1
    assert str(shard) in failed.stderr
    assert "sample 0 (at byte 0) is not what was written" in failed.stderr
    assert (folder / "evaluation/metrics.json").exists()


def test_a_tokenizer_that_does_not_match_the_shards_is_refused(
    config: Path, finished: tuple[Path, str], tmp_path: Path
) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(finished[0], folder)
    shutil.rmtree(folder / "evaluation")
    (folder / "data/tokenizer.json").write_text("{}")
    failed = run("evaluate", config, "--runs", tmp_path)
    assert failed.returncode == 1
    assert "is not the tokenizer that made the shards" in failed.stderr


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_is_named_and_the_code_says_by_what(
    config: Path, finished: tuple[Path, str], tmp_path: Path, rank: int
) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(finished[0] / "data", folder / "data")
    shutil.copy(finished[0] / "run.yaml", folder / "run.yaml")

    command = trainworks("train", config, "--runs", tmp_path, "world.restarts=0")
    ended = interrupt(command, lambda: bool(steps_of(folder)), lambda _: kill_rank(folder, rank))
    assert ended.returncode == 137, ended.stderr
    assert f"rank {rank} was killed by SIGKILL" in ended.stderr
