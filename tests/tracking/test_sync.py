"""`trainworks sync` over a real connection: what wandb sends of a run that was offline, and again, and after a tear."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from configs.events import EventLog
from configs.folder import RunFolder
from pipelines.gate.verdicts import Judgement, Verdict
from pipelines.tracking.verdicts import leave_baseline, leave_verdict
from tests.reported import complete
from tests.tracking.server import WandbServer


class Done(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run after all its stages."""
    folder = complete(tmp_path / "runs" / "lm")
    log = EventLog(folder.stage_events("evaluate"))
    log.write("start", step=3)
    log.write("evaluation", step=3, **{"test/bits_per_byte": 1.98})
    log.write("finish", status="completed")
    log.close()
    return folder


def synced(run: RunFolder) -> Done:
    """The command in a process of its own, as wandb remembers the first server that it talks to."""
    command = [sys.executable, "-m", "pipelines.tracking.sync", str(run.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


def test_a_run_that_was_offline_is_sent_whole_with_lineage_and_twice_changes_nothing(
    server: WandbServer, run: RunFolder
) -> None:
    done = synced(run)
    assert done.code == 0, done
    assert "lm train: W&B has all 4 rows" in done.out
    train = server.one("train")
    assert [row["train/step"] for row in train.history] == [1, 2, 3, 3]
    assert [row["_timestamp"] for row in train.history] == [1_800_000_001.0 + n for n in range(4)], "as it was logged"
    assert train.summary["status"] == "completed"
    assert train.exit_code == 0
    groups = {each.sent["groupName"] for each in server.runs.values()}
    assert len(groups) == 1, "one group for the pipeline run"
    made = {each.kind: each for each in server.artifacts.values()}
    assert made["dataset"].metadata["digest"] == "d" * 64
    assert made["model"].aliases == ["latest", "best"] or made["model"].aliases == ["best", "latest"]
    assert (made["dataset"].by, made["model"].by) == (server.one("prepare").name, train.name)
    assert train.used == [made["dataset"].identity], "what it was trained on"
    assert server.one("evaluate").used == [made["model"].identity]
    assert server.one("evaluate").summary["test/bits_per_byte"] == 1.98
    before = {name: each.lines for name, each in server.runs.items()}, dict(server.artifacts)
    assert synced(run).code == 0
    assert ({name: each.lines for name, each in server.runs.items()}, server.artifacts) == before
    assert not [each.torn for each in server.runs.values() if each.torn]
    assert not [path for path in (run.path / "wandb").rglob("*") if path.name != ".lock" and not path.is_dir()]


def test_a_torn_tail_is_left_until_it_is_whole_and_then_sent_once(server: WandbServer, run: RunFolder) -> None:
    whole = run.events.read_bytes()
    cut = whole[: whole.index(b'"step":3') + 4]
    run.events.write_bytes(cut)
    assert synced(run).code == 0
    assert [row["train/step"] for row in server.one("train").history] == [1, 2]
    run.events.write_bytes(whole)
    assert synced(run).code == 0
    assert [row["train/step"] for row in server.one("train").history] == [1, 2, 3, 3]
    assert server.one("train").torn == []


def test_a_run_that_the_server_has_deleted_begins_anew(server: WandbServer, run: RunFolder) -> None:
    assert synced(run).code == 0
    first = server.one("train").name
    server.refuse_id = first
    del server.runs[first]
    assert synced(run).code == 1
    server.refuse_id = None
    assert synced(run).code == 0
    assert first not in server.runs
    assert len([each for each in server.runs.values() if each.sent.get("jobType") == "train"]) == 1


@pytest.mark.parametrize(("fault", "code", "says"), [("401", 2, "refuses the key"), ("503", 1, "answers with 503")])
def test_a_wrong_key_and_a_server_that_is_away_are_one_line(
    server: WandbServer, run: RunFolder, fault: str, code: int, says: str
) -> None:
    server.fault = fault  # type: ignore[assignment]
    done = synced(run)
    assert done.code == code
    assert says in done.err
    assert len((done.out + done.err).splitlines()) == 1
    assert "k" * 40 not in done.err


def test_without_a_key_sync_says_how_to_get_one(
    server: WandbServer, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    done = synced(run)
    assert done.code == 2
    assert "set WANDB_API_KEY, or run `wandb login`" in done.err
    assert server.operations == []
    left = Path(os.environ["HOME"]) / ".netrc"
    left.write_text(f"machine 127.0.0.1 login user password {'n' * 40}\n")
    left.chmod(0o600)
    assert synced(run).code == 0, "what wandb login left is a key"


def test_a_copy_of_a_run_goes_on_in_the_same_place_and_repeats_nothing(
    server: WandbServer, run: RunFolder, tmp_path: Path
) -> None:
    assert synced(run).code == 0
    shutil.copytree(run.path, tmp_path / "elsewhere")
    assert synced(RunFolder(tmp_path / "elsewhere")).code == 0
    assert len(server.one("train").history) == 4


def test_a_gate_s_verdict_and_a_baseline_are_shown_and_a_regression_is_alerted_once(
    server: WandbServer, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    worse = Verdict("test/bits_per_byte", "worse", "0.3 more", ours=1.98, theirs=1.6)
    leave_verdict([run], Judgement("nightly-lm 3", ("lm",), (worse,)).record())
    leave_baseline([run], "nightly-lm 4")
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    for _ in range(2):
        assert synced(run).code == 0
    shown = server.one("evaluate")
    assert shown.summary["gate/verdict"] == "worse"
    assert (shown.summary["gate/test/bits_per_byte"], shown.summary["baseline/test/bits_per_byte"]) == (1.98, 1.6)
    assert [alert["title"] for alert in shown.alerts if "worse" in alert["title"]] == [
        "lm-evaluate: worse than nightly-lm 3"
    ]
    (made,) = [each for each in server.artifacts.values() if each.kind == "evaluation"]
    assert "baseline" in made.aliases


def test_no_secret_is_written_anywhere(server: WandbServer, run: RunFolder) -> None:
    assert synced(run).code == 0
    assert any(key.startswith("Basic ") for key in server.keys), "the key goes to the server"
    sent = json.dumps([[each.sent, each.config, each.summary] for each in server.runs.values()])
    assert "k" * 40 not in sent
    for path in run.path.rglob("*"):
        assert path.is_dir() or b"k" * 40 not in path.read_bytes()
