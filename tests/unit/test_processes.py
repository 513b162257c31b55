"""A supervised child: followed, told to stop, and gone with everything that it started."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from configs.lines import Line
from k8s.processes import Supervised, describe_signal, last_lines

STAYS = "import time; print('train | up', flush=True); time.sleep(60)"
STOPS = """
import signal, sys, time
def stop(number, frame):
    print("train | saved", flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
print("train | up", flush=True)
time.sleep(60)
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("train | up", flush=True)
time.sleep(60)
"""
LEAVES_A_CHILD = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {STAYS!r}], process_group=PROCESS_GROUP)
print(f"train | {{child.pid}}", flush=True)
"""


def wait_until(fact: Callable[[], object], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not fact():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


def alive(number: int) -> bool:
    """Whether a process runs: one that is dead but not collected does not."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Followed:
    """A supervised Python program and what it showed."""

    def __init__(self, program: str, log: Path, grace_s: float = 120) -> None:
        self.lines: list[str] = []
        command = [sys.executable, "-u", "-c", program]
        self.process = Supervised(command, os.environ, log, lambda line: self.lines.append(line.text), grace_s=grace_s)

    def up(self) -> None:
        wait_until(lambda: self.lines)

    def signal(self, *numbers: signal.Signals) -> None:
        """Signal this process as soon as its handlers are in place, each time when the last one was handled."""
        before = signal.getsignal(signal.SIGTERM)

        def send() -> None:
            wait_until(lambda: signal.getsignal(signal.SIGTERM) is not before)
            for count, number in enumerate(numbers, 1):
                os.kill(os.getpid(), number)
                wait_until(lambda count=count: len(self.process.received) == count)

        threading.Thread(target=send, daemon=True).start()


def test_lines_for_a_person_are_shown_and_all_are_kept_and_the_code_returned(tmp_path: Path):
    log = tmp_path / "log"
    shown: list[Line] = []
    program = "import sys; print('noise train ~ é'); print('noise'); print('prepare | b', file=sys.stderr); sys.exit(3)"
    process = Supervised([sys.executable, "-X", "utf8", "-u", "-c", program], os.environ, log, shown.append)
    assert process.wait() == 3
    assert (process.received, process.failure) == ([], None)
    assert shown == [Line("train", "~", "é"), Line("prepare", "|", "b")]
    assert log.read_text(encoding="utf-8").splitlines() == ["noise train ~ é", "noise", "prepare | b"]


def test_the_first_reason_of_a_failure_stays(tmp_path: Path):
    program = "from configs.lines import emit_failure as f; f('train', 2, 'first\\nof all'); f('train', 1, 'second')"
    followed = Followed(program, tmp_path / "log")
    assert followed.process.wait() == 0
    assert followed.lines == []
    assert followed.process.failure
    assert json.loads(followed.process.failure.text) == {"code": 2, "reason": "first\nof all"}


def test_a_log_is_added_to(tmp_path: Path):
    log = tmp_path / "log"
    for text in ("one", "two"):
        Followed(f"print('{text}')", log).process.wait()
    assert log.read_text() == "one\ntwo\n"


@pytest.mark.parametrize("group", ["None", "0"])  # in the child's group, in one of its own
def test_what_a_child_leaves_behind_is_killed(tmp_path: Path, group: str):
    followed = Followed(LEAVES_A_CHILD.replace("PROCESS_GROUP", group), tmp_path / "log")
    assert followed.process.wait() == 0
    number = int(followed.lines[0])
    wait_until(lambda: not alive(number))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_goes_on_to_the_child_which_may_save(tmp_path: Path, number: signal.Signals):
    followed = Followed(STOPS, tmp_path / "log")
    followed.up()
    before = signal.getsignal(number)
    followed.signal(number)
    assert followed.process.wait() == 143
    assert followed.process.received == [number]
    assert followed.lines == ["up", "saved"]
    assert signal.getsignal(number) == before


def test_a_second_signal_kills(tmp_path: Path):
    followed = Followed(STUBBORN, tmp_path / "log")
    followed.up()
    followed.signal(signal.SIGTERM, signal.SIGTERM)
    assert followed.process.wait() == -signal.SIGKILL
    assert followed.process.received == [signal.SIGTERM] * 2


def test_a_child_that_does_not_end_in_its_time_is_killed(tmp_path: Path):
    followed = Followed(STUBBORN, tmp_path / "log", grace_s=0.3)
    followed.up()
    followed.signal(signal.SIGTERM)
    assert followed.process.wait() == -signal.SIGKILL
    assert followed.process.received == [signal.SIGTERM]


def test_stop_asks_the_child_and_asking_a_dead_one_is_nothing(tmp_path: Path):
    followed = Followed(STOPS, tmp_path / "log")
    followed.up()
    followed.process.stop()
    assert followed.process.wait() == 143
    followed.process.stop()


def test_a_child_may_be_followed_from_another_thread(tmp_path: Path):
    followed = Followed("print(1)", tmp_path / "log")
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(followed.process.wait()))
    thread.start()
    thread.join(20)
    assert codes == [0]


PARENT = f"""
import os, sys
from pathlib import Path
from configs.lines import Line
from k8s.processes import Supervised
process = Supervised([sys.executable, "-c", {STAYS!r}], os.environ, Path(sys.argv[1]), print)
print(process._process.pid, flush=True)
process.wait()
"""


def test_the_child_dies_when_this_process_is_killed(tmp_path: Path):
    command = [sys.executable, "-u", "-c", PARENT, str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        # both lines: a child that is killed before it prints would end by the broken pipe
        number = next(
            int(line) for line in sorted(parent.stdout.readline() for _ in range(2)) if line.strip().isdigit()
        )
        assert alive(number)
        parent.kill()
        wait_until(lambda: not alive(number))


MUCH = "for i in range(20000): print('train |', 'x' * 100, i)"  # far more than a pipe holds


def test_a_full_disk_for_the_log_does_not_stop_the_child():
    followed = Followed(MUCH, Path("/dev/full"))
    assert followed.process.wait() == 0
    assert len(followed.lines) == 20000


def test_a_closed_terminal_does_not_stop_the_child(tmp_path: Path):
    def closed(line: Line) -> None:
        raise BrokenPipeError

    log = tmp_path / "log"
    assert Supervised([sys.executable, "-c", MUCH], os.environ, log, closed).wait() == 0
    assert len(log.read_bytes().splitlines()) == 20000


def test_a_log_that_cannot_be_opened_starts_no_child(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        Followed(STAYS, tmp_path / "none" / "log")


def test_a_command_that_does_not_exist_is_an_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        Supervised(["/none"], {}, tmp_path / "log", print)


def test_the_last_lines_of_a_log_explain_an_end_that_nobody_foresaw(tmp_path: Path):
    log = tmp_path / "log"
    lines = last_lines([f"line {n}" for n in range(100)], log).splitlines()
    assert lines[0].endswith(f"the last lines of {log}:")
    assert lines[1] == "line 80"
    assert len(lines) == 21


def test_signals_have_names():
    assert describe_signal(9) == "SIGKILL"


def test_the_output_of_a_start_is_not_that_of_an_earlier_one(tmp_path: Path):
    log = tmp_path / "log"
    log.write_text("rank : 1 (local_rank: 1)\n  exitcode : -9 (of an earlier start)\n")
    child = Supervised(["echo", "new"], dict(os.environ), log, print)
    assert child.wait() == 0
    assert child.output() == ["new"]
    assert log.read_text().startswith("rank : 1")
