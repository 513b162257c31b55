"""One cause and one action from what a run left behind: which sign counts, which start, which state."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.diagnose import main
from tests.left import (
    BEGUN,
    CODE,
    CUDA_MEMORY,
    GLOO_RESET,
    NO_ADDRESS,
    SHARD,
    SLEEPS,
    TORCHRUN,
    TRACEBACK,
    WAITS,
    Left,
    diagnose,
)


@pytest.fixture
def left(tmp_path: Path) -> Left:
    return Left(tmp_path / "run")


# --- which comes first -----------------------------------------------------------------------------------------------


def test_the_peers_that_lost_their_connection_are_no_cause(left: Left, capsys: pytest.CaptureFixture[str]):
    left.began()
    left.log("train", *TORCHRUN.splitlines())  # which lets every rank speak
    left.failed("train", 1, f"RuntimeError at c10d.py:3002: {GLOO_RESET}")
    left.failed("train", 1, f"{SHARD}; restore the file")
    _, record = diagnose(left.folder.path, capsys)
    assert record["cause"] == "damaged shard"
    assert any(fact["text"].startswith("follows from it: ") for fact in record["evidence"])


def test_of_two_causes_the_first_in_time_counts(left: Left, capsys: pytest.CaptureFixture[str]):
    left.began()
    left.log("train", *TORCHRUN.splitlines())
    left.failed("train", 1, f"{SHARD}; restore the file")
    left.failed("train", 1, "/runs/x: no space left; what was finished is kept")
    assert diagnose(left.folder.path, capsys)[1]["cause"] == "damaged shard"


def test_where_all_lost_their_peers_the_log_may_say_more(left: Left, capsys: pytest.CaptureFixture[str]):
    left.began()
    left.failed("train", 1, f"RuntimeError at c10d.py:3002: {GLOO_RESET}")
    left.log("train", *TORCHRUN.splitlines())
    _, record = diagnose(left.folder.path, capsys)
    assert (record["cause"], record["sure"]) == ("killed", "likely")


def test_the_kernels_word_in_the_log_counts_where_no_rank_had_one(left: Left, capsys: pytest.CaptureFixture[str]):
    left.began()
    left.log("train", NO_ADDRESS)
    assert diagnose(left.folder.path, capsys)[1]["cause"] == "unreachable peer"
    left.log("train", "Fatal Python error: Segmentation fault")
    assert diagnose(left.folder.path, capsys)[1]["cause"] == "crash"


def test_a_code_error_is_placed_in_our_own_code(left: Left, capsys: pytest.CaptureFixture[str]):
    left.began()
    left.log("train", *TRACEBACK)
    left.failed("train", 1, f"rank 1: KeyError at functional.py:12: 'x'{CODE}")
    _, record = diagnose(left.folder.path, capsys)
    assert record["cause"] == "code error"
    assert record["sentence"] == "Rank 1 raised KeyError at models/unet.py:88 in train before its first step: 'x'"


def test_the_exception_that_another_was_raised_from_is_the_cause(left: Left, capsys: pytest.CaptureFixture[str]):
    left.began()
    chain = ("", "The above exception was the direct cause of the following exception:", "")
    cause = (*TRACEBACK[:-1], f"torch.OutOfMemoryError: {CUDA_MEMORY}")
    left.log("train", *TRACEBACK, *cause, *chain, *TRACEBACK[:-1], "RuntimeError: the step failed")
    left.failed("train", 1, "RuntimeError at functional.py:12: the step failed")
    assert diagnose(left.folder.path, capsys)[1]["cause"] == "out of GPU memory"


def test_trouble_of_wandb_is_never_a_cause(left: Left, capsys: pytest.CaptureFixture[str]):
    left.began()
    left.log("train", "train | W&B is off for this run: CommError: Connection refused; the event log has everything")
    frame = '  File "/venv/lib/python3.11/site-packages/wandb/sdk/internal/sender.py", line 7, in send'
    left.log("train", TRACEBACK[0], frame, "ConnectionError: Connection refused")
    left.log("train", "wandb: ERROR CUDA error: out of memory")
    assert diagnose(left.folder.path, capsys)[1]["cause"] == "killed from outside"


# --- starts ----------------------------------------------------------------------------------------------------------


def test_only_the_last_start_counts_and_earlier_ones_are_counted(left: Left, capsys: pytest.CaptureFixture[str]):
    for _ in range(2):
        left.began()
        left.failed("train", 1, f"{SHARD}; restore the file")
    left.began(8)
    left.failed("train", 1, "/runs/x: no space left; what was finished is kept")
    _, record = diagnose(left.folder.path, capsys)
    assert (record["cause"], record["failed_before"]) == ("disk full", 2)


def test_starts_that_fail_before_they_say_anything_are_kept_apart(left: Left, capsys: pytest.CaptureFixture[str]):
    left.failed("train", 2, "train.steps must be 1 or more")
    left.failed("train", 1, f"{SHARD}; restore the file")
    _, record = diagnose(left.folder.path, capsys)
    assert (record["cause"], record["failed_before"]) == ("damaged shard", 1)


def test_restarts_by_the_agent_are_counted(left: Left, capsys: pytest.CaptureFixture[str]):
    left.began()
    for restart in (1, 2):
        left.dead(restarted=True)
        left.log("train", f"train | rank 1 was killed; starting again ({restart} of 2)")
        left.began()
    left.trained(to=3)
    left.dead()
    _, record = diagnose(left.folder.path, capsys)
    assert (record["cause"], record["failed_before"]) == ("killed", 2)
    assert any("it was started again" in fact["text"] for fact in record["evidence"])


def test_an_incident_of_an_earlier_start_is_no_cause(left: Left, capsys: pytest.CaptureFixture[str]):
    left.began()
    left.dead()
    left.began(4)
    left.events({"event": "start"}, {"event": "step", "step": 5}, begun=BEGUN + 500)
    _, record = diagnose(left.folder.path, capsys)
    assert (record["cause"], record["sure"], record["failed_before"]) == ("killed from outside", "a guess", 1)


def test_a_run_that_ended_without_a_word_says_where_it_goes_on(left: Left, capsys: pytest.CaptureFixture[str]):
    left.began()
    left.trained(to=14)
    left.checkpoint(8)
    _, record = diagnose(left.folder.path, capsys)
    assert record["cause"] == "killed from outside"
    assert "after step 14 of 40" in record["sentence"]
    assert "goes on from step 8, which is saved" in record["action"]


def test_a_silent_end_on_a_full_disk_is_laid_to_the_disk(
    left: Left, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    left.began()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 4096))  # type: ignore[attr-defined]
    _, record = diagnose(left.folder.path, capsys)
    assert (record["cause"], record["sure"], record["free_bytes"]) == ("disk full", "a guess", 4096)


@pytest.mark.parametrize(
    ("event", "cause"),
    [
        ({"event": "failure", "reason": "FloatingPointError: train/loss is inf at step 3; try"}, "loss not finite"),
        ({"event": "failure", "reason": "KeyError: 'x'"}, "code error"),
        ({"event": "stop", "reason": "stopped after step 2 of 40, which is saved; the same"}, "preempted"),
        (
            {"event": "anomaly", "step": 9, "reason": "train/loss is nan at step 9; x", "action": "stop"},
            "loss not finite",
        ),
    ],
)
def test_events_tell_the_cause_where_the_log_is_gone(
    left: Left, capsys: pytest.CaptureFixture[str], event: dict[str, Any], cause: str
):
    left.events({"event": "start"}, {"event": "step", "step": 2}, event)
    code, record = diagnose(left.folder.path, capsys)
    assert (code, record["cause"]) == (1, cause)


def test_what_only_the_pipeline_knows_is_told(left: Left, capsys: pytest.CaptureFixture[str]):
    left.log("prepare", "prepare | texts: 2 files, 0.1 MB")
    left.folder.data.mkdir()
    left.folder.manifest.write_text("{}")
    left.failed("pipeline", 1, "ignored: it is of no stage")
    left.log("pipeline", f'    prepare ! {{"code": 1, "reason": "{SHARD}"}}', "03:57 - ERROR - Task failed")
    left.log("pipeline", '  File "/venv/lib/python3.11/site-packages/kfp/local/x.py", line 3, in f')
    _, record = diagnose(left.folder.path, capsys)
    assert (record["stage"], record["cause"]) == ("prepare", "damaged shard")


# --- no failure ------------------------------------------------------------------------------------------------------


def completed(left: Left) -> None:
    left.folder.data.mkdir()
    left.folder.manifest.write_text("{}")
    left.log("prepare", "prepare | done")
    left.began()
    left.trained(to=40, status="completed")
    left.checkpoint(40)
    left.folder.evaluation.mkdir()
    left.folder.metrics.write_text("{}")
    left.log("evaluate", "evaluate | 3 metrics written")


def test_a_completed_run_has_no_cause(left: Left, capsys: pytest.CaptureFixture[str]):
    completed(left)
    code, record = diagnose(left.folder.path, capsys)
    assert (code, record["state"], record["cause"]) == (0, "completed", "none")
    assert "prepare, train, evaluate completed" in record["sentence"]


def test_a_later_failure_of_a_completed_stage_counts(left: Left, capsys: pytest.CaptureFixture[str]):
    completed(left)
    left.failed("evaluate", 1, f"{SHARD}; restore the file")
    code, record = diagnose(left.folder.path, capsys)
    assert (code, record["stage"], record["cause"]) == (1, "evaluate", "damaged shard")


def test_a_run_that_is_half_done_says_what_is_next(left: Left, capsys: pytest.CaptureFixture[str]):
    completed(left)
    shutil.rmtree(left.folder.evaluation)
    left.folder.log("evaluate").unlink()
    code, record = diagnose(left.folder.path, capsys)
    assert (code, record["action"]) == (0, "go on with `trainworks evaluate`")


def test_a_run_whose_folder_is_in_use_is_running(left: Left, capsys: pytest.CaptureFixture[str]):
    left.began()
    left.trained(to=14)
    with (left.folder.train / ".lock").open("w") as lock:
        lock.write("4711")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, record = diagnose(left.folder.path, capsys)
    assert (code, record["state"], record["step"], record["sure"]) == (0, "running", 14, "certain")
    assert "process 4711" in record["sentence"]
    assert diagnose(left.folder.path, capsys)[1]["cause"] == "killed from outside"  # the lock went with its process


def test_a_run_with_new_events_and_no_lock_to_ask_is_running(left: Left, capsys: pytest.CaptureFixture[str]):
    left.events({"event": "start"}, {"event": "step", "step": 5}, begun=time.time())
    code, record = diagnose(left.folder.path, capsys)
    assert (code, record["state"], record["sure"]) == (0, "running", "likely")


def test_a_run_that_nobody_started_is_told_apart(left: Left, capsys: pytest.CaptureFixture[str]):
    code, record = diagnose(left.folder.path, capsys)
    assert (code, record["cause"]) == (1, "never started")


# --- damage ----------------------------------------------------------------------------------------------------------


def test_garbage_is_read_as_far_as_it_goes(left: Left, capsys: pytest.CaptureFixture[str]):
    left.began()
    left.log("train", *TRACEBACK)
    left.failed("train", 1, f"KeyError at functional.py:12: 'x'{CODE}")
    left.trained(to=3)
    for path in (left.folder.events, left.folder.log("train")):
        with path.open("ab") as file:
            file.write(
                b'{"event": "step", "step": [1], "time": 1e300}\n{"event": "stop", "time": NaN}\n[1]\n'
                b'{"event": \xff\x00\x1b[1m\n{"event": "st'
            )
    for name, content in (("0001", b"{"), ("0002", b"[]"), ("0003", b'{"ranks": [1, {"rank": "x"}], "time": {}}')):
        path = left.folder.train / "incidents" / name
        path.mkdir(parents=True)
        (path / "incident.json").write_bytes(content)
    left.checkpoint(2).joinpath("complete.json").write_bytes(b"\xff{")
    (left.checkpoint(3) / "model.weights.rank-00000.safetensors").unlink()
    (left.folder.train / "latest.json").write_text('{"step": 3, "digest": 0}')
    left.folder.config.write_bytes(b"\xff: [")
    code, record = diagnose(left.folder.path, capsys)
    assert (code, record["cause"]) == (1, "code error")
    assert {each["step"]: each["fault"] for each in record["checkpoints"]} == {
        3: "model.weights.rank-00000.safetensors is missing",
        2: "no complete.json that can be read",
    }
    assert any("latest.json names step 3, which is not there or not whole" in f["text"] for f in record["evidence"])


LINES = st.lists(
    st.sampled_from([*map(str.encode, TRACEBACK), b'train ! {"code": 1, "reason": "x"}', b"train | y", b"["])
)


@settings(max_examples=20)
@given(noise=st.binary(max_size=200), lines=LINES)
def test_no_bytes_in_any_file_keep_it_from_an_answer(noise: bytes, lines: list[bytes]):
    with tempfile.TemporaryDirectory() as root:
        left = Left(Path(root) / "run")
        incident = left.incident("rank 1 was silent for 12 s in data", kind="silent", rank=1, stacks=(WAITS, SLEEPS))
        content = b"\n".join([*lines, noise])
        record = left.checkpoint(2) / "complete.json"
        for path in (incident / "rank-00001.txt", left.folder.log("train"), left.folder.events, record):
            path.write_bytes(content)
        for path in (incident / "incident.json", left.folder.train / "latest.json", left.folder.config):
            path.write_bytes(noise)
        assert main([str(left.folder.path)]) == 1


def test_a_copy_without_rights_and_times_says_the_same(left: Left, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    left.silent(stacks=(WAITS, SLEEPS))
    copy = shutil.copytree(left.folder.path, tmp_path / "copy", copy_function=shutil.copyfile)
    for path in copy.rglob("*"):
        os.utime(path, (0, 0))
    _, there = diagnose(left.folder.path, capsys)
    _, here = diagnose(copy, capsys)
    differs = ("run", "evidence", "free_bytes")
    assert [there[key] == here[key] for key in there if key not in differs] == [True] * (len(there) - len(differs))


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_text_says_the_cause_first_in_lines_of_a_screen(left: Left, capsys: pytest.CaptureFixture[str]):
    left.silent(stacks=(WAITS, SLEEPS))
    left.checkpoint(4)
    assert main(["run", "--runs", str(left.folder.path.parent)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("cause   silent rank: Rank 1 hung: silent for 12 s in compute at step 7 of 40;")
    assert [line.split()[0] for line in lines if line[0] != " "] == ["cause", "action", "evidence"]
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("words", [["none"], [""], ["."]])
def test_a_folder_without_a_run_is_a_mistake(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert "no run is there" in capsys.readouterr().err


def test_wrong_arguments_are_a_mistake(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert "RUN" in capsys.readouterr().err


def test_the_command_reads_neither_torch_nor_the_schema(left: Left):
    """Both take longer than the answer."""
    names = json.dumps(["torch", "numpy", "pydantic", "configs.schema"])
    look = f"import sys, pipelines.diagnose as d; d.main(sys.argv[1:]); print(set({names}) & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", look, str(left.folder.path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "set()"
