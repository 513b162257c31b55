"""`trainworks events`: every event on one line, torn and damaged logs, and a log that is followed while it grows."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from configs.events import VERSION, EventLog, encode
from pipelines.events import main, readable


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    (path / "logs").mkdir(parents=True)
    return path


def log_of(run: Path, stage: str = "train") -> EventLog:
    return EventLog(run / stage / "events.jsonl")


def trained(run: Path, *, finish: bool = True) -> Path:
    log = log_of(run)
    log.write("start", run="x", step=0, machine={"cpu": "abacus", "cores": 2})
    log.write("step", step=1, **{"train/loss": 2.123456789, "position": 8, "samples_digest": "ab" * 32})
    log.write("histogram", step=1, name="weights/model", edges=[0.0] * 65, counts=[1] * 64)
    if finish:
        log.write("finish", status="completed")
    log.close()
    return log.path


def test_each_event_is_one_line_with_time_step_and_figures(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(run)
    assert main([str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[21:].split()[:2] for line in lines] == [
        ["log", "-"],
        ["start", "0"],
        ["step", "1"],
        ["histogram", "1"],
        ["finish", "-"],
    ]
    assert lines[1].endswith("run x  machine cpu abacus, cores 2")
    assert lines[2].endswith("train/loss 2.1235  position 8")
    assert "edges [65 values]  counts [64 values]" in lines[3]


def test_json_lines_are_the_events_of_the_log(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = trained(run)
    assert main([str(run), "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    written = [json.loads(line) for line in path.read_text().splitlines()]
    assert told == [{key: value for key, value in event.items() if key != "crc"} for event in written]


def test_a_torn_tail_is_left_out_and_damaged_lines_are_counted(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = trained(run)
    path.write_bytes(path.read_bytes().replace(b'"step":1', b'"step":7') + b'{"event":"st')
    assert main([str(run)]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3
    assert err == f"{path}: 2 lines are damaged and left out\n"


def test_what_is_no_event_of_ours_is_one_printable_line() -> None:
    line = readable(
        {"event": None, "time": "x\x1b[2J", "step": "y", "reason": "a\nb" * 50, "kind": "z" * 99, "ok": True}
    )
    assert line.isprintable()
    assert line.endswith("ok true")
    assert "a b" * 50 in line
    assert readable({"event": "step", "time": 1e300, "step": 2}).split() == ["-", "step", "2"]


@pytest.mark.parametrize("stage", ["train", "evaluate"])
def test_a_log_that_is_not_there_is_exit_code_2(run: Path, stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run), "--stage", stage]) == 2
    assert f"{stage} has not begun" in capsys.readouterr().err
    assert main([str(run / "nothing")]) == 2
    assert "no run is there" in capsys.readouterr().err


def test_a_log_of_a_newer_version_is_exit_code_2(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log_of(run).close()
    (run / "train" / "events.jsonl").write_bytes(encode({"event": "log", "version": VERSION + 1}))
    assert main([str(run)]) == 2
    assert f"is of version {VERSION + 1}" in capsys.readouterr().err


def started(run: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipelines.events", str(run), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_follower_goes_on_until_the_log_says_finish_and_over_an_earlier_one(run: Path) -> None:
    follower = started(run, "--follow")  # before there is a log
    assert follower.stdout
    log = log_of(run)
    log.write("start", step=0)
    assert "log" in follower.stdout.readline()
    assert "start" in follower.stdout.readline()
    log.write("step", step=1)
    assert "step" in follower.stdout.readline()
    log.write("finish", status="stopped")
    log.close()
    assert "status stopped" in follower.communicate(timeout=20)[0]
    assert follower.returncode == 0

    again = log_of(run)
    again.write("start", step=1)
    follower = started(run, "--follow")
    assert follower.stdout
    assert [follower.stdout.readline().split()[2] for _ in range(5)] == ["log", "start", "step", "finish", "start"]
    again.write("finish", status="completed")
    again.close()
    assert follower.communicate(timeout=20)[0].rstrip().endswith("status completed")


def test_a_follower_ends_with_ctrl_c_in_silence(run: Path) -> None:
    trained(run, finish=False)
    follower = started(run, "--follow")
    assert follower.stdout
    assert "log" in follower.stdout.readline()
    follower.send_signal(signal.SIGINT)
    assert follower.communicate(timeout=20)[1] == ""
    assert follower.returncode == 130


def test_a_reader_that_leaves_ends_it_in_silence(run: Path) -> None:
    log = log_of(run)
    for step in range(20_000):
        log.write("step", step=step)
    log.close()
    command = f"{sys.executable} -m pipelines.events {run} | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False, timeout=60)
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""
