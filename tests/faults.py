"""Ranks that fail on purpose, for tests of the node agent: `python -m trainer.node tests.faults RUN_FOLDER`.

The file `plan` in the run folder says by rank, and by start where it differs, what happens: names of functions here.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

from configs.errors import ConfigError, Stopped
from configs.folder import RunFolder
from configs.process import leave, stage_main
from configs.schema import RunConfig
from trainer.heartbeat import Pulse, open_pulse

FOLDER = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
RANK = int(os.environ.get("RANK", "0"))


def ends(pulse: Pulse) -> None:
    """As a rank that is done."""


def waits(pulse: Pulse) -> None:
    """For a peer, in a collective."""
    pulse.beat("data", 7)
    pulse.beat("exchange", 7)
    sleep_for_ever()


def sleeps(pulse: Pulse) -> None:
    pulse.beat("data", 7)
    sleep_for_ever()


def stopped(pulse: Pulse) -> None:
    """By a signal that no process can answer."""
    pulse.beat("data", 7)
    os.kill(os.getpid(), signal.SIGSTOP)


def killed(pulse: Pulse) -> None:
    pulse.beat("data", 7)
    pulse.beat("compute", 7)
    print("half a line", end="")
    os.kill(os.getpid(), signal.SIGKILL)


def crashes(pulse: Pulse) -> None:
    pulse.beat("compute", 7)
    os.kill(os.getpid(), signal.SIGSEGV)


def saves_then_dies(pulse: Pulse) -> None:
    """With one more checkpoint each time."""
    folder = FOLDER / "train" / f"step-{start_number():08d}"
    folder.mkdir(parents=True)
    (folder / "complete.json").write_text("{}")
    killed(pulse)


def raises(pulse: Pulse) -> None:
    raise ValueError("not this one")


def lacks_memory(pulse: Pulse) -> None:
    raise MemoryError


def errs(pulse: Pulse) -> None:
    raise ConfigError("train.steps=0 must be 1 or more")


def loses_its_peer(pulse: Pulse) -> None:
    raise RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:1234")


def exits(pulse: Pulse) -> None:
    sys.exit("words for the log")


def saves_when_asked(pulse: Pulse) -> None:
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    up()
    while not asked:
        time.sleep(0.01)
    raise Stopped("stopped after step 7, which is saved")


def dies_when_asked(pulse: Pulse) -> None:
    up()
    sleep_for_ever()


def ignores(pulse: Pulse) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    up()
    sleep_for_ever()


def start_number() -> int:
    """Of this start, from 1: one more than the incidents before it."""
    return 1 + len(list(FOLDER.glob("train/incidents/*/incident.json")))


def up() -> None:
    (FOLDER / f"up-{RANK}").write_text(str(os.getpid()))


def sleep_for_ever() -> NoReturn:
    while True:
        time.sleep(60)


def act(run: RunConfig, folder: RunFolder) -> None:
    plan = json.loads((folder.path / "plan").read_text())[RANK]
    print(f"rank {RANK} {plan}: {sys.argv[1:]} {os.environ['LOCAL_RANK']}/{os.environ['WORLD_SIZE']}")
    name = plan if isinstance(plan, str) else plan[min(start_number(), len(plan)) - 1]
    globals()[name](open_pulse(RANK))


if __name__ == "__main__":
    leave(stage_main("train", act))
