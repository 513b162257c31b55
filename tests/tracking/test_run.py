"""A whole run with a key: what W&B has of it afterwards is what its folder has."""

import math
from pathlib import Path

import pytest

from configs.events import read_events
from configs.folder import RunFolder
from configs.stages import read_record
from tests.runs import run, tiny_config, write_corpus
from tests.tracking.server import WandbServer

pytestmark = pytest.mark.slow


def test_a_run_is_at_wandb_as_it_is_in_its_folder(server: WandbServer, tmp_path: Path) -> None:
    config = tiny_config(tmp_path, write_corpus(tmp_path / "corpus"), samples={"number": 1, "max_tokens": 4})
    done = run("run", config, "wandb.mode=auto", "--runs", tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    assert "W&B" not in done.stdout, "all went well, so nothing is said"
    folder = RunFolder(tmp_path / "runs" / "tiny")
    kinds = {each.sent["jobType"]: each for each in server.runs.values()}
    assert sorted(kinds) == ["evaluate", "prepare", "train"]
    assert len({each.sent["groupName"] for each in kinds.values()}) == 1
    assert [each.torn for each in kinds.values()] == [[], [], []]
    assert {each.exit_code for each in kinds.values()} == {0}
    logged = {event["step"]: event for event in read_events(folder.events) if event.get("event") == "step"}
    sent = {row["train/step"]: row for row in kinds["train"].history if "train/loss" in row}
    assert list(sent) == list(logged) == list(range(1, 41))
    assert all(math.isclose(sent[step]["train/loss"], logged[step]["train/loss"]) for step in logged)
    shown = {name for row in kinds["train"].history for name in row}
    assert {"validation/perplexity", "samples", "histograms/weights/model", "train/goodput"} <= shown
    metrics = {each["name"]: each["value"] for each in read_record(folder.metrics)["metrics"]}
    assert {name: kinds["evaluate"].summary[name] for name in metrics} == metrics
    assert {"metrics", "samples"} <= {name for row in kinds["evaluate"].history for name in row}
    assert kinds["train"].config["task"]["kind"] == "causal_lm"
    assert kinds["train"].config["trainworks"]["data"] == read_record(folder.manifest)["digest"]
    made = {each.name: each for each in server.artifacts.values() if not each.name.startswith("run-")}
    assert sorted(made) == ["tiny-data", "tiny-evaluation", "tiny-model"]
    assert made["tiny-data"].identity in kinds["train"].used
    assert made["tiny-model"].identity in kinds["evaluate"].used
    before = {name: list(each.history) for name, each in server.runs.items()}
    again = run("sync", "tiny", "--runs", tmp_path / "runs")
    assert again.returncode == 0, again.stdout + again.stderr
    assert {name: list(each.history) for name, each in server.runs.items()} == before
