"""Ranks that die, hang, fail or are asked to stop: who is named, with which exit code, and what goes on."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from configs.lines import FAILURE, parse, read_failure
from configs.load import dump, load
from tests.left import diagnose
from tests.runs import (
    interrupt,
    kill_rank,
    losses_of,
    processes_of,
    steps_of,
    trainworks,
    wait_until,
)
from tests.swift import free_ports

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent.parent
TWO_NODES = {
    "PET_NNODES": "2",
    "PET_NPROC_PER_NODE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": str(free_ports(1)[0]),
}


@dataclass(frozen=True)
class Case:
    """What each rank does, in `tests.faults`, and how the node is asked to carry it."""

    plan: Sequence[str | Sequence[str]]
    restarts: int = 0
    environ: Mapping[str, str] | None = None
    module: str = "tests.faults"
    timeout_s: int = 5
    ask: Sequence[int] = ()
    """Signals to the agent once rank 0 is up"""


CASES = {
    "sleeps": Case(["waits", "sleeps"]),
    "waits": Case(["waits", "waits"]),
    "frozen": Case(["waits", "stopped"]),
    "killed": Case(["waits", "killed"]),
    "crashed": Case(["crashes", "waits"]),
    "raised": Case(["waits", "raises"]),
    "memory": Case(["waits", "lacks_memory"]),
    "user": Case(["errs", "errs"], restarts=3),
    "consequence": Case(["loses_its_peer", "killed"]),
    "silent end": Case(["waits", "exits"]),
    "restarted": Case([["waits", "ends"], ["killed", "ends"]], restarts=1),
    "silent, restarted": Case([["waits", "ends"], ["sleeps", "ends"]], restarts=1),
    "interpreters": Case(
        [["waits", "ends"], ["killed", "ends"]], restarts=1, module="tests.threaded_faults", timeout_s=60
    ),
    "runs out": Case(["waits", "killed"], restarts=2),
    "progress": Case([[*["waits"] * 3, "ends"], [*["saves_then_dies"] * 3, "ends"]], restarts=1),
    "two nodes": Case(["waits", "waits", "killed", "waits"], restarts=3, environ={**TWO_NODES, "PET_NODE_RANK": "1"}),
    "the other node": Case(
        ["waits", "waits", "killed", "waits"], restarts=3, environ={**TWO_NODES, "PET_NODE_RANK": "0"}, timeout_s=60
    ),
    "asked": Case(["saves_when_asked", "saves_when_asked"], restarts=3, ask=[signal.SIGTERM]),
    "asked too early": Case(["dies_when_asked", "dies_when_asked"], ask=[signal.SIGINT]),
    "deaf": Case(["ignores", "ends"], ask=[signal.SIGTERM]),
    "gone": Case(["ignores", "ignores"], ask=[signal.SIGKILL]),
}


@dataclass
class Ended:
    """A node agent's end: its exit code, the reason it gave, what it printed, the incidents it recorded."""

    code: int
    reason: str
    output: str
    incidents: Sequence[Mapping[str, Any]]
    folder: Path
    reasons: int


def start(case: Case, folder: Path, config: Path) -> subprocess.Popen[str]:
    folder.mkdir()
    run = load([str(config), f"world.processes={len(case.plan)}", f"world.restarts={case.restarts}",
                f"world.timeout_s={case.timeout_s}", "world.grace_s=1", "train.global_batch_samples=16"])  # fmt: skip
    (folder / "run.yaml").write_text(dump(run))
    (folder / "plan").write_text(json.dumps(case.plan))
    return subprocess.Popen(
        [sys.executable, "-m", "trainer.node", case.module, str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **(case.environ or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(agent: subprocess.Popen[str], folder: Path) -> Ended:
    output, _ = agent.communicate(timeout=120)
    found = [line for text in output.splitlines() if (line := parse(text)) and line.mark == FAILURE]
    records = sorted((folder / "train" / "incidents").glob("*/incident.json"))
    return Ended(
        agent.returncode,
        read_failure(found[0])[1] if found else "",
        output,
        [json.loads(path.read_text()) for path in records],
        folder,
        len(found),
    )


@pytest.fixture(scope="module")
def ended(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Ended]]:
    """All cases, which mostly wait, at once."""
    home = tmp_path_factory.mktemp("nodes")
    with ExitStack() as stack:
        agents = {name: stack.enter_context(start(case, home / name, config)) for name, case in CASES.items()}
        for agent in agents.values():
            stack.callback(agent.kill)
        for name, case in CASES.items():
            if case.ask:
                assert wait_until(lambda name=name: (home / name / "up-0").exists(), 120), name
                for number in case.ask:
                    agents[name].send_signal(number)
        yield {name: finish(agent, home / name) for name, agent in agents.items()}


@pytest.mark.parametrize(
    ("name", "code", "kind", "rank", "reason"),
    [
        ("sleeps", 137, "silent", 1, "rank 1 was silent for 5 s in data of step 7"),
        ("waits", 137, "silent", 0, "ranks 0 and 1 were silent for 5 s in exchange of step 7"),
        ("frozen", 137, "silent", 1, "rank 1 was silent for 5 s in data of step 7"),
        ("killed", 137, "dead", 1, "rank 1 was killed by SIGKILL in compute of step 7"),
        ("crashed", 139, "dead", 0, "rank 0 was killed by SIGSEGV in compute of step 7"),
        ("raised", 1, "failed", 1, "rank 1: ValueError at faults.py"),
        ("memory", 1, "failed", 1, "rank 1: out of memory at faults.py"),
        ("user", 2, "failed", None, "train.steps=0 must be 1 or more"),
        ("consequence", 137, "dead", 1, "rank 1 was killed by SIGKILL"),
        ("silent end", 1, "failed", 1, "rank 1 ended with exit code 1; its last words: words for the log"),
        ("two nodes", 137, "dead", 2, "rank 2 was killed by SIGKILL"),
        ("the other node", 137, "dead", None, "node 1 ended with exit code 137"),
        ("asked", 143, "stopped", None, "stopped after step 7, which is saved"),
        ("asked too early", 130, "stopped", None, "stopped by SIGINT"),
        ("deaf", 143, "stopped", None, "stopped by SIGTERM; rank 0 did not end in time and had to be killed"),
    ],
)
def test_whoever_is_to_blame_is_named_with_the_right_code(
    ended: dict[str, Ended], name: str, code: int, kind: str, rank: int | None, reason: str
) -> None:
    end = ended[name]
    assert end.code == code, end.output
    assert end.reason.startswith(reason)
    assert end.reasons == 1
    (record,) = end.incidents
    assert (record["exit_code"], record["kind"], record["reason"]) == (code, kind, end.reason)
    assert rank is None or record["rank"] == rank
    assert not record["restarted"]
    assert (end.folder / "train" / "incidents" / "0001" / "log.txt").exists()


@pytest.mark.parametrize(
    ("name", "cause", "rank"),
    [
        ("sleeps", "silent rank", 1),
        ("frozen", "silent rank", 1),
        ("killed", "killed", 1),
        ("crashed", "crash", 0),
        ("raised", "code error", 1),
        ("memory", "out of memory", 1),
        ("user", "user error", None),
        ("consequence", "killed", 1),
        ("two nodes", "killed", 2),
        ("asked", "preempted", None),
    ],
)
def test_diagnose_names_the_cause(
    ended: dict[str, Ended], capsys: pytest.CaptureFixture[str], name: str, cause: str, rank: int | None
) -> None:
    code, record = diagnose(ended[name].folder, capsys)
    assert (code, record["cause"]) == (1, cause)
    assert rank is None or record["rank"] == rank


def test_every_rank_leaves_its_stacks_when_one_is_silent(ended: dict[str, Ended]) -> None:
    folder = ended["sleeps"].folder / "train" / "incidents" / "0001"
    assert ended["sleeps"].incidents[0]["stacks"] == ["rank-00000.txt", "rank-00001.txt"]
    assert "in waits" in (folder / "rank-00000.txt").read_text()
    assert "in sleeps" in (folder / "rank-00001.txt").read_text()


def test_a_rank_that_cannot_answer_leaves_the_reason_instead(ended: dict[str, Ended]) -> None:
    stacks = ended["frozen"].folder / "train" / "incidents" / "0001" / "rank-00001.txt"
    assert stacks.read_text() == "no stacks: the process was stopped by a signal\n"


@pytest.mark.parametrize("name", ["restarted", "silent, restarted", "interpreters"])
def test_ranks_are_started_again_after_one_is_lost(ended: dict[str, Ended], name: str) -> None:
    end = ended[name]
    assert end.code == 0, end.output
    assert end.reasons == 0
    (record,) = end.incidents
    assert (record["restarted"], record["restarts_left"], record["rank"]) == (True, 0, 1)
    assert f"train | {record['reason']}; starting again (1 of 1)" in end.output


def test_restarts_without_a_new_checkpoint_run_out(ended: dict[str, Ended]) -> None:
    end = ended["runs out"]
    assert end.code == 137, end.output
    assert [(each["restarted"], each["restarts_left"]) for each in end.incidents] == [(True, 1), (True, 0), (False, 0)]
    assert end.output.count("half a line") == 3


def test_a_new_checkpoint_gives_the_restarts_back(ended: dict[str, Ended]) -> None:
    end = ended["progress"]
    assert end.code == 0, end.output
    assert [each["restarted"] for each in end.incidents] == [True] * 3


def test_several_nodes_leave_the_restart_to_whoever_started_them(ended: dict[str, Ended]) -> None:
    assert "starting again" not in ended["two nodes"].output
    assert "rank 2 killed: " in ended["two nodes"].output
    assert " 0/4\n" in ended["two nodes"].output  # its local rank, the world's size


def test_ranks_die_with_a_killed_agent(ended: dict[str, Ended]) -> None:
    end = ended["gone"]
    assert end.code == -signal.SIGKILL
    ranks = [int((end.folder / f"up-{rank}").read_text()) for rank in (0, 1) if (end.folder / f"up-{rank}").exists()]
    assert wait_until(lambda: not any(psutil.pid_exists(number) for number in ranks))


def test_a_folder_without_a_run_is_the_users_mistake(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "trainer.node", "trainer", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "run.yaml" in done.stdout


def train(config: Path, folder: Path, *overrides: str) -> list[str]:
    return trainworks("train", config, "--runs", folder.parent, "--name", folder.name, *overrides)


def reached(folder: Path, step: int) -> Callable[[], bool]:
    return lambda: any(seen >= step for seen in steps_of(folder))


def test_a_killed_rank_is_replaced_and_the_losses_are_those_of_an_undisturbed_run(
    config: Path, uninterrupted: Path, fresh: Path
) -> None:
    done = interrupt(train(config, fresh), reached(fresh, 11), lambda _: kill_rank(fresh, 1))
    assert done.returncode == 0, done.stderr
    assert "rank 1 was killed by SIGKILL" in done.stdout
    assert "starting again (1 of 3)" in done.stdout
    assert losses_of(fresh) == losses_of(uninterrupted)
    assert wait_until(lambda: not processes_of(fresh)), processes_of(fresh)


def test_a_frozen_rank_of_a_real_training_is_named_within_its_time(config: Path, fresh: Path) -> None:
    limits = ("world.timeout_s=5", "world.restarts=0")
    done = interrupt(train(config, fresh, *limits), reached(fresh, 3), lambda _: kill_rank(fresh, 1, signal.SIGSTOP))
    assert done.returncode == 137, done.stderr
    assert "rank 1 was silent for 5 s in" in done.stderr
    stacks = fresh / "train" / "incidents" / "0001" / "rank-00000.txt"
    assert "trainer/loop.py" in stacks.read_text()


def test_ranks_of_torch_distributed_run_are_started_again_and_end_alike(
    config: Path, uninterrupted: Path, fresh: Path
) -> None:
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes=1", "--nproc-per-node=2", "--max-restarts=1"),
        *("--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "-m", "trainer", str(fresh)),
    ]

    def kill_first(_: subprocess.Popen[str]) -> None:
        ranks = [each for each in psutil.process_iter(["cmdline"]) if (each.info["cmdline"] or [])[-3:] == command[-3:]]
        next(each for each in ranks if each.environ().get("RANK") == "1").kill()

    done = interrupt(command, reached(fresh, 11), kill_first)
    assert done.returncode == 0, done.stderr
    assert losses_of(fresh) == losses_of(uninterrupted)
