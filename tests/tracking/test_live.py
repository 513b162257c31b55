"""A training is followed for W&B over a real connection: killed, cut off, asked to stop; each step is there once."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from configs.events import encode
from configs.folder import RunFolder
from configs.load import dump, load
from tests.reported import CONFIG
from tests.runs import wait_until
from tests.tracking.server import Fault, WandbServer


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "runs" / "live")
    made.logs.mkdir(parents=True)
    made.config.write_text(dump(load([str(CONFIG)])))
    return made


BEGUN: list[subprocess.Popen[bytes]] = []


@pytest.fixture(autouse=True)
def _none_goes_on() -> Iterator[None]:
    """A test that fails leaves no training behind."""
    yield
    while BEGUN:
        process = BEGUN.pop()
        process.kill()
        process.wait()


class Training:
    """tests/tracking/training.py in a process of its own."""

    def __init__(self, folder: RunFolder, first: int, last: int, *, pause_s: float = 0.02, **variables: str) -> None:
        self.told = folder.path / f"told-{first}-{last}.txt"
        words = [sys.executable, "-m", "tests.tracking.training", str(folder.path), str(first), str(last), str(pause_s)]
        with self.told.open("w") as output:
            self.process = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT, env=os.environ | variables)
        BEGUN.append(self.process)

    @property
    def text(self) -> str:
        return self.told.read_text()

    def ends(self, seconds: float = 90) -> str:
        assert self.process.wait(seconds) == 0, self.text
        return self.text


def steps(server: WandbServer) -> list[int]:
    return [row["train/step"] for run in server.runs.values() for row in run.history]


def reaches(server: WandbServer, count: int) -> bool:
    return wait_until(lambda: len(steps(server)) >= count, 60)


def test_three_kills_and_two_outages_lose_no_step_and_double_none(server: WandbServer, folder: RunFolder) -> None:
    first = 1
    for kill in range(3):  # each start repeats steps of the one before, as a training does from its checkpoint
        training = Training(folder, max(1, first - 15), 100_000)
        assert reaches(server, len(steps(server)) + 40), training.text
        if kill == 1:
            with server.broken("503"):
                assert wait_until(seconds(6), 20)
            assert reaches(server, len(steps(server)) + 40), training.text
        left = psutil.Process(training.process.pid).children(recursive=True)
        training.process.send_signal(signal.SIGKILL)
        training.process.wait()
        assert len(left) >= 2, "the follower and wandb"
        assert wait_until(partial(ended, left), 20), "a killed run leaves nothing behind"
        first = int(training.text.split("step ")[-1].split()[0])
    training = Training(folder, max(1, first - 15), first + 60, pause_s=0.15)
    with server.broken("hang"):
        assert wait_until(seconds(6), 20)
    training.ends()
    assert steps(server) == list(range(1, first + 61))
    (run,) = server.runs.values()
    assert run.torn == []
    assert run.exit_code == 0
    assert [row["_step"] for row in run.history] == list(range(first + 60))


@pytest.mark.parametrize("fault", ["503", "hang", "401", "403"])
def test_a_server_that_is_away_at_the_start_is_caught_up_with(
    server: WandbServer, folder: RunFolder, fault: Fault
) -> None:
    with server.broken(fault):
        training = Training(folder, 1, 400)
        assert wait_until(lambda: "the event log has everything" in training.text, 30), training.text
        assert "step 10" in training.text, "nothing of it holds the training up"
    text = training.ends()
    assert steps(server) == list(range(1, 401)), text
    assert "k" * 40 not in text


def test_a_server_that_stays_away_delays_the_end_by_seconds_and_sync_sends_it_later(
    server: WandbServer, folder: RunFolder
) -> None:
    server.fault = "503"
    begun = time.monotonic()
    text = Training(folder, 1, 30).ends()
    assert time.monotonic() - begun < 30
    assert "later" in text or "trainworks sync" in text
    server.fault = None
    command = [sys.executable, "-m", "pipelines.tracking.sync", str(folder.path)]
    assert subprocess.run(command, check=False, timeout=60).returncode == 0
    assert steps(server) == list(range(1, 31))


def test_one_process_alone_sends_a_run_and_needs_no_home(server: WandbServer, folder: RunFolder) -> None:
    training = Training(folder, 1, 100_000, HOME="/proc")
    assert reaches(server, 5), training.text
    command = [sys.executable, "-m", "pipelines.tracking.sync", str(folder.path)]
    done = subprocess.run(command, check=False, timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "live train: is being sent while it goes on\n")
    folder.request("stop").parent.mkdir(parents=True)
    folder.request("stop").touch()
    training.ends()
    assert steps(server) == list(range(1, len(steps(server)) + 1))


def test_a_log_of_a_newer_version_is_one_line_and_the_training_goes_on(server: WandbServer, folder: RunFolder) -> None:
    folder.train.mkdir()
    folder.events.write_bytes(encode({"event": "log", "version": 99}))
    text = Training(folder, 1, 100).ends()
    assert "written" in text
    assert steps(server) == list(range(1, 101)), text


def test_without_a_key_no_process_is_started_and_nothing_is_said(
    server: WandbServer, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    training = Training(folder, 1, 30)
    assert wait_until(lambda: "step 10" in training.text or training.process.poll() is not None, 30)
    text = training.ends()
    assert [line for line in text.splitlines() if not line.startswith("step")] == ["written"]
    assert server.operations == []
    assert not (folder.path / "wandb").exists()


def test_a_tag_on_the_run_asks_the_training_to_stop_and_is_taken_back(server: WandbServer, folder: RunFolder) -> None:
    training = Training(folder, 1, 100_000)
    assert reaches(server, 5), training.text
    (run,) = server.runs.values()
    run.tags = ["mine", "trainworks-stop"]
    assert "the tag trainworks-stop asks for a stop" in training.ends()
    assert run.tags == ["mine"]
    assert [alert["title"] for alert in run.alerts] == ["live-train: stopped", "live-train: completed"]


def seconds(count: float) -> Callable[[], Any]:
    """True once so much time has passed."""
    end = time.monotonic() + count
    return lambda: time.monotonic() > end


def ended(processes: Sequence[psutil.Process]) -> bool:
    return not any(map(alive, processes))


def alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
