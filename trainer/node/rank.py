"""How a process becomes a rank: forked from the agent, which has everything imported, or in an interpreter of its own.

As a command: `python -m trainer.node.rank MODULE RUN_FOLDER AGENT`, AGENT being the agent's process number.
"""

import faulthandler
import io
import os
import runpy
import signal
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from configs.process import STOPPING, die_with_parent, leave, name_process
from trainer.heartbeat import PULSES, open_pulse, stack_file

HANDLED = (*STOPPING, signal.SIGCHLD)
"""Signals that the agent handles and its ranks do not inherit"""


def fork_rank(module: str, folder: str, environment: Mapping[str, str], output: int) -> int:
    """A rank as a copy of this process, which must have one thread; returns its process number.

    What it prints goes to the file descriptor `output`.
    """
    agent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)  # none may meet the agent's handlers in the rank
    number = os.fork()
    if number == 0:
        _inherit_nothing(agent, output)
        os.environ.update(environment)
        become(module, folder)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return number


def _inherit_nothing(agent: int, output: int) -> None:
    os.setpgid(0, 0)
    die_with_parent(agent)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    signal.set_wakeup_fd(-1)
    for each in HANDLED:
        signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def spawn_rank(module: str, folder: str, environment: Mapping[str, str], output: int) -> int:
    """A rank as a new interpreter, as CUDA needs it; returns its process number."""
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "trainer.node.rank", module, folder, str(os.getpid())],
        os.environ | environment,
        file_actions=[(os.POSIX_SPAWN_DUP2, output, descriptor) for descriptor in (1, 2)],
        setpgroup=0,
        setsigmask=[],
        setsigdef=HANDLED,
    )


def _print_at_once() -> None:
    """As with PYTHONUNBUFFERED, whatever the environment says: a rank that is killed has said its last words."""
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        getattr(sys, name).flush()
        bare = io.FileIO(descriptor, "w", closefd=False)
        setattr(sys, name, io.TextIOWrapper(bare, "utf-8", "backslashreplace", write_through=True))


def become(module: str, folder: str) -> NoReturn:
    """Do what `python -m MODULE FOLDER` does, with a heartbeat, and with stacks to be had by SIGUSR1."""
    _print_at_once()
    code = 1
    try:
        rank = int(os.environ["RANK"])
        name_process(f"rank-{rank}")
        faulthandler.enable()
        stacks = stack_file(Path(os.environ[PULSES]), rank).open("w")
        faulthandler.register(signal.SIGUSR1, file=stacks, all_threads=True)
        open_pulse(rank).beat("start", 0)
        sys.argv = [module, folder]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = exit_code(end)
    except BaseException:
        traceback.print_exc()
    finally:
        leave(code)


def exit_code(end: SystemExit) -> int:
    """The code that the interpreter would leave with."""
    if end.code is None or isinstance(end.code, int):
        return (end.code or 0) & 0xFF
    print(end.code, file=sys.stderr)
    return 1


if __name__ == "__main__":
    die_with_parent(int(sys.argv[3]))
    become(sys.argv[1], sys.argv[2])
