"""The verification of a resume with real kills, and that it can tell."""

import json
from pathlib import Path

import pytest
import yaml

from tests.runs import processes_of, run, wait_until

pytestmark = pytest.mark.slow


def test_a_tiny_language_model_resumes_on_two_ranks_to_the_last_bit_and_on_one_within_the_tolerance(
    config: Path, tmp_path: Path
) -> None:
    work, record = tmp_path / "work", tmp_path / "outcome.json"
    done = run("verify-resume", config, "--worlds", "1,2", "--work", work, "--json", record, timeout_s=600)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(record.read_text())
    assert told["equal"]
    rows = {row["ranks"]: row for row in told["rows"]}
    assert rows.keys() == {1, 2}
    for row in rows.values():
        assert row["samples"]
        assert row["rate"]
        assert len(row["killed_at"]) == 1
        assert 0 < row["resumed_from"][0] <= row["killed_at"][0] < told["steps"]
        assert {"weights", "ema", "optimizer"} <= row["tensors"].keys()
    assert rows[2]["loss"] == 0
    assert set(rows[2]["tensors"].values()) == {0.0}
    assert rows[1]["loss"] <= told["tolerance"]
    assert "equal to the last bit" in done.stdout
    assert "2 of 2 resumed trainings are the uninterrupted one" in done.stdout
    assert not work.exists()
    assert wait_until(lambda: not processes_of(work)), processes_of(work)


def test_a_training_that_cannot_start_is_told_with_its_reason_and_leaves_nothing(config: Path, tmp_path: Path) -> None:
    settings = yaml.safe_load(config.read_text())
    settings["data"]["source"]["paths"] = [str(tmp_path / "nowhere")]
    broken = tmp_path / "broken.yaml"
    broken.write_text(yaml.safe_dump(settings))
    work = tmp_path / "work"
    failed = run("verify-resume", broken, "--work", work)
    assert failed.returncode == 2
    assert "nowhere" in failed.stderr
    assert not work.exists()
