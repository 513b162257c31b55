"""`trainworks list`: every state of a run in one line, however damaged its folder, and fast for logs of any length."""

import fcntl
import json
import time
from pathlib import Path
from typing import Any

import pytest

from configs.events import VERSION, EventLog, encode
from configs.folder import RunFolder, locked
from pipelines.listing import main
from tests.left import Left
from tests.reported import complete, crossed, prepared
from tests.unit.test_cli import LIGHT, trainworks


def listed(runs: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    assert main(["--runs", str(runs), "--json"]) == 0
    return {each["run"]: each for each in json.loads(capsys.readouterr().out)}


def trained(runs: Path, name: str, **finish: str) -> Left:
    left = Left(runs / name)
    left.trained(to=7, **finish)
    return left


def test_each_run_has_its_state_step_metric_and_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    complete(tmp_path / "done")
    crossed(tmp_path / "folds")
    prepared(tmp_path / "ready")
    Left(tmp_path / "fresh")
    trained(tmp_path, "cut")
    trained(tmp_path, "trained", status="completed")
    stopped = Left(tmp_path / "stopped")
    stopped.events(
        {"event": "start", "step": 3}, {"event": "stop", "reason": "asked"}, {"event": "finish", "status": "stopped"}
    )
    trained(tmp_path, "broken").failed("train", 1, "no such thing")
    trained(tmp_path, "unscored", status="completed").failed("evaluate", 1, "judge is gone")
    found = listed(tmp_path, capsys)
    told = {name: (each["state"], each["stage"], each["step"], each["steps"]) for name, each in found.items()}
    steps = found["done"]["steps"]
    assert told == {
        "done": ("completed", "evaluate", 3, steps),
        "folds": ("completed", "evaluate", None, None),
        "ready": ("not trained", "train", None, steps),
        "fresh": ("not prepared", "prepare", None, 40),
        "cut": ("cut off", "train", 7, 40),
        "trained": ("not evaluated", "evaluate", 7, 40),
        "stopped": ("stopped", "train", 3, 40),
        "broken": ("failed", "train", 7, 40),
        "unscored": ("failed", "evaluate", 7, 40),
    }
    assert found["done"]["metric"]["name"] == "test/bits_per_byte"
    assert found["folds"]["metric"]["interval"] == [1.9, 2.3]
    assert [fold["state"] for fold in found["folds"]["folds"]] == ["completed"] * 3
    assert [found[name]["why"] for name in ("stopped", "broken", "unscored")] == [
        "asked",
        "no such thing",
        "judge is gone",
    ]


def test_the_table_shows_the_interval_and_folds_in_the_line_of_their_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    crossed(tmp_path / "folds")
    crossed(tmp_path / "some", done=2)
    assert main(["--runs", str(tmp_path)]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "state", "stage", "step", "metric", "age", "why"]
    by_name = {row.split()[0]: row for row in rows}
    assert "3 of 3 folds" in by_name["folds"]
    assert "cv/bits_per_byte 2.100 ± 0.050 (95 %: 1.90 to 2.30)" in by_name["folds"]
    assert "not evaluated" in by_name["some"]
    assert "2 of 3 folds" in by_name["some"]


def test_a_run_whose_lock_a_living_process_holds_is_running(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    left, fold = trained(tmp_path, "one"), crossed(tmp_path / "folds", done=2).fold("0-1")
    with locked(left.folder.train), locked(fold.evaluation):
        found = listed(tmp_path, capsys)
    assert (found["one"]["state"], found["one"]["stage"]) == ("running", "train")
    assert (found["folds"]["state"], found["folds"]["stage"]) == ("running", "evaluate")
    assert listed(tmp_path, capsys)["one"]["state"] == "cut off"
    with (left.folder.train / ".lock").open() as file:  # asking has not taken it
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


DAMAGE = {
    "run.yaml": lambda folder: folder.config.write_text("train: ["),
    "no steps": lambda folder: folder.config.write_text("train: 7"),
    "deep": lambda folder: folder.config.write_text("[" * 100_000),
    "no run.yaml": lambda folder: folder.config.unlink(),
    "a folder": lambda folder: (folder.config.unlink(), folder.config.mkdir()),
    "metrics": lambda folder: folder.metrics.write_text("{"),
    "other metrics": lambda folder: folder.metrics.write_text("[]"),
    "newer log": lambda folder: folder.events.write_bytes(encode({"event": "log", "version": VERSION + 1})),
    "noise": lambda folder: folder.events.write_bytes(b"\x00\xff\n" * 1000),
    "complete.json": lambda folder: next(folder.train.glob("*/complete.json")).write_text("{"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_listed_with_what_is_wrong(damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    DAMAGE[damage](complete(tmp_path / "damaged"))
    found = listed(tmp_path, capsys)["damaged"]
    assert found["state"] == "damaged"
    assert found["why"]
    assert found["why"].isprintable()
    assert main(["--runs", str(tmp_path)]) == 0


def test_a_log_of_a_million_lines_is_not_read_through(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    left = Left(tmp_path / "long")
    log = EventLog(left.folder.events)
    log.write("start", step=0)
    log.close()
    with left.folder.events.open("ab") as file:
        file.truncate(300_000_000)  # as long as a million lines, without the writing
        file.seek(0, 2)
        file.write(b"\n" + encode({"event": "step", "time": 1.75e9, "step": 1_000_000}))
    begun = time.perf_counter()
    assert listed(tmp_path, capsys)["long"]["step"] == 1_000_000
    assert time.perf_counter() - begun < 0.5


def test_nothing_heavy_is_imported(tmp_path: Path):
    complete(tmp_path / "done")
    code = LIGHT.replace("from pipelines.cli import main", "from pipelines.listing import main")
    done = trainworks("--runs", tmp_path, code=code)
    assert done.returncode == 0
    assert done.stderr == "heavy: []\n"


def test_a_folder_that_is_not_there_is_exit_code_2_and_an_empty_one_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["--runs", str(tmp_path / "none")]) == 2
    assert main(["--runs", str(tmp_path)]) == 0
    (tmp_path / "things").mkdir()
    assert listed(tmp_path, capsys) == {}
    assert RunFolder(tmp_path / "things").path.is_dir()
