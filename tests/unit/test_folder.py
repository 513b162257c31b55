"""The run folder: one run each, written so that nobody reads half a file, one writer at a time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from configs.errors import ConfigError, UserError
from configs.folder import RunFolder, digest, file_digest, locked, write_atomic, write_json
from configs.load import dump, read
from configs.process import explain
from configs.stages import complete
from tests.corpus import configuration


def test_the_folder_holds_the_resolved_config(tmp_path: Path):
    run, folder = configuration(), RunFolder(tmp_path / "runs" / "a")
    folder.open(run)
    assert read(folder.config) == run
    assert sorted(path.name for path in folder.path.iterdir()) == ["logs", "run.yaml"]
    folder.open(run)


def test_a_folder_of_another_run_is_refused_with_the_keys_that_differ(tmp_path: Path):
    folder = RunFolder(tmp_path / "a")
    folder.open(configuration())
    before = folder.config.read_bytes()
    with pytest.raises(ConfigError) as caught:
        folder.open(configuration(seed=1, task__model__width=64, train__schedule={"kind": "constant"}))
    message = str(caught.value)
    assert "  - seed: 1 here, 0 there" in message
    assert "  - task.model.width: 64 here, 128 there" in message
    assert "  - train.schedule.kind: 'constant' here, 'cosine' there" in message
    assert "choose another --name" in message
    assert folder.config.read_bytes() == before


def test_where_a_run_computes_and_how_it_is_judged_may_change(tmp_path: Path):
    folder = RunFolder(tmp_path / "a")
    folder.open(configuration())
    other = configuration(world__processes=1, wandb__mode="disabled", task__evaluation__stride_tokens=4)
    folder.open(other)
    assert read(folder.config) == other


def test_a_folder_with_strange_files_is_refused(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"is not empty and holds no run.yaml; choose another --name"):
        RunFolder(tmp_path).open(configuration())


def test_a_folder_of_logs_alone_is_taken(tmp_path: Path):
    (tmp_path / "logs").mkdir()
    RunFolder(tmp_path).open(configuration())


def test_a_damaged_run_yaml_is_named(tmp_path: Path):
    folder = RunFolder(tmp_path)
    folder.open(configuration())
    folder.config.write_text(dump(configuration()) + "seed: 3\n")
    with pytest.raises(ConfigError, match=r"run.yaml:\d+: seed is set twice"):
        folder.open(configuration())


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a"
    write_atomic(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            write_atomic(path, "new" * 1000)
    assert path.read_text() == "old"
    write_atomic(path, b"new")
    assert [each.name for each in tmp_path.iterdir()] == ["a"]
    assert path.read_bytes() == b"new"


def test_json_without_numbers_is_refused_and_the_old_file_stays(tmp_path: Path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert path.read_text() == '{\n "a": 1\n}\n'


def test_a_digest_does_not_depend_on_the_order_of_keys():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 1.5})
    assert digest([1, 2]) != digest([2, 1])


def test_a_file_digest_is_sha256(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"abc")
    assert file_digest(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


HOLDER = """
import sys, time
from pathlib import Path
from configs.folder import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_by_the_number_of_the_first(tmp_path: Path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"in use by process {holder.pid}; wait for it"), locked(tmp_path, wait_s=0):
            raise AssertionError("two writers in one folder")
        holder.kill()
    with locked(tmp_path, wait_s=0):  # the lock went with its process
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_the_lock_is_free_after_an_error(tmp_path: Path):
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    with locked(tmp_path, wait_s=0):
        pass


def test_a_full_disk_is_one_line_with_the_way_out(tmp_path: Path):
    text = explain(OSError(28, "No space left on device", "/x/y"), "prepare", RunFolder(tmp_path))
    assert text.startswith("/x/y: no space left; what was finished is kept: make room")


def test_another_failure_names_its_place_and_its_log(tmp_path: Path):
    with pytest.raises(ZeroDivisionError) as caught:
        _ = 1 / 0
    text = explain(caught.value, "train", RunFolder(tmp_path))
    assert text.startswith("ZeroDivisionError at test_folder.py:")
    assert text.endswith(f"{tmp_path}/logs/train.log")


def test_nothing_is_complete_in_a_new_folder(tmp_path: Path):
    folder = RunFolder(tmp_path)
    folder.open(configuration())
    assert [complete(stage, configuration(), folder) for stage in ("prepare", "train", "evaluate")] == [None] * 3
