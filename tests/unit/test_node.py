"""What the node agent decides, without a process: who is to blame, who is silent, where a rank stands."""

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from configs.errors import ConfigError
from configs.folder import RunFolder
from configs.process import LOST_PEER, explain, lost_peer, memory_short
from configs.stages import checkpoints
from trainer.heartbeat import PHASES, PULSES, NullPulse, PulseReader, Reading, open_pulse, stack_file
from trainer.node.agent import sweep
from trainer.node.incident import Aftermath, write_incident
from trainer.node.memory import kills_for_memory
from trainer.node.output import LONGEST_LINE, Relay
from trainer.node.place import Place, read_place
from trainer.node.rank import exit_code
from trainer.node.silence import Silence, processor_time, standing, to_blame
from trainer.node.verdict import Ending, Facts, judge
from trainer.node.watch import Start

BUSY = Reading(beats=20, step=7, phase="compute")
KILLED, SEGV, TERM = -signal.SIGKILL, -signal.SIGSEGV, -signal.SIGTERM


def facts(*ended: tuple[int, int], ranks: int = 2, **more: Any) -> Facts:
    return Facts(ended=list(ended), readings=dict.fromkeys(range(ranks), BUSY), **more)


# heartbeats


def test_a_beat_is_read_by_another_mapping_of_the_same_file(tmp_path: Path):
    reader = PulseReader(tmp_path, 3)
    assert reader.read() == Reading(0, 0, 0, "start")
    pulse = open_pulse(3, {PULSES: str(tmp_path)})
    pulse.beat("data", 7)
    pulse.alive()
    pulse.beat("exchange", 7)
    assert reader.read() == Reading(beats=2, signs=1, step=7, phase="exchange")


def test_a_second_opening_goes_on_counting(tmp_path: Path):
    reader = PulseReader(tmp_path, 0)
    for phase in PHASES:
        open_pulse(0, {PULSES: str(tmp_path)}).beat(phase, 1)
    assert reader.read() == Reading(beats=len(PHASES), step=1, phase=PHASES[-1])


def test_without_an_agent_beats_go_nowhere():
    pulse = open_pulse(0, {})
    assert isinstance(pulse, NullPulse)
    pulse.beat("data", 1)
    pulse.alive()


# silence


class Watched:
    """Two ranks whose processes are this one, or none, and a clock that the test turns."""

    def __init__(self, folder: Path, *, process: int = 0) -> None:
        readers = {rank: PulseReader(folder, rank) for rank in (0, 1)}
        self.pulses = [open_pulse(rank, {PULSES: str(folder)}) for rank in (0, 1)]
        self.silence = Silence(readers, dict.fromkeys((0, 1), process), limit_s=5)

    def pass_s(self, seconds: int) -> None:
        for _ in range(seconds):
            self.silence.look(1.0)


def test_the_rank_with_the_fewest_beats_holds_the_others_up(tmp_path: Path):
    watched = Watched(tmp_path)
    for pulse in watched.pulses:
        pulse.beat("data", 7)
    watched.pulses[0].beat("exchange", 7)
    watched.pass_s(5)
    assert watched.silence.culprits([0, 1]) == []
    watched.pass_s(2)
    assert watched.silence.culprits([0, 1]) == [1]
    assert watched.silence.silent_s(1) == pytest.approx(6)


def test_a_rank_that_came_last_and_hangs_is_named_though_its_peer_is_silent_for_longer(tmp_path: Path):
    watched = Watched(tmp_path)
    for phase in ("data", "exchange"):
        watched.pulses[0].beat(phase, 7)
    watched.pass_s(3)
    watched.pulses[1].beat("data", 7)
    watched.pass_s(4)
    assert watched.silence.culprits([0, 1]) == []
    watched.pass_s(3)
    assert watched.silence.culprits([0, 1]) == [1]


def test_ranks_at_the_same_place_are_all_named(tmp_path: Path):
    watched = Watched(tmp_path)
    watched.pass_s(7)
    assert watched.silence.culprits([0, 1]) == [0, 1]


def test_a_rank_that_shows_signs_within_a_phase_is_waited_for(tmp_path: Path):
    watched = Watched(tmp_path)
    for pulse in watched.pulses:
        pulse.beat("validate", 7)
    for _ in range(20):
        watched.pulses[0].alive()
        watched.pass_s(1)
        assert watched.silence.culprits([0, 1]) == []


def test_those_that_have_ended_are_not_waited_for(tmp_path: Path):
    watched = Watched(tmp_path)
    watched.pulses[0].beat("end", 9)
    watched.pass_s(7)
    assert watched.silence.culprits([0]) == [0]
    assert watched.silence.culprits([]) == []


def test_a_machine_that_slept_makes_nobody_silent(tmp_path: Path):
    watched = Watched(tmp_path)
    watched.silence.look(3600)
    assert watched.silence.culprits([0, 1]) == []


@pytest.mark.parametrize(("phase", "waited_for"), [("start", True), ("save", True), ("compute", False)])
def test_processor_time_is_a_sign_where_there_are_no_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str, waited_for: bool
):
    used = iter(range(1000))
    monkeypatch.setattr("trainer.node.silence.processor_time", lambda process: next(used) / 10)
    watched = Watched(tmp_path)
    for pulse in watched.pulses:
        pulse.beat(phase, 7)
    watched.pass_s(8)
    assert watched.silence.culprits([0, 1]) == ([] if waited_for else [0, 1])


def test_a_rank_that_only_wakes_now_and_then_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    used = iter(range(1000))
    monkeypatch.setattr("trainer.node.silence.processor_time", lambda process: next(used) / 1000)
    watched = Watched(tmp_path)
    watched.pass_s(8)
    assert watched.silence.culprits([0, 1]) == [0, 1]


WAITING = 'File "torch/distributed/distributed_c10d.py", line 3081 in all_reduce\n'


@pytest.mark.parametrize(
    ("stacks", "blamed"),
    [((WAITING, "in forward\n"), [1]), ((WAITING, WAITING), [0, 1]), (("in forward\n", "in read\n"), [0, 1])],
)
def test_of_ranks_at_the_same_place_the_one_outside_of_a_collective_is_blamed(
    tmp_path: Path, stacks: tuple[str, str], blamed: list[int]
):
    paths = {rank: stack_file(tmp_path, rank) for rank in (0, 1)}
    for rank, text in enumerate(stacks):
        paths[rank].write_text(text)
    assert to_blame([0, 1], paths, {0: -1, 1: -1}) == blamed


def test_processor_time_and_state_are_those_of_the_process():
    assert processor_time(os.getpid()) == pytest.approx(sum(os.times()[:2]), abs=1)
    assert processor_time(-1) == 0
    assert standing(os.getpid()) == standing(-1) == ""


# verdicts


def test_a_signal_is_the_cause_and_the_lost_connection_what_follows():
    ending = judge(facts((0, LOST_PEER), (1, KILLED)))
    reason = "rank 1 was killed by SIGKILL in compute of step 7; was memory short?"
    assert ending == Ending("dead", 137, reason, 1, "SIGKILL")
    assert ending.retryable


def test_the_kernel_may_say_that_memory_ran_out():
    assert judge(facts((1, KILLED)), memory_ran_out=True).reason.endswith("; the kernel ran out of memory")
    assert judge(facts((1, SEGV)), memory_ran_out=True).reason == "rank 1 was killed by SIGSEGV in compute of step 7"


def test_the_first_rank_that_gives_a_reason_is_named():
    ending = judge(facts((0, 1), (1, 1), failures={1: (1, "no space left")}))
    assert ending == Ending("failed", 1, "rank 1: no space left", 1)
    assert not ending.retryable


def test_a_reason_that_all_ranks_give_needs_no_rank():
    both = {0: (1, "the loss is nan"), 1: (1, "the loss is nan")}
    assert judge(facts((1, 1), (0, 1), failures=both)).reason == "the loss is nan"


def test_the_users_mistake_keeps_its_code_and_words():
    assert judge(facts((1, 2), failures={1: (2, "steps=0")})) == Ending("failed", 2, "steps=0", 1)


def test_a_code_without_a_reason_comes_with_the_last_words():
    ending = judge(facts((1, 3), last_words={1: "ImportError: no module"}))
    assert ending == Ending("failed", 3, "rank 1 ended with exit code 3; its last words: ImportError: no module", 1)


def test_a_rank_that_lost_its_peer_is_started_again():
    ending = judge(facts((0, LOST_PEER)), nodes=2)
    assert (ending.kind, ending.code, ending.retryable) == ("dead", 137, True)
    assert ending.reason == "rank 0 lost its connection to another rank in compute of step 7; look at the other nodes"


def test_silence_names_who_where_and_for_how_long():
    ending = judge(facts(silent=[1], silent_s=12.2))
    assert ending == Ending("silent", 137, "rank 1 was silent for 12 s in compute of step 7", 1)
    assert ending.retryable
    everyone = facts(silent=[0, 1, 2], silent_s=5, ranks=3)
    everyone.readings = dict.fromkeys(range(3), Reading())
    assert judge(everyone).reason == "ranks 0, 1 and 2 were silent for 5 s at its start"
    assert "another node" in judge(everyone, nodes=2).reason


SAVED = {0: (143, "stopped after step 7, which is saved")}


@pytest.mark.parametrize(
    ("known", "code", "reason"),
    [
        (facts((0, 143), (1, 143), failures=SAVED, asked=signal.SIGTERM), 143, SAVED[0][1]),
        (facts((0, 143), (1, 143), failures=SAVED, asked=signal.SIGINT), 130, SAVED[0][1]),
        (facts((0, 143), (1, 143), failures=SAVED), 143, SAVED[0][1]),
        (facts((0, TERM), (1, TERM), asked=signal.SIGTERM), 143, "stopped by SIGTERM"),
        (
            facts((0, TERM), asked=signal.SIGTERM, overdue=[1]),
            143,
            "stopped by SIGTERM; rank 1 did not end in time and had to be killed",
        ),
    ],
)
def test_a_stop_is_no_failure(known: Facts, code: int, reason: str):
    ending = judge(known)
    assert (ending.kind, ending.code, ending.reason) == ("stopped", code, reason)
    assert not ending.retryable


def test_a_rank_that_somebody_else_asked_to_end_is_not_started_again():
    ending = judge(facts((1, TERM)))
    assert (ending.kind, ending.code, ending.retryable) == ("stopped", 143, False)


def test_a_run_that_is_done_when_it_is_asked_to_stop_is_done():
    assert judge(facts((0, 0), (1, 0), asked=signal.SIGTERM)) == Ending("done")
    assert judge(facts((0, 0), (1, 0))) == Ending("done")


def test_a_failure_while_stopping_is_a_failure():
    ending = judge(facts((0, 1), failures={0: (1, "no space left")}, asked=signal.SIGTERM))
    assert (ending.kind, ending.code) == ("failed", 1)


@pytest.mark.parametrize(("code", "left"), [(None, 0), (3, 3), (-1, 255), ("words", 1)])
def test_codes_are_those_of_the_interpreter(code: Any, left: int, capsys: pytest.CaptureFixture[str]):
    assert exit_code(SystemExit(code)) == left
    assert capsys.readouterr().err == ("words\n" if code == "words" else "")


# places


def test_alone_a_node_has_all_ranks_and_a_new_port_at_each_start():
    place = read_place({"RANK": "0"}, 2)
    environments = place.environments()
    assert place == Place(2)
    assert environments[1] == {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": environments[0]["MASTER_PORT"],
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "RANK": "1",
        "LOCAL_RANK": "1",
    }


JOB = {"MASTER_ADDR": "tiny-master-0", "MASTER_PORT": "23456", "PET_NNODES": "2", "PET_NPROC_PER_NODE": "4"}


@pytest.mark.parametrize("node", [{"RANK": "1", "WORLD_SIZE": "8"}, {"PET_NODE_RANK": "1"}])
def test_the_second_node_has_the_second_half_of_the_ranks(node: dict[str, str]):
    environments = read_place(JOB | node, 8).environments()
    assert list(environments) == [4, 5, 6, 7]
    assert environments[6]["LOCAL_RANK"] == "2"
    assert {each["WORLD_SIZE"] for each in environments.values()} == {"8"}
    assert environments[4]["MASTER_ADDR"] == "tiny-master-0"
    assert environments[4]["MASTER_PORT"] == "23456"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"PET_NPROC_PER_NODE": "auto"}, "PET_NPROC_PER_NODE='auto'"),
        ({"PET_NPROC_PER_NODE": "2"}, "2 nodes x 2 ranks = 4"),
        ({"PET_NODE_RANK": "2"}, "PET_NODE_RANK=2 must be less than PET_NNODES=2"),
        ({"MASTER_ADDR": ""}, "needs MASTER_ADDR"),
    ],
)
def test_a_job_that_does_not_fit_the_run_is_refused(wrong: dict[str, str], words: str):
    with pytest.raises(ConfigError, match=words):
        read_place(JOB | wrong, 8)


# output


def test_lines_of_ranks_are_passed_on_whole_and_reasons_are_held_back(capfd: pytest.CaptureFixture[str]):
    relay = Relay()
    relay.feed(0, b"train | half a ")
    relay.feed(1, b'other\ntrain ! {"code": 1, "reason": "first"}\ntrain ! {"code": 1, "reason": "second"}\n')
    relay.feed(0, b"line\nthe rest")
    relay.close(0)
    relay.close(1)
    assert capfd.readouterr().out == "other\ntrain | half a line\nthe rest\n"
    assert relay.failures == {1: (1, "first")}
    assert relay.last_words[0] == "the rest"
    assert len(relay.last()) == 5


def test_a_line_without_an_end_is_passed_on_in_parts(capfd: pytest.CaptureFixture[str]):
    relay = Relay()
    relay.feed(0, b"x" * (LONGEST_LINE + 1))
    assert len(capfd.readouterr().out) == LONGEST_LINE + 2


def test_the_last_lines_are_kept():
    relay = Relay()
    relay.feed(0, b"".join(b"\xff line %d\n" % number for number in range(300)))
    assert len(relay.last()) == 200
    assert relay.last()[-1] == "\ufffd line 299"


# memory


@pytest.mark.parametrize(
    ("group", "file"),
    [
        ("0::/user/job", "user/job/memory.events"),
        ("0::/not/seen/from/here", "memory.events"),
        ("4:memory:/docker/1", "memory/docker/1/memory.oom_control"),
    ],
)
def test_kills_for_want_of_memory_are_counted(tmp_path: Path, group: str, file: str):
    (tmp_path / "groups").write_text(f"7:cpu:/x\n{group}\n")
    path = tmp_path / "cgroup" / file
    path.parent.mkdir(parents=True)
    path.write_text("oom 4\noom_kill 3\noom_group_kill 0\n")
    assert kills_for_memory(tmp_path / "groups", tmp_path / "cgroup") == 3


def test_where_the_kernel_does_not_tell_nobody_was_killed(tmp_path: Path):
    assert kills_for_memory(tmp_path / "none", tmp_path) == 0


# what a stage says


@pytest.mark.parametrize(
    "text",
    [
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1234",
        "[../gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 1800000ms for recv operation to complete",
    ],
)
def test_a_broken_collective_is_not_the_cause(text: str):
    assert lost_peer(RuntimeError(text))
    assert not lost_peer(ValueError(text))
    assert not lost_peer(RuntimeError("shapes do not fit"))


class OutOfMemoryError(RuntimeError):
    """As torch calls its own."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 40 bytes"),
    ],
)
def test_want_of_memory_has_words_of_its_own(error: Exception, tmp_path: Path):
    try:
        raise error
    except Exception as caught:
        reason = explain(caught, "train", RunFolder(tmp_path))
    assert memory_short(error)
    assert reason.startswith("out of memory at test_node.py:")
    assert "world.micro_batch_samples" in reason


# records


def test_an_incident_is_recorded_with_each_ranks_place_and_stacks(tmp_path: Path):
    pulses, root = tmp_path / "pulses", tmp_path / "incidents"
    pulses.mkdir()
    relay = Relay()
    relay.feed(0, b"")
    stack_file(pulses, 1).write_text("File loop.py\n")
    stack_file(pulses, 0).touch()
    known = facts((1, KILLED))
    start = SimpleNamespace(
        pulses=pulses,
        relay=relay,
        facts=known,
        ranks=[SimpleNamespace(number=0), SimpleNamespace(number=1)],
        silence=SimpleNamespace(silent_s=lambda rank: 1.25),
    )
    ending, aftermath = judge(known), Aftermath(restarted=True, restarts_left=2)
    for number in ("0001", "0002"):
        assert write_incident(root, "train", cast(Start, start), ending, aftermath) == root / number
    record = json.loads((root / "0002" / "incident.json").read_text())
    assert record.pop("time") > 0
    place = {"phase": "compute", "step": 7, "beats": 20, "silent_s": 1.2}
    assert record == {
        "stage": "train",
        "kind": "dead",
        "rank": 1,
        "exit_code": 137,
        "signal": "SIGKILL",
        "reason": ending.reason,
        "restarts_left": 2,
        "restarted": True,
        "ranks": [{"rank": 0, "exit_code": None} | place, {"rank": 1, "exit_code": 137} | place],
        "stacks": ["rank-00001.txt"],
    }
    assert (root / "0002" / "rank-00001.txt").read_text() == "File loop.py\n"
    assert (root / "0002" / "log.txt").read_text() == ""


def test_only_a_completed_checkpoint_counts_as_progress(tmp_path: Path):
    folder = RunFolder(tmp_path)
    assert checkpoints(folder) == frozenset()
    step = folder.train / "step-00000008"
    step.mkdir(parents=True)
    assert checkpoints(folder) == frozenset()
    (step / "complete.json").write_text("{}")
    (written,) = checkpoints(folder)
    assert written.startswith("8 of ")


def test_an_agent_removes_what_killed_ones_left_and_nothing_of_those_that_live(tmp_path: Path) -> None:
    gone, living, other = (tmp_path / f"trainworks-pulses-{each}" for each in ("999999999-a", f"{os.getpid()}-b", "c"))
    for folder in (gone, living, other):
        folder.mkdir()
    sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([living, other])
